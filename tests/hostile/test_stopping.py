"""A process that is stopped completes every request that it accepted, with one worker or several."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.simulator import Behaviours, Fault, Simulator
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import PLANS, serving
from tests.hostile.attacked import request

ASK = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Longest time in seconds between two requests of a connection; those without a pause hit the last moment.
PAUSES = [0.0] * 3 + [0.02] * 8 + [0.2] * 8 + [3.0] * 5
FRESH = 2


def head_of_answer(connection: socket.socket) -> bytes:
    """The head of the next response in lower case; EOFError at the end. The rest is left unread."""
    deadline = time.monotonic() + 30
    while answer := connection.recv(2**16, socket.MSG_PEEK):
        head, found, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0]) if found else 0
        if found and len(body) >= length:
            connection.recv(len(head) + 4 + length)
            return head.lower()
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    raise EOFError(answer)


def is_ended(connection: socket.socket) -> bool:
    """Whether the server has ended the connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(30)


def ask_until_rejected(port: int, pause: float | None) -> Counter[str]:
    """Sends requests on one connection for as long as it lasts, or on new ones, and counts the outcomes."""
    went: Counter[str] = Counter()
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            return went
        with connection:
            while not (pause and time.sleep(random.random() * pause)) and not is_ended(connection):
                try:
                    connection.sendall(ASK)
                    head = head_of_answer(connection)
                except (OSError, EOFError) as lost:
                    went[f"lost: {lost!r}"] += 1
                    break
                went["answered"] += 1
                if b"connection: close" in head:
                    went["answered last"] += 1
                    break
                if pause is None:
                    break


def started(folder: Path, workers: int, **settings: str) -> GatewayProcess:
    gateway = GatewayProcess(folder, workers=str(workers), log_level="warning", **settings)
    gateway.wait_until_ready()
    if workers > 1:
        gateway.wait_for_workers(workers)
        time.sleep(1)  # until all of them accept connections
    return gateway


# Of two workers whose parent alone gets the signal, tests/server/ has the same in other forms.
@pytest.mark.parametrize(
    ("workers", "to_all"),
    [(1, False), pytest.param(2, True, marks=thorough_only), pytest.param(2, False, marks=thorough_only)],
)
def test_every_accepted_request_gets_a_response(workers, to_all, tmp_path):
    """Every request on an established connection gets a response, also if the signal goes to all processes at once."""
    gateway = started(tmp_path, workers)
    with ThreadPoolExecutor(len(PAUSES) + FRESH) as clients:
        going = [clients.submit(ask_until_rejected, gateway.port, pause) for pause in PAUSES + [None] * FRESH]
        time.sleep(0.7)
        for pid in [*(gateway.workers() if to_all else []), gateway.process.pid]:
            os.kill(pid, signal.SIGTERM)
        went = sum((each.result(60) for each in going), Counter())
    assert gateway.stop() in (0, -signal.SIGTERM)
    assert [how for how in went if how.startswith("lost")] == []
    assert went["answered"] > 100
    assert went["answered last"] >= len(PAUSES) / 2
    assert "Traceback" not in gateway.output


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    """A fleet API that takes three seconds for each response."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    simulator.faults.rules.append(Fault("latency", seconds=3.0))
    with serving(simulator.app) as url:
        yield url


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=thorough_only)])
def test_requests_under_way_get_responses_before_the_connection_ends(workers, slow, tmp_path):
    """Requests that run, wait or are half received when the signal comes; the last response closes the connection."""
    query = request(b'{"query": "{ vehicle(id: \\"JQ7RP\\") { vehicleId } }"}', "alice").replace(
        b"Connection: close\r\n", b""
    )
    # Connections are accepted for another second at least; until then nothing is sent.
    gateway = started(tmp_path, workers, upstream_url=slow, http_shutdown_idle_timeout="4")
    parts = {
        "silent until now": (b"", ASK),
        "half a head": (ASK[:20], ASK[20:]),
        "half a body": (query[:-10], query[-10:]),
        "running": (query, b""),
        "running, and one comes behind": (query, ASK),
        "used before": (ASK, query),
    }
    connections = {name: socket.create_connection(("127.0.0.1", gateway.port), timeout=30) for name in parts}
    for name, (before, _) in parts.items():
        connections[name].sendall(before)
    assert b"connection" not in head_of_answer(connections["used before"])
    idle = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    time.sleep(0.1)
    gateway.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    while time.monotonic() < began + 10:
        try:
            socket.create_connection(("127.0.0.1", gateway.port), timeout=30).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.02)
    for name, (_, after) in parts.items():
        connections[name].sendall(after)
    heads = {name: head_of_answer(connections[name]) for name in parts}
    last = {**heads, "running, and one comes behind": head_of_answer(connections["running, and one comes behind"])}
    assert {head.partition(b"\r\n")[0] for head in [*heads.values(), *last.values()]} == {b"http/1.1 200 ok"}
    assert [name for name, head in last.items() if b"connection: close" not in head] == []
    assert idle.recv(1) == b""
    idle.close()
    for connection in connections.values():
        assert connection.recv(1) == b""
        connection.close()
    assert gateway.stop() in (0, -signal.SIGTERM)
