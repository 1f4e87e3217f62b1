"""Endless upstream responses: every received byte counts, in linear time, and other requests are served meanwhile."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.effort import thorough_only
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, AttackedGateway, code_of

BYTES_MAX = 4 * 2**20
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PIECE = 65_536
Response = Callable[[], Iterable[bytes]]


def endless(start: bytes, piece: bytes) -> Response:
    return lambda: itertools.chain([start], itertools.repeat(piece * (PIECE // len(piece) + 1)))


def numbered(start: bytes) -> Response:
    return lambda: itertools.chain([start], (b"X-%d: %b\r\n" % (n, b"y" * (n % 50)) for n in itertools.count()))


def compressed(body: bytes) -> Response:
    return lambda: [OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body]


ANSWERS: dict[str, Response] = {
    "trailers": numbered(CHUNKED + b"2\r\n{}\r\n0\r\n"),
    "one-trailer": endless(CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"y"),
    "headers": numbered(OK),
    "one-header": endless(OK + b"X: ", b"y"),
    "interim": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks-of-1": endless(CHUNKED, b"1\r\n \r\n"),
    "chunks-of-2": endless(CHUNKED, b"2\r\n  \r\n"),
    "chunks-of-16": endless(CHUNKED, b"10\r\n" + b" " * 16 + b"\r\n"),
    "extension": endless(CHUNKED + b"2;", b"y"),
    "extensions": endless(CHUNKED, b"1;" + b"y" * 500 + b"\r\n \r\n"),
    "length": endless(OK + b"Content-Length: 99999999999\r\n\r\n", b" "),
    "no-length": endless(OK + b"\r\n", b" "),
    "bomb": compressed(gzip.compress(b" " * 2**28, 1)),
    "empty-blocks": compressed(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0\0\0\xff\xff" * (BYTES_MAX // 5 - 10)),
    "members": compressed(gzip.compress(b"") * (BYTES_MAX // 20 - 10)),
}


class EndlessFleet:
    """Sends the endless response that the requested id names, until the client closes the connection."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            name = connection.recv(65_536).split(b" ")[1].rpartition(b"/")[2].decode()
            for piece in ANSWERS[name]():
                connection.sendall(piece)
            connection.recv(1)

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture(scope="module", params=["builtin", pytest.param("httpx", marks=thorough_only)])
def gateway(request, tmp_path_factory) -> Iterator[AttackedGateway]:
    """A gateway over a fleet API with endless responses, by each transport."""
    fleet = EndlessFleet()
    settings = {
        "upstream_url": fleet.url,
        "upstream_transport": request.param,
        "upstream_response_bytes_max": str(BYTES_MAX),
        # httpx does not count interim responses, and is slow with single bytes: there the total time-out ends a call.
        "upstream_total_timeout": "5" if request.param == "httpx" else "15",
        "retry_attempts": "1",
        "breaker_enabled": "false",
    }
    one = AttackedGateway(tmp_path_factory.mktemp("endless"), lambda app: fleet.url, **settings)
    one.codes = {"UPSTREAM_UNAVAILABLE", "UPSTREAM_INVALID_RESPONSE"} | (
        {"UPSTREAM_TIMEOUT"} if request.param == "httpx" else set()
    )
    yield one
    one.stop()
    fleet.stop()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_endless_response_fails_its_call(gateway, name):
    """Each endless response fails its call within bounded memory, and delays no other request."""
    with gateway.measured() as harm:
        status, body = gateway.post({"query": f'{{vehicle(id:"{name}"){{vehicleId}}}}'})
        time.sleep(0.1)  # so that the probe reads the beginning of a measurement before its end
    assert status == 294
    assert code_of(body) in gateway.codes
    assert harm.cpu <= INVALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX
