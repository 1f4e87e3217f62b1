"""The decisions of the circuit breaker: when calls fail at once, and when a probe is sent.

Only outages count: no connection, no response in time, a 5xx. A problem of one vehicle or of one caller shows that the
fleet API is up.
"""

from __future__ import annotations

import math
from collections import deque

from gateway.errors import DeadlineExceeded, RateLimited, UpstreamInvalidResponse, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import BreakerSettings

# A 5xx of these types is about one vehicle: its unit is busy or can't be reached.
ONE_VEHICLE = ("/problems/telematics-unit", "/problems/vehicle/")


def is_outage(failure: BaseException) -> bool | None:
    """Whether a failure means that the whole fleet API is down; None if it is inconclusive."""
    if isinstance(failure, UpstreamUnavailable):
        kind = failure.problem.type if failure.problem is not None else None
        return kind is None or not kind.startswith(ONE_VEHICLE)
    # An unreadable response may be a proxy's; our own rate limiter rejects a call without a response; a deadline may
    # have passed before the call.
    if isinstance(failure, UpstreamInvalidResponse | DeadlineExceeded):
        return None
    if isinstance(failure, RateLimited) and failure.problem is None:
        return None
    return isinstance(failure, UpstreamTimeout)


class _Second:
    """The calls that ended in one second."""

    __slots__ = ("calls", "failed", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = self.failed = 0


class Circuit:
    """Closed, open until a time, or half open with one probe in progress; times are epoch seconds.

    Each call that `wait` allows has to be reported to `ended`.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._recent: deque[_Second] = deque()
        self._second = _Second(-1)  # the last of the recent ones
        self._opened_at = -math.inf
        self._openings = 0
        self._probing = False
        self.open_until: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is open or half open."""
        return self.open_until is not None

    def wait(self, at: float) -> float | None:
        """None if a call may be made, else the seconds until the next probe."""
        if self.open_until is None:
            return None
        if self._opened_at <= at < self.open_until:
            return self.open_until - at
        if self._probing:
            return self._settings.open_seconds
        self._probing = True
        return None

    def ended(self, at: float, *, outage: bool | None) -> bool:
        """Counts a call that ended; returns whether that opened or closed the circuit.

        `outage` is None if the call is inconclusive, such as one that was cancelled.
        """
        if self.open_until is not None:
            return self._probe_ended(at, self.open_until, outage=outage)
        if outage is None:
            return False
        second = self._second
        if not 0 <= at - second.number < 1:
            second = self._begin_second(at)
        second.calls += 1
        return outage and self._failed(second, at)

    def _begin_second(self, at: float) -> _Second:
        recent = self._recent
        if at < self._second.number:
            recent.clear()  # The clock was set back, so the age of these is unknown.
        self._second = _Second(math.floor(at))
        recent.append(self._second)
        while recent[0].number <= at - self._settings.window:
            recent.popleft()
        return self._second

    def _failed(self, second: _Second, at: float) -> bool:
        second.failed += 1
        failed, calls = sum(each.failed for each in self._recent), sum(each.calls for each in self._recent)
        if not self._settings.enabled or failed < max(
            self._settings.failure_threshold, self._settings.failure_rate * calls
        ):
            return False
        self._open(at)
        return True

    def _probe_ended(self, at: float, open_until: float, *, outage: bool | None) -> bool:
        if not self._probing or self._opened_at <= at < open_until:
            return False  # The call began before the circuit opened.
        self._probing = False
        if outage:
            self._open(at)
        elif outage is False:
            self.open_until, self._openings = None, 0
        return not self.is_open

    def _open(self, at: float) -> None:
        longer = self._settings.open_seconds * 2 ** min(self._openings, 10)
        self._opened_at = at
        self.open_until = at + min(longer, self._settings.open_seconds_max)
        self._openings += 1
        self._recent.clear()
        self._second = _Second(-1)
