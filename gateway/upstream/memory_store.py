"""aiocache's memory cache, with LRU eviction above a number of entries or bytes.

Entries carry their own timestamps, so aiocache's timer for each entry is not used.
"""

from __future__ import annotations

from typing import Any

from gateway.concurrency.lru import LRU
from gateway.import_blocking import blocked
from gateway.library_internals import require_internals
from gateway.upstream.pages import VehiclePage

with blocked("redis"):  # seven megabytes that only `redis_store` needs
    from aiocache import SimpleMemoryCache

require_internals(SimpleMemoryCache, "_clear", "_delete", "_get", "_multi_get", "_set")


# The resources of values. A vehicle has a value of another type, and so has the absence of one.
VEHICLE = "vehicle"
RESOURCES = {VehiclePage: "vehicles", dict: "latest_state"}


class Part:
    """The entries of one resource, their memory in bytes, and how many were evicted."""

    def __init__(self) -> None:
        self.entries = self.bytes = self.evictions = 0

    def add(self, entries: int, size: int) -> None:
        """Adds entries of `size` bytes, or removes them."""
        self.entries += entries
        self.bytes += size


class BoundedMemoryCache(SimpleMemoryCache):  # type: ignore[misc]
    """Holds at most `entries_max` values and `bytes_max` bytes, by the `size` of the values."""

    NAME = "bounded-memory"

    def __init__(self, *, entries_max: int, bytes_max: int, **kwargs: Any) -> None:
        super().__init__(timeout=None, **kwargs)
        self._cache: LRU[str, Any] = LRU(
            entries_max, bytes_max, size_of=lambda _, value: value.size, on_removed=self._removed
        )
        # What is stored of each resource but vehicles of lists, of which there may be a hundred thousand.
        self._parts = {resource: Part() for resource in (*RESOURCES.values(), VEHICLE)}
        self.peek = self._cache.get
        self.peek_many = self._cache.get_many

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def bytes(self) -> int:
        """The memory that the entries take, in bytes."""
        return self._cache.bytes

    def parts(self) -> dict[str, Part]:
        """The entries by resource."""
        vehicle, others = self._parts[VEHICLE], [self._parts[resource] for resource in RESOURCES.values()]
        vehicle.entries = len(self) - sum(part.entries for part in others)
        vehicle.bytes = self.bytes - sum(part.bytes for part in others)
        return self._parts

    def _removed(self, entry: Any, size: int) -> None:
        resource = RESOURCES.get(type(entry.value))
        if resource is not None:
            self._parts[resource].add(-1, -size)

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return self.peek(key)

    async def _multi_get(self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None) -> list[Any]:
        return self.peek_many(keys)

    async def _set(
        self, key: str, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        evicted = self._cache.put(key, value)
        resource = RESOURCES.get(type(value.value))
        if resource is not None and key in self._cache:
            self._parts[resource].add(1, value.size)
        for _, entry in evicted:
            self._parts[RESOURCES.get(type(entry.value), VEHICLE)].evictions += 1
        return True

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(self._cache.drop(key) is not None)

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        for key in [key for key in self._cache if not namespace or key.startswith(namespace)]:
            self._cache.drop(key)
        return True
