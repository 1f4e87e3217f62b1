"""How long someone waits: until a time, or until they no longer want the result."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TypeVar

from gateway.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """How long someone waits: until `deadline` (seconds of `time.monotonic`; None: for ever), or until they leave."""

    __slots__ = ("_ended", "_timer", "_waiting", "at")

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        self._ended = False
        self._waiting: set[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A patience that ends so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds that are left; infinite without a deadline, never below zero."""
        return math.inf if self.at is None else max(0.0, self.at - time.monotonic())

    def extend(self, to: float | None) -> None:
        """Waits at least until `to`."""
        self.at = None if self.at is None or to is None else max(self.at, to)

    def cancel(self) -> None:
        """Ends every wait: nobody is there any more to hear what comes of it."""
        self._ended = True
        for waiting in self._waiting or ():
            if not waiting.done():
                waiting.set_result(None)

    def check(self) -> None:
        """Raises DeadlineExceeded if it has ended: nothing more need be begun."""
        if self._ended or not self.remaining:
            raise DeadlineExceeded

    async def wait(self, work: asyncio.Future[T]) -> T:
        """What becomes of some work, which is not cancelled by this; raises DeadlineExceeded at the deadline."""
        if not work.done():
            # A future of its own: a task that waits for the work itself would cancel it when it is cancelled.
            told = asyncio.get_running_loop().create_future()

            def done(_: asyncio.Future[T]) -> None:
                if not told.done():
                    told.set_result(None)

            work.add_done_callback(done)
            try:
                await self.wait_event(told)
            finally:
                if not work.done():
                    work.remove_done_callback(done)
            if not work.done():
                raise DeadlineExceeded
        return work.result()

    async def wait_event(self, told: asyncio.Future[None]) -> None:
        """Waits until a future has its result, which nobody else waits for; at the end of this it is given one."""
        if self._ended or told.done():
            return
        if self._timer is None and self.at is not None:
            self._timer = asyncio.get_running_loop().call_later(self.remaining, self.cancel)
        if self._waiting is None:
            self._waiting = set()
        self._waiting.add(told)
        try:
            await told
        finally:
            self._waiting.discard(told)

    def close(self) -> None:
        """Forgets the deadline's timer; the request is over."""
        if self._timer is not None:
            self._timer.cancel()
