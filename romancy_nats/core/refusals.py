"""What the deterministic loop refuses: I/O, being driven from inside, and calls from outside a step.

Only refusals may go in here; each says what to do instead.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from romancy_nats.errors import WorkflowIOError, WorkflowRuleError

_ANYIO = "anyio._backends._asyncio"
_TO_THREAD = "run_sync_in_worker_thread"


class StepViolation(WorkflowRuleError, RuntimeError):  # noqa: N818 - a RuntimeError, as asyncio raises for a wrong loop
    """The loop of an instance was called from outside its step; `stack` is where from."""

    def __init__(self, call: str, stack: str) -> None:
        super().__init__(call, stack)
        self.call = call
        self.stack = stack

    def __str__(self) -> str:
        return (
            f"{self.call} from outside the workflow's own code (another thread, or a callback of another loop): "
            f"do this in an activity; called from\n{self.stack}"
        )


def violation(call: str) -> StepViolation:
    """The violation of whoever called the loop's method `call`."""
    return StepViolation(call, "".join(traceback.format_stack(sys._getframe(3))))  # pyright: ignore[reportPrivateUsage]


def _no_thread() -> WorkflowIOError:
    return WorkflowIOError(
        "workflow code may not run a function in a thread (anyio.to_thread.run_sync): do this in an activity"
    )


def _no_io(name: str) -> WorkflowIOError:
    return WorkflowIOError(f"workflow code may not use loop.{name}: do this in an activity")


def _io(name: str) -> Callable[..., NoReturn]:
    def refused(*args: object, **kwargs: object) -> NoReturn:
        raise _no_io(name)

    return refused


def _driven(name: str) -> Callable[..., NoReturn]:
    def refused(*args: object, **kwargs: object) -> NoReturn:
        raise WorkflowRuleError(f"workflow code may not use loop.{name}: the worker alone drives this loop")

    return refused


class RefusingLoop(asyncio.AbstractEventLoop):
    """All that an event loop has and a workflow must not have."""

    connect_accepted_socket = _io("connect_accepted_socket")
    connect_read_pipe = _io("connect_read_pipe")
    connect_write_pipe = _io("connect_write_pipe")
    create_connection = _io("create_connection")
    create_datagram_endpoint = _io("create_datagram_endpoint")
    create_server = _io("create_server")
    create_unix_connection = _io("create_unix_connection")
    create_unix_server = _io("create_unix_server")
    getaddrinfo = _io("getaddrinfo")
    getnameinfo = _io("getnameinfo")
    remove_reader = _io("remove_reader")
    remove_signal_handler = _io("remove_signal_handler")
    remove_writer = _io("remove_writer")
    sendfile = _io("sendfile")
    set_default_executor = _io("set_default_executor")
    sock_accept = _io("sock_accept")
    sock_connect = _io("sock_connect")
    sock_recv = _io("sock_recv")
    sock_recv_into = _io("sock_recv_into")
    sock_recvfrom = _io("sock_recvfrom")
    sock_recvfrom_into = _io("sock_recvfrom_into")
    sock_sendall = _io("sock_sendall")
    sock_sendfile = _io("sock_sendfile")
    sock_sendto = _io("sock_sendto")
    start_tls = _io("start_tls")
    subprocess_exec = _io("subprocess_exec")
    subprocess_shell = _io("subprocess_shell")

    close = _driven("close")
    run_forever = _driven("run_forever")
    run_until_complete = _driven("run_until_complete")
    set_debug = _driven("set_debug")
    set_exception_handler = _driven("set_exception_handler")
    set_task_factory = _driven("set_task_factory")
    shutdown_asyncgens = _driven("shutdown_asyncgens")
    shutdown_default_executor = _driven("shutdown_default_executor")
    stop = _driven("stop")

    # Methods, because a checker cannot fit a callable to their variadic types.
    def add_reader(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise _no_io("add_reader")

    def add_signal_handler(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise _no_io("add_signal_handler")

    def add_writer(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise _no_io("add_writer")

    def run_in_executor(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise _no_io("run_in_executor")

    def get_debug(self) -> bool:
        # Asked by each new future, and the only thing that anyio asks of a loop before it hands a function to a thread.
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        if caller.f_code.co_name == _TO_THREAD and caller.f_globals.get("__name__") == _ANYIO:
            raise _no_thread()
        return False

    def get_exception_handler(self) -> None:
        return None

    def get_task_factory(self) -> None:
        return None
