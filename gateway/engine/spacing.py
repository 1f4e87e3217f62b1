"""Work that nothing can interrupt, such as parsing a document, is spaced out, so that the event loop does the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Spacing(Generic[T]):
    """One piece of work at a time, each followed by a pause of `pause` times what it took of the processor.

    Many requests that arrive in one moment would else be worked on in one turn of the event loop.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._lock = asyncio.Lock()
        # What the pause follows upon.
        self._latest: tuple[object, T] | None = None

    async def run(self, key: object, work: Callable[[], T]) -> T:
        """The result of the work; until the pause is over others wait, or have it, too, if their key is equal."""
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        await self._lock.acquire()
        began = time.thread_time()
        try:
            result = work()
            self._latest = key, result
            return result
        finally:
            pause = (time.thread_time() - began) * self._pause
            asyncio.get_running_loop().call_later(pause, self._go_on)

    def _go_on(self) -> None:
        self._latest = None
        self._lock.release()
