"""Load shedding: whose requests are rejected at once, with which bytes, and how fast.

In a flood the cost of rejections is what is missing for responses. So a rejection is made first of all, of bytes that
are ready. While responses need the processor, rejections have a share of it, and those beyond that are delayed: a
client that asks again and again waits for its rejection. While the processor has time to spare, as when the fleet API
is the bottleneck, all are sent at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from gateway.concurrency.lru import LRU
from gateway.overload.admission import Admission
from gateway.overload.cpu_monitor import LOW_WATER
from gateway.settings import LimitSettings

# Rejected requests that are recognised again, and the longest of them in bytes.
REQUESTS_MAX = 256
REQUEST_BYTES_MAX = 4096


class LoadShedder:
    """Recognises, by their credentials, the callers who have filled their queue.

    The gateway's own server rejects their requests before they are parsed; under any other the application does.
    `rejection` is a whole HTTP response; `count` is called for each that is sent.
    """

    def __init__(
        self, admission: Admission, limits: LimitSettings, rejection: bytes, count: Callable[[], object]
    ) -> None:
        self._admission = admission
        self.rejection = rejection
        self.count = count
        self.throttle = RejectionThrottle(limits.rejection_cpu_share, limits.cpu_threshold)
        self._requests: LRU[int, str] = LRU(REQUESTS_MAX)

    def should_reject(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The queue of the caller whose credentials are among these headers, if its requests are rejected at once."""
        if self._admission.waiting:
            for name, value in headers:
                if name == b"authorization":
                    queue = self._admission.queue_of_credentials(value)
                    return queue if queue is not None and self._admission.is_shedding(queue) else None
        return None

    @property
    def is_active(self) -> bool:
        """Whether any requests are rejected at once."""
        return bool(self._admission.shedding)

    def should_reject_again(self, request: bytes) -> bool:
        """Whether this is a request that was rejected before, and would be again."""
        if len(request) > REQUEST_BYTES_MAX:
            return False
        queue = self._requests.get(hash(request))
        return queue is not None and queue in self._admission.shedding

    def remember(self, request: bytes, queue: str) -> None:
        """Remembers a whole request that was rejected: a flood has many of the same.

        Only Python's hash of it is kept, which is keyed: nobody can make another request that has the same one.
        """
        if len(request) <= REQUEST_BYTES_MAX:
            self._requests.put(hash(request), queue)


class RejectionThrottle:
    """How fast rejections are sent: the first of them at once, those beyond the rate one after another.

    While the processor is busy they have `share` of its time, by their measured cost; the rate grows for as long as it
    is not. Times are the event loop's, in seconds.
    """

    # Seconds' worth of rejections that may be sent at once after a pause; seconds between two looks at the queue.
    BURST = 0.1
    INTERVAL = 0.005
    # The assumed cost of a rejection before any was measured, in seconds; and the factor for what is not measured: the
    # system's part in reading a request and the event loop's, found by the overload benchmark.
    COST, WHOLE = 30e-6, 1.5
    # Fewer measurements than these say little.
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
        """Records how long it took to read a request and to send or to queue its rejection."""
        self._total += seconds
        self._measured += 1

    def adapt(self, utilization: float) -> None:
        """Adapts the rate to the processor's utilisation, ten times a second."""
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
