"""Responses that clients read slowly or not at all: they take bounded memory and time, at no other client's cost."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.gateways import serving
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, VALID_TOKEN_CPU_MAX, AttackedGateway, request
from tests.waiting import waits_until

VEHICLES = "a%d: vehicles(first: 500) { nodes { id vehicleId masterData { vin brand model licensePlate } } }"
LARGE = json.dumps({"query": "{ %s }" % " ".join(VEHICLES % number for number in range(40))}).encode()
SMALL = b'{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}'
READY = b"GET /health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def impatient_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedGateway]:
    """A gateway with a short time-out for slow readers."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("attacked")
        one = AttackedGateway(folder, lambda app: stack.enter_context(serving(app)), http_slow_reader_timeout="1")
        stack.callback(one.stop)
        yield one


@contextmanager
def unread(gateway: AttackedGateway, number: int, *said: bytes) -> Iterator[list[socket.socket]]:
    """Connections with a request each, or the same one, whose responses are not read."""
    with ExitStack() as stack:
        connections = []
        for n in range(number):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
            one.settimeout(10)
            one.connect(gateway.address)
            one.sendall(said[n % len(said)])
            connections.append(one)
        yield connections


def another(body: bytes, number: int) -> bytes:
    """The same request in other bytes, so that its response is not cached; a cached one needs no slot."""
    return body + b" " * number


def kept_open(body: bytes, token: str = "alice") -> bytes:
    return request(body, token, Connection="keep-alive")


def operations(gateway: AttackedGateway) -> int:
    return json.loads(gateway.say(READY).partition(b"\r\n\r\n")[2])["operations"]


def read_for(connection: socket.socket, seconds: float, size: int, pause: float) -> tuple[int, bool]:
    """Reads in small pieces for a time; returns the data and whether the connection is still open."""
    came, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(TimeoutError):
            try:
                more = connection.recv(size)
            except ConnectionError:
                return came, False
            if not more:
                return came, False
            came += len(more)
        time.sleep(pause)
    return came, True


def test_unread_responses_take_bounded_memory(attacked):
    """The slowest connections of several callers are closed, and other requests get responses meanwhile."""
    assert attacked.post(LARGE, "alice")[0] == 200
    assert attacked.post(LARGE, "bob")[0] == 200
    assert attacked.post(LARGE, "eve")[0] == 200
    with attacked.measured() as harm, ExitStack() as stack:
        for token in ("alice", "bob", "eve"):
            stack.enter_context(unread(attacked, 70, kept_open(LARGE, token) * 3))
        assert waits_until(lambda: "too much unread" in attacked.gateway.output, 20)
        assert operations(attacked) > 0
        assert attacked.post(SMALL, "no-permission")[0] == 294
    assert harm.failed == 0
    assert harm.memory <= MEMORY_MAX
    assert waits_until(lambda: operations(attacked) == 0)


def test_a_slot_is_occupied_until_the_response_is_sent(attacked):
    """A caller that reads no responses uses up its own slots only; a disconnect frees them."""
    with unread(attacked, 33, *(kept_open(another(LARGE, number)) for number in range(1, 34))) as connections:
        assert waits_until(lambda: operations(attacked) >= 20, 20)
        began = time.monotonic()
        assert attacked.post(another(LARGE, 1), "bob")[0] == 200
        assert time.monotonic() - began < 5
        for one in connections:
            one.close()
        assert waits_until(lambda: operations(attacked) == 0)
    assert attacked.post(LARGE, "alice")[0] == 200


def test_pipelined_requests_have_one_response_at_a_time(attacked):
    """The next request starts when the previous response has been sent; all get responses, in order."""
    bodies = [another(LARGE, 40), SMALL, another(LARGE, 41), SMALL.replace(b"1", b"2")]
    said = b"".join(map(kept_open, bodies[:-1])) + request(bodies[-1], "alice")
    with unread(attacked, 1, said) as (one,):
        assert waits_until(lambda: operations(attacked) == 1)
        time.sleep(0.3)
        assert operations(attacked) == 1
        answer = b"".join(iter(lambda: one.recv(2**20), b""))
    answers = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(answers) == 4
    sizes = [len(one) for one in answers]
    assert sizes[0] == pytest.approx(sizes[2], abs=50)
    assert sizes[0] > 10**6 > 2000 > sizes[3] > sizes[1]


@pytest.mark.parametrize("kind", ["alive", "closing", "HTTP/1.0", "file"])
def test_a_slow_reader_is_disconnected(impatient_gateway, kind):
    """Reading a byte now and then is not enough, with keep-alive or without; a fair pace is."""
    said = {
        "alive": kept_open(LARGE),
        "closing": request(LARGE, "alice"),
        "HTTP/1.0": request(LARGE, "alice").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        "file": b"GET /explorer/credentials.js HTTP/1.1\r\nHost: a\r\n\r\n" * 200,
    }[kind]
    with unread(impatient_gateway, 1, said) as (slow,):
        slow.settimeout(0.1)
        came, is_open = read_for(slow, 1.0, 500, 0.1)
        assert is_open
        time.sleep(1.5)
        # Data in the system's buffers is still read.
        more, is_open = read_for(slow, 2.0, 2**20, 0)
        assert not is_open
        assert came + more < 10**6
    assert waits_until(lambda: operations(impatient_gateway) == 0)


def test_a_steady_reader_gets_the_whole_response(impatient_gateway):
    """It may take longer than the time in which a client may read nothing."""
    began = time.monotonic()
    with unread(impatient_gateway, 1, request(LARGE, "alice")) as (fair,):
        came, is_open = read_for(fair, 10, 20_000, 0.03)
    assert time.monotonic() - began > 1.8
    assert not is_open
    assert came > 1_400_000


def test_unread_cached_responses_are_bounded_too(impatient_gateway):
    """Cached pages need no slot; unread they are dropped all the same, for any number of requests."""
    page = json.dumps({"query": "{ " + VEHICLES % 1 + " }"}).encode()
    assert impatient_gateway.post(page, "alice")[0] == 200
    with impatient_gateway.measured() as harm, unread(impatient_gateway, 200, kept_open(page) * 16) as connections:
        assert waits_until(lambda: "read too slowly" in impatient_gateway.gateway.output, 10)
        time.sleep(1.5)
        assert read_for(connections[0], 3, 2**20, 0)[1] is False
    assert harm.memory <= MEMORY_MAX
    assert harm.cpu <= VALID_TOKEN_CPU_MAX


def test_pipelined_requests_take_bounded_memory(attacked):
    """Thousands behind a slow one are parsed only when they can be handled, and other requests get responses."""
    first = request(b'{"query": "{ vehicles { nodes { id } } }"}', "invented", Connection="keep-alive")
    many = first + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 8000
    few = first + request(SMALL, "invented", Connection="keep-alive") * 16
    with attacked.measured() as harm, unread(attacked, 20, b"") as connections:
        for one in connections:
            with suppress(ConnectionError):
                one.sendall(many)
        assert attacked.post(SMALL, "alice")[0] == 200
    assert harm.failed == 0
    assert harm.cpu <= INVALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX
    with attacked.measured() as harm, unread(attacked, 200, few):
        assert attacked.post(SMALL, "alice")[0] == 200
    assert harm.failed == 0
    assert harm.memory <= MEMORY_MAX
