"""The response cache: what was rendered before is sent again while everything behind it is cached, fresh and the same.

It has two kinds of entries. A *fragment* is a rendered connection; it is kept with the page of the fleet that it begins
on and is shared by every request that selects the same. A *whole response* belongs to a principal and to the bytes of a
request; it is off by default. Reading either costs less than a rejection, so it takes no slot.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.concurrency.lru import LRU
from gateway.identity import Caller
from gateway.schema.execution import Execution
from gateway.schema.pagination import Limits
from gateway.upstream.cache import Dependency, Freshness
from gateway.upstream.client import FleetClient
from gateway.upstream.requests import Clock, RequestStats
from gateway.web.operations import PreparedRequest
from gateway.web.responses import Fields, Parts, freshness_fields

# What a whole response is accounted with beside its bytes, and for each entry that it was made of.
RESPONSE_BYTES, DEPENDENCY_BYTES = 1000, 200
# From how many bytes on a response is compressed, and how hard.
COMPRESSED_FROM = 1000
LEVEL = 6
Key = tuple[str, bytes]
GZIP: Fields = ((b"content-encoding", b"gzip"),)


class CachedResponse(NamedTuple):
    """A body in parts, and its freshness headers."""

    parts: Parts
    fields: Fields


class ResponseCache:
    """Looks up fragments, and whole responses if there are any."""

    def __init__(self, execution: Execution, limits: Limits, clock: Clock, responses: WholeResponses | None) -> None:
        self._execution = execution
        self._limits = limits
        self._clock = clock
        self.responses = responses

    def find(
        self, request: PreparedRequest, caller: Caller, client: FleetClient, *, takes_gzip: bool
    ) -> CachedResponse | None:
        """The response to a caller's request, if it is cached and fresh."""
        if self.responses is not None and request.key:
            return self._whole(self.responses, request.key, caller, client, takes_gzip=takes_gzip)
        return self._fragment(request, caller, client)

    def _fragment(self, request: PreparedRequest, caller: Caller, client: FleetClient) -> CachedResponse | None:
        place = request.fragment_key(caller.fleet, self._execution, self._limits)
        if place is None:
            return None
        held = client.cached_page(caller, place.token, None if place.token else place.search)
        kept = held.value.kept(place.key) if held is not None else None
        if held is None or kept is None:
            return None
        stored_at, fresh_until = held.stored_at, held.fresh_until
        for token, page in kept.others:
            other = client.cached_page(caller, token, None if token else place.search)
            if other is None or other.value is not page():
                return None
            stored_at, fresh_until = min(stored_at, other.stored_at), min(fresh_until, other.fresh_until)
        assert request.plan is not None
        (key,) = request.plan.plan.keys
        return CachedResponse(around(key, kept.rendered), self.freshness(stored_at, fresh_until, caller))

    def _whole(
        self, responses: WholeResponses, key: bytes, caller: Caller, client: FleetClient, *, takes_gzip: bool
    ) -> CachedResponse | None:
        whole = responses.get((caller.principal, key), client.freshness_of, takes_gzip=takes_gzip)
        if whole is None:
            return None
        fields = self.freshness(whole.standing.stored_at, whole.standing.fresh_until, caller)
        return CachedResponse((whole.body,), fields + GZIP if whole.is_gzip else fields)

    def put(
        self, request: PreparedRequest, caller: Caller, stats: RequestStats, parts: Parts, client: FleetClient
    ) -> None:
        """Keeps a whole response without errors, while the entries that it was made of are cached."""
        if self.responses is None or not request.key or stats.stale:
            return
        dependencies = client.dependencies_of(stats.reads or ())
        if dependencies:
            self.responses.put((caller.principal, request.key), b"".join(parts), dependencies)

    def freshness(self, stored_at: float, fresh_until: float, caller: Caller) -> Fields:
        """The headers for content of a time; no response outlives the token it was for. Times in epoch seconds."""
        now = self._clock()
        if caller.expires_at is not None and caller.expires_at < fresh_until:
            fresh_until = caller.expires_at
        return freshness_fields(int(max(0.0, now - stored_at)), max(0, int(fresh_until - now)))

    def age(self, stats: RequestStats) -> float:
        """How old the oldest part of a response is, in seconds."""
        return 0.0 if stats.oldest is None else max(0.0, round(self._clock() - stats.oldest, 3))

    def headers_for(self, stats: RequestStats, caller: Caller | None) -> Fields:
        """The headers of a response that was just made."""
        if caller is None or stats.oldest is None or stats.fresh_until is None or stats.stale:
            return freshness_fields(int(self.age(stats)), 0)
        return self.freshness(stats.oldest, stats.fresh_until, caller)


def around(key: str, rendered: bytes | memoryview) -> Parts:
    """A body whose data is one field that is JSON already."""
    return b'{"data":{"%b":' % key.encode(), rendered, b"}}"


class Whole(NamedTuple):
    """A response's body, plain or as gzip, and how fresh it is."""

    body: bytes
    standing: Freshness
    is_gzip: bool


class _Entry:
    __slots__ = ("body", "dependencies", "gzip")

    def __init__(self, body: bytes, dependencies: Sequence[Dependency]) -> None:
        self.body = body
        self.gzip: bytes | None = None
        self.dependencies = dependencies


class WholeResponses:
    """Bodies by principal and request; the least recently used are dropped first.

    A body is returned only while each read behind it would be answered from the very entries that it was made of.
    """

    def __init__(self, *, bytes_max: int, gzip: bool) -> None:
        self.gzip = gzip
        self._entries: LRU[Key, _Entry] = LRU(bytes_max=bytes_max, size_of=_size)

    @property
    def bytes_used(self) -> int:
        """What the bodies take in memory."""
        return self._entries.bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(
        self, key: Key, freshness_of: Callable[[Sequence[Dependency]], Freshness | None], *, takes_gzip: bool
    ) -> Whole | None:
        """A body that is still valid."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        standing = freshness_of(entry.dependencies)
        if standing is None:
            self._entries.drop(key)
            return None
        if self.gzip and takes_gzip and len(entry.body) >= COMPRESSED_FROM:
            return Whole(self._compressed(entry), standing, is_gzip=True)
        return Whole(entry.body, standing, is_gzip=False)

    def put(self, key: Key, body: bytes, dependencies: Sequence[Dependency]) -> None:
        """Keeps a body, if there is room for it at all."""
        self._entries.put(key, _Entry(body, dependencies))

    def _compressed(self, entry: _Entry) -> bytes:
        if entry.gzip is None:
            compressor = zlib.compressobj(LEVEL, wbits=16 + zlib.MAX_WBITS)
            compressed = compressor.compress(entry.body) + compressor.flush()
            entry.gzip = compressed
            self._entries.grow(len(compressed))
            return compressed
        return entry.gzip


def _size(key: Key, entry: _Entry) -> int:
    dependencies = DEPENDENCY_BYTES * len(entry.dependencies)
    return RESPONSE_BYTES + dependencies + len(key[1]) + len(entry.body) + len(entry.gzip or b"")
