"""aiocache's memory cache, with LRU eviction above a number of entries or bytes.

Entries carry their own timestamps, so aiocache's timer for each entry is not used.
"""

from __future__ import annotations

from typing import Any

from gateway.concurrency.lru import LRU
from gateway.import_blocking import blocked
from gateway.library_internals import require_internals

with blocked("redis"):  # seven megabytes that only `redis_store` needs
    from aiocache import SimpleMemoryCache

require_internals(SimpleMemoryCache, "_clear", "_delete", "_get", "_multi_get", "_set")


class BoundedMemoryCache(SimpleMemoryCache):  # type: ignore[misc]
    """Holds at most `entries_max` values and `bytes_max` bytes, by the `size` of the values."""

    NAME = "bounded-memory"

    def __init__(self, *, entries_max: int, bytes_max: int, **kwargs: Any) -> None:
        super().__init__(timeout=None, **kwargs)
        self._cache: LRU[str, Any] = LRU(entries_max, bytes_max, size_of=lambda _, value: value.size)
        self.peek = self._cache.get
        self.peek_many = self._cache.get_many

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def bytes(self) -> int:
        """The memory that the entries take, in bytes."""
        return self._cache.bytes

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return self.peek(key)

    async def _multi_get(self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None) -> list[Any]:
        return self.peek_many(keys)

    async def _set(
        self, key: str, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        self._cache.put(key, value)
        return True

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(self._cache.drop(key) is not None)

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        for key in [key for key in self._cache if not namespace or key.startswith(namespace)]:
            self._cache.drop(key)
        return True
