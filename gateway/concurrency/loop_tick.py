"""Batches of the work of one event-loop iteration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TickBatch(Generic[T]):
    """Passes all items of an event-loop iteration to `flush` at its end, in order."""

    def __init__(self, flush: Callable[[list[T]], None]) -> None:
        self._flush = flush
        self._items: list[T] = []

    def add(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Adds an item to the batch of this iteration."""
        if not self._items:
            loop.call_soon(self.flush_now)
        self._items.append(item)

    def flush_now(self) -> None:
        """Flushes the items that were added so far."""
        items, self._items = self._items, []
        if items:
            self._flush(items)
