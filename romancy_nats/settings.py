"""Settings from the environment (`ROMANCY_*`) or from code. Read at the edge only, and passed down as plain data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from romancy_nats.core.ids import check_namespace

_INBOX_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Settings(BaseSettings):
    """Every setting; durations in seconds. Without `nats_url` an `App` and `romancy dev` have a server of their own."""

    model_config = SettingsConfigDict(env_prefix="ROMANCY_", extra="ignore")

    nats_url: str | None = None
    namespace: str = "romancy"
    worker_id: str = ""
    user_credentials: Path | None = None
    nkeys_seed: str | None = Field(default=None, repr=False)
    token: str | None = Field(default=None, repr=False)
    user: str | None = None
    password: str | None = Field(default=None, repr=False)
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    inbox_prefix: str = "_INBOX"
    client_timeout: float = Field(default=30.0, gt=0.0, lt=1e9)
    """How long a client's call waits for a server that does not answer."""
    provision: bool = True
    shards: int = Field(default=8, ge=1, le=256)
    replicas: int = Field(default=1, ge=1, le=5)
    store: Path | None = None
    sync_always: bool = True
    lease_ttl: float = Field(default=15.0, ge=1.0)
    concurrency: int = Field(default=1000, ge=1)
    threads: int = Field(default=40, ge=1)
    grace: float = Field(default=0.5, ge=0.0)
    max_takeovers: int = Field(default=10, ge=1)
    sweep_every: float = Field(default=60.0, gt=0.0)
    block_warning: float = Field(default=1.0, gt=0.0)
    watch_workflow_code: bool | None = None
    """Whether calls of the clock, chance and blocking functions in workflow code are reported, by file and line. None:
    under `romancy dev`, and in `app.run()` with an embedded server or `overrides`. It costs time."""
    unknown_workflow_after: float = Field(default=86_400.0, gt=0.0)
    archive_after: float = Field(default=30.0, ge=0.0)
    retention: float = Field(default=7 * 86_400.0, ge=1.0)

    @field_validator("namespace")
    @classmethod
    def _namespace_is_plain(cls, value: str) -> str:
        return check_namespace(value)

    @field_validator("inbox_prefix")
    @classmethod
    def _inbox_prefix_is_a_subject(cls, value: str) -> str:
        if not _INBOX_PREFIX.fullmatch(value):
            raise ValueError(
                f"an inbox prefix is one or more tokens of A-Z, a-z, 0-9, '_' and '-', joined by dots, not {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _inboxes_are_no_subjects_of_ours(self) -> Self:
        # Whatever lies under the prefix is answered to, for anyone who asks: it must not reach our streams.
        if self.inbox_prefix.partition(".")[0] == self.namespace:
            raise ValueError(
                f"the inbox prefix {self.inbox_prefix!r} lies under the subjects of namespace {self.namespace!r}; "
                "choose another, for example _INBOX.acme"
            )
        return self
