"""What the audience sees, on a terminal or in a file. Prints; decides nothing but the exit code."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from check import Verdict
from entry import Entry
from rich.console import Console
from rich.table import Table
from story import Story, Taken
from told import tell

_WIDTH = 110
_SHOWN = 12


class Screen:
    """One console, and the time since the curtain rose."""

    def __init__(self) -> None:
        plain = Console()
        self._console = plain if plain.is_terminal else Console(width=_WIDTH)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line with the time."""
        seconds = time.monotonic() - self._began
        self._print(f"[dim]{seconds:6.2f} s[/]  {text}")

    def serving(self, url: str, lease: float) -> None:
        self.say(
            f"nats-server at {url}, every write on the disk before it is acknowledged; lease {lease:g} s"
        )

    def hired(self, names: Mapping[int, str]) -> None:
        workers = ", ".join(f"{name} (process {pid})" for pid, name in names.items())
        self.say(f"hired {workers}; orders come in, half of them as bare JSON messages")

    def cancelled(self, order: str, seconds: float) -> None:
        self.say(
            f"{order} cancelled by its customer while it was loaded; heard {seconds * 1000:.0f} ms later"
        )

    def killed(self, name: str, pid: int, entries: Sequence[Entry]) -> None:
        done = sum(entry.kind == "end" for entry in entries)
        self.say(f"[bold red]kill -9 {name}[/] (process {pid}), {done} activities were done by then")

    def ended(self, orders: int) -> None:
        self.say(f"all {orders} orders have ended")

    def told(self, story: Story, verdict: Verdict) -> None:
        """The killed worker, the failed order and the cancelled one."""
        self._takeover(story.taken_over(), verdict)
        for order, ending in story.expected.items():
            if ending != "completed":
                self._undone(order, story)

    def _takeover(self, taken: Sequence[Taken], verdict: Verdict) -> None:
        table = Table(title="What the dead worker left behind", title_justify="left")
        for column in (
            "order",
            "recorded before the kill: not run again",
            "in flight: run again",
            "taken over by",
        ):
            table.add_column(column, overflow="fold")
        table.add_column("after", justify="right")
        for one in taken[:_SHOWN]:
            flight = ", ".join(one.in_flight) or "-"
            table.add_row(one.order, ", ".join(one.kept) or "-", flight, one.by, f"{one.after:.2f} s")
        self._console.print(table)
        kept, repeated = sum(len(one.kept) for one in taken), sum(len(one.repeated) for one in taken)
        self._print(
            f"{len(taken)} orders taken over; {kept} activities had been recorded, {repeated} of them ran again"
        )
        if taken:
            self._print(
                f"takeover: the first order after {taken[0].after:.2f} s, the last after {taken[-1].after:.2f} s"
            )
        finished = sum(attempt.outcome == "end" for attempt in verdict.window)
        self._print(
            f"at-least-once window: {len(verdict.window)} attempts were in flight at the kill, "
            f"{finished} of them had done their work unrecorded"
        )

    def _undone(self, order: str, story: Story) -> None:
        told = tell(story.histories.get(order, []))
        done = [id for id in told.to_undo if id not in {undo for _, undo in told.compensations}]
        undone = [told.scheduled[undo].name + f"({undoes})" for undoes, undo in told.compensations]
        self._print(f"\n[bold]{order}[/] {' and '.join(told.endings) or 'did not end'}")
        self._print(f"  done, in this order:     {', '.join(done)}")
        self._print(f"  undone, in this order:   {', '.join(undone)}")

    def judged(self, story: Story, verdict: Verdict, seconds: float) -> int:
        """The last table and the last line; returns the exit code."""
        orders = len(story.expected)
        self._print("")
        ends = Counter(" and ".join(tell(history).endings) or "open" for history in story.histories.values())
        table = Table(title="Histories against the external record", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for label, number in (
            *((f"orders {ending}", number) for ending, number in sorted(ends.items())),
            ("results recorded, each of an attempt that ended", verdict.results),
            ("attempts begun", sum(entry.kind == "begin" for entry in story.entries)),
            ("attempts that failed and were retried, or were final", verdict.retried),
            ("attempts interrupted by a cancel", verdict.interrupted),
            ("attempts in flight at the kill", len(verdict.window)),
            ("violations", len(verdict.violations)),
        ):
            table.add_row(label, str(number))
        self._console.print(table)
        for violation in verdict.violations:
            self._print(f"[red]{violation.fault}[/]: {violation.order}: {violation.text}")
        colour = "red" if verdict.violations or verdict.ended_once != orders else "green"
        self._print(
            f"[bold {colour}]{verdict.ended_once} of {orders} orders ended exactly once[/] ({seconds:.1f} s)"
        )
        return int(colour == "red")

    def failed(self, text: str) -> None:
        """The show was stopped."""
        self._console.print(text, style="red", markup=False, highlight=False)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)
