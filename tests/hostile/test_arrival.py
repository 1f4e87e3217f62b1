"""Requests in one-byte pieces, requests that never end, and bytes that are not HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Fault, Simulator
from tests.gateways import PLANS, TOKENS
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, code_of, request
from tests.hostile.raw_responses import next_response

QUERY = b'{"query": "{ __typename }"}'
HEAD = (
    b"POST /graphql HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\n"
)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def cpu_seconds(attacked) -> float:
    """CPU time of the event loop's thread."""
    return int(Path(f"/proc/{attacked.pid}/schedstat").read_text().split()[0]) / 1e9


def in_pieces(address, raw: bytes, size: int, connections: int = 1) -> list[bytes]:
    """The responses to one request on several connections, to which its pieces are sent alternately."""
    talks = [socket.create_connection(address, timeout=30) for _ in range(connections)]
    for talk in talks:
        talk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(raw), size):
        for talk in talks:
            talk.send(raw[start : start + size])
    answers = []
    for talk in talks:
        with talk, talk.makefile("rb") as file:
            answers.append(file.read())
    return answers


def endless(address, start: bytes, piece: bytes, bytes_max: int) -> tuple[bytes, int]:
    """The response to a request without end, and how many of its bytes were accepted."""
    sent = 0
    with socket.create_connection(address, timeout=5) as talk:
        said = b""
        with contextlib.suppress(OSError):
            talk.sendall(start)
            while sent < bytes_max:
                talk.sendall(piece)
                sent += len(piece)
        with contextlib.suppress(OSError):
            said = talk.recv(65536)
        return said, sent


def test_a_body_byte_by_byte_costs_no_more_than_its_bytes(attacked):
    """Bodies that arrive byte by byte cost a few microseconds a byte."""
    before = cpu_seconds(attacked)
    answers = in_pieces(attacked.address, request(QUERY + b" " * 10_000), 1, connections=8)
    assert {answer.split()[1] for answer in answers} == {b"200"}
    assert cpu_seconds(attacked) - before < 2


async def test_pieces_of_a_body_are_joined_once_under_any_server():
    """A body in one message per byte is read in linear time, for any header."""
    app = create_app(Settings(upstream={"url": "http://fleet.test"}))
    head = [(b"host", b"a"), (b"authorization", b"Bearer x"), (b"content-type", b"application/json")]
    for more in ([], [(b"x-request-id", b"a")]):
        pieces = iter([*QUERY, *b" " * 30_000])
        statuses = []

        async def receive(pieces=pieces):
            byte = next(pieces, None)
            return {
                "type": "http.request",
                "body": b"" if byte is None else bytes((byte,)),
                "more_body": byte is not None,
            }

        async def send(message, statuses=statuses):
            statuses.append(message.get("status"))

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/graphql", "raw_path": b"/graphql", "query_string": b"", "root_path": "", "headers": [*head, *more],
            "state": {},
        }  # fmt: skip
        async with app.lifespan():
            began = time.process_time()
            await app(scope, receive, send)
        assert statuses[0] == 200
        assert time.process_time() - began < 2


@pytest.mark.parametrize("chunk", [b"1\r\n \r\n", b"0001;ext=1\r\n \r\n"], ids=["plain", "extension"])
def test_a_chunk_for_each_byte_costs_its_bytes(attacked, chunk):
    """Half a million chunks of one byte delay no other request and take little memory."""
    body = b"%x\r\n%b\r\n" % (len(QUERY), QUERY) + chunk * 500_000 + b"0\r\n\r\n"
    with attacked.measured() as harm:
        assert in_pieces(attacked.address, CHUNKED + body, 2**17)[0].split()[1] == b"200"
    assert harm.cpu < INVALID_TOKEN_CPU_MAX
    assert harm.memory < MEMORY_MAX / 10


@pytest.mark.parametrize(
    "start",
    [
        CHUNKED + b"1\r\n \r\n0\r\nX: ",
        CHUNKED + b"1\r\n \r\n0\r\nX: y\r\n",
        CHUNKED + b"1;",
        CHUNKED + b"1;a=",
        CHUNKED + b'1;a="',
        CHUNKED + b"0",
        HEAD + b"X: ",
        b"GET /",
    ],
    ids=["trailer", "trailers", "extension", "value", "quoted", "size", "header", "path"],
)
@pytest.mark.parametrize("piece", [b"0" * 2**16, b"Xy: 0\r\n" * 9000], ids=["line", "lines"])
def test_endless_requests_end_with_the_connection(attacked, start, piece):
    """Endless heads, chunk extensions and trailers close the connection within two megabytes."""
    with attacked.measured() as harm:
        said, sent = endless(attacked.address, start, piece, 2**26)
    assert sent < 2**21 + 2**22  # including the sockets' own buffers
    assert not said or said.split()[1] in (b"400", b"414", b"431")
    assert harm.cpu < INVALID_TOKEN_CPU_MAX
    assert harm.memory < MEMORY_MAX / 10


