"""Runs blocking work, such as parsing, with pauses in between, so that the event loop serves other requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Spacing(Generic[T]):
    """Runs one piece of work at a time, followed by a pause of `pause` times its CPU time.

    Otherwise many concurrent requests would be processed in one iteration of the event loop.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._lock = asyncio.Lock()
        # The result of the work before the current pause.
        self._latest: tuple[object, T] | None = None

    async def run(self, key: object, work: Callable[[], T]) -> T:
        """The result of the work. During the pause, others wait, or get the same result if their key is equal."""
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
