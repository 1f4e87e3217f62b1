"""Sending a flood away: who is to be refused, what they are told, and when.

Under a flood what a refusal costs is what is missing for answers. So it is made before all else and of what is ready,
and of more than so many a second the rest is sent in turn: whoever asks again and again waits for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Overloaded
from gateway.telemetry import RequestLog
from gateway.web.admission import Admission
from gateway.web.answers import HARDENING, busy

# Refused requests that are known again, and the longest of them in bytes.
REQUESTS_MAX = 256
REQUEST_BYTES_MAX = 4096


class Refusals:
    """Who has flooded the queue already, known by their credentials, and what they are told.

    By the gateway's own server they are sent away before there is a request, by `Shedding` under any other.
    """

    def __init__(self, admission: Admission, log: RequestLog, a_second: int) -> None:
        self._admission = admission
        self.count = log.refused
        refused = busy(Overloaded(), Overloaded.retry_after)
        self.status = refused.status_code
        self.body = bytes(refused.body)
        self.headers = [*refused.raw_headers, *HARDENING]
        fields = b"".join(b"%b: %b\r\n" % field for field in self.headers)
        self.whole = b"HTTP/1.1 503 Service Unavailable\r\n" + fields + b"\r\n" + self.body
        self.pace = Pace(a_second)
        self._requests: OrderedDict[int, str] = OrderedDict()

    def are_due(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """The principal whose credentials are among a request's headers, if it is sent away at once."""
        if self._admission.waiting:
            for name, value in headers:
                if name == b"authorization":
                    principal = self._admission.introduced(value)
                    return principal if principal is not None and self._admission.is_shut(principal) else None
        return None

    def are_due_again(self, request: bytes) -> bool:
        """Whether this is a request that was refused before, and whose sender is still sent away at once."""
        if not self._admission.shut or len(request) > REQUEST_BYTES_MAX:
            return False
        return self._requests.get(hash(request)) in self._admission.shut

    def remember(self, request: bytes, principal: str) -> None:
        """A whole request, as it came, that was refused: a flood has many of the same.

        Only Python's hash of it is kept, which is keyed: nobody can make another that is taken for it.
        """
        if len(request) <= REQUEST_BYTES_MAX:
            self._requests[hash(request)] = principal
            if len(self._requests) > REQUESTS_MAX:
                self._requests.popitem(last=False)


class Pace:
    """So many a second: the first of them at once, those beyond it in turn. Times are the event loop's, in seconds."""

    # Seconds of the pace that may be used up at once after a while without any; seconds from look to look at who waits.
    BURST = 0.1
    APART = 0.005

    def __init__(self, a_second: int) -> None:
        self._every = 1 / a_second
        self._next = 0.0
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()

    def at_once(self, now: float) -> bool:
        """Takes the next turn, if that is now."""
        self._next = max(self._next, now - self.BURST)
        if self._waiting or self._next > now:
            return False
        self._next += self._every
        return True

    def in_turn(self, do: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Does something when its turn has come."""
        self._next += self._every
        self._waiting.append((self._next, do))
        if len(self._waiting) == 1:
            loop.call_at(max(self._next, loop.time() + self.APART), self._do, loop)

    def _do(self, loop: asyncio.AbstractEventLoop) -> None:
        now, waiting = loop.time(), self._waiting
        while waiting and waiting[0][0] <= now:
            waiting.popleft()[1]()
        if waiting:
            loop.call_at(max(waiting[0][0], now + self.APART), self._do, loop)


class Shedding:
    """Sends away at once whoever has flooded the queue already."""

    def __init__(self, app: ASGIApp, refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusals = self._refusals
        if scope["type"] != "http" or refusals.are_due(scope["headers"]) is None:
            await self._app(scope, receive, send)
            return
        refusals.count()
        await send({"type": "http.response.start", "status": refusals.status, "headers": refusals.headers})
        await send({"type": "http.response.body", "body": refusals.body})
