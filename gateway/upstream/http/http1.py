"""The builtin transport: HTTP/1.1 with httptools' parser, for a fraction of the CPU time of httpx.

`Http1` queues calls fairly by principal and gives each free connection the next one; a `Connection` makes one call at a
time. A call that is cancelled in progress closes its connection, which no other call uses. Nothing is pipelined;
redirects, cookies, proxies and authentication are not supported. Nothing is retried but a call whose kept connection
ends before a byte of the response arrived: it is sent once more, over a new connection (RFC 9112, 9.3.1).

HTTP/1.1 does not say which request a response belongs to. To keep a response from another call, and above all from
another principal, a connection takes its next call only after `SILENCE` seconds without a byte, and is polled just
before the request is sent. The next call is sent at once only if it is the same principal's and its response can be
matched to it. After an unsolicited response, each call has a connection of its own for a while.
"""

from __future__ import annotations

import asyncio
import io
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import aiohappyeyeballs
import httpx

from gateway.concurrency.fair_queue import FairQueue
from gateway.concurrency.loop_tick import TickBatch
from gateway.errors import UpstreamInvalidResponse
from gateway.settings import UpstreamSettings
from gateway.telemetry.logs import get_logger
from gateway.upstream.http.inflate import Fields
from gateway.upstream.http.network import tls_context
from gateway.upstream.http.response_head import PARSER_ERRORS, is_malformed, parser_for, strict_form

log = get_logger("gateway.upstream")

# Bytes of a response without body bytes: its head with interim responses, its trailers, and the framing of the body.
HEAD_BYTES_MAX = 64 * 1024
# Header fields of a response.
FIELDS_MAX = 256
# Chunks of a body before they are joined, and chunks in one read after which other callbacks run first.
CHUNKS_MAX = 64
CHUNKS_PER_ITERATION = 1024
# Seconds without a byte before a connection takes a call that could be given a late response to another.
SILENCE = 0.005
# Seconds for which no connection takes a second call after an unsolicited response.
DISTRUST = 60.0
# Servers send a 408 before they close an idle connection. It is no response to another call.
TIMEOUT_STATUS = b" 408 "
# Seconds before a host's next address is tried concurrently.
HAPPY_EYEBALLS_DELAY = 0.25
VERSIONS = ("1.1", "1.0")
FRAMED = frozenset((b"content-length", b"transfer-encoding"))
INVALID_REQUEST = "The request contains characters that are not allowed."
TOO_LATE = "The request could not be sent in time."
UNSENT = "The connection ended before the request was sent."
INTERIM, OK = 100, 200
RawResponse = tuple[int, Fields, bytes]
# Decodes a response as it arrives; raises the gateway's errors.
Decoder = Callable[[RawResponse], Any]


class PoolLoad(NamedTuple):
    """Connections by what they do, and calls that wait for one."""

    idle: int
    busy: int
    connecting: int
    queued: int


class Call(Protocol):
    """A call that is completed as a future would be; times are in seconds of the event loop's clock.

    `connection` is set while the call is in progress. The call waits for one until `queued_until`, in the queue of its
    `tenant`, which is its principal. `reuse_key` is the tenant if a 200 can be matched to the call, else it is empty.
    `seconds` replaces the settings' time limits for the response, unless it is 0. Nothing is sent after `send_until`,
    unless that is None.
    """

    seconds: float
    send_until: float | None

    tenant: str
    reuse_key: str
    connection: Connection | None
    ends: float
    queued_until: float
    head: bytes

    def done(self) -> bool:
        """Whether the outcome is no longer needed."""

    def set_result(self, raw: RawResponse) -> bool:
        """Takes the response, even if the call is done; false if it can't be the response to this call."""

    def set_exception(self, failure: Exception) -> None:
        """Takes a failure in place of a response."""

    def may_resend(self) -> bool:
        """Whether the request may be sent once more; if so, that is counted."""


