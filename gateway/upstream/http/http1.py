"""The builtin transport: HTTP/1.1 with httptools' parser, for a fraction of what httpx costs.

`Http1` has calls wait in lines, one for each principal, and gives each free connection the next; `Connection` asks one
question at a time. A call that is cancelled while it is under way closes its connection, which nobody else was using.
Nothing is sent twice and nothing is pipelined; redirects, cookies, proxies and authentication are not known here.

HTTP/1.1 does not say which request an answer belongs to. So that none is given to another call, and above all to
another principal, a connection serves its next call only after it has been silent for `QUIET` seconds, and is looked at
just before the request is sent; the next call goes at once only where it is the same principal's and its answer shows
what it answers. After a server has sent what nobody asked for, each call has a connection of its own for a while.
"""

from __future__ import annotations

import asyncio
import io
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import aiohappyeyeballs
import httptools
import httpx

from gateway.concurrency.fair_queue import FairQueue
from gateway.concurrency.loop_tick import TickBatch
from gateway.errors import UpstreamInvalidResponse
from gateway.settings import UpstreamSettings
from gateway.telemetry import get_logger
from gateway.upstream.http.inflate import Fields
from gateway.upstream.http.network import tls_context

log = get_logger("gateway.upstream")

# Bytes of an answer that come without any of its body: its head with interim answers, then its trailers, and what the
# framing of the whole body may add to its bound.
HEAD_BYTES_MAX = 64 * 1024
# Header fields of an answer, by name.
FIELDS_MAX = 256
# Pieces of a body that are held apart, and after how many in one read others have their turn first.
PIECES_MAX = 64
PIECES_A_TURN = 1024
# Seconds without a byte before a connection serves a call that what came late could be taken for an answer to.
QUIET = 0.005
# Seconds for which no connection serves a second call, after one has received what nobody asked for.
DISTRUST = 60.0
# What servers send before they end an idle connection is no answer that could be another call's.
FAREWELL = b" 408 "
# Seconds before the next of a host's addresses is tried beside the one before.
NEXT_ADDRESS = 0.25
FRAMED = frozenset((b"content-length", b"transfer-encoding"))
ODD = "The request holds what no request may."
OK = 200
Parts = tuple[int, Fields, bytes]
# What an answer is made into where it arrives; raises our errors.
Decode = Callable[[Parts], Any]


class Call(Protocol):
    """A question that is told what comes of it, as a future would be; times in seconds of the loop's clock.

    `connection` is the one that it has, from when it is asked until it is answered. It waits in its `line` for one,
    which is its principal's. `at_once` is that, too, if an answer with status 200 shows whether it is this call's, else
    it is empty.
    """

    line: str
    at_once: str
    connection: Connection | None
    ends: float
    gives_up: float
    head: bytes

    def done(self) -> bool:
        """Whether nobody asks any more."""

    def set_result(self, parts: Parts) -> bool:
        """The answer is there; perhaps nobody asks any more. False where it can't be the answer to this call."""

    def set_exception(self, failure: Exception) -> None:
        """There will be none."""


class _Awaited:
    """A call whose answer somebody awaits."""

    __slots__ = ("at_once", "connection", "ends", "future", "gives_up", "head", "line", "made")

    def __init__(self, future: asyncio.Future[Any], head: bytes, line: str, made: Decode | None, checked: bool) -> None:  # noqa: FBT001
        self.line = line
        self.future = future
        self.head = head
        self.made = made
        self.at_once = line if checked else ""
        self.connection: Connection | None = None
        self.ends = self.gives_up = 0.0

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, parts: Parts) -> bool:
        if self.future.done():
            return True
        try:
            self.future.set_result(parts if self.made is None else self.made(parts))
        except Exception as failure:  # noqa: BLE001 - whoever awaits it sees to it
            self.future.set_exception(failure)
            return not is_foreign(failure, parts)
        return True

    def set_exception(self, failure: Exception) -> None:
        self.future.set_exception(failure)


