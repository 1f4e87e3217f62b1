"""The cache: responses of the fleet API for each principal, while they are fresh or usable when stale.

`CacheReader` looks up entries and `CacheWriter` (below coalescing) stores them. Keys start with the caller's principal,
so no caller gets another caller's response. 401, 403 and 429 are never stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from enum import Enum
from math import inf
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from gateway.concurrency.deadline import Deadline
from gateway.errors import (
    RateLimited,
    UpstreamForbidden,
    UpstreamTimeout,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.telemetry.metrics import CACHE_BYTES, CACHE_ENTRIES, CACHE_EVICTIONS, CACHE_READS, Metrics, Sample
from gateway.upstream.changes import Changes, group_of
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.endpoints import NOT_STORED, Endpoint, Lifetime
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.pages import MEMORY_FACTOR, PageItemRef, RawValue
from gateway.upstream.requests import (
    CacheUse,
    Clock,
    Layer,
    ManyFetcher,
    Steps,
    UpstreamCall,
    UpstreamRequest,
    UpstreamResponse,
)

T = TypeVar("T")

UNDECODED = (PageItemRef, RawValue)
# Results of reads of the cache in metrics. A stale entry that replaces a failed call counts after the miss.
HIT, STALE, MISS = "hit", "stale", "miss"
# Memory of an entry without its value, in bytes.
OVERHEAD = 600
# Time limit of a background refresh.
REFRESH_SECONDS = 10.0
# Concurrent refreshes. Above that, stale entries are still returned and a later request refreshes them.
REFRESHES_MAX = 512
OUTAGES = (UpstreamUnavailable, UpstreamTimeout, RateLimited)


class Age(Enum):
    """What an entry's age allows."""

    FRESH = 1
    REVALIDATING = 2
    IF_ERROR = 3
    DEAD = 4


def age_of(entry: Entry[Any], lifetime: Lifetime, at: float) -> Age:
    """What an entry's age allows at a time in epoch seconds; an entry is dead once its token has expired.

    An entry from the future is dead: the clock was set back, so its age is unknown.
    """
    if entry.token_expires_at is not None and at >= entry.token_expires_at:
        return Age.DEAD
    age = at - entry.stored_at
    if not lifetime.fresh or age < 0:
        return Age.DEAD
    if age < lifetime.fresh:
        return Age.FRESH
    if age < lifetime.fresh + lifetime.while_revalidating:
        return Age.REVALIDATING
    return Age.IF_ERROR if age < lifetime.fresh + lifetime.if_error else Age.DEAD


class Entry(Struct, Generic[T], gc=False):
    """A stored response; `body` is its length as JSON in bytes, `token_expires_at` the expiry of its token.

    The value is a `PageItemRef` for an item of a stored page, and a `RawValue` for a small response. `number` is that
    of the latest write that was known before it was read, and `group` the caller's. There may be a hundred thousand
    entries, which the garbage collector need not track: they are in no reference cycles.
    """

    value: T | None
    stored_at: float
    body: int
    etag: str | None = None
    token_expires_at: float | None = None
    number: int = 0
    group: str = ""
    raw: bytes | None = None  # the body that the value was decoded from

    @property
    def size(self) -> int:
        """Its accounted memory in bytes; an item shares the memory of its page."""
        memory = getattr(self.value, "memory", None)
        return OVERHEAD + (int(self.body * MEMORY_FACTOR) if memory is None else memory(self.body))

    def decoded_value(self, mask: type | None = None) -> Entry[Any] | None:
        """The entry with a decoded value; None for an item whose page no longer exists.

        Undecoded vehicles are decoded with the mask.
        """
        undecoded = self.value
        if not isinstance(undecoded, UNDECODED):
            return self
        value = undecoded.decoded_value(mask)
        if value is None:
            return None
        body = undecoded.body if isinstance(undecoded, RawValue) else None
        return Entry(value, self.stored_at, self.body, self.etag, self.token_expires_at, self.number, self.group, body)

    @property
    def is_available(self) -> bool:
        """Whether its page still exists, if it is an item of one."""
        return not isinstance(self.value, PageItemRef) or self.value.page() is not None

    def response(self, endpoint: Endpoint[T]) -> UpstreamResponse[T]:
        """The response that it was stored from."""
        if self.etag is not None and self.value is not None and endpoint.set_version is not None:
            endpoint.set_version(self.value, self.etag)
        return UpstreamResponse(self.value, self.body, self.etag, body=self.raw)


