"""A bounded map that drops its least recently used entries first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRU(Generic[K, V]):
    """At most `entries_max` entries and `bytes_max` bytes by `size_of`; None means no bound.

    When an entry is dropped, `size_of` must return its size at `put` plus the growth that was reported to `grow`;
    `on_removed` is called with its value and this size.
    """

    def __init__(
        self,
        entries_max: int | None = None,
        bytes_max: int | None = None,
        size_of: Callable[[K, V], int] | None = None,
        on_removed: Callable[[V, int], None] | None = None,
    ) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._on_removed = on_removed
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """The keys, least recently used first."""
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """The value of a key, or None; makes the entry the most recently used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def get_many(self, keys: Sequence[K]) -> list[V | None]:
        """The value of each key, or None, in the order of the keys."""
        values = list(map(self._entries.get, keys))
        if any(values):
            for key, value in zip(keys, values, strict=True):
                if value is not None:
                    self._entries.move_to_end(key)
        return values

    def items(self) -> list[tuple[K, V]]:
        """The entries, least recently used first."""
        return list(self._entries.items())

    def newest(self, number: int) -> list[V]:
        """The most recently used values, the last one first."""
        return list(islice(reversed(self._entries.values()), number))

    def touch(self, key: K) -> bool:
        """Makes an entry the most recently used; false if there is none."""
        if key not in self._entries:
            return False
        self._entries.move_to_end(key)
        return True

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Adds or replaces an entry unless it alone exceeds `bytes_max`; returns the evicted entries."""
        self.drop(key)
        if self._size_of is not None:
            size = self._size_of(key, value)
            if self._bytes_max is not None and size > self._bytes_max:
                return []
            self.bytes += size
        self._entries[key] = value
        return self._evict()

    def grow(self, size: int) -> list[tuple[K, V]]:
        """Accounts for the growth of entries by `size` bytes; returns the evicted entries."""
        self.bytes += size
        return self._evict()

    def drop(self, key: K) -> V | None:
        """Drops an entry and returns its value."""
        value = self._entries.pop(key, None)
        if value is not None and self._size_of is not None:
            self._subtract(key, value, self._size_of)
        return value

    def clear(self) -> None:
        """Drops all entries."""
        self._entries.clear()
        self.bytes = 0

    def _evict(self) -> list[tuple[K, V]]:
        evicted = []
        while self._is_over():
            key, value = self._entries.popitem(last=False)
            if self._size_of is not None:
                self._subtract(key, value, self._size_of)
            evicted.append((key, value))
        return evicted

    def _subtract(self, key: K, value: V, size_of: Callable[[K, V], int]) -> None:
        size = size_of(key, value)
        self.bytes -= size
        if self._on_removed is not None:
            self._on_removed(value, size)

    def _is_over(self) -> bool:
        if self._entries_max is not None and len(self._entries) > self._entries_max:
            return True
        return self._bytes_max is not None and self.bytes > self._bytes_max and bool(self._entries)
