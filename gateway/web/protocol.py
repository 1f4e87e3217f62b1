"""HTTP as it arrives: what uvicorn's parser leaves unbounded is bounded here, before any application sees a request."""

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
from gateway.hosts import host_and_port
from gateway.settings import Settings
from gateway.telemetry import EventCounter
from gateway.web.connection_limits import IDLE, UNASKED, UNREAD, ClosedConnections, ConnectionLimits
from gateway.web.disconnect import HeldSlot
from gateway.web.outbox import Outbox
from gateway.web.refusals import Refusals
from gateway.web.responses import NOT_RETRYABLE, SECURITY_HEADERS, error_body
from gateway.web.unsent import UnsentAnswers

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
# Requests on one connection that may wait for the answer to one before: beyond them no more is read meanwhile, and that
# the caller leaves goes unnoticed until then.
PIPELINED_MAX = 16
# Bytes that are parsed before it is looked at how many requests they were: a read may hold ten thousand.
PARSED_AT_ONCE = 8192
# What such a request takes in memory beside its own bytes, and what all of them may take.
WAITING_BYTES = 8 * 1024
WAITING_BYTES_MAX = 32 * 2**20
# A body of no more bytes is read however many others are on their way.
BODY_BYTES_ALWAYS = 64 * 1024
# Bytes of framing that a byte of a body may need: a chunk for each byte takes six.
FRAMING_BYTES = 16
# Digits of `Content-Length`: more are more than there can be, or zeros, which not everybody in between counts alike.
LENGTH_DIGITS_MAX = 18
# Headers that the server itself looks at.
_OWN_HEADERS = frozenset((b"content-length", b"expect", b"transfer-encoding"))
_ABSOLUTE = re.compile(rb"(?P<scheme>[hH][tT][tT][pP][sS]?)://(?P<authority>[^/?#]*)(?P<rest>[^\0]*)")
_PORTS = {b"http": 80, b"https": 443}
# Seconds that a connection beyond the limit is given to ask, and to be told.
SURPLUS_SECONDS = 1.0
# What is answered to a connection beyond the limit, too.
HEALTH = b"/health/"
# Bytes that the system takes for a caller beyond what the network takes at the moment. Else it would take megabytes for
# each, uncounted, before it says that nobody reads them.
NOTSENT_BYTES = 64 * 1024
TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
# Seconds between two looks whether a connection has become idle, when the server stops; and those that one is read for
# after it was ended.
IDLE_AGAIN = 0.1
LINGER = 0.5
HEADERS_TOO_LARGE = (431, "HEADERS_TOO_LARGE", "The request's headers are too large.")
OVERLOADED = (503, Overloaded.code, str(Overloaded()))


