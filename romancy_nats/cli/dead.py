"""Commands on dead letters, the messages that nobody could use: list them, show one, send them back, delete them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple, Protocol, TypeVar

import typer

from romancy_nats.cli.connected import is_there, nowhere, opened, run_async
from romancy_nats.cli.exits import Exit, NotThereError
from romancy_nats.cli.options import AsJson, Namespace, Url, settings
from romancy_nats.cli.output import print_json, print_pairs, print_rows, print_value
from romancy_nats.core.described import moment
from romancy_nats.core.headers import CONTENT_TYPE
from romancy_nats.core.shown import shown_text, shown_value
from romancy_nats.errors import ConfigurationError, RomancyError
from romancy_nats.jetstream.dead_letters import DeadLetters, Letter
from romancy_nats.jetstream.subjects import Subjects

group = typer.Typer(
    name="dead",
    help="Dead letters: messages that nobody could use, each with its reason.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
WorkflowName = Annotated[
    str | None, typer.Option("--workflow", help="Only those of this workflow.", metavar="NAME")
]
Numbers = Annotated[
    list[int] | None,
    typer.Argument(metavar="[NUMBER]...", help="Which letters, by the number that `dead list` shows."),
]

T = TypeVar("T")


class _Act(Protocol):
    """Does something with one letter; returns why it could not, "" when it is done."""

    __name__: str

    async def __call__(self, letters: DeadLetters, letter: Letter, /) -> str: ...


class _Done(NamedTuple):
    """What became of one letter."""

    number: int
    workflow: str
    done: bool
    reason: str


@group.command(name="list")
def list_letters(
    workflow: WorkflowName = None,
    limit: Annotated[int | None, typer.Option("--limit", help="The newest so many.", min=1)] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first."""

    async def look(letters: DeadLetters) -> list[Letter]:
        return [one async for one in letters.letters(workflow)]

    found = _with_letters(look, url, namespace)[-(limit or 0) :]
    if as_json:
        print_json([_plain(one) for one in found])
        return
    print_rows(
        ("number", "workflow", "id", "parked", "from", "size", "reason"),
        (
            (one.number, one.workflow, one.id, moment(one.parked_at), one.origin, len(one.data), one.reason)
            for one in found
        ),
        empty="no dead letters",
    )


@group.command()
def show(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The number that `dead list` shows.")],
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its headers and its body."""

    async def look(letters: DeadLetters) -> Letter | None:
        return await letters.read(number)

    letter = _with_letters(look, url, namespace)
    if letter is None:
        raise _missing(number)
    if as_json:
        print_json({**_plain(letter), "headers": letter.own_headers, "body": _body(letter)})
        return
    known = _plain(letter)
    print_pairs((name, value) for name, value in {**known, "parked_at": moment(letter.parked_at)}.items())
    print_pairs((f"header {name}", value) for name, value in letter.own_headers.items())
    print_value(_body(letter))


def _command(verb: str) -> Callable[[_Act], _Act]:
    """Make a command of what is done with one letter: it does so with all that its numbers or --workflow name."""

    def register(act: _Act) -> _Act:
        @group.command(name=act.__name__, help=act.__doc__)
        def command(
            numbers: Numbers = None,
            workflow: WorkflowName = None,
            url: Url = None,
            namespace: Namespace = None,
            as_json: AsJson = False,
        ) -> None:
            if bool(numbers) == (workflow is not None):
                raise ConfigurationError(
                    "say which letters: their numbers, or --workflow for all of one workflow"
                )

            async def all_of_them(letters: DeadLetters) -> list[_Done]:
                return [await _one(act, letters, one) for one in await _chosen(letters, numbers, workflow)]

            _report(_with_letters(all_of_them, url, namespace), verb, as_json=as_json)

        return act

    return register


@_command("sent back")
async def redrive(letters: DeadLetters, letter: Letter) -> str:
    """Send dead letters back to where they came from, with their headers; each is deleted once that is stored.

    Exit code 1 when one of them could not be sent back; it says why, and is kept.
    """
    return await letters.redrive(letter)


@_command("deleted")
async def delete(letters: DeadLetters, letter: Letter) -> str:
    """Delete dead letters for good."""
    return "" if await letters.delete(letter.number) else "it is gone already"


def _report(done: list[_Done], verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in done])
    else:
        rows = [(one.number, one.workflow, verb if one.done else "kept", one.reason) for one in done]
        print_rows(("number", "workflow", "", "reason"), rows, empty="no dead letters")
    if not all(one.done for one in done):
        raise typer.Exit(Exit.FAILED)


async def _one(act: _Act, letters: DeadLetters, letter: Letter) -> _Done:
    try:
        why_not = await act(letters, letter)
    except RomancyError as error:
        # Those before it are done: the answer says so, and which are left.
        why_not = str(error)
    return _Done(letter.number, letter.workflow, not why_not, why_not)


async def _chosen(letters: DeadLetters, numbers: list[int] | None, workflow: str | None) -> list[Letter]:
    if workflow is not None:
        return [one async for one in letters.letters(workflow)]
    found: list[Letter] = []
    for number in dict.fromkeys(numbers or []):
        letter = await letters.read(number)
        if letter is None:
            raise _missing(number)
        found.append(letter)
    return found


def _missing(number: int) -> RomancyError:
    return NotThereError(f"there is no dead letter {number}; `romancy dead list` shows their numbers")


def _with_letters(work: Callable[[DeadLetters], Awaitable[T]], url: str | None, namespace: str | None) -> T:
    chosen = settings(url, namespace)

    async def main() -> T:
        async with opened(chosen) as connection:
            if not await is_there(connection, chosen):
                raise NotThereError(nowhere(chosen))
            return await work(DeadLetters(connection, Subjects(chosen.namespace)))

    return run_async(main)


def _plain(letter: Letter) -> dict[str, object]:
    return {
        "number": letter.number,
        "workflow": letter.workflow,
        "id": letter.id,
        "parked_at": moment(letter.parked_at),
        "from": letter.origin,
        "size": len(letter.data),
        "reason": letter.reason,
    }


def _body(letter: Letter) -> object:
    """The body as something to read: the value of JSON or msgpack, else text, else hexadecimal digits."""
    if "msgpack" in letter.headers.get(CONTENT_TYPE, "") or "romancy" in letter.headers.get(CONTENT_TYPE, ""):
        return shown_value(letter.data, longest=None)
    try:
        text = letter.data.decode()
    except UnicodeDecodeError:
        return shown_value(letter.data, longest=None)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return shown_text(text)
