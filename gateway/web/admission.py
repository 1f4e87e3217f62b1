"""Who may run now, who waits, and who is sent away at once: bounded for the process and for each principal.

Those who wait are let in turn by turn between principals, so one that floods the gateway delays itself alone. Where the
queue is full, those with less than their share of it may wait still: at most it grows to twice its length.

While the processor is the bound, many operations of one principal at a time only make those of others slow: fewer are
run then. Where there are no others, nobody is to be protected, and equal reads at the same time are one.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict, deque

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.settings import LimitSettings
from gateway.upstream.fetching import Patience
from gateway.web.processor import SPARE

PLACES_MIN = 1.0
# Share of the places by which they grow in a tenth of a second in which the processor had time left.
REGAINED = 0.25
INTRODUCED_MAX = 10_000
# Seconds that a principal counts as there after it has asked for a place.
PRESENT = 10.0
Turn = asyncio.Future[None]


class Admission:
    """Places for operations; whoever was let in has to `leave`."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._running = 0
        self._running_for: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._waiting = 0
        self._introduced: OrderedDict[bytes, str] = OrderedDict()
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
        return self._running

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def is_contested(self) -> bool:
        """Whether there are several principals, of whom some may have to be protected from others."""
        return time.monotonic() < self._contested_until

    def is_full(self, principal: str) -> bool:
        """Whether this principal would be sent away at once."""
        return not self._may_run(principal) and not self._may_wait(principal)

    def introduced(self, credentials: bytes) -> str | None:
        """Whose credentials these are, if they were introduced lately."""
        return self._introduced.get(hashlib.sha256(credentials).digest())

    def is_shut(self, principal: str) -> bool:
        """The same as `is_full`, but once it is so it stays so until a quarter of the principal's queue is gone.

        Else each place that comes free would have all who come at that moment try for it.
        """
        if principal in self.shut:
            return True
        if not self.is_full(principal):
            return False
        if waiting := len(self._queues.get(principal, ())):
            self.shut[principal] = waiting * 3 // 4
        return True

    def introduce(self, credentials: bytes, principal: str) -> None:
        """Remembers by a digest, for a while, whose credentials these are: only those who have to wait need it."""
        self._introduced[hashlib.sha256(credentials).digest()] = principal
        if len(self._introduced) > INTRODUCED_MAX:
            self._introduced.popitem(last=False)

    def enter_at_once(self, principal: str) -> bool:
        """Takes a place, if there is one."""
        self.notice(principal)
        if not self._may_run(principal):
            return False
        self._running += 1
        self._running_for[principal] += 1
        return True

    async def enter(self, principal: str, patience: Patience) -> None:
        """Takes a place, now or in turn; raises Overloaded where there is none before the patience ends."""
        if self.enter_at_once(principal):
            return
        if not self._may_wait(principal):
            raise Overloaded
        turn: Turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(principal, deque()).append(turn)
        self._waiting += 1
        try:
            await patience.wait(turn)
        except BaseException as left:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(principal)
            else:
                self._forget(principal, turn)
            if isinstance(left, DeadlineExceeded):
                raise Overloaded from left
            raise

    def leave(self, principal: str) -> None:
        """Gives a place back, to whoever's turn it is."""
        self._running -= 1
        self._running_for[principal] -= 1
        if not self._running_for[principal]:
            del self._running_for[principal]
        self._let_in_who_waits()

    def _let_in_who_waits(self) -> None:
        for principal in list(self._queues):
            if self._may_run(principal):
                self._let_in(principal)

    def _let_in(self, principal: str) -> None:
        queue = self._queues[principal]
        turn = queue.popleft()
        self._is_shorter(principal, queue)
        if queue:
            self._queues.move_to_end(principal)
        self._running += 1
        self._running_for[principal] += 1
        turn.set_result(None)

    def notice(self, principal: str) -> None:
        """A principal asks for something."""
        if principal != self._latest:
            if self._latest:
                self._contested_until = time.monotonic() + PRESENT
            self._latest = principal

    def _may_run(self, principal: str) -> bool:
        limits = self._settings
        places = self._places if self.is_contested else limits.concurrency
        share = min(limits.principal_concurrency, max(1.0, places * limits.principal_concurrency / limits.concurrency))
        return self._running < places and self._running_for[principal] < share

    def _may_wait(self, principal: str) -> bool:
        own, limits = len(self._queues.get(principal, ())), self._settings
        if own >= limits.principal_queue:
            return False
        # A full queue is full for those who fill it; nobody who waits already is sent away for others.
        return self._waiting < limits.queue or own < limits.queue // (len(self._queues) + 1)

    def _forget(self, principal: str, turn: Turn) -> None:
        queue = self._queues.get(principal)
        if queue is None or turn not in queue:
            return
        queue.remove(turn)
        self._is_shorter(principal, queue)

    def _is_shorter(self, principal: str, queue: deque[Turn]) -> None:
        self._waiting -= 1
        if len(queue) <= self.shut.get(principal, -1):
            del self.shut[principal]
        if not queue:
            del self._queues[principal]
