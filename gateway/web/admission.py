"""Who may run now, who waits, and who is sent away at once: bounded for the process and for each principal.

Those who wait are let in turn by turn between principals, so one that floods the gateway delays itself alone. Where the
queue is full, those with less than their share of it may wait still: at most it grows to twice its length.

Anybody can make up tokens, and each would be a principal. So those of whose token nothing is known yet, the strangers,
are among those known as one principal is, and leave some places to them: a principal is known once the fleet API has
answered it, or when its token was verified.

While the processor is the bound, many operations of one principal at a time only make those of others slow: fewer are
run then. Where there are no others, nobody is to be protected, and equal reads at the same time are one.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict, deque

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.identity import Caller
from gateway.settings import LimitSettings
from gateway.upstream.fetching import Patience
from gateway.web.processor import SPARE

PLACES_MIN = 1.0
# Share of the places by which they grow in a tenth of a second in which the processor had time left.
REGAINED = 0.25
INTRODUCED_MAX = 10_000
ACCEPTED_MAX = 20_000
# What the lines of strangers begin with, and what they are called together.
STRANGER = "?"
# The share of the places that strangers may have together.
STRANGERS_SHARE = 0.75
# Seconds that a principal counts as there after it has asked for a place.
PRESENT = 10.0
Turn = asyncio.Future[None]


class Admission:
    """Places for operations; whoever was let in has to `leave`."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._running = 0
        self._running_for: Counter[str] = Counter()
        self._strangers_running = 0
        self._sending_for: Counter[str] = Counter()
        self._sending = 0
        # Those who wait, by whose turn it is next: known principals, and strangers together; each with their lines.
        self._parties: OrderedDict[str, OrderedDict[str, deque[Turn]]] = OrderedDict()
        self._waiting = 0
        self._introduced: OrderedDict[bytes, str] = OrderedDict()
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self._places = float(settings.concurrency)
        # Who is sent away at once, and from how many who wait on no more.
        self.shut: dict[str, int] = {}
        self._latest = ""
        self._contested_until = 0.0

    def adapt(self, busy: float) -> None:
        """Takes places away while most of the processor's time is used, gives them back when it is not: one by one,
        and many at a time when there is time left.
        """
        limits = self._settings
        if busy > limits.busy:
            self._places = max(PLACES_MIN, min(self._places, self._running) * 0.7)
        else:
            more = self._places * REGAINED if busy < limits.busy * SPARE else 0
            self._places = min(limits.concurrency, self._places + max(1, more))
        self._let_in_who_waits()

    @property
    def running(self) -> int:
        """Operations that run or whose answers have not been read."""
        return self._running + self._sending

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def is_contested(self) -> bool:
        """Whether there are several principals, of whom some may have to be protected from others."""
        return time.monotonic() < self._contested_until

    def line_of(self, caller: Caller | None) -> str:
        """In which line a caller stands: their principal's, or a stranger's."""
        if caller is None:
            return STRANGER
        return caller.principal if caller.is_verified else self._line_of(caller.principal)

    def is_stranger(self, caller: Caller | None) -> bool:
        """Whether neither an issuer nor the fleet API has vouched for a caller: anybody can make up a token."""
        return caller is None or not (caller.is_verified or caller.principal in self._accepted)

    def accept(self, caller: Caller) -> None:
        """The fleet API has answered this caller, who is no stranger any more."""
        if caller.principal in self._accepted:
            self._accepted.move_to_end(caller.principal)
            return
        self._accepted[caller.principal] = None
        if len(self._accepted) > ACCEPTED_MAX:
            self._accepted.popitem(last=False)
        if self._latest == STRANGER + caller.principal:
            self._latest = caller.principal

    def is_full(self, line: str) -> bool:
        """Whether who stands in this line would be sent away at once."""
        return not self._may_run(line) and not self._may_wait(line)

    def introduced(self, credentials: bytes) -> str | None:
        """In which line those stand whose credentials these are, if they were introduced lately."""
        principal = self._introduced.get(hashlib.sha256(credentials).digest())
        return None if principal is None else self._line_of(principal)

    def is_shut(self, line: str) -> bool:
        """The same as `is_full`, but once it is so it stays so until a quarter of the line's queue is gone.

        Else each place that comes free would have all who come at that moment try for it.
        """
        if line in self.shut:
            return True
        if not self.is_full(line):
            return False
        if waiting := self._waiting_in(line):
            self.shut[line] = waiting * 3 // 4
        return True

    def introduce(self, credentials: bytes, caller: Caller) -> None:
        """Remembers by a digest, for a while, whose credentials these are: only those who have to wait need it."""
        if caller.is_verified:
            self.accept(caller)
        self._introduced[hashlib.sha256(credentials).digest()] = caller.principal
        if len(self._introduced) > INTRODUCED_MAX:
            self._introduced.popitem(last=False)

    def enter_at_once(self, line: str) -> bool:
        """Takes a place, if there is one."""
        self.notice(line)
        if not self._may_run(line):
            return False
        self._run(line)
        return True

    async def enter(self, line: str, patience: Patience) -> None:
        """Takes a place, now or in turn; raises Overloaded where there is none before the patience ends."""
        if self.enter_at_once(line):
            return
        if not self._may_wait(line):
            raise Overloaded
        turn: Turn = asyncio.get_running_loop().create_future()
        self._parties.setdefault(_party_of(line), OrderedDict()).setdefault(line, deque()).append(turn)
        self._waiting += 1
        try:
            await patience.wait(turn)
        except BaseException as left:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(line)
            else:
                self._forget(line, turn)
            if isinstance(left, DeadlineExceeded):
                raise Overloaded from left
            raise

    def leave(self, line: str) -> None:
        """Gives a place back, to whoever's turn it is."""
        self._running -= 1
        self._strangers_running -= _is_strangers(line)
        self._running_for[line] -= 1
        if not self._running_for[line]:
            del self._running_for[line]
        self._let_in_who_waits()

    def send(self, line: str) -> None:
        """An operation's answer is not read at once: its place is for others, but it still counts as its principal's.

        So whoever does not read has fewer operations run, and nobody else has.
        """
        self._sending += 1
        self._sending_for[line] += 1
        self.leave(line)

    def sent(self, line: str) -> None:
        """The answer was read, or its connection is closed."""
        self._sending -= 1
        self._sending_for[line] -= 1
        if not self._sending_for[line]:
            del self._sending_for[line]
        self._let_in_who_waits()

    def notice(self, line: str) -> None:
        """Who stands in this line asks for something."""
        if line != self._latest:
            if self._latest:
                self._contested_until = time.monotonic() + PRESENT
            self._latest = line

    def _line_of(self, principal: str) -> str:
        return principal if principal in self._accepted else STRANGER + principal

    def _run(self, line: str) -> None:
        self._running += 1
        self._strangers_running += _is_strangers(line)
        self._running_for[line] += 1

    def _let_in_who_waits(self) -> None:
        for party in list(self._parties):
            places = self._places_now
            if self._running >= places:
                return
            if party == STRANGER and self._strangers_running >= max(1.0, places * STRANGERS_SHARE):
                continue
            line = next((line for line in self._parties[party] if self._may_run(line)), None)
            if line is not None:
                self._let_in(line, party)

    def _let_in(self, line: str, party: str) -> None:
        lines = self._parties[party]
        turn = lines[line].popleft()
        lines.move_to_end(line)
        self._parties.move_to_end(party)
        self._is_shorter(line)
        self._run(line)
        turn.set_result(None)

    @property
    def _places_now(self) -> float:
        return self._places if self.is_contested else self._settings.concurrency

    def _may_run(self, line: str) -> bool:
        limits, places = self._settings, self._places_now
        share = min(limits.principal_concurrency, max(1.0, places * limits.principal_concurrency / limits.concurrency))
        if self._running >= places or self._running_for[line] >= share:
            return False
        if self._sending and self._running_for[line] + self._sending_for[line] >= limits.principal_concurrency:
            return False
        return not _is_strangers(line) or self._strangers_running < max(1.0, places * STRANGERS_SHARE)

    def _may_wait(self, line: str) -> bool:
        own, limits = self._waiting_in(line), self._settings
        if own >= limits.principal_queue:
            return False
        if self._waiting < limits.queue:
            return True
        # A full queue is full for those who fill it; nobody who waits already is sent away for others.
        if _is_strangers(line):
            own = sum(map(len, self._parties.get(STRANGER, {}).values()))
        return own < limits.queue // (len(self._parties) + 1)

    def _waiting_in(self, line: str) -> int:
        queue = self._queue_of(line)
        return 0 if queue is None else len(queue)

    def _queue_of(self, line: str) -> deque[Turn] | None:
        lines = self._parties.get(_party_of(line))
        return None if lines is None else lines.get(line)

    def _forget(self, line: str, turn: Turn) -> None:
        queue = self._queue_of(line)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._is_shorter(line)

    def _is_shorter(self, line: str) -> None:
        party = _party_of(line)
        lines = self._parties[party]
        self._waiting -= 1
        if len(lines[line]) <= self.shut.get(line, -1):
            del self.shut[line]
        if not lines[line]:
            del lines[line]
        if not lines:
            del self._parties[party]


class Slot:
    """The place of one operation, until its answer has gone."""

    __slots__ = ("_admission", "_is_sending", "_line")

    def __init__(self, admission: Admission, line: str) -> None:
        self._admission = admission
        self._line = line
        self._is_sending = False

    def is_unsent(self) -> None:
        """The answer is complete, but its caller has not read it yet."""
        if not self._is_sending:
            self._is_sending = True
            self._admission.send(self._line)

    def leave(self) -> None:
        """The answer has gone, or its connection is closed."""
        if self._is_sending:
            self._admission.sent(self._line)
        else:
            self._admission.leave(self._line)


def _is_strangers(line: str) -> bool:
    return line[:1] == STRANGER


def _party_of(line: str) -> str:
    return STRANGER if line[:1] == STRANGER else line