class _AwaitedCall:
    """A call that completes a future."""

    __slots__ = (
        "connection",
        "decode",
        "ends",
        "future",
        "head",
        "may_resend",
        "queued_until",
        "reuse_key",
        "seconds",
        "send_until",
        "tenant",
    )

    def __init__(
        self,
        future: asyncio.Future[Any],
        head: bytes,
        tenant: str,
        decode: Decoder | None,
        may_resend: Callable[[], bool],
        *,
        is_checked: bool,
        seconds: float,
        send_until: float | None,
    ) -> None:
        self.seconds, self.send_until = seconds, send_until
        self.tenant = tenant
        self.future = future
        self.head = head
        self.decode = decode
        self.may_resend = may_resend
        self.reuse_key = tenant if is_checked else ""
        self.connection: Connection | None = None
        self.ends = self.queued_until = 0.0

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, raw: RawResponse) -> bool:
        if self.future.done():
            return True
        try:
            self.future.set_result(raw if self.decode is None else self.decode(raw))
        except Exception as failure:  # noqa: BLE001 - the waiter handles it
            self.future.set_exception(failure)
            return not is_foreign(failure, raw)
        return True

    def set_exception(self, failure: Exception) -> None:
        self.future.set_exception(failure)


class Http1:
    """A pool of connections to one origin, which returns complete responses within the bounds of the settings.

    Raises httpx's errors. A response that is too large is cut one byte after its bound.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings
        url = httpx.URL(settings.url)
        self._host, self._port = url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
        self._path = url.raw_path.decode("ascii").rstrip("/")
        self._rest = f" HTTP/1.1\r\nHost: {url.netloc.decode('ascii')}\r\n"
        self._tls = tls_context(settings) if url.scheme == "https" else None
        self._pool_timeout = min(settings.pool_timeout, settings.total_timeout)
        self._total_timeout = settings.total_timeout
        # Cached, because in Python 3.11 getting the loop costs a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        # The longest idle one first, because a late response to it has had the most time to arrive.
        self._idle: dict[Connection, None] = {}
        self._connections: set[Connection] = set()
        # Tasks that open connections: for calls in the queue, and for one call that is sent once more.
        self._connecting: set[asyncio.Task[None]] = set()
        self._resending: set[asyncio.Task[None]] = set()
        self._queue: FairQueue[Call] = FairQueue(_is_done)
        # The requests of an event-loop iteration are sent together: the first one wakes the fleet API's machine.
        self.requests: TickBatch[Connection] = TickBatch(_send_all)
        self._queue_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self.distrusted_until = 0.0
        self._closed = False

    def load(self) -> PoolLoad:
        """The connections and queued calls."""
        opening = len(self._connecting) + len(self._resending)
        return PoolLoad(len(self._idle), len(self._connections) - len(self._idle), opening, len(self._queue))

    def prepared(self, fields: Mapping[str, str]) -> bytes:
        """Header fields rendered for `request`, once for many calls."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        _check(lines, len(fields))
        return f"{self._rest}{lines}\r\n".encode("ascii")

    def request(self, method: str, target: str, prepared: bytes, body: bytes = b"") -> bytes:
        """A complete request to an ASCII target, with prepared header fields."""
        if not target.isascii() or not target.isprintable() or " " in target:
            raise httpx.LocalProtocolError(INVALID_REQUEST)
        head = f"{method} {self._path}{target}".encode() + prepared
        if method == "GET":
            return head
        return b"%bContent-Length: %d\r\n\r\n%b" % (head[:-2], len(body), body)

    def begin(self, call: Call) -> None:
        """Sends a call's `head`, and completes the call in the event-loop iteration in which the response arrives.

        To abandon the call, close its `connection`.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        now = loop.time()
        call.ends = now + (call.seconds or self._total_timeout)
        if self._idle and not self._queue and (connection := self._idle_for(call, now)) is not None:
            del self._idle[connection]
            connection.start(call, now)
        else:
            self._wait_for_connection(call, loop, now)

    async def fetch_raw(
        self,
        head: bytes,
        tenant: str = "",
        decode: Decoder | None = None,
        may_resend: Callable[[], bool] = bool,  # false
        *,
        is_checked: bool = False,
        seconds: float = 0.0,
        send_until: float | None = None,
    ) -> Any:
        """A response's status, header fields and body, or the result of `decode`, without httpx's objects.

        The call waits in the queue of `tenant`. `may_resend` says whether the request may be sent once more.
        `is_checked` says that `decode` rejects a 200 that belongs to another call. `seconds` and `send_until` are those
        of a `Call`.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = _AwaitedCall(
            future, head, tenant, decode, may_resend, is_checked=is_checked, seconds=seconds, send_until=send_until
        )
        self.begin(call)
        try:
            return await future
        finally:
            # Cancelled before the response arrived; no other call may get that.
            if call.connection is not None:
                call.connection.close()

    async def aclose(self) -> None:
        """Closes every connection; calls in progress fail."""
        self._closed = True
        for timer in (self._queue_timer, self._silence_timer):
            if timer is not None:
                timer.cancel()
        while (popped := self._queue.pop()) is not None:
            _fail(popped[1], httpx.ConnectError("The transport is closed."))
        connecting = self._connecting | self._resending
        for task in connecting:
            task.cancel()
        lost = [connection.lost for connection in self._connections]
        for connection in list(self._connections):
            connection.fail(httpx.ReadError("The transport is closed."))
        if connecting or lost:
            await asyncio.wait([*connecting, *lost], timeout=1)

    def free(self, connection: Connection, now: float) -> None:
        """Gives a free connection the next call, or makes it idle."""
        call = self._queue.peek() if self._queue else None
        if call is not None and (connection.reusable_by == call.reuse_key or connection.silent_at <= now):
            self._queue.pop()
            connection.start(call, now)
        elif self._closed:
            connection.close()
        else:
            self._idle[connection] = None
            if self._queue:
                self._serve(now)

    def put_back(self, call: Call) -> None:
        """Queues a call whose request was not sent as the next of its tenant."""
        call.connection = None
        if call.done():
            return
        if self._closed:
            _fail(call, httpx.ConnectError("The transport is closed."))
        else:
            loop = asyncio.get_running_loop()
            self._wait_for_connection(call, loop, loop.time(), first=True)

    def resend(self, call: Call) -> None:
        """Sends a call's request once more, over a connection of its own: other kept ones may have ended, too."""
        call.connection = None

        def connected(connecting: asyncio.Task[None]) -> None:
            self._resending.discard(connecting)
            if connecting.cancelled():
                _fail(call, httpx.ConnectError("The transport is closed."))
            self._connect_as_needed()

        connecting = asyncio.get_running_loop().create_task(self._connect(call))
        self._resending.add(connecting)
        connecting.add_done_callback(connected)

    def distrust(self) -> None:
        """Stops reusing connections for a while after an unsolicited response: the next one may be another call's."""
        self.distrusted_until = prolonged_distrust(self.distrusted_until, asyncio.get_running_loop().time())
        for connection in list(self._idle):
            if connection.has_served:
                connection.close()

    def _idle_for(self, call: Call, now: float) -> Connection | None:
        """The idle connection for a call: its tenant's newest if responses can be matched, else the oldest silent one.

        The newest is the cheapest: to rotate among connections costs a sixth of a call.
        """
        if call.reuse_key:
            for connection in reversed(self._idle):
                if connection.reusable_by == call.reuse_key:
                    return connection
                if connection.silent_at <= now:
                    break
        oldest = next(iter(self._idle))
        return oldest if oldest.silent_at <= now else None

    def _serve(self, now: float) -> None:
        """Gives queued calls the connections that they may use; runs again when the next one has been silent."""
        while self._idle and (call := self._queue.peek()) is not None:
            connection = self._idle_for(call, now)
            if connection is None:
                if self._silence_timer is None:
                    silent_at = next(iter(self._idle)).silent_at
                    self._silence_timer = asyncio.get_running_loop().call_at(silent_at, self._after_silence)
                return
            self._queue.pop()
            del self._idle[connection]
            connection.start(call, now)

    def _after_silence(self) -> None:
        self._silence_timer = None
        # The event loop may call this early by up to its clock's resolution.
        self._serve(asyncio.get_running_loop().time() + 0.001)

    def connection_closed(self, connection: Connection) -> None:
        """Forgets a closed connection, and opens others if calls wait for one."""
        self._idle.pop(connection, None)
        self._connections.discard(connection)
        self._connect_as_needed()

    def _wait_for_connection(
        self, call: Call, loop: asyncio.AbstractEventLoop, now: float, *, first: bool = False
    ) -> None:
        if self._closed:
            raise httpx.ConnectError("The transport is closed.")
        call.queued_until = call.ends - (call.seconds or self._total_timeout) + self._pool_timeout
        if call.send_until is not None:
            call.queued_until = min(call.queued_until, call.send_until)
        self._queue.push(call.tenant, call, first=first)
        self._serve(now)
        if self._queue:
            if self._queue_timer is None:
                self._queue_timer = loop.call_at(call.queued_until, self._expire_queued)
            self._connect_as_needed()

    def _expire_queued(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._queue_timer = None
        for call in self._queue.expire(lambda call: call.queued_until <= now):
            _fail(call, httpx.PoolTimeout("No connection became free."))
        next_expiry = min((call.queued_until for call in self._queue.heads()), default=None)
        if next_expiry is not None and self._queue_timer is None:
            self._queue_timer = loop.call_at(next_expiry, self._expire_queued)

    def _connect_as_needed(self) -> None:
        if self._closed:
            return
        opening = len(self._connecting) + len(self._resending)
        room = self.settings.connections_max - len(self._connections) - opening
        if room > 0 and self._queue and len(self._connecting) < len(self._queue):
            waiting = sum(not call.done() for call in self._queue)
            for _ in range(min(room, waiting - len(self._connecting))):
                connecting = asyncio.get_running_loop().create_task(self._connect())
                self._connecting.add(connecting)
                connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        self._connecting.discard(connecting)
        self._connect_as_needed()

    async def _connect(self, call: Call | None = None) -> None:
        """Opens a connection for a call, by default the next one in the queue; the call fails if this fails."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.connect_timeout
        try:
            async with asyncio.timeout_at(until if call is None else min(until, call.ends)):
                addresses = await loop.getaddrinfo(self._host, self._port, type=1)
                sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY)
                try:
                    _, connection = await loop.create_connection(
                        lambda: Connection(self, loop, sock),
                        sock=sock,
                        ssl=self._tls,
                        server_hostname=self._host if self._tls else None,
                    )
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError:
            self._fail_next(httpx.ConnectTimeout("No connection in time."), call)
        except Exception as failed:  # noqa: BLE001 - any failure has to reach a call
            self._fail_next(_caused(httpx.ConnectError("No connection."), failed), call)
        else:
            if not connection.closed:
                self._connections.add(connection)
                now = connection.silent_at = loop.time()
                if call is None or call.done():
                    self.free(connection, now)
                    connection.is_kept = connection in self._idle
                else:
                    connection.start(call, now)
            else:
                self._fail_next(httpx.RemoteProtocolError(UNSENT), call)

    def _fail_next(self, failure: httpx.TransportError, call: Call | None) -> None:
        popped = self._queue.pop() if call is None else ("", call)
        if popped is not None:
            _fail(popped[1], failure)


def _is_done(call: Call) -> bool:
    return call.done()


def _send_all(connections: list[Connection]) -> None:
    for connection in connections:
        connection.send()


def _fail(call: Call, failure: httpx.RequestError) -> None:
    if not call.done():
        call.set_exception(failure)


def _caused(failure: httpx.TransportError, cause: Exception) -> httpx.TransportError:
    failure.__cause__ = cause
    return failure


def is_foreign(failure: Exception, raw: RawResponse) -> bool:
    """Whether a response may belong to another call, because it is invalid for this one."""
    return raw[0] == OK and isinstance(failure, UpstreamInvalidResponse)


def prolonged_distrust(until: float, now: float) -> float:
    """Until when connections are not reused after an unsolicited response at `now`; logs the first such response."""
    if now >= until:
        log.warning("upstream sent an unsolicited response", connection_per_call_seconds=DISTRUST)
    return now + DISTRUST


def _check(head: str, breaks: int) -> None:
    # A line break in a field would start another header, or another request.
    if head.count("\n") != breaks or head.count("\r") != breaks or not head.isascii():
        raise httpx.LocalProtocolError(INVALID_REQUEST)


class Connection(asyncio.Protocol):
    """One connection: idle, or with one call in progress."""

    def __init__(self, pool: Http1, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._pool = pool
        self.loop = loop
        self._time = loop.time
        settings = pool.settings
        self._read_timeout = settings.read_timeout
        self._first_timeout = min(settings.read_timeout, settings.write_timeout)
        # One repeating timer checks all timeouts, so that a call needs none of its own.
        self._expiry = settings.keepalive_expiry
        self._check_interval = max(0.05, min(self._first_timeout, settings.total_timeout, self._expiry))
        self._bytes_max = settings.response_bytes_max
        self._keeps_alive = self._expiry > 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        # Chunks that were joined, if there were many.
        self._buffer = io.BytesIO()
        self.on_header, self.on_body = self._headers.__setitem__, self._chunks.append
        # The bytes of an incomplete head.
        self._head = bytearray()
        self._is_head_rewritten = False
        self._begin_parsing()
        self._call: Call | None = None
        self._is_sent = self._head_is_whole = False
        self._started_at = self._due = self._next_check = self._response_timeout = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False
        # Whether it has made a call, and whether it has or was idle.
        self.has_served = self.is_kept = False
        # When it may take any call, and which tenant's calls it may take before.
        self.silent_at = 0.0
        self.reusable_by: str | None = None
        self.lost: asyncio.Future[None] = loop.create_future()

    def start(self, call: Call, now: float) -> None:
        """Starts a call; the response or a failure completes it."""
        self._call = call
        call.connection = self
        self._head_is_whole = self._is_whole = self._is_reusable = self._is_sent = False
        self._received = 0
        self._started_at = now
        self._response_timeout = call.seconds or self._read_timeout
        self._due = min(now + self._first_timeout, call.ends)
        self._pool.requests.add(self, self.loop)

    def send(self) -> None:
        """Sends the request of its call, unless bytes have arrived that would be taken for the response."""
        call = self._call
        if call is None:
            return  # it has been closed
        transport = self._transport
        if transport.is_closing():  # uvloop has not reported it yet
            self._close_unsent()
            return
        if call.reuse_key != self.reusable_by and self._poll.poll(0):
            # It may be only a TLS record. The event loop reads it before this is tried again.
            self._pool.requests.add(self, self.loop)
            return
        if call.send_until is not None and self._time() >= call.send_until:
            self.fail(httpx.PoolTimeout(TOO_LATE))
            return
        transport.write(call.head)
        self._is_sent = True
        if self._due < self._next_check:
            self._check_at(self._due)

    def close(self) -> None:
        """Closes it at once; the caller has to complete a call in progress."""
        if not self.closed:
            self.closed = True
            self._call = None
            if self._timer is not None:
                self._timer.cancel()
            self._transport.abort()
            self._pool.connection_closed(self)

    def fail(self, failure: httpx.RequestError) -> None:
        """Closes it, and fails the call in progress."""
        if self._call is not None:
            self._call.connection = None
            _fail(self._call, failure)
        self.close()

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._due = self._time() + self._expiry
        self._check_at(self._time() + self._check_interval)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None or not self._is_sent:
            if data.strip(b"\r\n") and data[8:13] != TIMEOUT_STATUS:
                self._pool.distrust()
            self._close_unsent()
            return
        try:
            self._feed(data)
        except PARSER_ERRORS as rejected:
            self._on_rejected(data, rejected)
        if self._is_whole and self._call is call:
            if self._transport.get_write_buffer_size():
                self.fail(httpx.DecodingError("The response arrived before the request was sent."))
            else:
                self._complete(call)
        elif self._call is call:
            self._on_partial(call, data)

    def eof_received(self) -> None:
        self._on_end(None)

    def connection_lost(self, failure: Exception | None) -> None:
        self._on_end(failure)
        if not self.lost.done():
            self.lost.set_result(None)

    # Callbacks of the parser; `on_header` sets a field in `_headers`, and `on_body` appends a chunk to `_chunks`.

    def on_message_begin(self) -> None:
        # It must not become the response to the next call, which may be another caller's.
        if self._is_whole:
            raise httpx.DecodingError("More than one response to one request.")
        self._headers.clear()

    def on_headers_complete(self) -> None:
        if len(self._headers) > FIELDS_MAX:
            raise httpx.DecodingError("The response has too many headers.")
        status = self._status = self._parser.get_status_code()
        if status >= OK:  # a lower status is followed by the final response
            self._is_reusable = (self._keeps_alive and self._parser.should_keep_alive()) or self._checked()
            self._head_is_whole = True
            self._fields = self._headers.copy()  # without trailers
        elif status < INTERIM:
            raise httpx.DecodingError("The response has an invalid status.")

    def on_message_complete(self) -> None:
        if self._head_is_whole:
            self._is_whole = True

    def _checked(self) -> bool:
        """Checks a head whose connection is not reusable, and so returns false.

        Such is each whose version or transfer coding the parser accepts without reading it.
        """
        if self._parser.get_http_version() not in VERSIONS:
            raise httpx.DecodingError("The response has another version of HTTP.")
        for name, value in self._headers.items():
            if name.lower() == b"transfer-encoding" and value.rpartition(b",")[2].strip().lower() != b"chunked":
                raise httpx.DecodingError("The response has an unknown transfer coding.")
        return False

    def _begin_parsing(self) -> None:
        self._parser = parser_for(self)
        self._feed: Callable[[bytes], None] = self._parser.feed_data

    def _on_rejected(self, data: bytes, rejected: Exception) -> None:
        """Parses a head again in its strict form. Fails the call if that is rejected, too, or if the head was not."""
        if not (self._head_is_whole or self._is_head_rewritten):
            # What another server could read differently ends with this response.
            self._is_head_rewritten, self._keeps_alive, self._feed = True, False, self._feed_rewritten
            begun = bytes(self._head) if self._received else b""
            self._head = bytearray()
            try:
                self._feed(begun + data)
            except PARSER_ERRORS as again:
                rejected = again
            else:
                return
        if self._is_whole:
            self._pool.distrust()
        self.fail(httpx.DecodingError(type(rejected).__name__))

    def _keep_head(self, data: bytes) -> None:
        if not self._received:
            self._head.clear()
        self._head += data

    def _feed_rewritten(self, data: bytes) -> None:
        strict = strict_form(self._head, data)
        if strict is not None:
            self._begin_parsing()
            self._feed(strict)

    def _on_partial(self, call: Call, data: bytes) -> None:
        """Checks the bounds of an incomplete response after some bytes have arrived; all bytes count."""
        size = len(data)
        if not self._received:
            self._overhead = self._chunk_count = 0
        if not (self._head_is_whole or self._is_head_rewritten):
            self._keep_head(data)
        self._received += size
        self._due = min(self._time() + self._read_timeout, call.ends)
        chunk_count = len(self._chunks)
        if chunk_count == self._chunk_count:
            self._overhead += size
        else:
            self._overhead = 0
        if chunk_count > CHUNKS_MAX:
            self._buffer.write(b"".join(self._chunks))
            self._chunks.clear()
            if chunk_count > CHUNKS_PER_ITERATION:
                self._transport.pause_reading()
                self.loop.call_soon(self._resume_reading)
        self._chunk_count = len(self._chunks)
        if self._overhead > HEAD_BYTES_MAX or (not self._head_is_whole and self._received > HEAD_BYTES_MAX):
            self.fail(httpx.DecodingError("The response's headers are too large."))
        elif self._received > self._bytes_max:
            if self._buffer.tell() + sum(map(len, self._chunks)) > self._bytes_max:
                self._is_reusable = False  # more would follow
                self._complete(call)
            elif self._received > self._bytes_max + HEAD_BYTES_MAX:
                self.fail(httpx.DecodingError("The response is too large."))

    def _resume_reading(self) -> None:
        if not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()

    def _complete(self, call: Call) -> None:
        """Completes the call with the response, cut at its bound, and returns the connection to the pool."""
        self._call = call.connection = None
        chunks = self._chunks
        if self._received and self._buffer.tell():
            self._buffer.writelines(chunks)
            body, self._buffer = self._buffer.getvalue(), io.BytesIO()
            chunks.clear()
        elif len(chunks) == 1:
            body = chunks.pop()
        else:
            body = b"".join(chunks)
            chunks.clear()
        matches = call.set_result((self._status, self._fields, body))
        now = self._time()
        if matches and self._is_reusable and now >= self._pool.distrusted_until:
            self.has_served = self.is_kept = True
            self.silent_at = now + SILENCE
            self.reusable_by = (call.reuse_key or None) if self._status == OK else None
            self._due = now + self._expiry
            self._pool.free(self, now)
        else:
            self.close()

    def _on_end(self, failure: Exception | None) -> None:
        call = self._call
        if call is None or not self._is_sent:
            self._close_unsent()
        elif failure is None and self._head_is_whole and FRAMED.isdisjoint(map(bytes.lower, self._fields)):
            self._complete(call)  # the server ends the body by closing the connection
        elif self.is_kept and not self._received and call.may_resend():
            self._pool.resend(call)
            self._call = None
            self.close()
        elif failure is None:
            self._fail_unfinished(httpx.RemoteProtocolError("The connection ended before the response did."))
        else:
            self._fail_unfinished(_caused(httpx.ReadError("The connection was lost."), failure))

    def _fail_unfinished(self, failure: httpx.TransportError) -> None:
        """Fails the call whose response is incomplete, as invalid if no further bytes could have completed it."""
        if self._received and not self._head_is_whole and is_malformed(self._head):
            self.fail(httpx.DecodingError("The response's head is malformed."))
        else:
            self.fail(failure)

    def _close_unsent(self) -> None:
        """Closes it; a call that was not sent gets another connection, unless this one was new."""
        call = self._call
        if call is not None and not self.is_kept:
            self.fail(httpx.RemoteProtocolError(UNSENT))
            return
        self.close()
        if call is not None:
            self._pool.put_back(call)

    def _check_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_check = time
        self._timer = self.loop.call_at(time, self._check_timeouts)

    def _check_timeouts(self) -> None:
        now, call = self._time(), self._call
        if (
            now >= self._due
            and call is not None
            and self._due < min(self._started_at + self._response_timeout, call.ends)
        ):
            # Nothing has arrived yet. If the request was sent, the read timeout applies.
            if self._transport.get_write_buffer_size():
                self.fail(httpx.WriteTimeout("The request could not be sent in time."))
                return
            self._due = min(self._started_at + self._response_timeout, call.ends)
        if now >= self._due:
            self._fail_unfinished(httpx.ReadTimeout("No response in time."))
            return
        self._check_at(min(self._due, now + self._check_interval))
