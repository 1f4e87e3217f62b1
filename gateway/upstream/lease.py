"""Coalescing across processes: the holder of a read's lease calls the fleet API, the others wait for its entry."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Protocol, TypeVar

from gateway.upstream.cache import Entry
from gateway.upstream.requests import Clock, Layer, Steps, UpstreamCall, UpstreamRequest, UpstreamResponse

T = TypeVar("T")
# The first interval between polls of Redis, and the longest.
POLL_SECONDS = 0.005
POLL_SECONDS_MAX = 0.05
# The age, in seconds before the call, up to which an entry of another process is accepted.
RECENT = 0.25
# The clock difference, in seconds, of machines that share a Redis: a new entry of one may be from the future for
# another one that waits for it.
SKEW = 1.0


class Leases(Protocol):
    """Leases on keys, and the entries that their holders store."""

    async def acquire(self, key: str, seconds: float) -> float | None: ...

    async def release(self, key: str, ends: float) -> None: ...

    async def shared(self, key: str, model: type[T]) -> Entry[T] | None: ...


class LeaseCoalescing:
    """Lets one process call for each read; if its lease ends without an entry, another process calls."""

    def __init__(self, following: Layer, leases: Leases, seconds: float, clock: Clock) -> None:
        self._following = following
        self._leases = leases
        self._seconds = seconds
        self._clock = clock

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """The steps of the lease holder; the other processes wait for its entry."""
        if not call.request.endpoint.idempotent:
            yield from self._following.steps(call)
            return
        # The cache was looked up just before, so an entry that was stored since then is fresh.
        began, started, interval = self._clock() - RECENT, time.monotonic(), POLL_SECONDS
        request = call.request
        while (ends := (yield self._leases.acquire(request.key, self._seconds))) is None:
            if time.monotonic() - started > self._seconds:
                break
            yield asyncio.sleep(interval * random.uniform(0.5, 1.0))
            interval = min(2 * interval, POLL_SECONDS_MAX)
            if (response := (yield self._stored_response(request, began))) is not None:
                call.response = response
                return
        try:
            # Another holder may have finished between the last poll and this lease.
            if (response := (yield self._stored_response(request, began))) is not None:
                call.response = response
            else:
                yield from self._following.steps(call)
        finally:
            if ends:
                yield self._leases.release(request.key, ends)

    async def _stored_response(self, request: UpstreamRequest[T], began: float) -> UpstreamResponse[T] | None:
        """The response that another process has stored since a time."""
        entry = await self._leases.shared(request.key, request.endpoint.model)
        if entry is None or not began <= entry.stored_at <= self._clock() + SKEW:
            return None
        request.stats.coalesced += 1
        return entry.response(request.endpoint)
