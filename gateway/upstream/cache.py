"""The cache: for each principal, what the fleet API answered, for as long as that counts.

`Cache` looks up, `Filling` (below the single flight) stores; both over a store that holds entries by key. Keys start
with the caller's principal, so no caller can be given what another was. 401, 403 and 429 are never kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from math import inf
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from gateway.errors import (
    RateLimited,
    UpstreamForbidden,
    UpstreamTimeout,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.upstream.bounded_memory import BoundedMemoryCache
from gateway.upstream.endpoints import NOT_KEPT, Endpoint, Lifetime
from gateway.upstream.fetching import Clock, Layer, ManyFetcher, Patience, Read, Reply, Steps, UpstreamCall, Used
from gateway.upstream.pages import MEMORY_FACTOR, Packed, Part
from gateway.upstream.single_flight import look_at_error

T = TypeVar("T")

PACKED = (Part, Packed)
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
    if entry.ends_at is not None and at >= entry.ends_at:
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
    """An answer that is kept; `body` is its length as JSON in bytes, `ends_at` when its token expires.

    The value of a part of a larger answer, which is kept, too, is a `Part`: the vehicle where its page is still there.
    That of a small answer is `Packed`. There may be a hundred thousand of them, which the collector need not know: they
    hold no circles.
    """

    value: T | None
    stored_at: float
    body: int
    etag: str | None = None
    ends_at: float | None = None
    came_as: bytes | None = None  # what a value was unpacked from

    @property
    def size(self) -> int:
        """What it is accounted with in memory, in bytes; a part shares the memory of the whole."""
        memory = getattr(self.value, "memory", None)
        return OVERHEAD + (int(self.body * MEMORY_FACTOR) if memory is None else memory(self.body))

    def unpacked(self, view: type | None = None) -> Entry[Any] | None:
        """The entry with its value in place of a part, or of what is packed; None where that is gone.

        A vehicle that is packed is decoded in the form of the view.
        """
        packed = self.value
        if not isinstance(packed, PACKED):
            return self
        value = packed.unpacked(view)
        if value is None:
            return None
        body = packed.body if isinstance(packed, Packed) else None
        return Entry(value, self.stored_at, self.body, self.etag, self.ends_at, body)

    @property
    def is_there(self) -> bool:
        """Whether the whole that it may be a part of is there."""
        return not isinstance(self.value, Part) or self.value.page() is not None

    def reply(self) -> Reply[T]:
        return Reply(self.value, self.body, self.etag, body=self.came_as)


class Held(NamedTuple):
    """A fresh answer that was at hand; since when it is known and until when it is fresh, in epoch seconds."""

    value: Any
    stored_at: float
    fresh_until: float


class Made(NamedTuple):
    """An entry that something was made of."""

    key: str
    endpoint: Endpoint[Any]
    stored_at: float


class Standing(NamedTuple):
    """Since when something is known and until when it is fresh, in epoch seconds."""

    stored_at: float
    fresh_until: float


class Store(Protocol):
    """Holds entries by key; may forget any at any time, and never fails.

    `view` is the form that vehicles are needed in; some may be whole.
    """

    def peek_packed(self, key: str) -> Entry[Any] | None: ...

    def peek(self, key: str) -> Entry[Any] | None: ...

    async def get(self, key: str, model: type[T], view: type | None = None) -> Entry[T] | None: ...

    async def get_many(
        self, keys: Sequence[str], model: type[T], view: type | None = None
    ) -> list[Entry[T] | None]: ...

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None: ...

    async def drop(self, key: str) -> None: ...


class MemoryStore:
    """Entries in this process."""

    def __init__(self, cache: BoundedMemoryCache) -> None:
        self._cache = cache

    def peek_packed(self, key: str) -> Entry[Any] | None:
        """What is there without waiting, in the form that it is kept in."""
        entry: Entry[Any] | None = self._cache.peek(key)
        return entry

    def peek(self, key: str, view: type | None = None) -> Entry[Any] | None:
        """The same as `get`."""
        entry = self.peek_packed(key)
        return None if entry is None else entry.unpacked(view)

    async def get(self, key: str, model: type[T], view: type | None = None) -> Entry[T] | None:
        return self.peek(key, view)

    async def get_many(self, keys: Sequence[str], model: type[T], view: type | None = None) -> list[Entry[T] | None]:
        entries = self._cache.peek_each(keys)
        return [None if entry is None else entry.unpacked(view) for entry in entries] if any(entries) else entries

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None:
        for key, entry, _ in entries:
            await self._cache.set(key, entry)

    async def drop(self, key: str) -> None:
        await self._cache.delete(key)


class _Known(NamedTuple, Generic[T]):
    """What the store knew of a read: a reply that counts, else the read to make and what to fall back on."""

    reply: Reply[T] | None
    read: Read[T]
    fallback: Entry[T] | None


class Cache:
    """Answers a read from the store if what is there counts, else reads and lets what lies below keep it."""

    def __init__(self, following: ManyFetcher, store: Store, clock: Clock) -> None:
        self._following = following
        self._store = store
        self._clock = clock
        self._refreshing: dict[str, asyncio.Task[Any]] = {}

    async def fetch(self, read: Read[T]) -> Reply[T]:
        if not read.endpoint.idempotent:
            return await self._following.fetch(read)
        known = self._known(read, await self._store.get(read.key, read.endpoint.model, read.view), self._clock())
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

    async def fetch_all(self, reads: Sequence[Read[T]], at_a_time: int) -> list[Reply[T] | BaseException]:
        """The reply or the error of each of a request's reads, in order; at most so many are under way at a time.

        They are of one endpoint.
        """
        if not reads:
            return []
        if not reads[0].endpoint.idempotent:
            return await self._following.fetch_all(reads, at_a_time)
        entries = await self._store.get_many([read.key for read in reads], reads[0].endpoint.model, reads[0].view)
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

    async def held(self, reads: Sequence[Read[T]]) -> list[Reply[T] | None]:
        """What is there and fresh, for each read in its place."""
        if not reads:
            return []
        entries = await self._store.get_many([read.key for read in reads], reads[0].endpoint.model, reads[0].view)
        at = self._clock()
        return [
            self._hit(read, entry, stale=False)
            if entry is not None and age_of(entry, read.endpoint.lifetime_of(entry.value), at) is Age.FRESH
            else None
            for read, entry in zip(reads, entries, strict=True)
        ]

    def at_hand(self, key: str, endpoint: Endpoint[Any]) -> Held | None:
        """A fresh answer that needs no waiting."""
        entry = self._store.peek(key)
        if entry is None:
            return None
        lifetime = endpoint.lifetime_of(entry.value)
        if age_of(entry, lifetime, self._clock()) is not Age.FRESH:
            return None
        return Held(entry.value, entry.stored_at, entry.stored_at + lifetime.fresh)

    def made_of(self, reads: Sequence[Used]) -> list[Made] | None:
        """The entries that hold what was read; None where one has gone, or been replaced, since it was used."""
        made = []
        for key, endpoint, at in reads:
            entry = self._store.peek_packed(key)
            if entry is None or entry.stored_at > at:
                return None
            made.append(Made(key, endpoint, entry.stored_at))
        return made

    def standing_of(self, made: Sequence[Made]) -> Standing | None:
        """How fresh something is that was made of entries, if all of them are the same still, and fresh."""
        now, oldest, fresh_until = self._clock(), inf, inf
        for key, endpoint, stored_at in made:
            entry = self._store.peek_packed(key)
            if entry is None or entry.stored_at != stored_at or not entry.is_there:
                return None
            lifetime = endpoint.lifetime_of(entry.value)
            if age_of(entry, lifetime, now) is not Age.FRESH:
                return None
            oldest, fresh_until = min(oldest, stored_at), min(fresh_until, stored_at + lifetime.fresh)
        return Standing(oldest, fresh_until) if made else None

    async def settle(self) -> None:
        """Waits for the refreshes under way."""
        if self._refreshing:
            await asyncio.wait([*self._refreshing.values()])

    def _known(self, read: Read[T], entry: Entry[T] | None, at: float) -> _Known[T]:
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

    def _covered(self, known: _Known[T], outcome: Reply[T] | BaseException) -> Reply[T] | BaseException:
        """What came of a read that was made, or what is there in place of an outage."""
        if known.fallback is not None and isinstance(outcome, OUTAGES):
            return self._hit(known.read, known.fallback, stale=True)
        return outcome

    def _note(self, reads: Sequence[Read[T]], outcomes: Sequence[Reply[T] | BaseException]) -> None:
        """Tells the request's tally of the replies among the outcomes of its reads; of equal lifetimes once."""
        at, tally, endpoint = self._clock(), reads[0].errand.tally, reads[0].endpoint
        for is_negative in {outcome.value is None for outcome in outcomes if type(outcome) is Reply}:
            lifetime = (endpoint.missing or NOT_KEPT) if is_negative else endpoint.lifetime
            tally.used(at, at + lifetime.fresh, stale=False)
        if tally.reads is not None:
            pairs = zip(reads, outcomes, strict=True)
            tally.reads += [Used(read.key, read.endpoint, at) for read, outcome in pairs if isinstance(outcome, Reply)]

    def _hit(self, read: Read[T], entry: Entry[T], *, stale: bool) -> Reply[T]:
        lifetime, tally = read.endpoint.lifetime_of(entry.value), read.errand.tally
        tally.cache_hits += 1
        tally.used(entry.stored_at, entry.stored_at + lifetime.fresh, stale=stale)
        if tally.reads is not None:
            tally.reads.append(Used(read.key, read.endpoint, entry.stored_at))
        return entry.reply()

    def _refresh(self, read: Read[Any]) -> None:
        key = read.key
        if key in self._refreshing or len(self._refreshing) >= REFRESHES_MAX:
            return  # whoever is given it next, or after that, has it read again
        # Nobody waits for it, so nobody who leaves ends it.
        refresh = asyncio.create_task(self._following.fetch(read.during(Patience.of(REFRESH_SECONDS))))
        self._refreshing[key] = refresh
        refresh.add_done_callback(lambda _: self._refreshing.pop(key))
        refresh.add_done_callback(look_at_error)


class Filling:
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

    def _entries(self, read: Read[T], reply: Reply[T]) -> list[tuple[str, Entry[Any], float]]:
        if not read.endpoint.lifetime_of(reply.value).kept:
            return []
        at, ends_at = self._clock(), read.caller.expires_at
        value: Any = reply.value if reply.body is None else Packed(reply.body, read.endpoint.decode)
        kept = [self._timed(read, Entry(value, at, reply.size, reply.etag, ends_at))]
        if reply.value is not None and read.parts is not None and kept[0][2] > 0:
            parts = [self._timed(part, Entry(value, at, 0, None, ends_at)) for part, value in read.parts(reply.value)]
            # A part that goes in before the whole goes out before it.
            kept = [*parts, *kept]
        return [each for each in kept if each[2] > 0]

    def _timed(self, read: Read[Any], entry: Entry[Any]) -> tuple[str, Entry[Any], float]:
        return read.key, entry, self._kept(read, entry)

    def _kept(self, read: Read[Any], entry: Entry[Any]) -> float:
        seconds = read.endpoint.lifetime_of(entry.value).kept
        return seconds if entry.ends_at is None else min(seconds, entry.ends_at - entry.stored_at)
