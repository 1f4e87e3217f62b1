"""A fleet API over HTTP/2 for tests: a vehicle for every path."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import AbstractAsyncContextManager

import h2.config
import h2.connection
import h2.events

from tests.upstream.tcp_server import TCPServer


class Http2Server(TCPServer):
    """Responds to each request after `seconds`; `streams` has the paths by connection."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.streams: list[list[str]] = []

    def listening(self, context: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[str]:
        """Listens with TLS, and offers HTTP/2 alone."""
        assert context is not None
        context.set_alpn_protocols(["h2"])
        return super().listening(context)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        paths: list[str] = []
        self.streams.append(paths)
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

    def _answer(
        self, connection: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int, path: str
    ) -> None:
        body = json.dumps({"id": path.rpartition("/")[2]}).encode()
        connection.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        connection.send_data(stream, body, end_stream=True)
        if not writer.is_closing():
            writer.write(connection.data_to_send())
