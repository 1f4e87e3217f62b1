"""The cache: responses of the fleet API for each principal, for as long as they are fresh, or usable when stale.

`CacheReader` looks up, `CacheWriter` (below coalescing) stores; both use a store of entries by key. Keys start with the
caller's principal, so no caller can get the response to another. 401, 403 and 429 are never stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.endpoints import NOT_KEPT, Endpoint, Lifetime
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
# What an entry takes in memory beside its value, in bytes.
OVERHEAD = 600
# How long a refresh in the background may take.
REFRESH_SECONDS = 10.0
# How many there may be at a time: what is stale then is still given, and read again a little later.
REFRESHES_MAX = 512
OUTAGES = (UpstreamUnavailable, UpstreamTimeout, RateLimited)


class Age(Enum):
    """What an entry's age allows."""

    FRESH = 1
    REVALIDATING = 2
    IF_ERROR = 3
    DEAD = 4


def age_of(entry: Entry[Any], lifetime: Lifetime, at: float) -> Age:
    """What may be done with an entry at a time, both in epoch seconds; its token's expiry ends everything.

    An entry from the future is dead: the clock was set back, and how old it is nobody knows.
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
    """A stored response; `body` is its length as JSON in bytes, `token_expires_at` when its token expires.

    The value of an item of a stored page is a `PageItemRef`, which has its vehicle while the page exists; that of a
    small response is a `RawValue`. There may be a hundred thousand entries, which the garbage collector need not track:
    they are in no reference cycles.
    """

    value: T | None
    stored_at: float
    body: int
    etag: str | None = None
    token_expires_at: float | None = None
    raw: bytes | None = None  # what a value was unpacked from

    @property
    def size(self) -> int:
        """What it is accounted with in memory, in bytes; a part shares the memory of the whole."""
        memory = getattr(self.value, "memory", None)
        return OVERHEAD + (int(self.body * MEMORY_FACTOR) if memory is None else memory(self.body))

    def decoded_value(self, mask: type | None = None) -> Entry[Any] | None:
        """The entry with its value in place of a part, or of what is packed; None where that is gone.

        A vehicle that is packed is decoded in the form of the view.
        """
        packed = self.value
        if not isinstance(packed, UNDECODED):
            return self
        value = packed.decoded_value(mask)
        if value is None:
            return None
        body = packed.body if isinstance(packed, RawValue) else None
        return Entry(value, self.stored_at, self.body, self.etag, self.token_expires_at, body)

    @property
    def is_there(self) -> bool:
        """Whether the whole that it may be a part of is there."""
        return not isinstance(self.value, PageItemRef) or self.value.page() is not None

    def reply(self) -> UpstreamResponse[T]:
        return UpstreamResponse(self.value, self.body, self.etag, body=self.raw)


class CacheHit(NamedTuple):
    """A fresh answer that was at hand; since when it is known and until when it is fresh, in epoch seconds."""

    value: Any
    stored_at: float
    fresh_until: float


class Dependency(NamedTuple):
    """An entry that something was made of."""

    key: str
    endpoint: Endpoint[Any]
    stored_at: float


class Freshness(NamedTuple):
    """Since when something is known and until when it is fresh, in epoch seconds."""

    stored_at: float
    fresh_until: float


class Store(Protocol):
    """Holds entries by key; may forget any at any time, and never fails.

    `mask` is the form that vehicles are needed in; some may be whole.
    """

    def peek_undecoded(self, key: str) -> Entry[Any] | None: ...

    def peek(self, key: str) -> Entry[Any] | None: ...

    async def get(self, key: str, model: type[T], mask: type | None = None) -> Entry[T] | None: ...

    async def get_many(
        self, keys: Sequence[str], model: type[T], mask: type | None = None
    ) -> list[Entry[T] | None]: ...

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None: ...

    async def drop(self, key: str) -> None: ...


class MemoryStore:
    """Entries in this process."""

    def __init__(self, cache: BoundedMemoryCache) -> None:
        self._cache = cache

    def peek_undecoded(self, key: str) -> Entry[Any] | None:
        """What is there without waiting, in the form that it is kept in."""
        entry: Entry[Any] | None = self._cache.peek(key)
        return entry

    def peek(self, key: str, mask: type | None = None) -> Entry[Any] | None:
        """The same as `get`."""
        entry = self.peek_undecoded(key)
        return None if entry is None else entry.decoded_value(mask)

    async def get(self, key: str, model: type[T], mask: type | None = None) -> Entry[T] | None:
        return self.peek(key, mask)

    async def get_many(self, keys: Sequence[str], model: type[T], mask: type | None = None) -> list[Entry[T] | None]:
        entries = self._cache.peek_each(keys)
        return [None if entry is None else entry.decoded_value(mask) for entry in entries] if any(entries) else entries

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None:
        for key, entry, _ in entries:
            await self._cache.set(key, entry)

    async def drop(self, key: str) -> None:
        await self._cache.delete(key)


class _Known(NamedTuple, Generic[T]):
    """What the store knew of a read: a reply that counts, else the read to make and what to fall back on."""

    reply: UpstreamResponse[T] | None
    read: UpstreamRequest[T]
    fallback: Entry[T] | None


class CacheReader:
    """Answers a read from the store if what is there counts, else reads and lets what lies below keep it."""

    def __init__(self, following: ManyFetcher, store: Store, clock: Clock) -> None:
        self._following = following
        self._store = store
        self._clock = clock
        self._refreshing: dict[str, asyncio.Task[Any]] = {}

    async def fetch(self, read: UpstreamRequest[T]) -> UpstreamResponse[T]:
        if not read.endpoint.idempotent:
            return await self._following.fetch(read)
        known = self._known(read, await self._store.get(read.key, read.endpoint.model, read.mask), self._clock())
        if known.reply is not None:
            return known.reply
        try:
            reply = await self._following.fetch(known.read)
        except OUTAGES:
            if known.fallback is None:
                raise
            return self._hit(read, known.fallback, stale=True)
        self._note((read,), (reply,))
        return reply

    async def fetch_all(
        self, reads: Sequence[UpstreamRequest[T]], at_a_time: int
    ) -> list[UpstreamResponse[T] | BaseException]:
        """The reply or the error of each of a request's reads, in order; at most so many are under way at a time.

        They are of one endpoint.
        """
        if not reads:
            return []
        if not reads[0].endpoint.idempotent:
            return await self._following.fetch_all(reads, at_a_time)
        entries = await self._store.get_many([read.key for read in reads], reads[0].endpoint.model, reads[0].mask)
        if not any(entries):
            outcomes = await self._following.fetch_all(reads, at_a_time)
            self._note(reads, outcomes)
            return outcomes
        at = self._clock()
        known = [self._known(read, entry, at) for read, entry in zip(reads, entries, strict=True)]
        to_make = [each.read for each in known if each.reply is None]
        outcomes = await self._following.fetch_all(to_make, at_a_time)
        if to_make:
            self._note(to_make, outcomes)
        made = iter(outcomes)
        return [self._covered(each, next(made)) if each.reply is None else each.reply for each in known]

    async def held(self, reads: Sequence[UpstreamRequest[T]]) -> list[UpstreamResponse[T] | None]:
        """What is there and fresh, for each read in its place."""
        if not reads:
            return []
        entries = await self._store.get_many([read.key for read in reads], reads[0].endpoint.model, reads[0].mask)
        at = self._clock()
        return [
            self._hit(read, entry, stale=False)
            if entry is not None and age_of(entry, read.endpoint.lifetime_of(entry.value), at) is Age.FRESH
            else None
            for read, entry in zip(reads, entries, strict=True)
        ]

    def fresh_entry(self, key: str, endpoint: Endpoint[Any]) -> CacheHit | None:
        """A fresh answer that needs no waiting."""
        entry = self._store.peek(key)
        if entry is None:
            return None
        lifetime = endpoint.lifetime_of(entry.value)
        if age_of(entry, lifetime, self._clock()) is not Age.FRESH:
            return None
        return CacheHit(entry.value, entry.stored_at, entry.stored_at + lifetime.fresh)

    def dependencies_of(self, reads: Sequence[CacheUse]) -> list[Dependency] | None:
        """The entries that hold what was read; None where one has gone, or been replaced, since it was used."""
        made = []
        for key, endpoint, at in reads:
            entry = self._store.peek_undecoded(key)
            if entry is None or entry.stored_at > at:
                return None
            made.append(Dependency(key, endpoint, entry.stored_at))
        return made

    def freshness_of(self, made: Sequence[Dependency]) -> Freshness | None:
        """How fresh something is that was made of entries, if all of them are the same still, and fresh."""
        now, oldest, fresh_until = self._clock(), inf, inf
        for key, endpoint, stored_at in made:
            entry = self._store.peek_undecoded(key)
            if entry is None or entry.stored_at != stored_at or not entry.is_there:
                return None
            lifetime = endpoint.lifetime_of(entry.value)
            if age_of(entry, lifetime, now) is not Age.FRESH:
                return None
            oldest, fresh_until = min(oldest, stored_at), min(fresh_until, stored_at + lifetime.fresh)
        return Freshness(oldest, fresh_until) if made else None

    async def settle(self) -> None:
        """Waits for the refreshes under way."""
        if self._refreshing:
            await asyncio.wait([*self._refreshing.values()])

    def _known(self, read: UpstreamRequest[T], entry: Entry[T] | None, at: float) -> _Known[T]:
        if entry is None or read.afresh:
            return _Known(None, read, None)
        age = age_of(entry, read.endpoint.lifetime_of(entry.value), at)
        if age is Age.FRESH:
            return _Known(self._hit(read, entry, stale=False), read, None)
        again = read.having(entry.reply()) if entry.etag and entry.value else read
        if age is Age.REVALIDATING:
            self._refresh(again)
            return _Known(self._hit(read, entry, stale=True), again, None)
        return _Known(None, again, None if age is Age.DEAD else entry)

    def _covered(
        self, known: _Known[T], outcome: UpstreamResponse[T] | BaseException
    ) -> UpstreamResponse[T] | BaseException:
        """What came of a read that was made, or what is there in place of an outage."""
        if known.fallback is not None and isinstance(outcome, OUTAGES):
            return self._hit(known.read, known.fallback, stale=True)
        return outcome

    def _note(
        self, reads: Sequence[UpstreamRequest[T]], outcomes: Sequence[UpstreamResponse[T] | BaseException]
    ) -> None:
        """Tells the request's tally of the replies among the outcomes of its reads; of equal lifetimes once."""
        at, stats, endpoint = self._clock(), reads[0].scope.stats, reads[0].endpoint
        for is_negative in {outcome.value is None for outcome in outcomes if type(outcome) is UpstreamResponse}:
            lifetime = (endpoint.missing or NOT_KEPT) if is_negative else endpoint.lifetime
            stats.used(at, at + lifetime.fresh, stale=False)
        if stats.reads is not None:
            pairs = zip(reads, outcomes, strict=True)
            stats.reads += [
                CacheUse(read.key, read.endpoint, at)
                for read, outcome in pairs
                if isinstance(outcome, UpstreamResponse)
            ]

    def _hit(self, read: UpstreamRequest[T], entry: Entry[T], *, stale: bool) -> UpstreamResponse[T]:
        lifetime, stats = read.endpoint.lifetime_of(entry.value), read.scope.stats
        stats.cache_hits += 1
        stats.used(entry.stored_at, entry.stored_at + lifetime.fresh, stale=stale)
        if stats.reads is not None:
            stats.reads.append(CacheUse(read.key, read.endpoint, entry.stored_at))
        return entry.reply()

    def _refresh(self, read: UpstreamRequest[Any]) -> None:
        key = read.key
        if key in self._refreshing or len(self._refreshing) >= REFRESHES_MAX:
            return  # whoever is given it next, or after that, has it read again
        # Nobody waits for it, so nobody who leaves ends it.
        refresh = asyncio.create_task(self._following.fetch(read.during(Deadline.after(REFRESH_SECONDS))))
        self._refreshing[key] = refresh
        refresh.add_done_callback(lambda _: self._refreshing.pop(key))
        refresh.add_done_callback(retrieve_exception)


