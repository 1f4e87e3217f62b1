"""Sending a flood away: who is to be refused, what they are told, and when.

Under a flood what a refusal costs is what is missing for answers. So it is made before all else and of what is ready.
While answers need the processor, refusals have a share of it, and those beyond are sent in turn: whoever asks again and
again waits for it. While it has time left, as when the fleet API is what is waited for, all are sent at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from gateway.errors import Overloaded
from gateway.settings import LimitSettings
from gateway.telemetry import RequestLog
from gateway.web.admission import Admission
from gateway.web.processor import SPARE
from gateway.web.responses import completed_fields, unavailable

# Refused requests that are known again, and the longest of them in bytes.
REQUESTS_MAX = 256
REQUEST_BYTES_MAX = 4096


class Refusals:
    """Who has flooded the queue already, known by their credentials, and what they are told.

    The gateway's own server rejects them before there is a request; under any other the application does.
    """

    def __init__(self, admission: Admission, log: RequestLog, limits: LimitSettings) -> None:
        self._admission = admission
        self.count = log.refused
        rejection = unavailable(Overloaded(), Overloaded.retry_after)
        body = b"".join(rejection.parts)
        header = [(b"content-length", str(len(body)).encode()), *completed_fields(rejection.fields)]
        fields = b"".join(b"%b: %b\r\n" % field for field in header)
        self.whole = b"HTTP/1.1 503 Service Unavailable\r\n" + fields + b"\r\n" + body
        self.pace = Pace(limits.refusals, limits.busy)
        self._requests: OrderedDict[int, str] = OrderedDict()

    def are_due(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The line of those whose credentials are among a request's headers, if it is sent away at once."""
        if self._admission.waiting:
            for name, value in headers:
                if name == b"authorization":
                    line = self._admission.introduced(value)
                    return line if line is not None and self._admission.is_shut(line) else None
        return None

    @property
    def are_many(self) -> bool:
        """Whether somebody is being sent away at once."""
        return bool(self._admission.shut)

    def are_due_again(self, request: bytes) -> bool:
        """Whether this is a request that was refused before, and whose sender is still sent away at once."""
        return len(request) <= REQUEST_BYTES_MAX and self._requests.get(hash(request)) in self._admission.shut

    def remember(self, request: bytes, line: str) -> None:
        """A whole request, as it came, that was refused: a flood has many of the same.

        Only Python's hash of it is kept, which is keyed: nobody can make another that is taken for it.
        """
        if len(request) <= REQUEST_BYTES_MAX:
            self._requests[hash(request)] = line
            if len(self._requests) > REQUESTS_MAX:
                self._requests.popitem(last=False)


class Pace:
    """How fast refusals are sent: the first of them at once, those beyond the pace in turn.

    While the processor is busy they have `share` of its time, by what they are measured to cost; the pace quickens for
    as long as it is not. Times are the event loop's, in seconds.
    """

    # Seconds of the pace that may be used up at once after a while without any; seconds from look to look at who waits.
    BURST = 0.1
    APART = 0.005
    # What one is taken to cost before any was measured, in seconds; and what is measured is not all of it: the system's
    # part in reading a request and the event loop's are two to four tenths, found by `tests/benchmarks/overload.py`.
    COST, WHOLE = 30e-6, 1.5
    # Fewer than these say little.
    MEASURED_MIN = 20
    # How much the pace quickens in a tenth of a second, and by how much at most.
    QUICKENING, QUICK = 1.25, 1000.0

    def __init__(self, share: float, busy: float) -> None:
        self._share, self._busy = share, busy
        self._cost, self._quick = self.COST, 1.0
        self._every = self._cost * self.WHOLE / share
        self._taken, self._measured = 0.0, 0
        self._next = 0.0
        self._waiting: deque[Callable[[], None]] = deque()

    def took(self, seconds: float) -> None:
        """What it took to read a request and to send its refusal, or to have it wait."""
        self._taken += seconds
        self._measured += 1

    def adapt(self, busy: float) -> None:
        """Told ten times a second which share of the time since was used of the processor."""
        if self._measured >= self.MEASURED_MIN:
            self._cost = (self._cost + self._taken / self._measured) / 2
            self._taken, self._measured = 0.0, 0
        if busy > self._busy:
            self._quick = 1.0
        elif busy < self._busy * SPARE:
            self._quick = min(self.QUICK, self._quick * self.QUICKENING)
        self._every = self._cost * self.WHOLE / (self._share * self._quick)

    def at_once(self, now: float) -> bool:
        """Takes the next turn, if that is now."""
        if self._waiting:
            return False
        self._next = max(self._next, now - self.BURST)
        if self._next > now:
            return False
        self._next += self._every
        return True

    def in_turn(self, do: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Does something when its turn has come."""
        self._waiting.append(do)
        if len(self._waiting) == 1:
            loop.call_at(max(self._next, loop.time() + self.APART), self._do, loop)

    def _do(self, loop: asyncio.AbstractEventLoop) -> None:
        now, waiting, began = loop.time(), self._waiting, time.perf_counter()
        while waiting and self._next <= now:
            self._next += self._every
            waiting.popleft()()
        self._taken += time.perf_counter() - began
        if waiting:
            loop.call_at(max(self._next, now + self.APART), self._do, loop)
