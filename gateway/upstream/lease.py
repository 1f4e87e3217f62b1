"""One flight for all processes: who holds the lease on a read calls the fleet API, the others wait for the entry."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Protocol, TypeVar

from gateway.upstream.cache import Entry
from gateway.upstream.requests import Clock, Layer, Steps, UpstreamCall, UpstreamRequest, UpstreamResponse

T = TypeVar("T")
FIRST_LOOK = 0.005
LOOKS_APART_MAX = 0.05
# Seconds that may lie between a look into Redis and the next.
MOMENT = 0.25
# Seconds by which the clocks of machines may differ that share a Redis: what one of them has just read would be from
# the future to another, whose caller waits for it.
SKEW = 1.0


class Leases(Protocol):
    """Leases on keys, and the entries that their holders leave behind."""

    async def acquire(self, key: str, seconds: float) -> str | None: ...

    async def release(self, key: str, token: str) -> None: ...

    async def shared(self, key: str, model: type[T]) -> Entry[T] | None: ...


class LeaseCoalescing:
    """Lets one process through for each read; when its lease ends without an entry, one other takes its place."""

    def __init__(self, following: Layer, leases: Leases, seconds: float, clock: Clock) -> None:
        self._following = following
        self._leases = leases
        self._seconds = seconds
        self._clock = clock

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """Those of the one that holds the lease; the others wait for its entry."""
        if not call.read.endpoint.idempotent:
            yield from self._following.steps(call)
            return
        # This reader has looked for an entry a moment ago: one that was stored since is as new as one to come.
        began, started, apart = self._clock() - MOMENT, time.monotonic(), FIRST_LOOK
        read = call.read
        while (token := (yield self._leases.acquire(read.key, self._seconds))) is None:
            if time.monotonic() - started > self._seconds:
                break
            yield asyncio.sleep(apart * random.uniform(0.5, 1.0))
            apart = min(2 * apart, LOOKS_APART_MAX)
            if (reply := (yield self._left_behind(read, began))) is not None:
                call.reply = reply
                return
        try:
            # Another holder may have come to its end between the last look and this lease.
            if (reply := (yield self._left_behind(read, began))) is not None:
                call.reply = reply
            else:
                yield from self._following.steps(call)
        finally:
            if token:
                yield self._leases.release(read.key, token)

    async def _left_behind(self, read: UpstreamRequest[T], began: float) -> UpstreamResponse[T] | None:
        """What another process has read since then."""
        entry = await self._leases.shared(read.key, read.endpoint.model)
        if entry is None or not began <= entry.stored_at <= self._clock() + SKEW:
            return None
        read.stats.coalesced += 1
        return entry.reply()
