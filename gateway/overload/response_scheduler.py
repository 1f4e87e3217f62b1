"""Schedules cached responses: a principal has a few per event-loop iteration, so a flood delays only its sender.

Cached responses need no slot and are never rejected, because they cost no more than a rejection. But a thousand of them
in one iteration would delay all other requests.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.concurrency.fair_queue import FairQueue

# A few milliseconds of CPU time.
RESPONSES_PER_TICK = 16


class ResponseScheduler:
    """Shares event-loop iterations between principals; a principal with few requests is served at once."""

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(asyncio.Future.done)
        self._is_scheduled = False

    def try_acquire(self, principal: str) -> bool:
        """Whether the principal may send a response in this iteration."""
        if principal in self._queue or self._sent[principal] >= RESPONSES_PER_TICK:
            return False
        self._schedule()
        self._sent[principal] += 1
        return True

    async def acquire(self, principal: str) -> None:
        """Waits for an iteration in which the principal may send a response."""
        waiter = asyncio.get_running_loop().create_future()
        self._queue.push(principal, waiter)
        self._schedule()
        await waiter

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._next_tick)

    def _next_tick(self) -> None:
        self._is_scheduled = False
        self._sent.clear()
        for _ in range(RESPONSES_PER_TICK):
            popped = self._queue.pop()
            if popped is None:
                break
            principal, waiter = popped
            waiter.set_result(None)
            self._sent[principal] += 1
        if self._sent or self._queue:
            self._schedule()
