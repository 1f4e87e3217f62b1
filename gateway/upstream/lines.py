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

    def put(self, one: W, *, first: bool = False) -> None:
        """One more waits, as the last of its line; or, where it had its turn in vain, as the first of all."""
        line = self.lines.setdefault(one.line, deque())
        if first:
            line.appendleft(one)
            self.lines.move_to_end(one.line, last=False)
        else:
            line.append(one)

    def first(self) -> W | None:
        """Whose turn it is; None where nobody waits."""
        while self.lines:
            name, line = next(iter(self.lines.items()))
            while line:
                if not line[0].done():
                    return line[0]
                line.popleft()
            del self.lines[name]
        return None

    def served(self, one: W) -> None:
        """The first has had its turn."""
        line = self.lines[one.line]
        line.popleft()
        if line:
            self.lines.move_to_end(one.line)
        else:
            del self.lines[one.line]

    def take(self) -> W | None:
        """Whose turn it is, served; None where nobody waits."""
        one = self.first()
        if one is not None:
            self.served(one)
        return one

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
