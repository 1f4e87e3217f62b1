"""Work that is collected during an iteration of the event loop, and done once at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TickBatch(Generic[T]):
    """Hands all items of an iteration to `flush`, in order."""

    def __init__(self, flush: Callable[[list[T]], None]) -> None:
        self._flush = flush
        self._items: list[T] = []

    def add(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Has an item flushed when this iteration ends."""
        if not self._items:
            loop.call_soon(self.flush_now)
        self._items.append(item)

    def flush_now(self) -> None:
        """Flushes what was added so far."""
        items, self._items = self._items, []
        if items:
            self._flush(items)
