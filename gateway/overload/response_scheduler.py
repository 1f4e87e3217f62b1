"""Cached responses, so many in an event-loop iteration: a flood of them delays only the principal that sends it.

They take no slot and are never rejected, for they cost no more than a rejection. But a thousand of them in one
iteration would delay all other requests by as much.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.concurrency.fair_queue import FairQueue

# A few milliseconds' worth.
RESPONSES_PER_TICK = 16


class ResponseScheduler:
    """Shares the iterations of the event loop between principals; one that sends little is served at once."""

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(asyncio.Future.done)
        self._is_scheduled = False

    def try_acquire(self, principal: str) -> bool:
        """Takes a share of this iteration, if the principal may have one."""
        if principal in self._queue or self._sent[principal] >= RESPONSES_PER_TICK:
            return False
        self._schedule()
        self._sent[principal] += 1
        return True

    async def acquire(self, principal: str) -> None:
        """Waits for an iteration that has a share for the principal."""
        turn = asyncio.get_running_loop().create_future()
        self._queue.push(principal, turn)
        self._schedule()
        await turn

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
            principal, turn = popped
            turn.set_result(None)
            self._sent[principal] += 1
        if self._sent or self._queue:
            self._schedule()
