"""The response cache: rendered data is sent again while all upstream data in it is cached, fresh and unchanged.

It has two kinds of entries. A *fragment* is a rendered connection. It is stored with its first upstream page and shared
by all requests with the same selection. The *whole response* to any other operation belongs to a principal and the
bytes of a request. Reading an entry costs less than a rejection, so it needs no slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.concurrency.lru import LRU
from gateway.identity import Caller
from gateway.schema.connections import FragmentKey
from gateway.schema.execution import Execution
from gateway.schema.pagination import Limits
from gateway.upstream.cache import Dependency, Freshness
from gateway.upstream.client import FleetClient
from gateway.upstream.requests import Clock, RequestStats
from gateway.web.operations import PreparedRequest
from gateway.web.responses import Fields, Parts, freshness_fields

# Assumed memory of a whole response in addition to its bytes, and of each of its dependencies.
RESPONSE_BYTES, DEPENDENCY_BYTES = 1000, 200
Key = tuple[str, bytes]


class CachedResponse(NamedTuple):
    """A body in parts, and its freshness headers."""

    parts: Parts
    fields: Fields


class ResponseCache:
    """Looks up fragments and, if they are cached, whole responses."""

    def __init__(self, execution: Execution, limits: Limits, clock: Clock, responses: WholeResponses | None) -> None:
        self._execution = execution
        self._limits = limits
        self._clock = clock
        self.responses = responses

    def find(self, request: PreparedRequest, caller: Caller, client: FleetClient) -> CachedResponse | None:
        """The cached response to a caller's request, if it is fresh."""
        key = request.fragment_key(caller.fleet, self._execution, self._limits)
        if key is not None:
            return self._fragment(request, key, caller, client)
        if self.responses is not None and request.key:
            return self._whole(self.responses, request.key, caller, client)
        return None

    def _fragment(
        self, request: PreparedRequest, key: FragmentKey, caller: Caller, client: FleetClient
    ) -> CachedResponse | None:
        first = client.cached_page(caller, key.token, None if key.token else key.search)
        fragment = first.value.fragment(key.key) if first is not None else None
        if first is None or fragment is None:
            return None
        stored_at, fresh_until = first.stored_at, first.fresh_until
        for token, page in fragment.others:
            other = client.cached_page(caller, token, None if token else key.search)
            if other is None or other.value is not page():
                return None
            stored_at, fresh_until = min(stored_at, other.stored_at), min(fresh_until, other.fresh_until)
        assert request.plan is not None
        (field,) = request.plan.plan.keys
        return CachedResponse(around(field, fragment.rendered), self.freshness(stored_at, fresh_until, caller))

    def _whole(
        self, responses: WholeResponses, key: bytes, caller: Caller, client: FleetClient
    ) -> CachedResponse | None:
        whole = responses.get((caller.principal, key), client.freshness_of)
        if whole is None:
            return None
        fields = self.freshness(whole.freshness.stored_at, whole.freshness.fresh_until, caller)
        return CachedResponse((whole.body,), fields)

    def put(
        self, request: PreparedRequest, caller: Caller, stats: RequestStats, parts: Parts, client: FleetClient
    ) -> None:
        """Caches a whole response without errors, if all its dependencies are cached and it has no fragment."""
        if self.responses is None or not request.key or stats.stale:
            return
        if request.fragment_key(caller.fleet, self._execution, self._limits) is not None:
            return
        dependencies = client.dependencies_of(stats.reads or ())
        if dependencies:
            self.responses.put((caller.principal, request.key), b"".join(parts), dependencies)

    def freshness(self, stored_at: float, fresh_until: float, caller: Caller) -> Fields:
        """The freshness headers. A response is fresh no longer than the token is valid. Times are epoch seconds."""
        now = self._clock()
        if caller.expires_at is not None and caller.expires_at < fresh_until:
            fresh_until = caller.expires_at
        return freshness_fields(int(max(0.0, now - stored_at)), max(0, int(fresh_until - now)))

    def age(self, stats: RequestStats) -> float:
        """The age of the oldest data in a response, in seconds."""
        return 0.0 if stats.oldest is None else max(0.0, round(self._clock() - stats.oldest, 3))

    def headers_for(self, stats: RequestStats, caller: Caller | None) -> Fields:
        """The freshness headers of a new response."""
        if caller is None or stats.oldest is None or stats.fresh_until is None or stats.stale:
            return freshness_fields(int(self.age(stats)), 0)
        return self.freshness(stats.oldest, stats.fresh_until, caller)


def around(key: str, rendered: bytes | memoryview) -> Parts:
    """The body of a response with a single field that is already rendered."""
    return b'{"data":{"%b":' % key.encode(), rendered, b"}}"


class Whole(NamedTuple):
    """A response's body, and its freshness."""

    body: bytes
    freshness: Freshness


class _Entry(NamedTuple):
    body: bytes
    dependencies: Sequence[Dependency]


class WholeResponses:
    """An LRU cache of bodies by principal and request.

    A body is valid while each upstream read behind it would get the same cache entry as before.
    """

    def __init__(self, bytes_max: int) -> None:
        self._entries: LRU[Key, _Entry] = LRU(bytes_max=bytes_max, size_of=_size)

    @property
    def bytes_used(self) -> int:
        """The memory of all entries."""
        return self._entries.bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, freshness_of: Callable[[Sequence[Dependency]], Freshness | None]) -> Whole | None:
        """A valid body, if there is one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        freshness = freshness_of(entry.dependencies)
        if freshness is None:
            self._entries.drop(key)
            return None
        return Whole(entry.body, freshness)

    def put(self, key: Key, body: bytes, dependencies: Sequence[Dependency]) -> None:
        """Stores a body, unless it exceeds the memory limit by itself."""
        self._entries.put(key, _Entry(body, dependencies))


def _size(key: Key, entry: _Entry) -> int:
    return RESPONSE_BYTES + DEPENDENCY_BYTES * len(entry.dependencies) + len(key[1]) + len(entry.body)
