"""A fleet API over HTTP/2 for tests: a vehicle for every path."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator

import h2.config
import h2.connection
import h2.events


class Http2Server:
    """Responds to each request after `seconds`; `streams` has the paths by connection."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.streams: list[list[str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, context: ssl.SSLContext) -> AsyncIterator[str]:
        """Serves it over TLS; yields its URL."""
        context.set_alpn_protocols(["h2"])
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        try:
            yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        paths: list[str] = []
        self.streams.append(paths)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(connection.data_to_send())
            while data := await reader.read(65_536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        path = dict(event.headers)[b":path"].decode()
                        paths.append(path)
                        asyncio.get_running_loop().call_later(
                            self.seconds, self._answer, connection, writer, event.stream_id, path
                        )
                writer.write(connection.data_to_send())
        writer.close()

    def _answer(
        self, connection: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int, path: str
    ) -> None:
        body = json.dumps({"id": path.rpartition("/")[2]}).encode()
        connection.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        connection.send_data(stream, body, end_stream=True)
        if not writer.is_closing():
            writer.write(connection.data_to_send())
