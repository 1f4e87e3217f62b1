"""An httpx transport that has aiohttp make the calls: whole answers, no streams, its pool whole after cancellations."""

from __future__ import annotations

import ssl

import aiohttp
import httpx
import yarl

from gateway.settings import UpstreamSettings
from gateway.upstream.answers import Get, WholeAnswers, answer


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
        # Cookies of one caller's answer meet no other call.
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )
        # It would make a dropped call again by itself, unseen by budget, pace and count.
        self._session._retry_connection = False  # noqa: SLF001
        return self._session
