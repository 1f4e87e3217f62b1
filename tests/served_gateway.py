"""A gateway behind the server that `gateway serve` starts, in this process, and a client's raw connections to it."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import uvicorn

from gateway.app import create_app
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from tests.gateways import PLANS, TOKENS

QUERY_BODY = b'{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}'


class ServedGateway:
    """A gateway behind the server that `gateway serve` starts, and its simulator behind another."""

    def __init__(self, serve, **groups) -> None:
        self.simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
        settings = Settings(upstream={"url": serve(self.simulator.app)}, port=0, log={"level": "error"}, **groups)
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = uvicorn.Server(ServerConfig(create_app(settings), settings))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def say(self, *parts: bytes, wait: float = 0.0) -> bytes:
        """The response to raw bytes, until the connection ends."""
        with socket.create_connection(self.address, timeout=10) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(wait)
            except OSError:
                pass
            said = b""
            try:
                while more := connection.recv(65536):
                    said += more
            except ConnectionError:
                pass
            return said

    def load(self) -> dict[str, object]:
        """What its readiness check reports."""
        return httpx.get(f"{self.url}/health/ready", verify=False).json()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def request_of(body: bytes = QUERY_BODY) -> bytes:
    head = f"POST /graphql HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKENS['alice']}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class KeepAliveConnection:
    """One connection that is kept open."""

    def __init__(self, server: ServedGateway) -> None:
        self.connection = socket.create_connection(server.address, timeout=10)
        self.file = self.connection.makefile("rb")

    def ask(self, *parts: bytes) -> int:
        """The status of the response, whose body is read."""
        for part in parts:
            self.connection.sendall(part)
        status = int(self.file.readline().split()[1])
        fields = dict(line.lower().split(b": ", 1) for line in iter(self.file.readline, b"\r\n"))
        assert (status == 503) == (b"retry-after" in fields)
        body = json.loads(self.file.read(int(fields[b"content-length"])))
        assert (status == 503) == ("errors" in body)
        return status

    def close(self) -> None:
        self.file.close()
        self.connection.close()
