"""How to prove who we are to a NATS server, and how to write its URL without secrets. Opens nothing."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything is optional. A user and password, or a token, may be in the URL as well."""

    user_credentials: str | Path | None = field(default=None, repr=False)
    """Path of a `.creds` file."""
    nkeys_seed: str | Path | None = field(default=None, repr=False)
    """An nkey seed (`SU…`), or the path of a file that holds one."""
    token: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    tls_hostname: str | None = None


def login_options(login: Credentials) -> dict[str, Any]:
    """The same as arguments of nats-py's `connect`."""
    seed = str(login.nkeys_seed) if login.nkeys_seed is not None else None
    inline = seed is not None and seed.startswith("SU")
    return {
        "user": login.user,
        "password": login.password,
        "token": login.token,
        "tls": login.tls,
        "tls_hostname": login.tls_hostname,
        "user_credentials": str(login.user_credentials) if login.user_credentials is not None else None,
        "nkeys_seed": None if inline else seed,
        "nkeys_seed_str": seed if inline else None,
    }


def servers(url: str) -> list[str]:
    """The servers that a comma-separated URL names."""
    return [part.strip() for part in url.split(",") if part.strip()]


def redacted(url: str) -> str:
    """The URL as it may be shown: passwords and tokens replaced."""
    return ",".join(_without_secret(part) for part in servers(url))


def _without_secret(url: str) -> str:
    # The last @ ends the secret: people do not always percent-encode a password.
    secret, at, host = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, _ = secret.partition("://")
    return f"{scheme}://***@{host}" if slashes else f"***@{host}"
