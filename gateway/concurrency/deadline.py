"""Deadlines: waits that end at a time, or when they are cancelled."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TypeVar

from gateway.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """Ends `at` a time (seconds of `time.monotonic`; None: never), or when it is cancelled."""

    __slots__ = ("_ended", "_timer", "_waiters", "at")

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        self._ended = False
        self._waiters: set[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline some seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """The remaining seconds; infinite without a time, never below zero."""
        return math.inf if self.at is None else max(0.0, self.at - time.monotonic())

    def extend(self, to: float | None) -> None:
        """Moves the deadline to `to` if that is later."""
        self.at = None if self.at is None or to is None else max(self.at, to)

    def cancel(self) -> None:
        """Ends every wait, because the result is no longer wanted."""
        self._ended = True
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def check(self) -> None:
        """Raises DeadlineExceeded if the deadline has passed or was cancelled."""
        if self._ended or not self.remaining:
            raise DeadlineExceeded

    async def wait(self, work: asyncio.Future[T]) -> T:
        """The result of a future, which is never cancelled; raises DeadlineExceeded at the deadline."""
        if not work.done():
            # A separate future, because a cancelled task cancels the future that it awaits.
            event = asyncio.get_running_loop().create_future()

            def done(_: asyncio.Future[T]) -> None:
                if not event.done():
                    event.set_result(None)

            work.add_done_callback(done)
            try:
                await self.wait_event(event)
            finally:
                if not work.done():
                    work.remove_done_callback(done)
            if not work.done():
                raise DeadlineExceeded
        return work.result()

    async def wait_event(self, event: asyncio.Future[None]) -> None:
        """Waits for a future that has no other waiter. At the deadline this sets its result."""
        if self._ended or event.done():
            return
        if self._timer is None and self.at is not None:
            self._timer = asyncio.get_running_loop().call_later(self.remaining, self.cancel)
        if self._waiters is None:
            self._waiters = set()
        self._waiters.add(event)
        try:
            await event
        finally:
            self._waiters.discard(event)

    def close(self) -> None:
        """Cancels the timer when the request is over."""
        if self._timer is not None:
            self._timer.cancel()