class Http1:
    """A pool of connections to one origin; every answer is whole when it is given, within all bounds of the settings.

    Raises httpx's errors. Of an answer that is too large no more is read than shows it: a response is cut one byte
    after its bound.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings
        url = httpx.URL(settings.url)
        self._host, self._port = url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
        self._path = url.raw_path.decode("ascii").rstrip("/")
        self._rest = f" HTTP/1.1\r\nHost: {url.netloc.decode('ascii')}\r\n"
        self._tls = tls_context(settings) if url.scheme == "https" else None
        self._gives_up_after = min(settings.pool_timeout, settings.total_timeout)
        self._ends_after = settings.total_timeout
        # Asked for once: in Python 3.11 it costs a system call each time.
        self._loop: asyncio.AbstractEventLoop | None = None
        # The one that has been idle longest first: what comes late for it has had the most time to arrive.
        self._idle: dict[Connection, None] = {}
        self._connections: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._queue: FairQueue[Call] = FairQueue(_is_done)
        # The requests of an event-loop iteration are sent together: the first wakes the fleet API's machine.
        self.requests: TickBatch[Connection] = TickBatch(_send_all)
        self._clock: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.trusts_from = 0.0
        self._closed = False

    def prepared(self, fields: Mapping[str, str]) -> bytes:
        """Header fields as `request` takes them, made once for many calls."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        _check(lines, len(fields))
        return f"{self._rest}{lines}\r\n".encode("ascii")

    def request(self, method: str, target: str, prepared: bytes, body: bytes = b"") -> bytes:
        """The whole of a request to a target, which is of ASCII, with prepared header fields."""
        if not target.isascii() or not target.isprintable() or " " in target:
            raise httpx.LocalProtocolError(ODD)
        head = f"{method} {self._path}{target}".encode() + prepared
        if method == "GET":
            return head
        return b"%bContent-Length: %d\r\n\r\n%b" % (head[:-2], len(body), body)

    def begin(self, call: Call) -> None:
        """Sends a call's `head`; the call is told in the turn in which its answer comes.

        Who gives up closes its `connection`.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        now = loop.time()
        call.ends = now + self._ends_after
        if self._idle and not self._queue:
            newest = self._idle.popitem()[0]
            if newest.reusable_for == call.at_once:
                newest.ask(call, now)
                return
            self._idle[newest] = None
        self._wait_for_connection(call, loop, now)

    async def asked(self, head: bytes, line: str = "", made: Decode | None = None, *, checked: bool = False) -> Any:
        """Status, header fields and body of an answer as it came, past httpx's objects, or what is `made` of them.

        `line` says where to wait, `checked` whether `made` refuses another call's answer with status 200.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = _Awaited(future, head, line, made, checked)
        self.begin(call)
        try:
            return await future
        finally:
            # Left before its answer was there: what still comes of it is nobody's.
            if call.connection is not None:
                call.connection.close()

    async def aclose(self) -> None:
        """Closes every connection; calls under way fail."""
        self._closed = True
        for timer in (self._clock, self._silence):
            if timer is not None:
                timer.cancel()
        while (popped := self._queue.pop()) is not None:
            _fail(popped[1], httpx.ConnectError("The transport is closed."))
        for connecting in self._connecting:
            connecting.cancel()
        lost = [connection.lost for connection in self._connections]
        for connection in list(self._connections):
            connection.fail(httpx.ReadError("The transport is closed."))
        if self._connecting or lost:
            await asyncio.wait([*self._connecting, *lost], timeout=1)

    def free(self, connection: Connection, now: float) -> None:
        """A connection can take the next call."""
        call = self._queue.peek() if self._queue else None
        if call is not None and (connection.reusable_for == call.at_once or connection.silent_at <= now):
            self._queue.pop()
            connection.ask(call, now)
        elif self._closed:
            connection.close()
        else:
            self._idle[connection] = None
            if self._queue:
                self._serve(now)

    def put_back(self, call: Call) -> None:
        """A call whose request was not sent needs another connection; it is the next of its line."""
        call.connection = None
        if call.done():
            return
        if self._closed:
            _fail(call, httpx.ConnectError("The transport is closed."))
        else:
            loop = asyncio.get_running_loop()
            self._wait_for_connection(call, loop, loop.time(), first=True)

    def distrust(self) -> None:
        """The server has sent what nobody asked for, so the next answer may be another call's."""
        now = asyncio.get_running_loop().time()
        if now >= self.trusts_from:
            log.warning("upstream sent an answer that nobody asked for", connection_per_call_seconds=DISTRUST)
        self.trusts_from = now + DISTRUST
        for connection in list(self._idle):
            if connection.has_served:
                connection.close()

    def _idle_for(self, call: Call, now: float) -> Connection | None:
        """The idle connection that serves a call now: where it matters, the oldest of those that have been silent.

        A call whose answer shows that it is its own goes to those of its principal at once, and the newest is the
        cheapest: to take each in turn costs a sixth of the call.
        """
        if call.at_once:
            for connection in reversed(self._idle):
                if connection.reusable_for == call.at_once:
                    return connection
                if connection.silent_at <= now:
                    break
        oldest = next(iter(self._idle))
        return oldest if oldest.silent_at <= now else None

    def _serve(self, now: float) -> None:
        """Gives those whose turn it is the connections that they may have; looks again when one has been silent."""
        while self._idle and (call := self._queue.peek()) is not None:
            connection = self._idle_for(call, now)
            if connection is None:
                if self._silence is None:
                    silent_at = next(iter(self._idle)).silent_at
                    self._silence = asyncio.get_running_loop().call_at(silent_at, self._after_silence)
                return
            self._queue.pop()
            del self._idle[connection]
            connection.ask(call, now)

    def _after_silence(self) -> None:
        self._silence = None
        # The loop may be early by as much as its clock resolves.
        self._serve(asyncio.get_running_loop().time() + 0.001)

    def gone(self, connection: Connection) -> None:
        """A connection can take no further call; others may need one in its place."""
        self._idle.pop(connection, None)
        self._connections.discard(connection)
        self._connect_as_needed()

    def _wait_for_connection(
        self, call: Call, loop: asyncio.AbstractEventLoop, now: float, *, first: bool = False
    ) -> None:
        if self._closed:
            raise httpx.ConnectError("The transport is closed.")
        call.gives_up = call.ends - self._ends_after + self._gives_up_after
        self._queue.push(call.line, call, first=first)
        self._serve(now)
        if self._queue:
            if self._clock is None:
                self._clock = loop.call_at(call.gives_up, self._look_at_queue)
            self._connect_as_needed()

    def _look_at_queue(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._clock = None
        for call in self._queue.expire(lambda call: call.gives_up <= now):
            _fail(call, httpx.PoolTimeout("No connection became free."))
        next_look = min((call.gives_up for call in self._queue.heads()), default=None)
        if next_look is not None and self._clock is None:
            self._clock = loop.call_at(next_look, self._look_at_queue)

    def _connect_as_needed(self) -> None:
        if self._closed:
            return
        room = self.settings.connections_max - len(self._connections) - len(self._connecting)
        if room > 0 and self._queue and len(self._connecting) < len(self._queue):
            waiting = sum(not call.done() for call in self._queue)
            for _ in range(min(room, waiting - len(self._connecting))):
                connecting = asyncio.get_running_loop().create_task(self._connect())
                self._connecting.add(connecting)
                connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        self._connecting.discard(connecting)
        self._connect_as_needed()

    async def _connect(self) -> None:
        """Opens a connection and gives it the first call that waits; if it can't be opened, that call is told."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                addresses = await loop.getaddrinfo(self._host, self._port, type=1)
                sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS)
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
            self._tell_next(httpx.ConnectTimeout("No connection in time."))
        except Exception as failed:  # noqa: BLE001 - whatever it is, a call waits to be told
            self._tell_next(httpx.ConnectError(type(failed).__name__))
        else:
            if not connection.closed:
                self._connections.add(connection)
                now = connection.silent_at = loop.time()
                self.free(connection, now)

    def _tell_next(self, failure: httpx.TransportError) -> None:
        popped = self._queue.pop()
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


def is_foreign(failure: Exception, parts: Parts) -> bool:
    """Whether an answer may belong to another call, for it can't be read as this one's."""
    return parts[0] == OK and isinstance(failure, UpstreamInvalidResponse)


def _check(head: str, breaks: int) -> None:
    # Whatever holds a line break would be read as further headers, or as a further request.
    if head.count("\n") != breaks or head.count("\r") != breaks or not head.isascii():
        raise httpx.LocalProtocolError(ODD)


class Connection(asyncio.Protocol):
    """One connection: idle, or with one call under way."""

    def __init__(self, pool: Http1, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._pool = pool
        self.loop = loop
        self._time = loop.time
        settings = pool.settings
        self._read_timeout = settings.read_timeout
        self._first_timeout = min(settings.read_timeout, settings.write_timeout)
        # The timer goes on from look to look, so that a call need not have one of its own.
        self._expiry = settings.keepalive_expiry
        self._look_apart = max(0.05, min(self._first_timeout, settings.total_timeout, self._expiry))
        self._bytes_max = settings.response_bytes_max
        self._is_kept = self._expiry > 0
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        self._told: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        # What came before the chunks, where there were many.
        self._start = io.BytesIO()
        self.on_header, self.on_body = self._told.__setitem__, self._chunks.append
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._call: Call | None = None
        self._is_sent = False
        self._asked = self._due = self._next_look = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False
        # Whether it has had a call; and from when it may serve any call, and at once those of which principal.
        self.has_served = False
        self.silent_at = 0.0
        self.reusable_for: str | None = None
        self.lost: asyncio.Future[None] = loop.create_future()

    def ask(self, call: Call, now: float) -> None:
        """Sends a call's request; its answer, or a failure, goes to the call."""
        self._call = call
        call.connection = self
        self._head_is_whole = self._is_whole = self._lasts = self._is_sent = False
        self._received = 0
        self._asked = now
        self._due = min(now + self._first_timeout, call.ends)
        self._pool.requests.add(self, self.loop)

    def send(self) -> None:
        """Sends what it was asked last, if nothing has arrived that would be taken for its answer."""
        call = self._call
        if call is None:
            return  # it was closed meanwhile
        transport = self._transport
        if transport.is_closing():  # and uvloop has not yet told so
            self._move_on()
            return
        if call.at_once != self.reusable_for and self._arrived.poll(0):
            # Perhaps only TLS's own; the loop reads it, and then this is tried again.
            self._pool.requests.add(self, self.loop)
            return
        transport.write(call.head)
        self._is_sent = True
        if self._due < self._next_look:
            self._look_at(self._due)

    def close(self) -> None:
        """Closes it at once; a call under way has to be told by whoever does this."""
        if not self.closed:
            self.closed = True
            self._call = None
            if self._timer is not None:
                self._timer.cancel()
            self._transport.abort()
            self._pool.gone(self)

    def fail(self, failure: httpx.RequestError) -> None:
        """Closes it, and tells the call that is under way."""
        if self._call is not None:
            self._call.connection = None
            _fail(self._call, failure)
        self.close()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._due = self._time() + self._expiry
        self._look_at(self._time() + self._look_apart)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None or not self._is_sent:
            if data.strip(b"\r\n") and data[8:13] != FAREWELL:
                self._pool.distrust()
            self._move_on()
            return
        try:
            self._feed(data)
        except httptools.HttpParserError as garbled:
            if self._is_whole:
                self._pool.distrust()
            self.fail(httpx.RemoteProtocolError(type(garbled).__name__))
        except httptools.HttpParserUpgrade:
            self.fail(httpx.RemoteProtocolError("The server changed the protocol."))
        if self._is_whole and self._call is call:
            if self._transport.get_write_buffer_size():
                self.fail(httpx.DecodingError("The answer came before the request was sent."))
            else:
                self._answer(call)
        elif self._call is call:
            self._wait_on(call, len(data))

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, failure: Exception | None) -> None:
        self._ended(failure)
        if not self.lost.done():
            self.lost.set_result(None)

    # What the parser calls; `on_header` puts a field into `_told`, and `on_body` appends a chunk to `_chunks`.

    def on_message_begin(self) -> None:
        # Were it taken for the next call's answer, that would be another caller's.
        if self._is_whole:
            raise httpx.RemoteProtocolError("More than one answer to one request.")
        self._told.clear()

    def on_headers_complete(self) -> None:
        if len(self._told) > FIELDS_MAX:
            raise httpx.RemoteProtocolError("The answer has too many headers.")
        status = self._status = self._parser.get_status_code()
        if status >= OK:  # what is below is followed by the answer itself
            self._head_is_whole = True
            self._fields = self._told.copy()  # a trailer is none of them

    def on_message_complete(self) -> None:
        if self._head_is_whole:
            self._is_whole = True
            self._lasts = self._is_kept and self._parser.should_keep_alive()  # known here alone

    def _wait_on(self, call: Call, size: int) -> None:
        """Some bytes more have come, and the answer is not whole; it may be too large. All of them count."""
        if not self._received:
            self._bodiless = self._pieces = 0
        self._received += size
        self._due = min(self._time() + self._read_timeout, call.ends)
        pieces = len(self._chunks)
        if pieces == self._pieces:
            self._bodiless += size
        else:
            self._bodiless = 0
        if pieces > PIECES_MAX:
            self._start.write(b"".join(self._chunks))
            self._chunks.clear()
            if pieces > PIECES_A_TURN:
                self._transport.pause_reading()
                self.loop.call_soon(self._read_on)
        self._pieces = len(self._chunks)
        if self._bodiless > HEAD_BYTES_MAX or (not self._head_is_whole and self._received > HEAD_BYTES_MAX):
            self.fail(httpx.RemoteProtocolError("The answer's headers have no end."))
        elif self._received > self._bytes_max:
            if self._start.tell() + sum(map(len, self._chunks)) > self._bytes_max:
                self._answer(call)
            elif self._received > self._bytes_max + HEAD_BYTES_MAX:
                self.fail(httpx.DecodingError("The answer is too large."))

    def _read_on(self) -> None:
        if not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()

    def _answer(self, call: Call) -> None:
        """Gives the call its answer, whole or as far as it may be large, and the pool the connection."""
        self._call = call.connection = None
        chunks = self._chunks
        if self._received and self._start.tell():
            self._start.writelines(chunks)
            body, self._start = self._start.getvalue(), io.BytesIO()
            chunks.clear()
        elif len(chunks) == 1:
            body = chunks.pop()
        else:
            body = b"".join(chunks)
            chunks.clear()
        is_its = call.set_result((self._status, self._fields, body))
        now = self._time()
        if is_its and self._lasts and now >= self._pool.trusts_from:
            self.has_served = True
            self.silent_at = now + QUIET
            self.reusable_for = (call.at_once or None) if self._status == OK else None
            self._due = now + self._expiry
            self._pool.free(self, now)
        else:
            self.close()

    def _ended(self, failure: Exception | None) -> None:
        call = self._call
        if call is None or not self._is_sent:
            self._move_on()
        elif failure is None and self._head_is_whole and FRAMED.isdisjoint(map(bytes.lower, self._fields)):
            self._answer(call)  # the end of the connection is the end of the body
        elif failure is None:
            self.fail(httpx.RemoteProtocolError("The connection ended before the answer did."))
        else:
            self.fail(httpx.ReadError(type(failure).__name__))

    def _move_on(self) -> None:
        """Closes it; a call whose request was not sent goes to another connection, unless this one was new."""
        call = self._call
        if call is not None and not self.has_served:
            self.fail(httpx.RemoteProtocolError("The connection ended before the request was sent."))
            return
        self.close()
        if call is not None:
            self._pool.put_back(call)

    def _look_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_look = time
        self._timer = self.loop.call_at(time, self._look)

    def _look(self) -> None:
        now, call = self._time(), self._call
        if now >= self._due and call is not None and self._due < min(self._asked + self._read_timeout, call.ends):
            # Nothing has come yet; where all was sent, it is reading that takes its time.
            if self._transport.get_write_buffer_size():
                self.fail(httpx.WriteTimeout("The request could not be sent in time."))
                return
            self._due = min(self._asked + self._read_timeout, call.ends)
        if now >= self._due:
            self.fail(httpx.ReadTimeout("No answer in time."))
            return
        self._look_at(min(self._due, now + self._look_apart))
