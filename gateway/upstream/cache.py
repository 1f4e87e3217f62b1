"""The cache: for each principal, what the fleet API answered, for as long as that counts.

`Cache` looks up, `Filling` (below the single flight) stores; both over a store that holds entries by key. Keys start
with the caller's principal, so no caller can be given what another was. 401, 403 and 429 are never kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from gateway.upstream.fetching import Clock, Fetcher, ManyFetcher, Patience, Read, Reply, Resource, Used
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import ROOM_BYTES, ROOM_FACTOR, Packed, Part, VehiclePage
from gateway.upstream.single_flight import look_at_error

T = TypeVar("T")

# What a page takes in memory for each byte of JSON, at most: once as it came, and what parts of answers may take that
# are kept with it; and an entry beside that.
MEMORY_FACTOR = 1 + ROOM_FACTOR
PACKED = (Part, Packed)
OVERHEAD = 600
# How long a refresh in the background may take.
REFRESH_SECONDS = 10.0
# How many there may be at a time: what is stale then is still given, and read again a little later.
REFRESHES_MAX = 512
OUTAGES = (UpstreamUnavailable, UpstreamTimeout, RateLimited)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long an entry counts, in seconds: fresh, then usable while it is refreshed, and while the upstream fails."""

    fresh: float
    while_revalidating: float = 0.0
    if_error: float = 0.0

    @property
    def kept(self) -> float:
        """How long an entry is of any use; what is never fresh is not kept."""
        return self.fresh + max(self.while_revalidating, self.if_error) if self.fresh else 0.0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The lifetime of each resource, and of a 404."""

    of: Mapping[Resource, Lifetime]
    negative: Lifetime

    def for_entry(self, resource: Resource, entry: Entry[Any]) -> Lifetime:
        return self.negative if entry.value is None else self.of[resource]


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
        if isinstance(self.value, Part):
            return OVERHEAD
        if isinstance(self.value, Packed):
            return OVERHEAD + self.body
        room = ROOM_BYTES if isinstance(self.value, VehiclePage) else 0
        return OVERHEAD + room + int(self.body * MEMORY_FACTOR)

    def unpacked(self, view: type[Vehicle] | None = None) -> Entry[Any] | None:
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
    resource: Resource
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

    async def get(self, key: str, model: type[T], view: type[Vehicle] | None = None) -> Entry[T] | None: ...

    async def get_many(
        self, keys: Sequence[str], model: type[T], view: type[Vehicle] | None = None
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

    def peek(self, key: str, view: type[Vehicle] | None = None) -> Entry[Any] | None:
        """The same as `get`."""
        entry = self.peek_packed(key)
        return None if entry is None else entry.unpacked(view)

    async def get(self, key: str, model: type[T], view: type[Vehicle] | None = None) -> Entry[T] | None:
        return self.peek(key, view)

    async def get_many(
        self, keys: Sequence[str], model: type[T], view: type[Vehicle] | None = None
    ) -> list[Entry[T] | None]:
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

    def __init__(self, following: ManyFetcher, store: Store, lifetimes: Lifetimes, clock: Clock) -> None:
        self._following = following
        self._store = store
        self._lifetimes = lifetimes
        self._clock = clock
        self._refreshing: dict[str, asyncio.Task[Any]] = {}

    async def fetch(self, read: Read[T]) -> Reply[T]:
        known = self._known(read, await self._store.get(read.key, read.model, read.view), self._clock())
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

        They are of one resource.
        """
        if not reads:
            return []
        entries = await self._store.get_many([read.key for read in reads], reads[0].model, reads[0].view)
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
        entries = await self._store.get_many([read.key for read in reads], reads[0].model, reads[0].view)
        at = self._clock()
        return [
            self._hit(read, entry, stale=False)
            if entry is not None and age_of(entry, self._lifetimes.for_entry(read.resource, entry), at) is Age.FRESH
            else None
            for read, entry in zip(reads, entries, strict=True)
        ]

    def at_hand(self, key: str, resource: Resource) -> Held | None:
        """A fresh answer that needs no waiting."""
        entry = self._store.peek(key)
        if entry is None:
            return None
        lifetime = self._lifetimes.for_entry(resource, entry)
        if age_of(entry, lifetime, self._clock()) is not Age.FRESH:
            return None
        return Held(entry.value, entry.stored_at, entry.stored_at + lifetime.fresh)

    def made_of(self, reads: Sequence[Used]) -> list[Made] | None:
        """The entries that hold what was read; None where one has gone, or been replaced, since it was used."""
        made = []
        for key, resource, at in reads:
            entry = self._store.peek_packed(key)
            if entry is None or entry.stored_at > at:
                return None
            made.append(Made(key, resource, entry.stored_at))
        return made

    def standing_of(self, made: Sequence[Made]) -> Standing | None:
        """How fresh something is that was made of entries, if all of them are the same still, and fresh."""
        now, oldest, fresh_until = self._clock(), inf, inf
        for key, resource, stored_at in made:
            entry = self._store.peek_packed(key)
            if entry is None or entry.stored_at != stored_at or not entry.is_there:
                return None
            lifetime = self._lifetimes.for_entry(resource, entry)
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
        age = age_of(entry, self._lifetimes.for_entry(read.resource, entry), at)
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
        at, tally, of = self._clock(), reads[0].errand.tally, self._lifetimes.of[reads[0].resource]
        for is_negative in {outcome.value is None for outcome in outcomes if type(outcome) is Reply}:
            lifetime = self._lifetimes.negative if is_negative else of
            tally.used(at, at + lifetime.fresh, stale=False)
        if tally.reads is not None:
            pairs = zip(reads, outcomes, strict=True)
            tally.reads += [Used(read.key, read.resource, at) for read, outcome in pairs if isinstance(outcome, Reply)]

    def _hit(self, read: Read[T], entry: Entry[T], *, stale: bool) -> Reply[T]:
        lifetime, tally = self._lifetimes.for_entry(read.resource, entry), read.errand.tally
        tally.cache_hits += 1
        tally.used(entry.stored_at, entry.stored_at + lifetime.fresh, stale=stale)
        if tally.reads is not None:
            tally.reads.append(Used(read.key, read.resource, entry.stored_at))
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
    """Reads, and keeps the answer and its parts."""

    def __init__(self, following: Fetcher, store: Store, lifetimes: Lifetimes, clock: Clock) -> None:
        self._following = following
        self._store = store
        self._lifetimes = lifetimes
        self._clock = clock

    async def fetch(self, read: Read[T]) -> Reply[T]:
        try:
            reply = await self._following.fetch(read)
        except (UpstreamUnauthenticated, UpstreamForbidden):
            # What this caller may no longer read is not kept for later either.
            await self._store.drop(read.key)
            raise
        await self._keep(read, reply)
        return reply

    async def _keep(self, read: Read[T], reply: Reply[T]) -> None:
        lifetime = self._lifetimes.negative if reply.value is None else self._lifetimes.of[read.resource]
        if not lifetime.kept:
            return
        at, ends_at = self._clock(), read.caller.expires_at
        value: Any = reply.value if reply.body is None else Packed(reply.body, read.model)
        kept = [self._timed(read, Entry(value, at, reply.size, reply.etag, ends_at))]
        if reply.value is not None and read.parts is not None and kept[0][2] > 0:
            parts = [self._timed(part, Entry(value, at, 0, None, ends_at)) for part, value in read.parts(reply.value)]
            # A part that goes in before the whole goes out before it.
            kept = [*parts, *kept]
        await self._store.put([each for each in kept if each[2] > 0])

    def _timed(self, read: Read[Any], entry: Entry[Any]) -> tuple[str, Entry[Any], float]:
        return read.key, entry, self._kept(read, entry)

    def _kept(self, read: Read[Any], entry: Entry[Any]) -> float:
        seconds = self._lifetimes.for_entry(read.resource, entry).kept
        return seconds if entry.ends_at is None else min(seconds, entry.ends_at - entry.stored_at)
