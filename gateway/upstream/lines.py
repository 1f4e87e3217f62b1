"""Calls that wait for a connection: a line for each whose they are, and the lines served in turn.

In a single line, whoever reads a thousand vehicles by id would have everybody wait for all of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What waits in a line, until `gives_up` (seconds of the loop's clock) at most."""

    line: str
    gives_up: float

    def done(self) -> bool:
        """Whether nobody waits for it any more."""


W = TypeVar("W", bound=Waiting)


class Lines(Generic[W]):
    """`lines` is empty when nothing waits; those who are done leave without being served."""

    def __init__(self) -> None:
        self.lines: OrderedDict[str, deque[W]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    def put(self, one: W) -> None:
        """One more waits, as the last of its line."""
        self.lines.setdefault(one.line, deque()).append(one)

    def take(self) -> W | None:
        """Whose turn it is; None where nobody waits."""
        while self.lines:
            name, line = next(iter(self.lines.items()))
            one = line.popleft()
            if line:
                self.lines.move_to_end(name)
            else:
                del self.lines[name]
            if not one.done():
                return one
        return None

    def take_late(self, now: float) -> list[W]:
        """Those who waited in vain. In a line all wait equally long, so the oldest is the first to give up."""
        late: list[W] = []
        for name, line in list(self.lines.items()):
            while line and (line[0].done() or line[0].gives_up <= now):
                late.append(line.popleft())
            if not line:
                del self.lines[name]
        return [one for one in late if not one.done()]

    def next_gives_up(self) -> float | None:
        """When the next has waited in vain; None where nobody waits."""
        return min((line[0].gives_up for line in self.lines.values()), default=None)

    def waiting(self) -> int:
        """How many wait who are not done."""
        return sum(not one.done() for line in self.lines.values() for one in line)
