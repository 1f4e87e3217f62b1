"""aiocache's memory cache with what it lacks: a bound on entries and bytes, least recently used out first.

Time to live is the caller's business (an entry knows its own age); aiocache's timer for each entry is not used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from gateway.lean_imports import without

with without("redis"):  # seven megabytes that only `redis_store` needs
    from aiocache import SimpleMemoryCache


class BoundedMemoryCache(SimpleMemoryCache):  # type: ignore[misc]
    """Holds at most `entries_max` values and `bytes_max` accounted bytes; values tell their `size`."""

    NAME = "bounded-memory"

    def __init__(self, *, entries_max: int, bytes_max: int, **kwargs: Any) -> None:
        super().__init__(timeout=None, **kwargs)
        self._cache: OrderedDict[str, Any] = OrderedDict()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._cache)

    def peek(self, key: str) -> Any:
        """A value without waiting: what `get` would give."""
        value = self._cache.get(key)
        if value is not None:
            self._cache.move_to_end(key)
        return value

    def peek_each(self, keys: Sequence[str]) -> list[Any]:
        """The values of keys, each in its place."""
        values = list(map(self._cache.get, keys))
        if any(values):
            for key, value in zip(keys, values, strict=True):
                if value is not None:
                    self._cache.move_to_end(key)
        return values

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return self.peek(key)

    async def _multi_get(self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None) -> list[Any]:
        return self.peek_each(keys)

    async def _set(
        self, key: str, value: Any, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        self._drop(key)
        if value.size <= self._bytes_max:
            self._cache[key] = value
            self.bytes += value.size
        while len(self._cache) > self._entries_max or self.bytes > self._bytes_max:
            self._drop(next(iter(self._cache)))
        return True

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return self._drop(key)

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        for key in [key for key in self._cache if not namespace or key.startswith(namespace)]:
            self._drop(key)
        return True

    def _drop(self, key: str) -> int:
        value = self._cache.pop(key, None)
        if value is None:
            return 0
        self.bytes -= value.size
        return 1
