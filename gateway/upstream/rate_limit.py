"""The rate limiter: keeps each client within the limit that the fleet API states, so that it need not reject calls.

Every response states how many calls a client has left and until when. The last share of them is spread over the rest of
the window. Calls of a client whose limit is unknown do not wait.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from gateway.concurrency.lru import LRU
from gateway.settings import RateLimitSettings
from gateway.upstream.requests import Rate

SPAN_MAX = 3600.0
# The most recent clients whose remaining calls are compared for metrics.
CLIENTS_COMPARED = 1000
# Windows and blocks end within an hour, plus clock differences; one that ends later was recorded before a clock change.
AHEAD_MAX = SPAN_MAX + 60.0


@dataclass(slots=True)
class Window:
    """The known state of one client's limit; times are epoch seconds. `next` is when the next call may be made."""

    limit: int = 0
    remaining: int = 0
    reset: float = 0.0
    next: float = 0.0
    span: float = 0.0
    """Length of a window in seconds, as far as it was observed."""

    def take(self, at: float, wait_max: float, settings: RateLimitSettings) -> float:
        """Seconds until a call may be made; the call is counted if that is less than `wait_max` seconds."""
        if max(self.reset, self.next) - at > AHEAD_MAX:  # The clock was set back.
            self.reset = self.next = 0.0
        if at >= self.reset:
            self.remaining = self.limit
        else:
            self.span = max(self.span, min(self.reset - at, SPAN_MAX))
        start = max(at, self.next)
        # Calls that wait for a window of unknown state are spread over it, or all of them would be made as it begins.
        apart = self.span / max(1, self.limit - settings.reserve)
        step = apart if start > at else 0.0
        if at < self.reset:
            usable = self.remaining - settings.reserve
            if usable <= 0:
                start, step = max(start, self.reset), apart
            elif self.remaining <= settings.share * self.limit:
                step = max(0.0, self.reset - start) / usable
            else:
                step = 0.0
        if start - at < wait_max:
            self.remaining = max(0, self.remaining - 1)
            self.next = start + step if step else self.next
        return start - at

    def update(self, rate: Rate) -> None:
        """Takes the limit of a response. Within a window the count only falls: responses can arrive out of order."""
        limit, remaining, reset = rate
        if reset < self.reset:
            return
        if reset == self.reset and self.limit:
            remaining = min(remaining, self.remaining)
        self.limit, self.remaining, self.reset = limit, remaining, reset

    def block(self, until: float) -> None:
        """Allows no call until a time, because the fleet API rejected one."""
        self.next = max(self.next, until)


class RateLimiter(Protocol):
    """The windows of all clients. Methods that have to wait return an awaitable."""

    def knows(self, client: str) -> bool:
        """Whether a client may have a window, so that its calls have to `take`."""

    def take(self, client: str, at: float, wait_max: float) -> float | Awaitable[float]:
        """`Window.take` of a client."""

    def update(self, client: str, rate: Rate) -> Awaitable[None] | None:
        """`Window.update` of a client."""

    def block(self, client: str, until: float) -> Awaitable[None] | None:
        """`Window.block` of a client."""

    def remaining(self, at: float) -> float:
        """The smallest share of its calls per window that a client has left."""


class LocalRateLimiter:
    """The windows in this process; the least recently updated is dropped first."""

    def __init__(self, settings: RateLimitSettings) -> None:
        self._settings = settings
        self._windows: LRU[str, Window] = LRU(settings.clients_max)

    def knows(self, client: str) -> bool:
        """Whether a client has a window."""
        return client in self._windows

    def take(self, client: str, at: float, wait_max: float) -> float:
        """`Window.take` of a client."""
        window = self._windows.get(client)
        return 0.0 if window is None else window.take(at, wait_max, self._settings)

    def update(self, client: str, rate: Rate) -> None:
        """`Window.update` of a client."""
        if self._settings.enabled:
            self._window_of(client).update(rate)

    def block(self, client: str, until: float) -> None:
        """`Window.block` of a client."""
        if self._settings.enabled:
            self._window_of(client).block(until)

    def remaining(self, at: float) -> float:
        """The smallest share that a client of this process has left, among those seen last."""
        recent = self._windows.newest(CLIENTS_COMPARED)
        return min(
            (window.remaining / window.limit for window in recent if window.limit and at < window.reset), default=1
        )

    def _window_of(self, client: str) -> Window:
        window = self._windows.get(client)
        if window is None:
            window = Window()
            self._windows.put(client, window)
        return window
