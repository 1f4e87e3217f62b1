"""An HTTP connection: limits everything that uvicorn's parser leaves unlimited, before the application runs."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import time
from collections import deque
from functools import lru_cache
from typing import Any, NoReturn

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.asgi import ON_DISCONNECT, SLOTS, WHOLE_RESPONSE
from gateway.errors import Overloaded
from gateway.hosts import DEFAULT_PORTS, host_and_port
from gateway.library_internals import require_internals
from gateway.overload.load_shedding import LoadShedder
from gateway.server.connection_limits import IDLE, UNASKED, UNREAD
from gateway.server.limits import ServerLimits
from gateway.web.disconnect import HeldSlot
from gateway.web.responses import ERROR_TYPE, NOT_RETRYABLE, SECURITY_HEADERS, error_body

require_internals(
    HttpToolsProtocol,
    "_start_asgi_task",
    "_unset_keepalive_if_required",
    "on_response_complete",
    "send_400_response",
    "timeout_keep_alive_handler",
    sets=(
        "app",
        "client",
        "cycle",
        "expect_100_continue",
        "flow",
        "headers",
        "loop",
        "parser",
        "pipeline",
        "scope",
        "timeout_keep_alive",
        "timeout_keep_alive_task",
        "transport",
    ),
)
require_internals(
    RequestResponseCycle,
    sets=(
        "body",
        "default_headers",
        "disconnected",
        "expected_content_length",
        "keep_alive",
        "message_event",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "waiting_for_100_continue",
    ),
)
require_internals(FlowControl, "pause_reading", "resume_reading", sets=("read_paused", "write_paused"))

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
# Pipelined requests that may wait for an earlier response. With more, reading is paused, so a disconnect goes
# unnoticed until then.
PIPELINED_MAX = 16
# Bytes that are parsed before the number of requests is checked: one read may contain ten thousand.
PARSED_AT_ONCE = 8192
# The memory of a pipelined request in addition to its bytes, and the limit for all of them.
PIPELINED_BYTES = 8 * 1024
PIPELINED_BYTES_MAX = 32 * 2**20
# A body up to this size is read however many others are in flight.
BODY_BYTES_ALWAYS = 64 * 1024
# Bytes of framing that a byte of a body may need: a chunk for each byte takes six.
FRAMING_BYTES = 16
# Digits of `Content-Length`: more are too large a number, or leading zeros, which proxies interpret differently.
LENGTH_DIGITS_MAX = 18
# Headers that the server itself reads.
_OWN_HEADERS = frozenset((b"content-length", b"expect", b"transfer-encoding"))
_ABSOLUTE = re.compile(rb"(?P<scheme>[hH][tT][tT][pP][sS]?)://(?P<authority>[^/?#]*)(?P<rest>[^\0]*)")
# Seconds that a connection beyond the limit has to send a request and to get its error.
OVER_LIMIT_SECONDS = 1.0
# Health is served on a connection beyond the limit, too.
HEALTH = b"/health/"
# Unsent bytes that the kernel buffers for a client. Otherwise it would buffer megabytes for each, uncounted, before it
# reports that they are not read.
NOTSENT_BYTES = 64 * 1024
TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
# Seconds between checks whether a connection is idle, while the server stops.
IDLE_AGAIN = 0.1
# Seconds for which, and bytes up to which, a half-closed connection is still read.
LINGER, LINGER_BYTES = 0.5, 2**18
HEADERS_TOO_LARGE = (431, "HEADERS_TOO_LARGE", "Request headers are too large.")
URI_TOO_LONG = (414, "URI_TOO_LONG", "Request target is too long. Send the operation with POST.")
OVERLOADED = (503, Overloaded.code, str(Overloaded()))


class RequestRejected(Exception):
    """A request exceeds a limit: the parser stops, and `send_400_response` is called."""


class BoundedFlow(FlowControl):
    """Does not resume reading while a response is unread or input is unparsed."""

    has_unparsed = False

    def resume_reading(self) -> None:
        if self.read_paused and not self.has_unparsed and not self.write_paused:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """Rejects a header that is too large with 414 or 431, a request that arrives too slowly with 408, and too many
    connections or bodies at once with 503. Serves requests in order: each waits until the previous response was sent.
    Closes connections whose clients do not read.

    If the application has a `shedder`, floods are rejected here with 503. An identical repetition of a rejected request
    is not even parsed while it would be rejected again.
    """

    def __init__(self, config: uvicorn.Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        limits: ServerLimits = config.limits  # type: ignore[attr-defined] # of `ServerConfig`
        self._head_bytes_max = limits.header_bytes_max
        self._seconds_max = limits.request_timeout
        self._head_bytes = 0
        self._in_head = True
        self._in_message = False
        self._closes_when_read = False
        self._limits = limits
        self._error = (400, "BAD_REQUEST", "Request is not valid HTTP.")
        self._running: RequestResponseCycle | None = None
        self._body_bytes = 0  # of the body that is being received
        self._payload = 0  # bytes of bodies in the chunk that is being parsed
        self._unframed_bytes = 0  # in chunks that contain only parts of a header, a trailer or framing
        self._progressed = False  # whether a message, or its body, began or ended in the chunk
        self._unparsed: deque[bytes | memoryview] = deque()  # input after too many pipelined requests
        self._is_chunked = False
        self._is_upgrade = False  # whether the request that is being parsed offers another protocol
        self._pipelined_bytes: deque[int] = deque()  # of each request that waits for an earlier response
        self._is_over_limit = False
        self._deferred: list[bytes | memoryview] | None = None  # the response to write when the iteration ends
        self._waits_for_unread: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._slots: list[HeldSlot] = []  # of operations whose responses have not been sent
        self.address: str | None = None
        self._peer_address: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shedder: LoadShedder | None = getattr(self.app, "shedder", None)
        self._rejecting: str | None = None  # the queue of the caller whose request is being read and rejected
        self._rejected: str | None = None  # the queue of the caller whose request was just rejected
        self._has_queued_rejection = False
        self._begun = 0
        self._active_at = 0.0
        self._last: RequestResponseCycle | None = None  # the response that ends the connection, when the server stops

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._flow = BoundedFlow(transport)
        transport.set_write_buffer_limits(0)
        own = transport.get_extra_info("socket")
        if own is not None and TCP_NOTSENT_LOWAT is not None and self.client is not None:
            own.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
        connections = self._limits.connection_limits
        self.address = self._peer_address = connections.address_of(self.client[0] if self.client else None)
        self._is_over_limit = not connections.open(self, own.fileno() if own is not None else -1)
        if self._is_over_limit:
            # The error is sent in response to a request: if a connection is closed with unread input, a response may be
            # lost.
            self._timer = self.loop.call_later(OVER_LIMIT_SECONDS, self._close_over_limit)
        else:
            self._start_request_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_request_timer()
        self._release_body_bytes()
        self._limits.connection_limits.lost(self)
        self._limits.unread.sent(self.transport)
        super().connection_lost(exc)
        self._disconnect()

    def _disconnect(self) -> None:
        """Ends all requests: uvicorn notifies only the newest one; here all running and waiting ones are notified."""
        for cycle in (self._running, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                extensions: dict[str, Any] = cycle.scope.pop("extensions", {})  # a reference cycle
                self._slots += extensions.get(SLOTS, ())
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
                    for on_disconnect in extensions.get(ON_DISCONNECT, ()):
                        on_disconnect()
        if self.scope is not None:
            self.scope.pop("extensions", None)
        self.pipeline.clear()
        self._unparsed.clear()
        self._forget_pipelined()
        self._running = self._waits_for_unread = None
        self._release_slots()

    def pause_writing(self) -> None:
        """Pauses reading until the client has read its responses."""
        super().pause_writing()
        self.flow.pause_reading()
        self._take_slots()
        self._hold_unread()

    def resume_writing(self) -> None:
        """Continues after all responses were sent."""
        super().resume_writing()
        self._limits.unread.sent(self.transport)
        if self._running is None or self._running.response_complete:
            self._release_slots()
        if self._waits_for_unread is not None and not self.transport.is_closing():
            following, self._waits_for_unread = self._waits_for_unread, None
            self._start_asgi_task(*following)
        if len(self.pipeline) <= PIPELINED_MAX:
            self.flow.resume_reading()

    def _hold_unread(self) -> None:
        running, caller, to_come = self._running, None, 0
        if running is not None:
            caller = running.scope["state"].get("caller")
            if not running.response_complete:
                to_come = running.expected_content_length  # the body is ready, but waits until the header is sent
        principal = f"of {self.address}" if caller is None else caller.principal
        self._limits.unread.hold(self.transport, principal, self.loop, to_come)

    def _take_slots(self) -> None:
        """Takes over the slots of finished operations; if their responses are not sent at once, others may run."""
        if self._running is not None:
            extensions: dict[str, Any] = self._running.scope.get("extensions", {})
            if slots := extensions.get(SLOTS):
                self._slots += slots
                slots.clear()
        if self._slots and self.flow.write_paused:
            for slot in self._slots:
                slot.mark_unsent()

    def _release_slots(self) -> None:
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.release()

    def on_response_complete(self) -> None:
        self._take_slots()
        if self._slots and not self.flow.write_paused:
            self._release_slots()
        if self.address != self._peer_address:
            self._limits.connection_limits.move(self, self._peer_address)
        super().on_response_complete()
        if self._pipelined_bytes:
            self._forget_pipelined()
        if self._unparsed and len(self.pipeline) <= PIPELINED_MAX and not self.transport.is_closing():
            self._parse(b"")

    def _count_pipelined(self, size: int) -> None:
        """Counts bytes of the newest pipelined request; all pipelined requests together have a limit."""
        limits = self._limits
        self._pipelined_bytes[-1] += size
        limits.pipelined_bytes += size
        if limits.pipelined_bytes > PIPELINED_BYTES_MAX:
            limits.closed_connections.count("too many requests in a row")
            self._error = OVERLOADED
            raise RequestRejected

    def _forget_pipelined(self) -> None:
        """Stops counting requests that were started or dropped."""
        while len(self._pipelined_bytes) > len(self.pipeline):
            self._limits.pipelined_bytes -= self._pipelined_bytes.popleft()

    def idleness(self) -> tuple[int, float] | None:
        """The kind of idleness and when it began; None while a request is running."""
        if self.flow.write_paused:
            return UNREAD, self._limits.unread.since(self.transport)
        if self.transport.is_closing():
            return None
        if self.timeout_keep_alive_task is not None:
            return IDLE, max(self._active_at, self.timeout_keep_alive_task.when() - self.timeout_keep_alive)
        if self._timer is not None and not self._is_behind():
            return UNASKED, self._timer.when() - self._seconds_max
        return None

    def evict(self) -> None:
        """Closes the connection; an unread response is dropped."""
        if self.flow.write_paused:
            self.transport.abort()
        else:
            self.flush()
            self.transport.close()

    def eof_received(self) -> None:
        self.flush()
        super().eof_received()

    def shutdown(self) -> None:
        """Serves pending requests and then closes the connection, because the server stops.

        An idle connection stays open for `http.shutdown_idle_timeout`, because a request may be in transit.
        """
        self.flush()
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_with(self.cycle)
        self.loop.call_later(self._limits.shutdown_idle_timeout, self._end_idle)

    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """Closes the connection after this response instead of an earlier one."""
        if cycle.keep_alive:
            if self._last is not None and not self._last.response_started:
                self._last.keep_alive = True
            cycle.keep_alive = False
            self._last = cycle

    def _end_idle(self) -> None:
        """Closes the connection once it is idle."""
        if self.transport.is_closing():
            return
        self.flush()
        if not self._is_between_requests() or self.transport.get_write_buffer_size() or self._has_unread():
            self.loop.call_later(IDLE_AGAIN, self._end_idle)
            return
        self._send_queued_rejection()
        self._half_close()

    def _half_close(self) -> None:
        """Closes the connection, but reads on for a moment: unread input would reset it, and a response be lost."""
        self._stop_request_timer()
        self._unset_keepalive_if_required()
        self._disconnect()
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.set_protocol(_Lingering(self))
        self.transport.resume_reading()
        self.loop.call_later(LINGER, self.transport.close)

    def _has_unread(self) -> bool:
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def data_received(self, data: bytes) -> None:
        if self._deferred is not None:
            self.flush()  # responses keep the order of their requests
        if self.transport.is_closing():
            return
        shedder = self._shedder
        if shedder is None or self._is_over_limit:
            self._parse(data)
            return
        if self._has_queued_rejection:
            self._send_queued_rejection()  # responses keep the order of their requests
        if not shedder.is_active:
            self._parse(data)
            self._rejected = None
            return
        began = time.perf_counter()
        if shedder.should_reject_again(data) and self._is_between_requests():
            self._queue_rejection(shedder)
            shedder.throttle.record_cost(time.perf_counter() - began)
            return
        self._parse(data)
        if self._rejected is not None:
            shedder.throttle.record_cost(time.perf_counter() - began)
            if self._begun == 1 and not self._in_message:
                shedder.remember(data, self._rejected)
            self._rejected = None

    def _parse(self, data: bytes) -> None:
        self._begun, self._payload, self._progressed = 0, 0, False
        self._feed(data)
        if self._in_message or (self.timeout_keep_alive_task is None and self._is_between_requests()):
            self._start_request_timer()
        if not self._progressed and not self.transport.is_closing():
            # An endless line, trailer or chunk extension never reaches the callbacks below.
            self._unframed_bytes = max(0, self._unframed_bytes + len(data) - FRAMING_BYTES * self._payload)
            if self._unframed_bytes > self._head_bytes_max:
                self._close_with_error(*self._too_large)

    def _feed(self, data: bytes) -> None:
        """Parses as uvicorn does, but logs nothing for each request and never switches protocols.

        After a header with `Upgrade`, llhttp leaves the body to the other protocol. The offer is ignored, as RFC 9110
        allows: the same header is parsed again without it, so that the body is framed and never read as a request.
        """
        self._unset_keepalive_if_required()
        pieces = self._unparsed
        if len(data) <= PARSED_AT_ONCE:
            pieces.append(data)
        else:
            view = memoryview(data)
            pieces.extend(view[start : start + PARSED_AT_ONCE] for start in range(0, len(data), PARSED_AT_ONCE))
        try:
            while pieces and len(self.pipeline) <= PIPELINED_MAX:
                piece = pieces.popleft()
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade as offer:
                    pieces.appendleft(memoryview(piece)[offer.args[0] :])
                    pieces.appendleft(self._head_without_upgrade())
                    self.parser = type(self.parser)(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's is
        except httptools.HttpParserError:
            pieces.clear()
            self.send_400_response("")
        self._flow.has_unparsed = bool(pieces)
        if pieces:
            self.flow.pause_reading()

    def _head_without_upgrade(self) -> bytes:
        fields = b"".join(b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        version = self.parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, fields)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun += 1
        self._in_message = self._progressed = True
        self._is_chunked = False
        extensions: dict[str, Any] = {WHOLE_RESPONSE: {"send": self._send_whole}, ON_DISCONNECT: [], SLOTS: []}
        self.scope["extensions"] = extensions

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field, which is never a header field
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._head_bytes_max:
            self._count(0)
        name = name.lower()
        if name in _OWN_HEADERS:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            elif name == b"content-length":
                if len(value.strip()) > LENGTH_DIGITS_MAX:
                    self._raise_bad_request("Content-Length is too large.")
            elif self._is_chunked or value.strip().lower() != b"chunked":
                self._raise_bad_request("Transfer-Encoding must be chunked.")
            else:
                self._is_chunked = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._progressed = True
        head_bytes, self._head_bytes, self._unframed_bytes = self._head_bytes, 0, 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._raise_bad_request("CONNECT is not supported.")
            self._is_upgrade = True
            return
        self._check_start_line()
        if self._is_over_limit or (
            self._peer_address is None and (self.client is not None or self._limits.connection_limits.trusts_unix)
        ):
            self._check_connection_limit()
        if (
            self._shedder is not None
            and not self._is_over_limit
            and (self.cycle is None or self.cycle.response_complete)
        ):
            self._rejecting = self._shedder.should_reject(self.headers)
            if self._rejecting is not None and self.parser.get_method() == b"HEAD":
                self._rejecting = None  # a response without a body, which uvicorn sends
            if self._rejecting is not None:
                self._in_head = False
                return  # without starting a cycle
        super().on_headers_complete()
        self._in_head = False
        self._on_request_begun(head_bytes)

    def _on_request_begun(self, head_bytes: int) -> None:
        """A request has its header complete; it is started, or waits for an earlier response."""
        if self._is_over_limit:
            self.cycle.keep_alive = False
        if self._limits.is_stopping:
            self._end_with(self.cycle)
        if self.pipeline:
            self._pipelined_bytes.append(0)
            self._count_pipelined(PIPELINED_BYTES + head_bytes)
            if len(self.pipeline) <= PIPELINED_MAX:
                self.flow.resume_reading()  # otherwise a disconnect would go unnoticed

    def _check_start_line(self) -> None:
        version = self.parser.get_http_version()
        if version != "1.1" and (version != "1.0" or self._is_chunked):
            self._raise_bad_request(
                "This is not HTTP/1.1." if version != "1.0" else "HTTP/1.0 has no Transfer-Encoding."
            )
        if not self.url.startswith(b"/"):
            self._take_absolute_form(version)

    def _take_absolute_form(self, version: str) -> None:
        """Checks that the host of an absolute target is the one in `Host`, and continues with its path."""
        target = _ABSOLUTE.fullmatch(self.url)
        expected = host_and_port(target["authority"]) if target is not None else None
        if target is None or expected is None:
            self._raise_bad_request("Request target is neither a path nor a URL.")
        port = DEFAULT_PORTS[target["scheme"].decode().lower()]
        host_fields = [value for name, value in self.headers if name == b"host"]
        for value in host_fields:
            host = host_and_port(value)
            if host is None or (host[0], host[1] or port) != (expected[0], expected[1] or port):
                self._raise_bad_request("Request target and Host header name different hosts.")
        if not host_fields and version == "1.0":
            self.headers.append((b"host", target["authority"]))
        self.url = target["rest"] if target["rest"].startswith(b"/") else b"/" + target["rest"]

    def _check_connection_limit(self) -> None:
        """Rejects requests, except for health, above a limit of connections: in total, or of a proxy's client."""
        if self.url.startswith(HEALTH):
            return
        connections = self._limits.connection_limits
        forwarded = [value for name, value in self.headers if name == b"x-forwarded-for"]
        if self._is_over_limit or (forwarded and not connections.move(self, connections.client_behind(forwarded))):
            self._error = OVERLOADED
            raise RequestRejected

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # Responses keep the order of their requests, also of those that came in one chunk.
        if self._deferred is not None:
            self.flush()
        if self._has_queued_rejection:
            self._send_queued_rejection()
        self._running = cycle
        if not cycle.keep_alive:
            cycle.transport = _ClosedWhenRead(self)  # type: ignore[assignment]
        if self.flow.write_paused:
            self._waits_for_unread = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Collects the body until it is complete or large, so that not every chunk wakes the application."""
        size = len(body)
        self._payload += size
        if self._rejecting is not None or self.cycle.response_complete:
            return
        limits, cycle = self._limits, self.cycle
        self._body_bytes += size
        limits.inflight_body_bytes += size
        if limits.inflight_body_bytes > limits.inflight_body_bytes_max and self._body_bytes > BODY_BYTES_ALWAYS:
            self._error = OVERLOADED
            raise RequestRejected
        if self.pipeline:
            self._count_pipelined(size)
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
            cycle.message_event.set()

    def close_when_read(self) -> None:
        """Closes the connection after a response, once its request has been received, at the latest at its timeout."""
        if self._in_message and self._running is self.cycle:
            self._closes_when_read = True
        else:
            self.transport.close()

    def on_message_complete(self) -> None:
        if self._closes_when_read:
            self.transport.close()
            raise RequestRejected  # what follows is not read
        self._progressed, self._unframed_bytes = True, 0
        self._in_head, self._in_message = True, False
        if self._is_upgrade:
            self._is_upgrade = False
            return  # the header is parsed again
        if self._timer is not None:
            self._stop_request_timer()
        if self._body_bytes:
            self._release_body_bytes()
        if self._rejecting is None:
            super().on_message_complete()
            return
        keeps_open = self.parser.should_keep_alive() and not self.expect_100_continue
        self._rejected, self._rejecting = self._rejecting if keeps_open else None, None
        assert self._shedder is not None
        self._send_queued_rejection()  # that of an earlier request in the same chunk
        self._queue_rejection(self._shedder)
        if not keeps_open:
            self._send_queued_rejection()
            self.transport.close()

    def _is_between_requests(self) -> bool:
        """Whether all requests so far have their responses, so that the next byte begins a request."""
        return (
            not self._in_message and not self._unframed_bytes and (self.cycle is None or self.cycle.response_complete)
        )

    def _queue_rejection(self, shedder: LoadShedder) -> None:
        """Rejects a request, now or when the throttle allows."""
        shedder.count()
        self._active_at = now = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep_alive_for(self.timeout_keep_alive)
        if self._timer is not None:
            self._stop_request_timer()
        if shedder.throttle.try_acquire(now):
            self._send_rejection(shedder)
        else:
            self._has_queued_rejection = True
            shedder.throttle.schedule(self._send_queued_rejection, self.loop)

    def _send_queued_rejection(self) -> None:
        if self._has_queued_rejection:
            self._has_queued_rejection = False
            assert self._shedder is not None
            if not self.transport.is_closing():
                self._send_rejection(self._shedder)

    def _send_rejection(self, shedder: LoadShedder) -> None:
        self.transport.write(shedder.rejection)
        if self.flow.write_paused:
            self._hold_unread()

    def timeout_keep_alive_handler(self) -> None:
        """Starts again if a request was rejected meanwhile, so that rejections need no timers."""
        remaining = self._active_at + self.timeout_keep_alive - self.loop.time()
        if self._has_queued_rejection or remaining > 0:
            self._keep_alive_for(max(remaining, 1))
        else:
            super().timeout_keep_alive_handler()

    def _keep_alive_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def flush(self) -> None:
        """Writes the deferred response."""
        unsent, self._deferred = self._deferred, None
        if unsent is not None and not self.transport.is_closing():
            self.transport.writelines(unsent)

    def _send_whole(self, scope: Any, lines: bytes, body: tuple[bytes | memoryview, ...], *, together: bool) -> bool:
        """Sends a whole response with status 200 and its header fields as lines; False if that is not possible and
        ASGI messages are needed.

        Does the same as uvicorn for two messages, but does not check the fields. The response is written at once, or
        `together` with the others of this iteration.
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
            self._deferred = parts
            self._limits.write_batch.add(self, self.loop)
        else:
            self.transport.writelines(parts)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        self._close_with_error(*self._error)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._head_bytes_max:
            self._error = self._too_large
            raise RequestRejected

    @property
    def _too_large(self) -> tuple[int, str, str]:
        return URI_TOO_LONG if 2 * len(self.url) > self._head_bytes_max else HEADERS_TOO_LARGE

    def _raise_bad_request(self, message: str) -> NoReturn:
        self._error = (400, "BAD_REQUEST", message)
        raise RequestRejected

    def _start_request_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds_max, self._on_request_timeout)

    def _stop_request_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release_body_bytes(self) -> None:
        self._limits.inflight_body_bytes -= self._body_bytes
        self._body_bytes = 0

    def _is_behind(self) -> bool:
        """Whether the response to an earlier request than the one being received is still due."""
        running = self._running
        return running is not None and not running.response_complete and (self._in_head or running is not self.cycle)

    def _close_over_limit(self) -> None:
        self._close_with_error(*OVERLOADED)

    def _on_request_timeout(self) -> None:
        self._timer = None
        if self._is_behind():
            self._start_request_timer()  # responses keep the order of their requests
            return
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            self.transport.close()
        else:
            self._close_with_error(408, "REQUEST_TIMEOUT", "Request did not arrive in time.")

    def _close_with_error(self, status: int, code: str, message: str) -> None:
        """Sends an error and closes the connection; only closes it if a response is due first or has begun."""
        self._send_queued_rejection()
        if self.transport.is_closing():
            return
        self._limits.rejections.count(code, self.loop)
        has_begun = not self._in_head and self._rejecting is None and self.cycle.response_started
        is_sent = not has_begun and not self._is_behind()
        if is_sent:
            self.transport.write(_error_response(status, code, message))
        # A client that is still sending would not read the response of a connection that is reset.
        if is_sent and self._in_message and status != OVERLOADED[0]:
            self._half_close()
        else:
            self.transport.close()


class _ClosedWhenRead:
    """The transport of a connection that ends with its response: it is reset if it is closed with unread input."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        self._protocol.close_when_read()


class _Lingering(asyncio.Protocol):
    """A half-closed connection: further input is dropped, so that the connection is not reset."""

    def __init__(self, before: BoundedProtocol) -> None:
        self._before = before
        self._room = LINGER_BYTES

    def data_received(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._before.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)


@lru_cache
def _error_response(status: int, code: str, message: str) -> bytes:
    is_overload = status == OVERLOADED[0]
    body = error_body(code, message, Overloaded().extensions() if is_overload else NOT_RETRYABLE)
    fields = [ERROR_TYPE, *SECURITY_HEADERS, (b"connection", b"close")]
    if is_overload:
        fields.append((b"retry-after", str(Overloaded.retry_after).encode()))
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-length: {len(body)}\r\n"
    return head.encode("ascii") + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body
