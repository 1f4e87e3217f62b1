"""A forward proxy for tests: tunnels by CONNECT, and forwards requests with an absolute URL."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from tests.upstream.tcp_server import TCPServer


class ForwardProxy(TCPServer):
    """Forwards what it receives, and records the heads of the requests to itself."""

    def __init__(self, rejection: bytes = b"") -> None:
        super().__init__()
        self.heads: list[bytes] = []
        self._rejection = rejection

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self._rejection:
            writer.write(self._rejection)
            return
        method, target, _ = head.decode().split(" ", 2)
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        upstream_reader, upstream_writer = await asyncio.open_connection(parts.hostname, parts.port)
        answering = asyncio.create_task(copy(upstream_reader, writer))
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await copy(reader, upstream_writer)
                return
            while True:
                upstream_writer.write(head.replace(target.encode(), parts.path.encode(), 1))
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                parts = urlsplit(target := head.decode().split(" ")[1])
        finally:
            answering.cancel()
            upstream_writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies bytes until the end of the stream."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
