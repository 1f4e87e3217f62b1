"""HTTP as it arrives: what uvicorn's parser leaves unbounded is bounded here, before any application sees a request."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.settings import Settings
from gateway.web.answers import problem
from gateway.web.refusals import Refusals

# The extension of a request's scope whose `send` sends a whole answer.
WHOLE_ANSWER = "gateway.whole_answer"
REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


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


class HeadersTooLarge(Exception):
    """A request's line and headers are beyond their limit."""


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large with 431, and a request that takes too long to arrive with 408.

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
        self._too_large = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusals: Refusals | None = getattr(getattr(self.app, "state", None), "refusals", None)
        self._refusing: str | None = None  # whose request it is that is being read, if it is to be refused
        self._refused: str | None = None  # whose request was refused just now
        self._owes_refusal = False
        self._begun = 0
        self._active_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_here()
        super().connection_lost(exc)
        if self.scope is not None:
            self.scope.pop("extensions", None)  # which knows this protocol: a circle

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
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
        if self._in_message:
            self._await_request()
        if was_in_head and self._in_head and not self._begun and not self.transport.is_closing():
            # A line without an end never reaches the callbacks below.
            self._count(len(data), again=True)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun += 1
        self._in_message = True
        self.scope["extensions"] = {WHOLE_ANSWER: {"send": self._answer_whole}}

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
            if self._refusing is not None:
                return  # so there is no cycle for it
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._refusing is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._in_message = True, False
        if self._timer is not None:
            self._request_is_here()
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

    def _answer_whole(self, scope: Any, lines: bytes, body: bytes) -> bool:
        """Sends a whole answer, status 200, its header fields given as lines; False where it has to go the usual way.

        What uvicorn does for two messages, done once; it looks for no fault in the fields.
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
        self.transport.writelines([b"HTTP/1.1 200 OK\r\n", *own, lines, b"\r\n", body])
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse(431, "HEADERS_TOO_LARGE", "The request's headers are too large.")
        else:
            self._refuse(400, "BAD_REQUEST", "This is not HTTP.")

    def _count(self, size: int, *, again: bool = False) -> None:
        self._head_bytes += size
        if self._head_bytes > self._head_bytes_max:
            self._too_large = True
            if again:
                self.send_400_response("")
            else:
                raise HeadersTooLarge  # the parser ends, and send_400_response is called

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds_max, self._too_slow)

    def _request_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(408, "REQUEST_TIMEOUT", "The request did not arrive in time.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        body = msgspec.json.encode(problem(code, message))
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
