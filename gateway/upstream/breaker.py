"""The circuit breaker: while the fleet API is out, calls fail at once, and single probes ask whether it is back.

Only an outage counts: no connection, no answer in time, a 5xx. What an answer says of one vehicle or of one caller
shows that the fleet API is up.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TypeVar

from gateway.errors import GatewayError, RateLimited, UpstreamInvalidResponse, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import BreakerSettings
from gateway.telemetry import get_logger
from gateway.upstream.fetching import Clock, Fetcher, Read, Reply

T = TypeVar("T")
log = get_logger("gateway.upstream")

# A 5xx of these types is one vehicle's: its unit is busy, or can't be reached.
ONE_VEHICLE = ("/problems/telematics-unit", "/problems/vehicle/")


def is_outage(failure: BaseException) -> bool | None:
    """Whether a failure says that the fleet API as a whole is down; None where it says neither."""
    if isinstance(failure, UpstreamUnavailable):
        kind = failure.problem.type if failure.problem is not None else None
        return kind is None or not kind.startswith(ONE_VEHICLE)
    # An answer that can't be read may be a proxy's; a refusal of our own pacing is no answer at all.
    if isinstance(failure, UpstreamInvalidResponse) or (isinstance(failure, RateLimited) and failure.problem is None):
        return None
    return isinstance(failure, UpstreamTimeout)


class _Second:
    """The calls that ended in one second."""

    __slots__ = ("calls", "failed", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = self.failed = 0


class Circuit:
    """The decision, without any call: closed, open until a time, or half open with one probe under way."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._recent: deque[_Second] = deque()
        self.open_until: float | None = None
        self._opened_at = -math.inf
        self._openings = 0
        self._second_ends = -math.inf  # of the last of the recent ones
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self.open_until is not None

    def wait(self, at: float) -> float | None:
        """None if a call may be made, else the seconds to wait; a call that may be made has to be told to `ended`."""
        if self.open_until is None:
            return None
        if self._opened_at <= at < self.open_until:
            return self.open_until - at
        if self._probing:
            return self._settings.pause
        self._probing = True
        return None

    def went_well(self, at: float) -> None:
        """The same as `ended` for a call that was no outage, for less."""
        if self.open_until is None and 0 < self._second_ends - at <= 1:
            self._recent[-1].calls += 1
        else:
            self.ended(at, outage=False)

    def ended(self, at: float, *, outage: bool | None) -> None:
        """A call came to its end; `outage` is None where it was given up and so tells nothing."""
        if self.open_until is not None:
            self._probe_ended(at, outage)
            return
        if outage is None:
            return
        recent = self._recent
        if not recent or recent[-1].number != int(at):
            if recent and recent[-1].number > at:
                recent.clear()  # the clock was set back: when these were is not known
            recent.append(_Second(int(at)))
            self._second_ends = int(at) + 1
            while recent[0].number <= at - self._settings.window:
                recent.popleft()
        recent[-1].calls += 1
        if outage:
            recent[-1].failed += 1
            failed, calls = sum(second.failed for second in recent), sum(second.calls for second in recent)
            if failed >= max(self._settings.failures, self._settings.share * calls):
                self._open(at)

    def _probe_ended(self, at: float, outage: bool | None) -> None:  # noqa: FBT001 - as it was told
        if not self._probing or self.open_until is None or self._opened_at <= at < self.open_until:
            return  # a call from before it opened
        self._probing = False
        if outage:
            self._open(at)
        elif outage is False:
            self.open_until, self._openings = None, 0

    def _open(self, at: float) -> None:
        longer = self._settings.pause * 2 ** min(self._openings, 10)
        self._opened_at = at
        self.open_until = at + min(longer, self._settings.pause_max)
        self._openings += 1
        self._recent.clear()
        self._second_ends = -math.inf


class Breaker:
    """Lets reads through as the circuit says; one for all callers, because an outage is everybody's."""

    def __init__(self, following: Fetcher, settings: BreakerSettings, clock: Clock) -> None:
        self._following = following
        self.circuit = Circuit(settings)
        self._clock = clock

    async def fetch(self, read: Read[T]) -> Reply[T]:
        wait = None if read.given is not None else self.circuit.wait(self._clock())
        if wait is not None:
            raise UpstreamUnavailable(retry_after=math.ceil(wait * 10) / 10)
        outage: bool | None = None
        try:
            reply = await self._following.fetch(read)
            outage = False
        except GatewayError as failure:
            outage = is_outage(failure)
            raise
        finally:
            was_open = self.circuit.is_open
            self.circuit.ended(self._clock(), outage=outage)
            if self.circuit.is_open != was_open:
                log.warning("circuit opened" if self.circuit.is_open else "circuit closed")
        return reply