def test_a_head_may_come_in_pieces(attacked):
    """A head within its limit is read however it is cut, and none of it counts for the next request."""
    long = HEAD.replace(b"Connection: close\r\n", b"") + b"X-Long: " + b"y" * 24_000 + b"\r\n"
    raw = long + b"Content-Length: %d\r\n\r\n" % len(QUERY) + QUERY
    for size in (7, 1460, len(raw) // 2):
        said = in_pieces(attacked.address, raw * 3 + request(QUERY), size)[0]
        assert said.count(b"HTTP/1.1 200 OK") == 4


def test_pipelined_requests_are_not_all_read(attacked):
    """Of seven thousand tiny requests in one read, behind a slow one, each is parsed only when it can be handled."""
    slow = request(b'{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}', "alice", Connection="keep-alive")
    tiny = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    number = (2**18 - len(slow)) // len(tiny)
    attacked.simulator.faults.rules = [Fault("latency", seconds=1)]
    with attacked.measured() as harm:
        talks = [socket.create_connection(attacked.address, timeout=30) for _ in range(8)]
        for talk in talks:
            talk.sendall(slow + tiny * number)
        time.sleep(1)
        attacked.simulator.faults.rules = []
        for talk in talks[1:]:
            talk.close()
        talks[0].sendall(tiny.replace(b"Host", b"Connection: close\r\nHost"))
        with talks[0], talks[0].makefile("rb") as file:
            assert file.read().count(b"HTTP/1.1 200 OK") == number + 2
    assert harm.cpu < INVALID_TOKEN_CPU_MAX
    assert harm.memory < MEMORY_MAX / 5


def test_a_rejected_body_gets_one_response(attacked):
    """Bytes after a rejection do not cause another response: a malformed rest of the body closes the connection."""
    with socket.create_connection(attacked.address, timeout=5) as talk, talk.makefile("rb") as file:
        talk.sendall(b"POST /graphql HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert next_response(file)[0] == 401
        talk.sendall(b"nonsense\r\n\r\n")
        assert next_response(file) is None


def test_a_body_after_its_response_counts_against_no_limit(attacked):
    """Body bytes that arrive after the response are not counted as in-flight bodies."""
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    open_ended = b"POST /graphql HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(attacked.address, timeout=5) as talk, talk.makefile("rb") as file:
        talk.sendall(open_ended)
        assert next_response(file)[0] == 401
        for _ in range(1100):  # more than the limit of all bodies together
            talk.sendall(piece)
        assert attacked.post(QUERY + b" " * 100_000)[0] == 200


def rejections_in(output: str) -> int:
    """How many bad requests the log counts."""
    lines = [json.loads(line) for line in output.splitlines() if '"BAD_REQUEST"' in line]
    return sum(line["BAD_REQUEST"] for line in lines)


def test_bad_http_is_logged_once_a_second(attacked):
    """Malformed requests take one log line a second, which counts every one of them."""
    time.sleep(1.1)  # earlier requests are logged by then
    lines, counted = attacked.gateway.output.count("\n"), rejections_in(attacked.gateway.output)
    began = time.monotonic()
    kinds = (
        b"nonsense\r\n\r\n",
        b"GET /graphql HTTP/2.0\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        b"POST /graphql HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    )
    for raw in kinds * 50:
        assert attacked.say(raw).startswith(b"HTTP/1.1 400 ")
    took = time.monotonic() - began
    time.sleep(1.2)
    output = attacked.gateway.output
    assert rejections_in(output) == counted + 200
    assert output.count("\n") - lines <= took + 3


BAD_FRAMING = {
    "zeros": b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\nhello",
    "zeros, traced": b"X-Request-Id: a\r\nContent-Length: " + b"0" * 5000 + b"5\r\n\r\nhello",
    "digits": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
    "overflow": b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "plus": b"Content-Length: +5\r\n\r\nhello",
    "minus": b"Content-Length: -5\r\n\r\nhello",
    "list": b"Content-Length: 5, 5\r\n\r\nhello",
    "hex": b"Content-Length: 0x5\r\n\r\nhello",
    "superscript": b"Content-Length: \xb2\r\n\r\nhello",
    "empty": b"Content-Length:\r\n\r\nhello",
    "two": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "same": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "both": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, otherwise": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "gzip": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip before": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "list of chunked": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "parameter": b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "misspelt": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "line feed": b"Transfer-Encoding: chunked\n\r\n0\r\n\r\n",
    "size": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "huge size": b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "line feed after an extension": b"Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD_FRAMING.values(), ids=BAD_FRAMING)
def test_ambiguous_framing_closes_the_connection(attacked, bad):
    """One 400 with a code, and nothing that follows is taken for a request."""
    start = b"POST /graphql HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\n"
    said = attacked.say(start + bad + b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said.count(b"HTTP/1.1 ") == 1
    head, _, body = said.partition(b"\r\n\r\n")
    assert (head.split()[1], code_of(body)) == (b"400", "BAD_REQUEST")
    assert b"\r\nconnection: close" in head


@pytest.mark.parametrize("version", [b"1.0", b"0.9", b"2.0"])
def test_only_http_1_1_may_be_chunked(attacked, version):
    """HTTP/1.0 with a transfer coding, and malformed versions, are 400."""
    said = attacked.say(b"POST /graphql HTTP/%b\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % version)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert attacked.say(b"GET /health/live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"X-Gateway-Timeout": "9" * 5000}, 400),
        ({"X-Gateway-Timeout": "1e999"}, 400),
        ({"X-Gateway-Timeout": "nan"}, 400),
        ({"X-Gateway-Timeout": "\xb2"}, 400),
        ({"Accept": "application/json;q=nan"}, 406),
        ({"Accept": "application/json;q=1e999"}, 406),
        ({"Accept": "application/json;q=0_1"}, 406),
        ({"Accept": "application/json;q=" + "1" * 9000}, 406),
        ({"Accept": "application/json;q=-1"}, 406),
        ({"Host": "a:" + "9" * 5000}, 400),
        ({"Host": "a:\xb2"}, 400),
    ],
)
def test_invalid_numbers_in_headers_are_rejected(attacked, fields, status):
    """A malformed or too large number is rejected with a code and never a 500."""
    status_received, body = attacked.post(QUERY, **fields)
    assert status_received == status
    assert code_of(body)


NUMBERS = ("9" * 5000, "-" + "9" * 5000, "1e999", "0." + "1" * 5000, "1" * 4000 + "e-4000", "1e-999999999")


@pytest.mark.parametrize("number", NUMBERS, ids=["long", "negative", "infinite", "fraction", "scaled", "tiny"])
@pytest.mark.parametrize("argument", ["first", "in a list"])
def test_numbers_of_any_length_are_the_callers_error(attacked, number, argument):
    """Huge numbers in a document or in variables are the caller's error."""
    field = "vehicles(first: %s)" if argument == "first" else "nodes(ids: [%s])"
    inner = "{ nodes { id } }" if argument == "first" else "{ id }"
    kind = "Int" if argument == "first" else "[ID!]!"
    variable = number if argument == "first" else f"[{number}]"
    name = "first" if argument == "first" else "ids"
    bodies = [
        json.dumps({"query": "{ %s %s }" % (field % number, inner)}).encode(),
        json.dumps({"query": "query($x: Int = %s) { vehicles(first: $x) { nodes { id } } }" % number}).encode(),
        b'{"query": "query($x: %b) { %b(%b: $x) %b }", "variables": {"x": %b}}'
        % (kind.encode(), field.partition("(")[0].encode(), name.encode(), inner.encode(), variable.encode()),
    ]
    for body in bodies:
        status, answer = attacked.post(body, token="alice")
        assert status in (200, 294, 400, 422)
        assert b'"INTERNAL"' not in answer


def test_a_padded_length_is_read_under_any_server(serve):
    """`Content-Length` with thousands of leading zeros is no bug where another server lets it pass."""
    app = create_app(Settings(upstream={"url": serve(Simulator(PLANS).app)}, log={"level": "error"}))
    address = ("127.0.0.1", int(serve(app).rpartition(":")[2]))
    for traced in (b"", b"X-Request-Id: a\r\n"):
        for length, status in ((b"%d" % len(QUERY), b"200"), (b"9" * 19, b"413")):
            with socket.create_connection(address, timeout=5) as talk:
                head = HEAD.replace(b"Bearer x", b"Bearer " + TOKENS["alice"].encode()) + traced
                talk.sendall(head + b"Content-Length: " + b"0" * 5000 + length + b"\r\n\r\n" + QUERY)
                if status == b"200" or traced:
                    assert talk.recv(65536).split()[1] == status