class CacheHit(NamedTuple):
    """A fresh entry's value, with the times when it was stored and when it becomes stale, in epoch seconds."""

    value: Any
    stored_at: float
    fresh_until: float


class Dependency(NamedTuple):
    """An entry that a rendered response was made from."""

    key: str
    endpoint: Endpoint[Any]
    stored_at: float


class Freshness(NamedTuple):
    """When the oldest dependency was stored and when the first one becomes stale, in epoch seconds."""

    stored_at: float
    fresh_until: float


class Store(Protocol):
    """Entries by key. A store may drop any entry at any time, and never fails.

    Vehicles are decoded with `mask`, or in full. What `changes` have made stale is not returned.
    """

    changes: Changes

    def peek_undecoded(self, key: str) -> Entry[Any] | None: ...

    def peek(self, key: str) -> Entry[Any] | None: ...

    async def get_many(
        self, keys: Sequence[str], model: type[T], mask: type | None = None
    ) -> list[Entry[T] | None]: ...

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None: ...

    async def drop(self, key: str) -> None: ...

    def samples(self) -> Iterator[Sample]: ...


class MemoryStore:
    """Entries in this process."""

    def __init__(self, cache: BoundedMemoryCache, changes: Changes | None = None) -> None:
        self._cache = cache
        self.changes = changes or Changes()

    def peek_undecoded(self, key: str) -> Entry[Any] | None:
        """An entry as it is stored."""
        entry: Entry[Any] | None = self._cache.peek(key)
        return entry if entry is None or entry.number >= self.changes.certain else self._unless_stale(key, entry)

    def peek(self, key: str) -> Entry[Any] | None:
        """An entry, decoded in full."""
        entry = self.peek_undecoded(key)
        return None if entry is None else entry.decoded_value()

    async def get_many(self, keys: Sequence[str], model: type[T], mask: type | None = None) -> list[Entry[T] | None]:
        entries = self._cache.peek_many(keys)
        certain = self.changes.certain
        if certain and any(entries):
            entries = [
                entry if entry is None or entry.number >= certain else self._unless_stale(key, entry)
                for key, entry in zip(keys, entries, strict=True)
            ]
        return [None if entry is None else entry.decoded_value(mask) for entry in entries] if any(entries) else entries

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None:
        for key, entry, _ in entries:
            await self._cache.set(key, entry)

    async def drop(self, key: str) -> None:
        await self._cache.delete(key)

    def _unless_stale(self, key: str, entry: Entry[Any]) -> Entry[Any] | None:
        return None if self.changes.is_stale(key, entry.number, entry.group) else entry

    def samples(self) -> Iterator[Sample]:
        """The entries in memory, by resource."""
        for resource, part in self._cache.parts().items():
            yield CACHE_ENTRIES, (resource,), part.entries
            yield CACHE_BYTES, (resource,), part.bytes
            yield CACHE_EVICTIONS, (resource,), part.evictions


class _Lookup(NamedTuple, Generic[T]):
    """The result of a look-up: a usable response, or the request to make and a stale entry to fall back on."""

    response: UpstreamResponse[T] | None
    request: UpstreamRequest[T]
    fallback: Entry[T] | None
    age: Age = Age.DEAD


