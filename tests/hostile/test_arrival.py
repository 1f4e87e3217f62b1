"""Requests that arrive in as many pieces as they have bytes, or with numbers beyond all bounds."""

from __future__ import annotations

import json
import socket
import time

import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Simulator
from tests.gateways import PLANS, TOKENS
from tests.hostile.attacked import code_of

QUERY = b'{"query": "{ __typename }"}'
HEAD = (
    b"POST /graphql HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\n"
)


async def test_pieces_of_a_body_are_joined_once_under_any_server():
    """A body in as many messages as it has bytes is read in linear time, whichever road it takes."""
    app = create_app(Settings(upstream={"url": "http://fleet.test"}))
    head = [(b"host", b"a"), (b"authorization", b"Bearer x"), (b"content-type", b"application/json")]
    for more in ([], [(b"x-request-id", b"a")]):
        left = iter([*QUERY, *b" " * 30_000])
        statuses = []

        async def receive(left=left):
            byte = next(left, None)
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
        async with app.router.lifespan_context(app):
            began = time.process_time()
            await app(scope, receive, send)
        assert statuses[0] == 200
        assert time.process_time() - began < 2


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
def test_numbers_in_headers_are_read_as_such_only(attacked, fields, status):
    """What is no number, or none of this size, is refused with a code and never a 500."""
    answered, body = attacked.post(QUERY, **fields)
    assert answered == status
    assert code_of(body)


NUMBERS = ("9" * 5000, "-" + "9" * 5000, "1e999", "0." + "1" * 5000, "1" * 4000 + "e-4000", "1e-999999999")


@pytest.mark.parametrize("number", NUMBERS, ids=["long", "negative", "infinite", "fraction", "scaled", "tiny"])
@pytest.mark.parametrize("argument", ["first", "in a list"])
def test_numbers_of_any_length_are_no_bug(attacked, number, argument):
    """Numbers beyond all bounds, in a document or in variables, are the caller's error."""
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
        assert status in (200, 400)
        assert b'"INTERNAL"' not in answer


def test_the_length_is_read_under_any_server(serve):
    """`Content-Length` with thousands of zeros is no bug where another server lets it pass."""
    app = create_app(Settings(upstream={"url": serve(Simulator(PLANS).app)}, log={"level": "error"}))
    address = ("127.0.0.1", int(serve(app).rpartition(":")[2]))
    for traced in (b"", b"X-Request-Id: a\r\n"):
        for length, status in ((b"%d" % len(QUERY), b"200"), (b"9" * 19, b"413")):
            with socket.create_connection(address, timeout=5) as talk:
                head = HEAD.replace(b"Bearer x", b"Bearer " + TOKENS["alice"].encode()) + traced
                talk.sendall(head + b"Content-Length: " + b"0" * 5000 + length + b"\r\n\r\n" + QUERY)
                if status == b"200" or traced:
                    assert talk.recv(65536).split()[1] == status
