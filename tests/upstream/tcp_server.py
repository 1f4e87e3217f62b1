"""The base of the raw servers in these tests: a coroutine for each connection, which ends with the server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator


class TCPServer:
    """Runs `serve` for each connection."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def listening(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Listens, with TLS if there is a context; yields its URL."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context, backlog=1000)
        try:
            yield f"{'https' if context else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Listens on the event loop of a thread of its own; yields its URL."""
        loop, listening = asyncio.new_event_loop(), self.listening()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        url = asyncio.run_coroutine_threadsafe(listening.__aenter__(), loop).result(10)
        try:
            yield url.replace("localhost", "127.0.0.1")
        finally:
            asyncio.run_coroutine_threadsafe(listening.__aexit__(None, None, None), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            await self.serve(reader, writer)
        writer.close()
        self._tasks.discard(task)
