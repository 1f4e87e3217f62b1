"""A TCP proxy before the fleet API that records every request on its connections, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.upstream.tcp_server import TCPServer

LENGTH = b"\r\ncontent-length:"


@dataclass(slots=True)
class SentRequest:
    """A request whose head has arrived; its body grows."""

    method: str
    path: str
    head: str
    body: bytes = b""


class RecordingProxy(TCPServer):
    """Forwards bytes and resets in both directions; `requests` is everything that a gateway has sent."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.upstream = upstream
        self.requests: list[SentRequest] = []

    @property
    def writes(self) -> list[SentRequest]:
        """The requests that are no GETs."""
        return [request for request in self.requests if request.method != "GET"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await self._forward_both(reader, writer)

    async def _forward_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = urlsplit(self.upstream).hostname, urlsplit(self.upstream).port
        their_reader, their_writer = await asyncio.open_connection(host, port)
        requests = _RequestParser(self.requests)
        forwarding = [
            asyncio.create_task(_forward(reader, their_writer, requests)),
            asyncio.create_task(_forward(their_reader, writer, None)),
        ]
        try:
            await asyncio.wait(forwarding, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in forwarding:
                task.cancel()
            await asyncio.gather(*forwarding, return_exceptions=True)
            writer.transport.abort()
            their_writer.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: _RequestParser | None) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            if requests is not None:
                requests.feed(data)
            writer.write(data)
            await writer.drain()


class _RequestParser:
    """Finds the requests in the bytes of a connection."""

    def __init__(self, requests: list[SentRequest]) -> None:
        self._requests = requests
        self._head = b""
        self._missing = 0

    def feed(self, data: bytes) -> None:
        while data:
            if self._missing:
                part, data = data[: self._missing], data[self._missing :]
                self._missing -= len(part)
                self._request.body += part
                continue
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._head = b""
            method, path, _ = head.split(b" ", 2)
            self._request = SentRequest(method.decode(), path.decode(), head.decode())
            self._requests.append(self._request)
            length = head.lower().partition(LENGTH)[2].partition(b"\r\n")[0]
            self._missing = int(length or 0)
