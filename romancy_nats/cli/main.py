"""The `romancy` command: puts the groups together, turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from romancy_nats.cli import checking, dead, doctor, histories, instances, running, streams, talking
from romancy_nats.cli.exits import MEANINGS, root_cause, tell

_log = logging.getLogger("romancy.cli")
app = typer.Typer(
    name="romancy",
    help="Durable workflows on NATS JetStream.",
    epilog=MEANINGS,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "dev": running.dev,
    "worker": running.worker,
    "start": instances.start,
    "result": instances.result,
    "status": instances.status,
    "list": instances.list_instances,
    "history": histories.history,
    "cancel": instances.cancel,
    "terminate": instances.terminate,
    "retry": instances.retry,
    "send": talking.send,
    "event": talking.event,
    "query": talking.query,
    "update": talking.update,
    "replay": histories.replay,
    "check": checking.check,
    "doctor": doctor.doctor,
}
for _name, _command in _COMMANDS.items():
    app.command(name=_name, epilog=MEANINGS)(_command)
app.add_typer(dead.group)
app.add_typer(streams.group)


def _version(asked: bool) -> None:
    if asked:
        from romancy_nats import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Durable workflows on NATS JetStream."""


def run() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read has enough; what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the end of the command: every error is one line
        code = tell(root_cause(error))
        _log.debug("the traceback of this error", exc_info=error)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.exit(code)
