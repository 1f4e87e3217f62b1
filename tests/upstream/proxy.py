"""A forward proxy for tests: tunnels by CONNECT, and forwards requests with an absolute URL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class ForwardProxy:
    """Forwards what it receives, and records the heads of the requests to itself."""

    def __init__(self, rejection: bytes = b"") -> None:
        self.heads: list[bytes] = []
        self._rejection = rejection
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serves it; yields its address as host:port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._pass_on(reader, writer)
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