class CacheWriter:
    """The layer that stores each reply, and its parts, before it is returned; after a write it drops stale entries."""

    def __init__(self, following: Layer, store: Store, clock: Clock) -> None:
        self._following = following
        self._store = store
        self._clock = clock

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """Those of the call, and storing its reply."""
        if not call.read.endpoint.idempotent:
            yield from self._write_steps(call)
            return
        try:
            yield from self._following.steps(call)
        except (UpstreamUnauthenticated, UpstreamForbidden):
            # What this caller may no longer read is not kept for later either.
            yield self._store.drop(call.read.key)
            raise
        entries = self._entries(call.read, call.reply)
        if entries:
            yield self._store.put(entries)

    def _write_steps(self, call: UpstreamCall[Any]) -> Steps:
        try:
            yield from self._following.steps(call)
        finally:  # a write that failed may have been carried out
            for key in call.read.invalidated():
                yield self._store.drop(key)

    def _entries(self, read: UpstreamRequest[T], reply: UpstreamResponse[T]) -> list[tuple[str, Entry[Any], float]]:
        if not read.endpoint.lifetime_of(reply.value).kept:
            return []
        at, token_expires_at = self._clock(), read.caller.expires_at
        value: Any = reply.value if reply.body is None else RawValue(reply.body, read.endpoint.decode)
        kept = [self._timed(read, Entry(value, at, reply.size, reply.etag, token_expires_at))]
        if reply.value is not None and read.parts is not None and kept[0][2] > 0:
            parts = [
                self._timed(part, Entry(value, at, 0, None, token_expires_at))
                for part, value in read.parts(reply.value)
            ]
            # A part that goes in before the whole goes out before it.
            kept = [*parts, *kept]
        return [each for each in kept if each[2] > 0]

    def _timed(self, read: UpstreamRequest[Any], entry: Entry[Any]) -> tuple[str, Entry[Any], float]:
        return read.key, entry, self._kept(read, entry)

    def _kept(self, read: UpstreamRequest[Any], entry: Entry[Any]) -> float:
        seconds = read.endpoint.lifetime_of(entry.value).kept
        return seconds if entry.token_expires_at is None else min(seconds, entry.token_expires_at - entry.stored_at)
