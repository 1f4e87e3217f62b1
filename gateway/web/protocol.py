"""HTTP as it arrives: what uvicorn's parser leaves unbounded is bounded here, before any application sees a request."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import Any

import msgspec
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import Overloaded
from gateway.settings import Settings
from gateway.web.answers import HARDENING, NOT_RETRYABLE, problem
from gateway.web.leaving import LEAVING
from gateway.web.outbox import Outbox
from gateway.web.refusals import Refusals

# The extension of a request's scope whose `send` sends a whole answer.
WHOLE_ANSWER = "gateway.whole_answer"
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
# Requests on one connection that may wait for the answer to one before: beyond them no more is read meanwhile, and that
# the caller leaves goes unnoticed until then.
PIPELINED_MAX = 16
# A body of no more bytes is read however many others are on their way.
BODY_BYTES_ALWAYS = 64 * 1024
# Seconds that a connection beyond the limit is given to ask, and to be told.
SURPLUS_SECONDS = 1.0
HEADERS_TOO_LARGE = (431, "HEADERS_TOO_LARGE", "The request's headers are too large.")
OVERLOADED = (503, Overloaded.code, str(Overloaded()))


class ServerConfig(uvicorn.Config):
    """uvicorn with safe bounds: requests are logged by the gateway, with their ids, and the server names itself not."""

    def __init__(self, application: Any, settings: Settings, **more: Any) -> None:
        super().__init__(
            application,
            http=BoundedProtocol,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nothing here depends on a caller's address or scheme
            timeout_keep_alive=settings.http.keep_alive,
            timeout_graceful_shutdown=settings.http.shutdown_timeout,
            **{"host": settings.host, "port": settings.port, **more},
        )
        self.header_bytes_max = settings.http.header_bytes_max
        self.request_timeout = settings.http.request_timeout
        self.reading_timeout = settings.http.reading_timeout
        self.connections_max = settings.http.connections_max
        self.arriving_bytes_max = settings.http.arriving_bytes_max
        # Of all bodies that are not whole yet.
        self.arriving_bytes = 0
        self.outbox = Outbox()


class Unacceptable(Exception):
    """A request is beyond a limit: its parser ends, and `send_400_response` is called."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large with 431, a request that takes too long to arrive with 408, and with 503 what
    would be too many connections or bodies at a time. Gives up who does not read, and what they leave behind.

    Whoever floods the gateway is sent away here, with 503, where the application has `refusals` in its state. A request
    that comes again to the byte after it was refused is not even parsed while its sender is still to be refused.
    """

    def __init__(self, config: ServerConfig, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self._head_bytes_max = config.header_bytes_max
        self._seconds_max = config.request_timeout
        self._head_bytes = 0
        self._in_head = True
        self._in_message = False
        self._limits = config
        self._verdict = (400, "BAD_REQUEST", "This is not HTTP.")
        self._running: RequestResponseCycle | None = None
        self._body_bytes = 0  # of the body that is arriving
        self._is_surplus = False
        self._unsent: list[bytes | memoryview] | None = None  # an answer that leaves at the end of this turn
        self._unread: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refusals: Refusals | None = getattr(getattr(self.app, "state", None), "refusals", None)
        self._refusing: str | None = None  # whose request it is that is being read, if it is to be refused
        self._refused: str | None = None  # whose request was refused just now
        self._owes_refusal = False
        self._begun = 0
        self._active_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._is_surplus = len(self.connections) >= self._limits.connections_max
        super().connection_made(transport)
        if self._is_surplus:
            # Told when it asks: what is sent to a connection that is closed with something unread is lost on the way.
            self._timer = self.loop.call_later(SURPLUS_SECONDS, self._refuse_surplus)
        else:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_here()
        self._body_is_here()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)
        # uvicorn tells the newest request only; here all that are under way or wait learn that their caller left.
        for cycle in (self._running, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                extensions: dict[str, Any] = cycle.scope.pop("extensions", {})  # which knows this protocol: a circle
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
                    for leave in extensions.get(LEAVING, ()):
                        leave()
        if self.scope is not None:
            self.scope.pop("extensions", None)
        self.pipeline.clear()
        self._running = None

    def pause_writing(self) -> None:
        """Too much of what was sent has not been read: nothing more is taken from this caller until it is."""
        super().pause_writing()
        self.flow.pause_reading()
        self._watch_whether_read()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        if len(self.pipeline) <= PIPELINED_MAX:
            self.flow.resume_reading()

    def eof_received(self) -> None:
        self.send_unsent()
        super().eof_received()

    def shutdown(self) -> None:
        self.send_unsent()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._unsent is not None:
            self.send_unsent()  # answers keep the order of their requests
        if self.transport.is_closing():
            return
        if self._is_surplus:
            self._refuse_surplus()
            return
        refusals = self._refusals
        if refusals is None:
            self._parse(data)
            return
        if self._owes_refusal:
            self._pay_refusal()  # answers keep the order of their requests
        if not refusals.are_many:
            self._parse(data)
            self._refused = None
            return
        began = time.perf_counter()
        if refusals.are_due_again(data) and self._is_between():
            self._owe_refusal(refusals)
            refusals.pace.took(time.perf_counter() - began)
            return
        self._parse(data)
        if self._refused is not None:
            refusals.pace.took(time.perf_counter() - began)
            if self._begun == 1 and not self._in_message:
                refusals.remember(data, self._refused)
            self._refused = None

    def _parse(self, data: bytes) -> None:
        was_in_head, self._begun = self._in_head, 0
        super().data_received(data)
        if self._in_message or (self.timeout_keep_alive_task is None and self._is_between()):
            self._await_request()
        if was_in_head and self._in_head and not self._begun and not self.transport.is_closing():
            # A line without an end never reaches the callbacks below.
            self._count(len(data), again=True)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun += 1
        self._in_message = True
        extensions: dict[str, Any] = {WHOLE_ANSWER: {"send": self._answer_whole}, LEAVING: []}
        self.scope["extensions"] = extensions

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._head_bytes_max:
            self._count(0)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._refusals is not None and (self.cycle is None or self.cycle.response_complete):
            self._refusing = self._refusals.are_due(self.headers)
            if self._refusing is not None and self.parser.get_method() == b"HEAD":
                self._refusing = None  # its refusal has no body, as uvicorn sends it
            if self._refusing is not None:
                return  # so there is no cycle for it
        super().on_headers_complete()
        if self.pipeline and len(self.pipeline) <= PIPELINED_MAX and not self.flow.write_paused:
            self.flow.resume_reading()  # else nobody would notice that the caller leaves

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        # Answers keep the order of their requests, also of those that came in one piece.
        if self._unsent is not None:
            self.send_unsent()
        if self._owes_refusal:
            self._pay_refusal()
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        if self._refusing is not None:
            return
        limits, size = self._limits, len(body)
        self._body_bytes += size
        limits.arriving_bytes += size
        if limits.arriving_bytes > limits.arriving_bytes_max and self._body_bytes > BODY_BYTES_ALWAYS:
            self._verdict = OVERLOADED
            raise Unacceptable
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._in_message = True, False
        if self._timer is not None:
            self._request_is_here()
        if self._body_bytes:
            self._body_is_here()
        if self._refusing is None:
            super().on_message_complete()
            return
        keeps_open = self.parser.should_keep_alive() and not self.expect_100_continue
        self._refused, self._refusing = self._refusing if keeps_open else None, None
        assert self._refusals is not None
        self._pay_refusal()  # that of a request before it in the same piece
        self._owe_refusal(self._refusals)
        if not keeps_open:
            self._pay_refusal()
            self.transport.close()

    def _is_between(self) -> bool:
        """Whether all that came was answered, so that what comes next begins a request."""
        return not self._in_message and not self._head_bytes and (self.cycle is None or self.cycle.response_complete)

    def _owe_refusal(self, refusals: Refusals) -> None:
        """Refuses what came, now or in turn."""
        refusals.count()
        self._active_at = now = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep_alive_for(self.timeout_keep_alive)
        if self._timer is not None:
            self._request_is_here()
        if refusals.pace.at_once(now):
            self.transport.write(refusals.whole)
        else:
            self._owes_refusal = True
            refusals.pace.in_turn(self._pay_refusal, self.loop)

    def _pay_refusal(self) -> None:
        if self._owes_refusal:
            self._owes_refusal = False
            assert self._refusals is not None
            if not self.transport.is_closing():
                self.transport.write(self._refusals.whole)

    def timeout_keep_alive_handler(self) -> None:
        """Looks again later where something was refused meanwhile: a refusal need not set a timer of its own."""
        left = self._active_at + self.timeout_keep_alive - self.loop.time()
        if self._owes_refusal or left > 0:
            self._keep_alive_for(max(left, 1))
        else:
            super().timeout_keep_alive_handler()

    def _keep_alive_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def send_unsent(self) -> None:
        """Sends the answer that was to leave at the end of the turn."""
        unsent, self._unsent = self._unsent, None
        if unsent is not None and not self.transport.is_closing():
            self.transport.writelines(unsent)

    def _answer_whole(self, scope: Any, lines: bytes, body: tuple[bytes | memoryview, ...], *, together: bool) -> bool:
        """Sends a whole answer, status 200, its header fields given as lines; False where it has to go the usual way.

        What uvicorn does for two messages, done once; it looks for no fault in the fields. It leaves at once, or
        `together` with the others of this turn.
        """
        cycle = self.cycle
        plain = (
            cycle.scope is scope
            and cycle.keep_alive
            and not (cycle.response_started or cycle.disconnected or cycle.waiting_for_100_continue)
            and not self.flow.write_paused
        )
        if not plain:
            return False
        own = [b"%b: %b\r\n" % field for field in cycle.default_headers]
        parts: list[bytes | memoryview] = [b"HTTP/1.1 200 OK\r\n", *own, lines, b"\r\n", *body]
        if together:
            self._unsent = parts
            self._limits.outbox.put(self, self.loop)
        else:
            self.transport.writelines(parts)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._verdict)

    def _count(self, size: int, *, again: bool = False) -> None:
        self._head_bytes += size
        if self._head_bytes > self._head_bytes_max:
            self._verdict = HEADERS_TOO_LARGE
            if again:
                self.send_400_response("")
            else:
                raise Unacceptable

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds_max, self._too_slow)

    def _request_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _body_is_here(self) -> None:
        self._limits.arriving_bytes -= self._body_bytes
        self._body_bytes = 0

    def _is_behind(self) -> bool:
        """Whether the answer to an earlier request than the one that is arriving is still due."""
        running = self._running
        return running is not None and not running.response_complete and (self._in_head or running is not self.cycle)

    def _watch_whether_read(self) -> None:
        self._unread = self.loop.call_later(
            self._limits.reading_timeout, self._is_it_read, self.transport.get_write_buffer_size()
        )

    def _is_it_read(self, before: int) -> None:
        """Ends a connection whose caller has read nothing since it was looked at; they may be slow."""
        if self.transport.get_write_buffer_size() < before:
            self._watch_whether_read()
        else:
            self._unread = None
            self.transport.abort()

    def _refuse_surplus(self) -> None:
        self._refuse(*OVERLOADED)

    def _too_slow(self) -> None:
        self._timer = None
        if self._is_behind():
            self._await_request()  # answers keep the order of their requests
            return
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(408, "REQUEST_TIMEOUT", "The request did not arrive in time.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Says what is wrong and closes; where another answer is due first, only closes."""
        self._pay_refusal()
        if self.transport.is_closing():
            return
        if not self._is_behind():
            self.transport.write(_whole_refusal(status, code, message))
        self.transport.close()


@lru_cache
def _whole_refusal(status: int, code: str, message: str) -> bytes:
    again = status == OVERLOADED[0]
    told = Overloaded().extensions() if again else NOT_RETRYABLE
    body = msgspec.json.encode(problem(code, message, told))
    fields = [*HARDENING, (b"connection", b"close")]
    if again:
        fields.append((b"retry-after", str(Overloaded.retry_after).encode()))
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode("ascii") + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body