class CacheReader(ManyFetcher):
    """The fetcher that returns usable entries and passes all other requests on; stale entries are refreshed."""

    def __init__(self, following: ManyFetcher, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._following = following
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._refreshing: dict[str, asyncio.Task[Any]] = {}

    async def fetch_all(
        self, requests: Sequence[UpstreamRequest[T]], at_a_time: int
    ) -> list[UpstreamResponse[T] | BaseException]:
        """The response or the error of each request, in order; all of them are for one endpoint."""
        if not requests:
            return []
        if not requests[0].endpoint.idempotent:
            return await self._following.fetch_all(requests, at_a_time)
        entries = await self._store.get_many(
            [request.key for request in requests], requests[0].endpoint.model, requests[0].mask
        )
        if not any(entries):
            self._count(requests[0].endpoint, MISS, len(requests))
            outcomes = await self._following.fetch_all(requests, at_a_time)
            self._record(requests, outcomes)
            return outcomes
        at = self._clock()
        lookups = [self._lookup(request, entry, at) for request, entry in zip(requests, entries, strict=True)]
        missed = [lookup.request for lookup in lookups if lookup.response is None]
        stale = sum(1 for lookup in lookups if lookup.age is Age.REVALIDATING)
        for result, number in ((HIT, len(requests) - len(missed) - stale), (STALE, stale), (MISS, len(missed))):
            self._count(requests[0].endpoint, result, number)
        following: Iterator[UpstreamResponse[T] | BaseException] = iter(())
        if missed:
            outcomes = await self._following.fetch_all(missed, at_a_time)
            self._record(missed, outcomes)
            following = iter(outcomes)
        return [
            self._with_fallback(each, next(following)) if each.response is None else each.response for each in lookups
        ]

    async def cached_responses(self, requests: Sequence[UpstreamRequest[T]]) -> list[UpstreamResponse[T] | None]:
        """The fresh response of each request, or None, in order."""
        if not requests:
            return []
        entries = await self._store.get_many(
            [request.key for request in requests], requests[0].endpoint.model, requests[0].mask
        )
        at = self._clock()
        hits = [
            self._hit(request, entry, stale=False)
            if entry is not None and age_of(entry, request.endpoint.lifetime_of(entry.value), at) is Age.FRESH
            else None
            for request, entry in zip(requests, entries, strict=True)
        ]
        self._count(requests[0].endpoint, HIT, len(hits) - hits.count(None))
        return hits

    def fresh_entry(self, key: str, endpoint: Endpoint[Any]) -> CacheHit | None:
        """A fresh entry in memory."""
        entry = self._store.peek(key)
        if entry is None:
            return None
        lifetime = endpoint.lifetime_of(entry.value)
        if age_of(entry, lifetime, self._clock()) is not Age.FRESH:
            return None
        return CacheHit(entry.value, entry.stored_at, entry.stored_at + lifetime.fresh)

    def dependencies_of(self, uses: Sequence[CacheUse]) -> list[Dependency] | None:
        """The used entries; None if one has been dropped or replaced since it was used."""
        dependencies = []
        for key, endpoint, at in uses:
            entry = self._store.peek_undecoded(key)
            if entry is None or entry.stored_at > at:
                return None
            dependencies.append(Dependency(key, endpoint, entry.stored_at))
        return dependencies

    def freshness_of(self, dependencies: Sequence[Dependency]) -> Freshness | None:
        """The freshness of dependencies; None unless all of them are unchanged and fresh."""
        now, oldest, fresh_until = self._clock(), inf, inf
        for key, endpoint, stored_at in dependencies:
            entry = self._store.peek_undecoded(key)
            if entry is None or entry.stored_at != stored_at or not entry.is_available:
                return None
            lifetime = endpoint.lifetime_of(entry.value)
            if age_of(entry, lifetime, now) is not Age.FRESH:
                return None
            oldest, fresh_until = min(oldest, stored_at), min(fresh_until, stored_at + lifetime.fresh)
        return Freshness(oldest, fresh_until) if dependencies else None

    async def settle(self) -> None:
        """Waits for the refreshes under way."""
        if self._refreshing:
            await asyncio.wait([*self._refreshing.values()])

    def _lookup(self, request: UpstreamRequest[T], entry: Entry[T] | None, at: float) -> _Lookup[T]:
        if entry is None or request.bypass_cache:
            return _Lookup(None, request, None)
        if request.needs_version and entry.etag is None and entry.value is not None:
            return _Lookup(None, request, None)
        age = age_of(entry, request.endpoint.lifetime_of(entry.value), at)
        if age is Age.FRESH:
            return _Lookup(self._hit(request, entry, stale=False), request, None, age)
        if entry.etag and entry.value:
            request.known = entry.response(request.endpoint)
        if age is Age.REVALIDATING:
            self._refresh(request)
            return _Lookup(self._hit(request, entry, stale=True), request, None, age)
        return _Lookup(None, request, None if age is Age.DEAD else entry)

    def _with_fallback(
        self, lookup: _Lookup[T], outcome: UpstreamResponse[T] | BaseException
    ) -> UpstreamResponse[T] | BaseException:
        """The outcome of a call, or the stale entry if that is an outage."""
        if lookup.fallback is not None and isinstance(outcome, OUTAGES):
            self._count(lookup.request.endpoint, STALE, 1)
            return self._hit(lookup.request, lookup.fallback, stale=True)
        return outcome

    def _count(self, endpoint: Endpoint[Any], result: str, number: int) -> None:
        if number:
            self._metrics.count(CACHE_READS, (endpoint.name, result), number)

    def _record(
        self, requests: Sequence[UpstreamRequest[T]], outcomes: Sequence[UpstreamResponse[T] | BaseException]
    ) -> None:
        """Adds the responses among the outcomes to the request's stats, once for each lifetime."""
        at, stats, endpoint = self._clock(), requests[0].scope.stats, requests[0].endpoint
        for is_negative in {outcome.value is None for outcome in outcomes if type(outcome) is UpstreamResponse}:
            lifetime = (endpoint.missing or NOT_STORED) if is_negative else endpoint.lifetime
            stats.used(at, at + lifetime.fresh, stale=False)
        if stats.reads is not None:
            pairs = zip(requests, outcomes, strict=True)
            stats.reads += [
                CacheUse(request.key, request.endpoint, at)
                for request, outcome in pairs
                if isinstance(outcome, UpstreamResponse)
            ]

    def _hit(self, request: UpstreamRequest[T], entry: Entry[T], *, stale: bool) -> UpstreamResponse[T]:
        lifetime, stats = request.endpoint.lifetime_of(entry.value), request.scope.stats
        stats.cache_hits += 1
        request.source = "stale" if stale else "cache"
        stats.used(entry.stored_at, entry.stored_at + lifetime.fresh, stale=stale)
        if stats.reads is not None:
            stats.reads.append(CacheUse(request.key, request.endpoint, entry.stored_at))
        return entry.response(request.endpoint)

    def _refresh(self, request: UpstreamRequest[Any]) -> None:
        key = request.key
        if key in self._refreshing or len(self._refreshing) >= REFRESHES_MAX:
            return  # a later request refreshes it
        # It has a deadline of its own, so a client that disconnects does not end it.
        refresh = asyncio.create_task(self._following.fetch(request.with_deadline(Deadline.after(REFRESH_SECONDS))))
        self._refreshing[key] = refresh
        refresh.add_done_callback(lambda _: self._refreshing.pop(key))
        refresh.add_done_callback(retrieve_exception)


class CacheWriter:
    """The layer that stores each response and its items, unless it is that of a write."""

    def __init__(self, following: Layer, store: Store, clock: Clock) -> None:
        self._following = following
        self._store = store
        self._changes = store.changes
        self._clock = clock

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """The steps of the call, then storing its response."""
        if not call.request.endpoint.idempotent:
            yield from self._following.steps(call)
            return
        number = self._changes.latest
        try:
            yield from self._following.steps(call)
        except (UpstreamUnauthenticated, UpstreamForbidden):
            # This caller may no longer read it.
            yield self._store.drop(call.request.key)
            raise
        entries = self._entries(call.request, call.response, number)
        if entries:
            yield self._store.put(entries)

    def _entries(
        self, request: UpstreamRequest[T], response: UpstreamResponse[T], number: int
    ) -> list[tuple[str, Entry[Any], float]]:
        if not request.endpoint.lifetime_of(response.value).store_seconds:
            return []
        at, token_expires_at, group = self._clock(), request.caller.expires_at, group_of(request.caller)
        value: Any = response.value if response.body is None else RawValue(response.body, request.endpoint.decode)
        entries = [
            self._timed(request, Entry(value, at, response.size, response.etag, token_expires_at, number, group))
        ]
        if response.value is not None and request.parts is not None and entries[0][2] > 0:
            parts = [
                self._timed(part, Entry(value, at, 0, None, token_expires_at, number, group))
                for part, value in request.parts(response.value)
            ]
            # Items are put before their page, so that they are evicted before it.
            entries = [*parts, *entries]
        return [entry for entry in entries if entry[2] > 0]

    def _timed(self, request: UpstreamRequest[Any], entry: Entry[Any]) -> tuple[str, Entry[Any], float]:
        return request.key, entry, self._store_seconds(request, entry)

    def _store_seconds(self, request: UpstreamRequest[Any], entry: Entry[Any]) -> float:
        seconds = request.endpoint.lifetime_of(entry.value).store_seconds
        return seconds if entry.token_expires_at is None else min(seconds, entry.token_expires_at - entry.stored_at)
