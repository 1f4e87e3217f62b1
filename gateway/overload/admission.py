"""Admission control: which operations run, are queued, or are rejected, with limits in total and per principal.

Queued operations are scheduled round-robin per principal, so a noisy tenant only delays itself. When the queue is full,
a principal with less than its share of it may still queue; so the queue may grow to twice its length.

Anybody can invent tokens, and each would be a principal. So all *untrusted* principals, those whose token neither the
fleet API nor an issuer has accepted yet, are scheduled as one, and some slots are reserved for trusted ones.

While the CPU is the bottleneck, running many operations of one principal at once only slows down those of others, so
there are fewer slots. With a single principal nobody needs protection, and equal reads are coalesced anyway.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator

from gateway.concurrency.deadline import Deadline
from gateway.concurrency.fair_queue import FairQueue
from gateway.concurrency.lru import LRU
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.identity import Caller
from gateway.overload.cpu_monitor import LOW_WATER
from gateway.settings import LimitSettings
from gateway.telemetry.metrics import QUEUED, RUNNING, SLOTS, Sample

SLOTS_MIN = 1.0
# The share of the slots that is removed above the CPU threshold, and added below the low-water mark.
SLOTS_REMOVED, SLOTS_ADDED = 0.3, 0.25
CREDENTIALS_MAX = 10_000
TRUSTED_MAX = 20_000
# The prefix of an untrusted principal's queue; by itself, the group of all these queues.
UNTRUSTED = "?"
# The share of the slots that untrusted principals may have together.
UNTRUSTED_SHARE = 0.75
# Seconds for which a principal counts as active after its last request.
ACTIVE_SECONDS = 10.0
Waiter = asyncio.Future[None]


class Admission:
    """Slots for operations. Each admitted operation has to `release` its slot."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._running = 0
        self._running_of: Counter[str] = Counter()
        self._untrusted_running = 0
        self._unsent = 0
        self._unsent_of: Counter[str] = Counter()
        # A group is the queue of a trusted principal, or all queues of untrusted ones. The group that is next comes
        # first.
        self._groups: OrderedDict[str, FairQueue[Waiter]] = OrderedDict()
        self.waiting = 0  # operations that are queued
        self._credentials: LRU[bytes, str] = LRU(CREDENTIALS_MAX)
        self._trusted: LRU[str, bool] = LRU(TRUSTED_MAX)
        self._slots = float(settings.concurrency)
        # The queues whose requests are rejected at once, each with the length at which that ends.
        self.shedding: dict[str, int] = {}
        self._last_queue = ""
        self._multi_tenant_until = 0.0

    def adapt(self, utilization: float) -> None:
        """Adapts the number of slots to the CPU utilisation: removes slots above the threshold, adds them one by one
        below it, and many at a time below the low-water mark.
        """
        limits = self._settings
        if utilization > limits.cpu_threshold:
            self._slots = max(SLOTS_MIN, min(self._slots, self._running) * (1 - SLOTS_REMOVED))
        else:
            more = self._slots * SLOTS_ADDED if utilization < limits.cpu_threshold * LOW_WATER else 0
            self._slots = min(limits.concurrency, self._slots + max(1, more))
        self._admit_waiting()

    def samples(self) -> Iterator[Sample]:
        """The operations that run and wait, and the slots."""
        yield RUNNING, (), self.running
        yield QUEUED, (), self.waiting
        yield SLOTS, (), self._slots_now

    @property
    def running(self) -> int:
        """The number of operations that are running or whose responses are unread."""
        return self._running + self._unsent

    @property
    def is_multi_tenant(self) -> bool:
        """Whether several principals are active."""
        return time.monotonic() < self._multi_tenant_until

    def queue_of(self, caller: Caller | None) -> str:
        """The queue of a caller's operations; it changes when the caller becomes trusted."""
        if caller is None:
            return UNTRUSTED
        return caller.principal if caller.is_verified else self._queue_of(caller.principal)

    def is_untrusted(self, caller: Caller | None) -> bool:
        """Whether neither an issuer nor the fleet API has accepted the caller's token yet."""
        return caller is None or not (caller.is_verified or caller.principal in self._trusted)

    def trust(self, caller: Caller) -> None:
        """Trusts a caller whose token was accepted."""
        if not self._trusted.touch(caller.principal):
            self._trusted.put(caller.principal, True)
            if self._last_queue == UNTRUSTED + caller.principal:
                self._last_queue = caller.principal

    def is_full(self, queue: str) -> bool:
        """Whether the next operation of this queue would be rejected."""
        return not self._may_run(queue) and not self._may_wait(queue)

    def queue_of_credentials(self, credentials: bytes) -> str | None:
        """The queue of the caller with this `Authorization` header, if it is remembered."""
        principal = self._credentials.get(hashlib.sha256(credentials).digest())
        return None if principal is None else self._queue_of(principal)

    def is_shedding(self, queue: str) -> bool:
        """Like `is_full`, but it stays true until a quarter of the queue has been served.

        Otherwise every free slot would admit another burst of requests.
        """
        if queue in self.shedding:
            return True
        if not self.is_full(queue):
            return False
        if waiting := self._waiting_in(queue):
            self.shedding[queue] = waiting * 3 // 4
        return True

    def remember_credentials(self, credentials: bytes, caller: Caller) -> None:
        """Remembers the caller of an `Authorization` header by its digest, for `queue_of_credentials`."""
        if caller.is_verified:
            self.trust(caller)
        self._credentials.put(hashlib.sha256(credentials).digest(), caller.principal)

    def try_acquire(self, queue: str) -> bool:
        """Acquires a slot, if one is free."""
        self.observe(queue)
        if not self._may_run(queue):
            return False
        self._run(queue)
        return True

    async def acquire(self, queue: str, deadline: Deadline) -> None:
        """Acquires a slot, waiting for a free one. Raises Overloaded if there is none before the deadline."""
        if self.try_acquire(queue):
            return
        if not self._may_wait(queue):
            raise Overloaded
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._groups.setdefault(_group_of(queue), FairQueue()).push(queue, waiter)
        self.waiting += 1
        try:
            await deadline.wait(waiter)
        except BaseException as failure:
            if waiter.done():
                self.release(queue)
            else:
                self._groups[_group_of(queue)].remove(queue, waiter)
                self._shrank(queue)
            if isinstance(failure, DeadlineExceeded):
                raise Overloaded from failure
            raise

    def release(self, queue: str) -> None:
        """Releases a slot and admits the next operation."""
        self._running -= 1
        self._untrusted_running -= _is_untrusted(queue)
        self._running_of[queue] -= 1
        if not self._running_of[queue]:
            del self._running_of[queue]
        self._admit_waiting()

    def mark_unsent(self, queue: str) -> None:
        """Releases the slot of an unread response for others, but still counts it for its principal.

        So a client that does not read reduces only its own concurrency.
        """
        self._unsent += 1
        self._unsent_of[queue] += 1
        self.release(queue)

    def release_unsent(self, queue: str) -> None:
        """Stops counting an unread response that was read, or whose connection is closed."""
        self._unsent -= 1
        self._unsent_of[queue] -= 1
        if not self._unsent_of[queue]:
            del self._unsent_of[queue]
        self._admit_waiting()

    def observe(self, queue: str) -> None:
        """Records a request's queue, to detect whether several principals are active."""
        if queue != self._last_queue:
            if self._last_queue:
                self._multi_tenant_until = time.monotonic() + ACTIVE_SECONDS
            self._last_queue = queue

    def _queue_of(self, principal: str) -> str:
        return principal if principal in self._trusted else UNTRUSTED + principal

    def _run(self, queue: str) -> None:
        self._running += 1
        self._untrusted_running += _is_untrusted(queue)
        self._running_of[queue] += 1

    def _admit_waiting(self) -> None:
        for group in list(self._groups):
            slots = self._slots_now
            if self._running >= slots:
                return
            if group == UNTRUSTED and self._untrusted_running >= max(1.0, slots * UNTRUSTED_SHARE):
                continue
            popped = self._groups[group].pop(self._may_run)
            if popped is not None:
                queue, waiter = popped
                self._groups.move_to_end(group)
                self._shrank(queue)
                self._run(queue)
                waiter.set_result(None)

    @property
    def _slots_now(self) -> float:
        return self._slots if self.is_multi_tenant else self._settings.concurrency

    def _may_run(self, queue: str) -> bool:
        limits, slots = self._settings, self._slots_now
        share = min(limits.principal_concurrency, max(1.0, slots * limits.principal_concurrency / limits.concurrency))
        if self._running >= slots or self._running_of[queue] >= share:
            return False
        if self._unsent and self._running_of[queue] + self._unsent_of[queue] >= limits.principal_concurrency:
            return False
        return not _is_untrusted(queue) or self._untrusted_running < max(1.0, slots * UNTRUSTED_SHARE)

    def _may_wait(self, queue: str) -> bool:
        own, limits = self._waiting_in(queue), self._settings
        if own >= limits.principal_queue:
            return False
        if self.waiting < limits.queue:
            return True
        # A full queue has room for principals with less than their share; no queued operation is evicted.
        if _is_untrusted(queue):
            own = len(self._groups.get(UNTRUSTED, ()))
        return own < limits.queue // (len(self._groups) + 1)

    def _waiting_in(self, queue: str) -> int:
        group = self._groups.get(_group_of(queue))
        return 0 if group is None else group.waiting(queue)

    def _shrank(self, queue: str) -> None:
        group = _group_of(queue)
        self.waiting -= 1
        if self._waiting_in(queue) <= self.shedding.get(queue, -1):
            del self.shedding[queue]
        if not self._groups[group]:
            del self._groups[group]


class Slot:
    """The slot of one operation, until its response is sent."""

    __slots__ = ("_admission", "_is_unsent", "_queue")

    def __init__(self, admission: Admission, queue: str) -> None:
        self._admission = admission
        self._queue = queue
        self._is_unsent = False

    def mark_unsent(self) -> None:
        """Records that the response is complete but has not been read."""
        if not self._is_unsent:
            self._is_unsent = True
            self._admission.mark_unsent(self._queue)

    def release(self) -> None:
        """Releases the slot, because the response was sent or its connection is closed."""
        if self._is_unsent:
            self._admission.release_unsent(self._queue)
        else:
            self._admission.release(self._queue)


def _is_untrusted(queue: str) -> bool:
    return queue[:1] == UNTRUSTED


def _group_of(queue: str) -> str:
    return UNTRUSTED if queue[:1] == UNTRUSTED else queue
