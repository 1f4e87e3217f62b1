"""Load shedding: which requests are rejected at once, and how fast.

In a flood, rejections take CPU time from responses. So requests are rejected as early as possible, with prepared bytes.
While the CPU is busy, rejections have a share of its time, and further ones are delayed, so a client that repeats its
requests waits for each rejection. While the CPU has idle time, as when the fleet API is the bottleneck, all are sent at
once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator

from gateway.concurrency.lru import LRU
from gateway.overload.admission import Admission
from gateway.overload.cpu_monitor import LOW_WATER
from gateway.settings import LimitSettings
from gateway.telemetry.metrics import REJECTIONS, Sample

# Rejected requests that are remembered, and the longest of them in bytes.
REQUESTS_MAX = 256
REQUEST_BYTES_MAX = 4096


class LoadShedder:
    """Recognises callers with a full queue by their credentials.

    The gateway's own server rejects their requests before they are parsed; with other servers the application does.
    `rejection` is a whole HTTP response; `report` is called for each rejection.
    """

    def __init__(
        self, admission: Admission, limits: LimitSettings, rejection: bytes, report: Callable[[], object]
    ) -> None:
        self._admission = admission
        self.rejection = rejection
        self._report = report
        self._rejections = 0
        self.throttle = RejectionThrottle(limits.rejection_cpu_share, limits.cpu_threshold)
        self._requests: LRU[int, str] = LRU(REQUESTS_MAX)

    def count(self) -> None:
        """Counts a rejection of a request that was not parsed."""
        self._rejections += 1
        self._report()

    def samples(self) -> Iterator[Sample]:
        """The rejections."""
        yield REJECTIONS, (), self._rejections

    def should_reject(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The queue of the caller with these headers, if its requests are rejected at once."""
        if self._admission.waiting:
            for name, value in headers:
                if name == b"authorization":
                    queue = self._admission.queue_of_credentials(value)
                    return queue if queue is not None and self._admission.is_shedding(queue) else None
        return None

    @property
    def is_active(self) -> bool:
        """Whether any caller's requests are rejected at once."""
        return bool(self._admission.shedding)

    def should_reject_again(self, request: bytes) -> bool:
        """Whether an identical request was rejected before and would be rejected again."""
        if len(request) > REQUEST_BYTES_MAX:
            return False
        queue = self._requests.get(hash(request))
        return queue is not None and queue in self._admission.shedding

    def remember(self, request: bytes, queue: str) -> None:
        """Remembers a rejected request, because a flood often repeats the same one.

        Only its Python hash is stored; the hash is keyed, so nobody can construct a collision.
        """
        if len(request) <= REQUEST_BYTES_MAX:
            self._requests.put(hash(request), queue)


class RejectionThrottle:
    """Limits the rate of rejections; those above it are queued.

    While the CPU is busy the rate is `share` of its time divided by the measured cost of a rejection. The rate grows
    while the CPU has idle time. Times are the event loop's, in seconds.
    """

    # The burst after a pause, in seconds of the rate, and the seconds between checks of the queue.
    BURST = 0.1
    INTERVAL = 0.005
    # The initial cost of a rejection in seconds, and the factor for unmeasured costs of the system and the event loop
    # (from the overload benchmark).
    COST, WHOLE = 30e-6, 1.5
    # Measurements that are needed to update the cost.
    MEASURED_MIN = 20
    # The factor by which the rate grows in a tenth of a second, and its maximum.
    GROWTH, GROWTH_MAX = 1.25, 1000.0

    def __init__(self, share: float, threshold: float) -> None:
        self._share, self._threshold = share, threshold
        self._cost, self._growth = self.COST, 1.0
        self._interval = self._cost * self.WHOLE / share
        self._total, self._measured = 0.0, 0
        self._next = 0.0
        self._queue: deque[Callable[[], None]] = deque()

    def record_cost(self, seconds: float) -> None:
        """Records the time to read a request and to send or queue its rejection."""
        self._total += seconds
        self._measured += 1

    def adapt(self, utilization: float) -> None:
        """Adapts the rate to the CPU utilisation, ten times a second."""
        if self._measured >= self.MEASURED_MIN:
            self._cost = (self._cost + self._total / self._measured) / 2
            self._total, self._measured = 0.0, 0
        if utilization > self._threshold:
            self._growth = 1.0
        elif utilization < self._threshold * LOW_WATER:
            self._growth = min(self.GROWTH_MAX, self._growth * self.GROWTH)
        self._interval = self._cost * self.WHOLE / (self._share * self._growth)

    def try_acquire(self, now: float) -> bool:
        """Whether a rejection may be sent now."""
        if self._queue:
            return False
        self._next = max(self._next, now - self.BURST)
        if self._next > now:
            return False
        self._next += self._interval
        return True

    def schedule(self, send: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Queues a rejection."""
        self._queue.append(send)
        if len(self._queue) == 1:
            loop.call_at(max(self._next, loop.time() + self.INTERVAL), self._send_due, loop)

    def _send_due(self, loop: asyncio.AbstractEventLoop) -> None:
        now, queue, began = loop.time(), self._queue, time.perf_counter()
        while queue and self._next <= now:
            self._next += self._interval
            queue.popleft()()
        self._total += time.perf_counter() - began
        if queue:
            loop.call_at(max(self._next, now + self.INTERVAL), self._send_due, loop)
