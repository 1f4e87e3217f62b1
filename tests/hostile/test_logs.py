"""Writing to standard error delays and breaks nothing, whatever the reader does."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.telemetry.log_writer import PIPE_BUF, LogWriter, whole_lines
from tests.gateway_process import GatewayProcess

ASK = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Lines of 170 bytes: far more than fit a pipe's 64 KiB and this queue.
REQUESTS = 2000
QUEUE = 2**14


def status_lines(port: int, number: int) -> list[bytes]:
    """The status lines of this many responses on one connection, which must hold nothing else."""
    lines = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for _ in range(number):
            connection.sendall(ASK)
            answer = b""
            while not answer.endswith(b'{"status":"live"}'):
                more = connection.recv(2**16)
                assert more, answer
                answer += more
            assert answer.startswith(b"HTTP/1.1 ")
            lines.append(answer.partition(b"\r\n")[0])
    return lines


@contextmanager
def gateway(folder: Path, output: int, **settings: str) -> Iterator[GatewayProcess]:
    process = GatewayProcess(folder, output=output, log_queue_bytes_max=str(QUEUE), **settings)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


def test_a_stalled_log_reader_blocks_nothing_and_dropped_lines_are_counted(tmp_path):
    """While the log is not read, requests are served. Read again, it has whole lines and a count of dropped ones."""
    reading, writing = os.pipe()
    with gateway(tmp_path, writing) as process:
        assert set(status_lines(process.port, REQUESTS)) == {b"HTTP/1.1 200 OK"}
        os.set_blocking(reading, False)
        read = b""
        deadline = time.monotonic() + 20
        while b"lines dropped" not in read and time.monotonic() < deadline:
            try:
                read += os.read(reading, 2**20)
            except BlockingIOError:
                time.sleep(0.02)
        status_lines(process.port, 3)
    os.close(writing)
    read += os.read(reading, 2**20)
    os.close(reading)
    greeting, *lines = [line for line in read.decode().splitlines() if line]
    assert greeting.startswith("GraphQL at")
    events = [json.loads(line) for line in lines]
    dropped = sum(line["number"] for line in events if line["event"] == "log lines dropped")
    requests = [line for line in events if line["event"] == "request"]
    # Including the checks before it was ready.
    assert len(requests) + dropped >= REQUESTS + 3
    assert dropped > REQUESTS / 2
    assert requests[-1]["status"] == 200


ANSWERED = {
    '{ vehicle(id: "CANARY1") { vehicleId } }': ["UPSTREAM_UNAVAILABLE"],
    '{ vehicle(id: "CANARY1") { vehicleId } vehicles(first: -1) { nodes { vehicleId } } }': [
        "PAGE_SIZE_INVALID",
        "UPSTREAM_UNAVAILABLE",
    ],
    "{ canary }": ["GRAPHQL_VALIDATION_FAILED"],
    "{": ["GRAPHQL_PARSE_FAILED"],
    "{ __typename }": None,
}


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_codes_of_errors_are_logged(form, tmp_path):
    """Of an upstream that can't be reached, the kind too; never a token, an id or a document."""
    settings = {"upstream_url": "http://127.0.0.1:1/canary", "breaker_enabled": "false", "retry_attempts": "1"}
    process = GatewayProcess(tmp_path, log_format=form, **settings)
    try:
        process.wait_until_ready()
        headers = {"Authorization": "Bearer canary", "Content-Type": "application/json"}
        with httpx.Client(base_url=process.url, headers=headers, verify=False) as http:
            for query in ANSWERED:
                http.post("/graphql", json={"query": query})
            http.post("/graphql", json={"query": "{ __typename }"}, headers={"Authorization": ""})
            http.get("/canary")
    finally:
        process.stop()
    assert "canary" not in process.output.lower()
    expected = [*ANSWERED.values(), ["UNAUTHENTICATED"], ["NOT_FOUND"]]
    if form == "text":
        assert all(code in process.output for codes in expected for code in codes or ())
        return
    events = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    logged = [line.get("errors") for line in events if line["event"] == "request"]
    assert [codes and sorted(codes) for codes in logged[-len(expected) :]] == expected
    failures = [line for line in events if line["event"] == "upstream failures"]
    assert (failures[0]["host"], failures[0]["ConnectError ECONNREFUSED"]) == ("127.0.0.1", 1)


def test_a_blocked_log_does_not_prevent_the_exit(tmp_path):
    """The process waits for the last lines, but not for ever; with workers, too."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 2**16)
    os.set_blocking(writing, True)
    for workers in ("1", "2"):
        with gateway(tmp_path, writing, workers=workers) as process:
            assert status_lines(process.port, 3) == [b"HTTP/1.1 200 OK"] * 3
            began = time.monotonic()
        assert time.monotonic() - began < 15
    os.close(writing)
    os.close(reading)


def test_a_full_disk_breaks_nothing(tmp_path):
    """With standard output and error full, all requests get responses as usual."""
    full = os.open("/dev/full", os.O_WRONLY)
    with gateway(tmp_path, full) as process:
        assert set(status_lines(process.port, 300)) == {b"HTTP/1.1 200 OK"}
    os.close(full)


def test_closed_descriptors_are_not_taken_for_connections(tmp_path):
    """Started without standard files, the gateway writes no log lines into a socket with their number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"exec {sys.executable} -m gateway serve --port {port} <&- >&- 2>&-"
    process = subprocess.Popen(["/bin/sh", "-c", command])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert status_lines(port, 300) == [b"HTTP/1.1 200 OK"] * 300
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(30)


class Stream:
    """A text stream whose file behaves as the test says."""

    def __init__(self, *results: int | OSError | None) -> None:
        self.buffer = self
        self.written = io.BytesIO()
        self._answers = list(results)

    def write(self, data: memoryview) -> int | None:
        answer = self._answers.pop(0) if self._answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        if answer is not None:
            self.written.write(data[:answer])
        return answer


def test_lines_stay_whole_where_writing_fails_in_the_middle():
    """A write that fails within a line leaves that part on a line of its own; the lost rest is counted."""
    stream = Stream(3, OSError(28, "full"), None, OSError(28, "full"))
    writer = LogWriter(stream, 2**14, "{} dropped".format)
    for line in ("one", "two", "three\nfour", "five"):
        writer.msg(line * 2)
        assert writer.flush(10)
    assert stream.written.getvalue() == b"one\ntwotwo\n1 dropped\nthree\nfourthree\nfour\nfivefive\n"


def test_a_line_beyond_the_queue_is_counted():
    """Lines beyond the queue's bytes are dropped; written lines free the queue again."""
    stream = Stream()
    writer = LogWriter(stream, 100, "{} dropped".format)
    writer.msg("x" * 100)
    writer.msg("\ud800")
    assert writer.flush(10)
    writer.msg("y" * 99)
    assert writer.flush(10)
    assert stream.written.getvalue() == b"\\ud800\n1 dropped\n" + b"y" * 99 + b"\n"


@pytest.mark.parametrize("length", [1, 170, 4094, 4095, 4096, 9000])
def test_pieces_are_whole_lines(length):
    """Each write has as many whole lines as a pipe takes atomically, or one line."""
    lines = (b"x" * length + b"\n") * 100
    pieces = list(whole_lines(lines, PIPE_BUF))
    assert b"".join(pieces) == lines
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
