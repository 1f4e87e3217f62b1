"""An httpx transport that has aiohttp make the calls: whole answers, no streams, its pool whole after cancellations."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Any

import aiohttp
import httpx
import yarl
from aiohttp.client_proto import ResponseHandler

from gateway.settings import UpstreamSettings
from gateway.upstream.answers import HEAD_BYTES_MAX, Get, WholeAnswers, answer

INTERIM = 200  # statuses below are followed by the answer itself


class _Bounded(ResponseHandler):
    """A connection that is ended by an answer that has no end, and by whatever comes when nobody has asked."""

    def __init__(self, bytes_max: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._bytes_max = bytes_max
        self._is_answered = True

    def set_response_params(self, **parameters: Any) -> None:
        """A request is about to be sent."""
        self._room = HEAD_BYTES_MAX
        self._head_is_whole = self._is_answered = False
        self._payload = None
        super().set_response_params(**parameters)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head is whole."""
        if data[0].code >= INTERIM and not self._head_is_whole:
            self._head_is_whole = True
            self._room += self._bytes_max
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            if data:  # else it is aiohttp itself that goes on
                self._end()
            return
        self._room -= len(data)
        super().data_received(data)
        if self._room < 0:
            self._end()
        elif self._head_is_whole and self._payload is not None:
            self._is_answered = self._payload.is_eof()

    def _end(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.abort()


class AiohttpWire(WholeAnswers):
    """One session; every answer is whole when it is given, within all bounds of the settings. Raises httpx's errors."""

    def __init__(self, settings: UpstreamSettings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._base = str(httpx.URL(settings.url)).rstrip("/")
        self._context = (context or ssl.create_default_context()) if settings.url.startswith("https") else True
        # Without `pool` and `connect` in one: aiohttp's `connect` is the wait for a connection, free or new.
        self._timeout = aiohttp.ClientTimeout(
            total=settings.total_timeout,
            connect=settings.pool_timeout,
            sock_connect=settings.connect_timeout,
            sock_read=settings.read_timeout,
        )
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        session = self._session or self._new_session()
        if isinstance(request, Get) and request.target.isascii() and request.target.isprintable():
            url, fields = self._base + request.target, request.fields
        else:
            url, fields = str(request.url), request.headers
        try:
            async with session.get(
                yarl.URL(url, encoded=True), headers=fields, allow_redirects=False, timeout=self._timeout
            ) as response:
                body = await self._body(response)
                return answer(response.status, dict(response.raw_headers), body, self._settings.response_bytes_max)
        except (aiohttp.ServerTimeoutError, TimeoutError) as late:
            raise httpx.ReadTimeout(type(late).__name__) from late
        except (aiohttp.ClientError, OSError) as broken:
            raise httpx.ReadError(type(broken).__name__) from broken
        except ValueError as odd:
            raise httpx.LocalProtocolError("The request holds what no request may.") from odd

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """The body as it was sent, cut a byte after its bound."""
        chunks, size, bytes_max = [], 0, self._settings.response_bytes_max
        while chunk := await response.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                response.close()
                return b"".join(chunks)[: bytes_max + 1]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._settings.connections_max, keepalive_timeout=self._settings.keepalive_expiry, ssl=self._context
        )
        factory = partial(_Bounded, self._settings.response_bytes_max, asyncio.get_running_loop())
        connector._factory = factory  # type: ignore[assignment] # noqa: SLF001
        # Cookies of one caller's answer meet no other call.
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )
        # It would make a dropped call again by itself, unseen by budget, pace and count.
        self._session._retry_connection = False  # noqa: SLF001
        return self._session
