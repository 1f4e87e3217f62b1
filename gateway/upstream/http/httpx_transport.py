"""The httpx transport: proxies from the environment and HTTP/2, at several times the CPU time of the builtin one.

Each `_Channel` is an httpx transport of its own with one connection, which calls share over HTTP/2 only. httpcore's
pool loses connections when calls are cancelled or fail at certain moments (its issue 1093), and it may give a call the
bytes that a server sent for another. So a channel is closed after a call that did not end well, and an HTTP/1.1
connection serves its next call only after it has been silent for `SILENCE` seconds. A cancelled call over HTTP/2 runs
to its end, because httpcore would let those fail that share its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import httpcore
import httpx

from gateway.settings import UpstreamSettings
from gateway.telemetry.logs import get_logger
from gateway.upstream.http.http1 import (
    HEAD_BYTES_MAX,
    INVALID_REQUEST,
    TIMEOUT_STATUS,
    TOO_LATE,
    PoolLoad,
    RawResponse,
    is_foreign,
    prolonged_distrust,
)
from gateway.upstream.http.network import Proxy, proxy_of, tls_context
from gateway.upstream.http.response_head import is_malformed

T = TypeVar("T")
log = get_logger("gateway.upstream")

# Seconds without a byte before an HTTP/1.1 connection serves its next call, and seconds to wait for a byte even then.
# Longer than in the builtin transport, because httpcore lets other tasks run between the last check and the request.
SILENCE, LISTEN = 0.05, 0.001
# Concurrent calls over one HTTP/2 connection; most servers allow at least 100.
STREAMS_MAX = 100
# The least framing of a chunk in bytes, and the chunks of a body after which the event loop runs other callbacks.
FRAMING = 5
CHUNKS_PER_ITERATION = 64
# HTTP/2, and as h11 names the versions that a status line may state.
VERSIONS = frozenset(("HTTP/2", *(f"HTTP/1.{minor}" for minor in range(10))))
CLOSED = "The transport is closed."
# The events that httpcore's trace function gets before it connects, when there is a connection, which TLS and a tunnel
# replace, and just before an HTTP/1.1 request is sent, also one to a proxy.
CONNECTING, CONNECTED = ".connect_tcp.started", (".connect_tcp.complete", ".start_tls.complete")
SENDING = "http11.send_request_headers.started"
SENDING_ANY = "send_request_headers.started"  # in any version of HTTP
# How h11's messages begin where a response is cut off; any other of them is about malformed bytes.
CUT_OFF = ("peer closed connection", "peer unexpectedly closed connection")
# The errors of a connection that ends.
ENDED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class _NotSilent(Exception):
    """Something arrived on a connection before a request was sent over it."""


class _Channel:
    """An httpx transport, its calls in progress and the connection of its last HTTP/1.1 response.

    `received` has the first bytes that came over HTTP/1.1 since the last request.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, streams: int) -> None:
        self.transport = transport
        self.streams = streams
        self.calls = 0
        self.is_retired = False
        self.stream: httpcore.AsyncNetworkStream | None = None
        self.received = bytearray()
        self.silent_at = 0.0
        self.expires_at = 0.0

    def record(self, stream: httpcore.AsyncNetworkStream) -> None:
        """Records what a new connection receives, unless it is one over HTTP/2."""
        self.received.clear()
        tls = stream.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            return
        read = stream.read

        async def recorded(max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
            data = await read(max_bytes, timeout)
            self.received += data[: HEAD_BYTES_MAX - len(self.received)]
            return data

        stream.read = recorded  # type: ignore[method-assign]


class HttpxTransport:
    """Makes calls over httpx within the bounds of the settings; raises httpx's errors.

    `network` replaces the network in tests.
    """

    def __init__(self, settings: UpstreamSettings, network: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._network = network
        self._timeouts = {
            "timeout": httpx.Timeout(
                connect=settings.connect_timeout,
                read=settings.read_timeout,
                write=settings.write_timeout,
                pool=settings.pool_timeout,
            ).as_dict()
        }
        self._slots = asyncio.Semaphore(settings.connections_max)
        self._waiting = 0  # calls without a slot
        self._channels: set[_Channel] = set()
        # Channels that can take another call, the longest idle one first.
        self._available: dict[_Channel, None] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._shared_calls: set[asyncio.Task[tuple[_Channel, RawResponse]]] = set()
        self._pruning: asyncio.TimerHandle | None = None
        self._distrusted_until = 0.0
        self._closed = False
        self._streams = STREAMS_MAX if settings.http2 else 1
        self._tls = tls_context(settings)
        proxy = proxy_of(settings.url) if network is None else None
        self._proxy = None if proxy is None else self._proxy_with_tls(proxy)
        if proxy is not None:
            log.info("upstream calls go through a proxy", variable=proxy.variable)

    async def send(
        self,
        method: str,
        target: str,
        fields: Mapping[str, str],
        body: bytes,
        decode: Callable[[RawResponse], T],
        may_resend: Callable[[], bool],
        seconds: float = 0.0,
        send_until: float | None = None,
    ) -> T:
        """The result of `decode` for a response's status, header fields and body, which is cut at its bound.

        `may_resend` says whether the request may be sent once more. `seconds` replaces the settings' time limits for
        the response, unless it is 0. Nothing is sent after `send_until`, in seconds of the event loop's clock.
        """
        request = self._request(method, target, fields, body, seconds)
        seconds = seconds or self._settings.total_timeout
        if self._streams == 1:
            channel, raw = await self._call(request, may_resend, seconds, send_until)
        else:
            call = asyncio.get_running_loop().create_task(self._call(request, may_resend, seconds, send_until))
            self._shared_calls.add(call)
            call.add_done_callback(self._shared_calls.discard)
            try:
                channel, raw = await asyncio.shield(call)
            except asyncio.CancelledError:
                if not call.cancelled():
                    raise
                raise httpx.ReadError(CLOSED) from None
        try:
            return decode(raw)
        except Exception as failure:
            if is_foreign(failure, raw):
                self._retire(channel)
            raise

    def load(self) -> PoolLoad:
        """The connections and queued calls; httpcore does not say which ones are being opened."""
        busy = sum(1 for channel in self._channels if channel.calls)
        return PoolLoad(len(self._channels) - busy, busy, 0, self._waiting)

    async def aclose(self) -> None:
        """Closes every connection; calls in progress fail."""
        self._closed = True
        if self._pruning is not None:
            self._pruning.cancel()
        for call in self._shared_calls:
            call.cancel()
        for channel in list(self._channels):
            self._retire(channel, at_once=True)
        await asyncio.gather(*self._shared_calls, *self._closing, return_exceptions=True)

    async def _call(
        self, request: httpx.Request, may_resend: Callable[[], bool], seconds: float, send_until: float | None
    ) -> tuple[_Channel, RawResponse]:
        take = self._take
        try:
            async with asyncio.timeout(seconds), self._slot():
                while True:
                    channel = await take()
                    try:
                        return channel, await self._answer(channel, request, send_until)
                    except _NotSilent:
                        pass  # the request was not sent, so another connection may be used
                    except ENDED:
                        is_unanswered = channel.stream is not None and not channel.received
                        if not (is_unanswered and may_resend()):
                            raise
                        take = self._take_new  # other kept connections may have ended, too
        except TimeoutError as late:
            raise httpx.ReadTimeout("The response took too long.") from late
        except httpx.RemoteProtocolError as failure:
            if is_rejected(failure):
                raise httpx.DecodingError("The response is malformed.") from failure
            raise

    def _request(
        self, method: str, target: str, fields: Mapping[str, str], body: bytes, seconds: float
    ) -> httpx.Request:
        # A line break in a field would start another header.
        texts = [target, *fields.keys(), *fields.values()]
        if " " in target or not all(text.isascii() and text.isprintable() for text in texts):
            raise httpx.LocalProtocolError(INVALID_REQUEST)
        url = self._settings.url + target
        timeouts = self._timeouts if not seconds else {"timeout": {**self._timeouts["timeout"], "read": seconds}}
        return httpx.Request(method, url, headers=fields, content=body or None, extensions=dict(timeouts))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A slot for a call; there are as many as connections are allowed."""
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.pool_timeout):
                await self._slots.acquire()
        except TimeoutError as late:
            raise httpx.PoolTimeout("No connection became free.") from late
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _take(self) -> _Channel:
        """A channel for a call: an idle and silent one, else a new one."""
        while self._available and not self._closed:
            channel = next(iter(self._available))
            is_full = len(self._channels) >= self._settings.connections_max
            if channel.silent_at > asyncio.get_running_loop().time() and not is_full:
                break
            if await self._claim(channel):
                return channel
        return await self._take_new()

    async def _take_new(self) -> _Channel:
        if self._closed:
            raise httpx.ConnectError(CLOSED)
        channel = self._new_channel()
        self._available[channel] = None
        await self._claim(channel)
        return channel

    async def _claim(self, channel: _Channel) -> bool:
        """Counts a call of an available channel; if its connection is not silent, retires it and returns false."""
        channel.calls += 1
        if channel.calls >= channel.streams:
            del self._available[channel]
        try:
            is_silent = channel.stream is None or await self._is_silent(channel.stream, channel.silent_at)
        except BaseException:
            self._give_back(channel, retire=True)
            raise
        if not is_silent:
            self._give_back(channel, retire=True)
        return is_silent

    async def _is_silent(self, stream: httpcore.AsyncNetworkStream, silent_at: float) -> bool:
        """Whether a connection is open, and no bytes arrive that the next call could take for its response."""
        now = asyncio.get_running_loop().time()
        try:
            received = await stream.read(64, timeout=max(LISTEN, silent_at - now))
        except httpcore.ReadTimeout:
            return True
        except httpcore.NetworkError:
            return False
        if received.strip(b"\r\n") and received[8:13] != TIMEOUT_STATUS:
            self._distrust()
        return False

    async def _answer(self, channel: _Channel, request: httpx.Request, send_until: float | None) -> RawResponse:
        is_whole = False
        request.extensions["trace"] = partial(self._on_event, channel, send_until)
        try:
            response = await channel.transport.handle_async_request(request)
            try:
                body = await self._body(response)
                is_whole = len(body) <= self._settings.response_bytes_max
                if is_whole and "network_stream" in response.extensions:
                    self._look_at_connection(channel, response)
            finally:
                await response.aclose()
        except (httpx.ReadTimeout, *ENDED):
            is_whole = False
            if is_malformed(channel.received):  # h11 waits for the end of a line, whatever it is
                raise httpx.DecodingError("The response is malformed.") from None
            raise
        except BaseException:
            is_whole = False
            raise
        finally:
            self._give_back(channel, retire=not is_whole)
        return response.status_code, dict(response.headers.raw), body

    async def _on_event(
        self, channel: _Channel, send_until: float | None, event: str, details: Mapping[str, Any]
    ) -> None:
        """Checks again for received bytes, because httpcore lets other tasks run before it sends.

        Raises PoolTimeout if it is too late to send.
        """
        if send_until is not None and event.endswith(SENDING_ANY) and asyncio.get_running_loop().time() >= send_until:
            raise httpx.PoolTimeout(TOO_LATE)
        if event.endswith(CONNECTING):
            channel.stream = None  # httpcore has replaced the connection
        elif event.endswith(CONNECTED):
            channel.record(details["return_value"])
        elif event == SENDING:
            channel.received.clear()
            stream = channel.stream
            if stream is None:
                return
            is_trusted = asyncio.get_running_loop().time() >= self._distrusted_until
            if not is_trusted or (stream.get_extra_info("is_readable") and not await self._is_silent(stream, 0.0)):
                raise _NotSilent

    async def _body(self, response: httpx.Response) -> bytes:
        """The encoded body; one that is too large is cut after the chunk that exceeds its bound."""
        if response.http_version not in VERSIONS:
            raise httpx.DecodingError("The response has another version of HTTP.")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        bytes_max, chunks, size = self._settings.response_bytes_max, [], 0
        async for chunk in response.stream:
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                break
            if size + FRAMING * len(chunks) > bytes_max + HEAD_BYTES_MAX:
                raise httpx.DecodingError("The response is too large.")
            if len(chunks) % CHUNKS_PER_ITERATION == 0:
                await asyncio.sleep(0)
        return b"".join(chunks)

    def _look_at_connection(self, channel: _Channel, response: httpx.Response) -> None:
        """Records the connection of a complete response, and retires the channel if that can't be reused."""
        if response.http_version == "HTTP/2":
            return
        self._streams = 1
        channel.stream = response.extensions["network_stream"]
        channel.received.clear()
        if channel.streams > 1:
            channel.is_retired = True  # it was to be shared, which HTTP/1.1 can't
        if "transfer-encoding" in response.headers and "content-length" in response.headers:
            channel.is_retired = True  # another server could read the response differently (RFC 9112, 6.3)
        if _left_over(response).strip(b"\r\n"):
            channel.is_retired = True
            self._distrust()

    def _distrust(self) -> None:
        """Stops reusing connections for a while after an unsolicited response."""
        self._distrusted_until = prolonged_distrust(self._distrusted_until, asyncio.get_running_loop().time())
        for channel in list(self._available):
            if channel.stream is not None:
                self._retire(channel)

    def _give_back(self, channel: _Channel, *, retire: bool) -> None:
        """Ends a call of a channel, and makes the channel the last available one unless it is retired."""
        channel.calls -= 1
        now, expiry = asyncio.get_running_loop().time(), self._settings.keepalive_expiry
        is_doubtful = channel.stream is not None and now < self._distrusted_until
        if retire or channel.is_retired or is_doubtful or not expiry or self._closed:
            self._retire(channel)
            return
        channel.silent_at = 0.0 if channel.stream is None else now + SILENCE
        channel.expires_at = now + expiry
        self._available.pop(channel, None)
        self._available[channel] = None
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().call_later(expiry, self._prune)

    def _retire(self, channel: _Channel, *, at_once: bool = False) -> None:
        """Lets a channel take no further call, and closes it when those in progress have ended."""
        channel.is_retired = True
        self._available.pop(channel, None)
        if at_once or not channel.calls:
            self._channels.discard(channel)
            closing = asyncio.get_running_loop().create_task(channel.transport.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _prune(self) -> None:
        """Closes connections that have been idle too long."""
        loop = asyncio.get_running_loop()
        self._pruning = None
        for channel in list(self._available):
            if not channel.calls and channel.expires_at <= loop.time():
                self._retire(channel)
        if self._available and not self._closed:
            self._pruning = loop.call_later(self._settings.keepalive_expiry, self._prune)

    def _new_channel(self) -> _Channel:
        limits = httpx.Limits(
            max_connections=self._streams,
            max_keepalive_connections=self._streams,
            keepalive_expiry=self._settings.keepalive_expiry,
        )
        transport = self._network or httpx.AsyncHTTPTransport(
            verify=self._tls, http2=self._settings.http2, limits=limits, proxy=self._proxy
        )
        channel = _Channel(transport, self._streams)
        self._channels.add(channel)
        return channel

    def _proxy_with_tls(self, proxy: Proxy) -> httpx.Proxy:
        return httpx.Proxy(proxy.url, ssl_context=self._tls if proxy.url.startswith("https") else None)


def is_rejected(failure: httpx.RemoteProtocolError) -> bool:
    """Whether h11 has rejected a response, rather than that this was cut off with its connection.

    httpcore's error has the error of h11 as its argument, or a text where the connection ended before the response.
    """
    reasons = () if failure.__cause__ is None else failure.__cause__.args
    return any(isinstance(reason, Exception) and not str(reason).startswith(CUT_OFF) for reason in reasons)


def _left_over(response: httpx.Response) -> bytes:
    """The bytes after an HTTP/1.1 response, which h11 would take for the beginning of the next one."""
    stream: Any = response.stream
    data: bytes = stream._httpcore_stream._stream._connection._h11_state.trailing_data[0]  # noqa: SLF001
    return data
