"""What happened in one run of the demo, and what of it the dead worker did. Facts for the screen and the check."""

from __future__ import annotations

from dataclasses import dataclass, field

from attempt import Attempt, attempts
from entry import Entry
from main import Order, book_courier, charge_payment, reserve_inventory, send_invoice, ship
from told import tell

from romancy_nats.core.commit import Commit

ACTIVITIES = (reserve_inventory, book_courier, charge_payment, ship, send_invoice)
COMPENSATED_BY = {a.name: a.compensation.name for a in ACTIVITIES if a.compensation is not None}


@dataclass(slots=True)
class Taken:
    """An order that a worker left behind. Ids of activities; `after` is seconds from the kill to the next action."""

    order: str
    kept: list[str]
    in_flight: list[str]
    repeated: list[str]
    after: float
    by: str


@dataclass(slots=True)
class Story:
    """`deaths`: pid -> µs since the epoch; `names`: pid -> worker."""

    orders: list[Order]
    names: dict[int, str] = field(default_factory=dict[int, str])
    deaths: dict[int, int] = field(default_factory=dict[int, int])
    histories: dict[str, list[Commit]] = field(default_factory=dict[str, list[Commit]])
    entries: list[Entry] = field(default_factory=list[Entry])

    @property
    def expected(self) -> dict[str, str]:
        """How each order is going to end."""
        return {order.id: ending(order) for order in self.orders}

    def taken_over(self) -> list[Taken]:
        """The orders that the dead worker left unfinished, the first one to be seen again first."""
        known = attempts(self.entries)
        found = [
            taken
            for order in self.histories
            for pid, death in self.deaths.items()
            if (taken := self._taken(order, pid, death, known)) is not None
        ]
        return sorted(found, key=lambda taken: taken.after)

    def _taken(
        self, order: str, pid: int, death: int, known: dict[tuple[str, str], list[Attempt]]
    ) -> Taken | None:
        mine = {id: found for (whose, id), found in known.items() if whose == order}
        others = [a.begun for found in mine.values() for a in found if a.begun.pid != pid]
        left = {id for id, found in mine.items() if any(a.begun.pid == pid for a in found)}
        history = self.histories[order]
        # A commit is stamped when it is made, so those of the dead worker are no younger than its death.
        later = [commit.time for commit in history if commit.time > death]
        if not left or not later:
            return None
        kept = [id for id, result in tell(history).results.items() if result.time <= death]
        in_flight = [id for id in left if id not in kept and any(_open(a, pid) for a in mine[id])]
        repeated = [id for id in kept if any(a.begun.wall > death for a in mine[id])]
        seen = min([entry.wall for entry in others if entry.wall > death] + later)
        by = self.names.get(others[-1].pid, "?") if others else "?"
        return Taken(order, kept, in_flight, repeated, (seen - death) / 1e6, by)


def _open(attempt: Attempt, pid: int) -> bool:
    return attempt.begun.pid == pid and attempt.outcome is None


def ending(order: Order) -> str:
    """How an order is going to end."""
    if order.card == "tok_declined":
        return "failed"
    return "cancelled" if order.delivery == "pallet" else "completed"


def activities(order: Order) -> int:
    """How many activities an undisturbed order runs."""
    return len(order.lines) + len(ACTIVITIES) - 1