class ServerConfig(uvicorn.Config):
    """uvicorn with safe bounds: requests are logged by the gateway, with their ids, and the server names itself not."""

    def __init__(
        self,
        application: Any,
        settings: Settings,
        *,
        connections_max: int | None = None,
        files_max: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            application,
            http=BoundedProtocol,
            ws="none",
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
        self.arriving_bytes_max = settings.http.arriving_bytes_max
        # Of all bodies that are not whole yet.
        self.arriving_bytes = 0
        # Of all requests that wait for the answer to one before.
        self.waiting_bytes = 0
        self.outbox = Outbox()
        self.refused = EventCounter("requests refused unread")
        self.closed_connections = ClosedConnections()
        self.connection_limits = ConnectionLimits(settings.http, self.closed_connections, connections_max, files_max)
        self.unsent = UnsentAnswers(settings.http, self.closed_connections)
        self.shutdown_idle_timeout = settings.http.shutdown_idle_timeout
        self.is_stopping = False


class Unacceptable(Exception):
    """A request is beyond a limit: its parser ends, and `send_400_response` is called."""


class BoundedFlow(FlowControl):
    """Does not read on, whoever wants to, while an answer is unread or something that was read is not parsed."""

    has_unparsed = False

    def resume_reading(self) -> None:
        if self.read_paused and not self.has_unparsed and not self.write_paused:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large with 431, a request that takes too long to arrive with 408, and with 503 what
    would be too many connections or bodies at a time. Answers one request after the other: the next one waits until the
    answer before it has gone. Gives up who does not read, and what they leave behind.

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
        self._payload = 0  # bytes of bodies in the piece that is being parsed
        self._loose_bytes = 0  # that came in pieces of their own and are part of a head, a trailer or framing
        self._moved = False  # whether a message, or its body, began or ended in the piece
        self._unparsed: deque[bytes | memoryview] = deque()  # what came behind more requests than may wait
        self._is_chunked = False
        self._is_offer = False  # to speak another protocol: of the request that is being parsed
        self._waiting_bytes: deque[int] = deque()  # of each request that waits for the answer to one before
        self._is_surplus = False
        self._unsent: list[bytes | memoryview] | None = None  # an answer that leaves at the end of this turn
        self._waits_for_gone: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._slots: list[HeldSlot] = []  # of operations whose answers have not gone
        self.address: str | None = None
        self._peer_address: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refusals: Refusals | None = getattr(self.app, "refusals", None)
        self._refusing: str | None = None  # whose request it is that is being read, if it is to be refused
        self._refused: str | None = None  # whose request was refused just now
        self._owes_refusal = False
        self._begun = 0
        self._active_at = 0.0
        self._last: RequestResponseCycle | None = None  # the answer that ends the connection, when the server stops

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._flow = BoundedFlow(transport)
        transport.set_write_buffer_limits(0)
        own = transport.get_extra_info("socket")
        if own is not None and TCP_NOTSENT_LOWAT is not None and self.client is not None:
            own.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
        connections = self._limits.connection_limits
        self.address = self._peer_address = connections.address_of(self.client[0] if self.client else None)
        self._is_surplus = not connections.open(self, own.fileno() if own is not None else -1)
        if self._is_surplus:
            # Told when it asks, unless that is for health: what is sent to a connection that is closed with something
            # unread is lost on the way.
            self._timer = self.loop.call_later(SURPLUS_SECONDS, self._refuse_surplus)
        else:
            self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_here()
        self._body_is_here()
        self._limits.connection_limits.lost(self)
        self._limits.unsent.has_gone(self.transport)
        super().connection_lost(exc)
        # uvicorn tells the newest request only; here all that are under way or wait learn that their caller left.
        for cycle in (self._running, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                extensions: dict[str, Any] = cycle.scope.pop("extensions", {})  # which knows this protocol: a circle
                self._slots += extensions.get(SLOTS, ())
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
                    for leave in extensions.get(ON_DISCONNECT, ()):
                        leave()
        if self.scope is not None:
            self.scope.pop("extensions", None)
        self.pipeline.clear()
        self._unparsed.clear()
        self._wait_no_longer()
        self._running = self._waits_for_gone = None
        self._give_slots_back()

    def pause_writing(self) -> None:
        """Not all that was sent could leave: nothing more is taken from this caller until it has."""
        super().pause_writing()
        self.flow.pause_reading()
        self._take_slots()
        self._hold_unsent()

    def resume_writing(self) -> None:
        """All has left."""
        super().resume_writing()
        self._limits.unsent.has_gone(self.transport)
        if self._running is None or self._running.response_complete:
            self._give_slots_back()
        if self._waits_for_gone is not None and not self.transport.is_closing():
            following, self._waits_for_gone = self._waits_for_gone, None
            self._start_asgi_task(*following)
        if len(self.pipeline) <= PIPELINED_MAX:
            self.flow.resume_reading()

    def _hold_unsent(self) -> None:
        running, caller, to_come = self._running, None, 0
        if running is not None:
            caller = running.scope["state"].get("caller")
            if not running.response_complete:
                to_come = running.expected_content_length  # the body is ready, too, and waits for its head to leave
        principal = f"of {self.address}" if caller is None else caller.principal
        self._limits.unsent.hold(self.transport, principal, self.loop, to_come)

    def _take_slots(self) -> None:
        """Takes over the slots of what has been executed; if its answer does not leave at once, others may run."""
        if self._running is not None:
            extensions: dict[str, Any] = self._running.scope.get("extensions", {})
            if slots := extensions.get(SLOTS):
                self._slots += slots
                slots.clear()
        if self._slots and self.flow.write_paused:
            for slot in self._slots:
                slot.is_unsent()

    def _give_slots_back(self) -> None:
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.leave()

    def on_response_complete(self) -> None:
        self._take_slots()
        if self._slots and not self.flow.write_paused:
            self._give_slots_back()
        if self.address != self._peer_address:
            self._limits.connection_limits.move(self, self._peer_address)
        super().on_response_complete()
        if self._waiting_bytes:
            self._wait_no_longer()
        if self._unparsed and len(self.pipeline) <= PIPELINED_MAX and not self.transport.is_closing():
            self._parse(b"")

    def _waits(self, size: int) -> None:
        """More of the newest request that waits for the answer to one before; all together have a limit."""
        limits = self._limits
        self._waiting_bytes[-1] += size
        limits.waiting_bytes += size
        if limits.waiting_bytes > WAITING_BYTES_MAX:
            limits.closed_connections.count("too many requests in a row")
            self._verdict = OVERLOADED
            raise Unacceptable

    def _wait_no_longer(self) -> None:
        """Gives back what was taken by requests that have begun or were given up."""
        while len(self._waiting_bytes) > len(self.pipeline):
            self._limits.waiting_bytes -= self._waiting_bytes.popleft()

    def idleness(self) -> tuple[int, float] | None:
        """The kind of this connection's idleness, and since when it is so; None while a request is under way."""
        if self.flow.write_paused:
            return UNREAD, self._limits.unsent.since(self.transport)
        if self.transport.is_closing():
            return None
        if self.timeout_keep_alive_task is not None:
            return IDLE, max(self._active_at, self.timeout_keep_alive_task.when() - self.timeout_keep_alive)
        if self._timer is not None and not self._is_behind():
            return UNASKED, self._timer.when() - self._seconds_max
        return None

    def give_way(self) -> None:
        """Closes the connection; an answer that is not read is given up."""
        if self.flow.write_paused:
            self.transport.abort()
        else:
            self.send_unsent()
            self.transport.close()

    def eof_received(self) -> None:
        self.send_unsent()
        super().eof_received()

    def shutdown(self) -> None:
        """The server stops: what is asked is answered, and the connection ends with the last answer.

        One on which nothing is under way stays open for `http.shutdown_idle_timeout`: a request may be on its way.
        """
        self.send_unsent()
        if self.cycle is not None and not self.cycle.response_complete:
            self._answer_last(self.cycle)
        self.loop.call_later(self._limits.shutdown_idle_timeout, self._end_idle)

    def _answer_last(self, cycle: RequestResponseCycle) -> None:
        """Ends the connection with this answer, and not with the one before it of which that was said."""
        if cycle.keep_alive:
            if self._last is not None and not self._last.response_started:
                self._last.keep_alive = True
            cycle.keep_alive = False
            self._last = cycle

    def _end_idle(self) -> None:
        """Ends the connection once nothing is under way on it."""
        if self.transport.is_closing():
            return
        self.send_unsent()
        if not self._is_between() or self.transport.get_write_buffer_size() or self._has_unread():
            self.loop.call_later(IDLE_AGAIN, self._end_idle)
            return
        self._pay_refusal()
        self._request_is_here()
        self._unset_keepalive_if_required()
        self.transport.write_eof()
        self.transport.set_protocol(_Ended(self))
        self.loop.call_later(LINGER, self.transport.close)

    def _has_unread(self) -> bool:
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def data_received(self, data: bytes) -> None:
        if self._unsent is not None:
            self.send_unsent()  # answers keep the order of their requests
        if self.transport.is_closing():
            return
        refusals = self._refusals
        if refusals is None or self._is_surplus:
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
        self._begun, self._payload, self._moved = 0, 0, False
        self._feed(data)
        if self._in_message or (self.timeout_keep_alive_task is None and self._is_between()):
            self._await_request()
        if not self._moved and not self.transport.is_closing():
            # A line without an end, a trailer or a chunk's extension never reaches the callbacks below.
            self._loose_bytes = max(0, self._loose_bytes + len(data) - FRAMING_BYTES * self._payload)
            if self._loose_bytes > self._head_bytes_max:
                self._refuse(*HEADERS_TOO_LARGE)

    def _feed(self, data: bytes) -> None:
        """What uvicorn does, but that nothing is logged for each, and that no other protocol is ever spoken.

        After a head that offers one, llhttp leaves the body to that protocol. The offer is ignored, as RFC 9110 allows:
        the same head is parsed again without it, so that the body is framed and never read as a request.
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
                    pieces.appendleft(self._head_without_offer())
                    self.parser = type(self.parser)(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's is
        except httptools.HttpParserError:
            pieces.clear()
            self.send_400_response("")
        self._flow.has_unparsed = bool(pieces)
        if pieces:
            self.flow.pause_reading()

    def _head_without_offer(self) -> bytes:
        fields = b"".join(b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        version = self.parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, fields)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun += 1
        self._in_message = self._moved = True
        self._is_chunked = False
        extensions: dict[str, Any] = {WHOLE_RESPONSE: {"send": self._answer_whole}, ON_DISCONNECT: [], SLOTS: []}
        self.scope["extensions"] = extensions

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer, which is never a header
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._head_bytes_max:
            self._count(0)
        name = name.lower()
        if name in _OWN_HEADERS:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            elif name == b"content-length":
                if len(value.strip()) > LENGTH_DIGITS_MAX:
                    self._reject("Content-Length is too long.")
            elif self._is_chunked or value.strip().lower() != b"chunked":
                self._reject("Transfer-Encoding can only be chunked.")
            else:
                self._is_chunked = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._moved = True
        head_bytes, self._head_bytes, self._loose_bytes = self._head_bytes, 0, 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._reject("This is no proxy.")
            self._is_offer = True
            return
        self._check_start_line()
        if self._is_surplus or (self._peer_address is None and self.client is not None):
            self._find_room()
        if self._refusals is not None and not self._is_surplus and (self.cycle is None or self.cycle.response_complete):
            self._refusing = self._refusals.are_due(self.headers)
            if self._refusing is not None and self.parser.get_method() == b"HEAD":
                self._refusing = None  # its refusal has no body, as uvicorn sends it
            if self._refusing is not None:
                self._in_head = False
                return  # so there is no cycle for it
        super().on_headers_complete()
        self._in_head = False
        self._has_begun(head_bytes)

    def _has_begun(self, head_bytes: int) -> None:
        """A request is under way, or waits for the answer to one before."""
        if self._is_surplus:
            self.cycle.keep_alive = False
        if self._limits.is_stopping:
            self._answer_last(self.cycle)
        if self.pipeline:
            self._waiting_bytes.append(0)
            self._waits(WAITING_BYTES + head_bytes)
            if len(self.pipeline) <= PIPELINED_MAX:
                self.flow.resume_reading()  # else nobody would notice that the caller leaves

    def _check_start_line(self) -> None:
        version = self.parser.get_http_version()
        if version != "1.1" and (version != "1.0" or self._is_chunked):
            self._reject("This is not HTTP/1.1." if version != "1.0" else "HTTP/1.0 has no Transfer-Encoding.")
        if not self.url.startswith(b"/"):
            self._take_absolute_form(version)

    def _take_absolute_form(self, version: str) -> None:
        """A target with a host of its own names the same host as `Host`; what follows it is the path."""
        target = _ABSOLUTE.fullmatch(self.url)
        wanted = host_and_port(target["authority"]) if target is not None else None
        if target is None or wanted is None:
            self._reject("The request's target is neither a path nor an address.")
        port = _PORTS[target["scheme"].lower()]
        given = [value for name, value in self.headers if name == b"host"]
        for value in given:
            host = host_and_port(value)
            if host is None or (host[0], host[1] or port) != (wanted[0], wanted[1] or port):
                self._reject("The request's target and its Host header name different hosts.")
        if not given and version == "1.0":
            self.headers.append((b"host", target["authority"]))
        self.url = target["rest"] if target["rest"].startswith(b"/") else b"/" + target["rest"]

    def _find_room(self) -> None:
        """Refuses what a connection beyond the limit asks for, or a proxy for a client with too many, but health."""
        if self.url.startswith(HEALTH):
            return
        connections = self._limits.connection_limits
        forwarded = [value for name, value in self.headers if name == b"x-forwarded-for"]
        if self._is_surplus or (forwarded and not connections.move(self, connections.client_behind(forwarded))):
            self._verdict = OVERLOADED
            raise Unacceptable

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # Answers keep the order of their requests, also of those that came in one piece.
        if self._unsent is not None:
            self.send_unsent()
        if self._owes_refusal:
            self._pay_refusal()
        self._running = cycle
        if self.flow.write_paused:
            self._waits_for_gone = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Keeps what comes until it is whole or much: the application is not woken for each piece of it."""
        size = len(body)
        self._payload += size
        if self._refusing is not None or self.cycle.response_complete:
            return
        limits, cycle = self._limits, self.cycle
        self._body_bytes += size
        limits.arriving_bytes += size
        if limits.arriving_bytes > limits.arriving_bytes_max and self._body_bytes > BODY_BYTES_ALWAYS:
            self._verdict = OVERLOADED
            raise Unacceptable
        if self.pipeline:
            self._waits(size)
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._moved, self._loose_bytes = True, 0
        self._in_head, self._in_message = True, False
        if self._is_offer:
            self._is_offer = False
            return  # it comes again
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
        return not self._in_message and not self._loose_bytes and (self.cycle is None or self.cycle.response_complete)

    def _owe_refusal(self, refusals: Refusals) -> None:
        """Refuses what came, now or in turn."""
        refusals.count()
        self._active_at = now = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._keep_alive_for(self.timeout_keep_alive)
        if self._timer is not None:
            self._request_is_here()
        if refusals.pace.at_once(now):
            self._write_refusal(refusals)
        else:
            self._owes_refusal = True
            refusals.pace.in_turn(self._pay_refusal, self.loop)

    def _pay_refusal(self) -> None:
        if self._owes_refusal:
            self._owes_refusal = False
            assert self._refusals is not None
            if not self.transport.is_closing():
                self._write_refusal(self._refusals)

    def _write_refusal(self, refusals: Refusals) -> None:
        self.transport.write(refusals.whole)
        if self.flow.write_paused:
            self._hold_unsent()

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

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._head_bytes_max:
            self._verdict = HEADERS_TOO_LARGE
            raise Unacceptable

    def _reject(self, message: str) -> NoReturn:
        self._verdict = (400, "BAD_REQUEST", message)
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
        """Says what is wrong and closes; where another answer is due first, or this one has begun, only closes."""
        self._pay_refusal()
        if self.transport.is_closing():
            return
        self._limits.refused.count(code, self.loop)
        is_answered = not self._in_head and self._refusing is None and self.cycle.response_started
        if not is_answered and not self._is_behind():
            self.transport.write(_whole_refusal(status, code, message))
        self.transport.close()


class _Ended(asyncio.Protocol):
    """A connection that has been ended from this side: what still comes is dropped, so that nothing is reset."""

    def __init__(self, before: BoundedProtocol) -> None:
        self._before = before

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)


@lru_cache
def _whole_refusal(status: int, code: str, message: str) -> bytes:
    again = status == OVERLOADED[0]
    told = Overloaded().extensions() if again else NOT_RETRYABLE
    body = error_body(code, message, told)
    fields = [*SECURITY_HEADERS, (b"connection", b"close")]
    if again:
        fields.append((b"retry-after", str(Overloaded.retry_after).encode()))
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode("ascii") + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body
