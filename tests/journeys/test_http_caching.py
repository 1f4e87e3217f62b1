"""HTTP caching over real sockets: who may cache a response, and that no response goes to another request."""

from __future__ import annotations

import json
import threading
from contextlib import closing, contextmanager

import pytest

from gateway.simulator import Fault
from tests.gateways import TOKENS
from tests.served_gateway import QUERY_BODY, KeepAliveConnection, ServedGateway, request_of
from tests.waiting import waits_until

PAGE = "https://page.test"
ALICE = f"Authorization: Bearer {TOKENS['alice']}"
INVENTED = "Authorization: Bearer invented"
KIND = "Content-Type: application/json"
QUERY = "/graphql?query=%7Bvehicles(first:1)%7Bnodes%7BvehicleId%7D%7D%7D"
RESPONSE = "Accept: application/graphql-response+json"
FRESH, NEVER = "private, max-age=", "no-store"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = f"HEAD {QUERY} HTTP/1.1\r\nHost: a\r\n{ALICE}\r\n\r\n".encode()
FULL = {"concurrency": 1, "queue": 1, "principal_concurrency": 1, "principal_queue": 1}
DEPENDS = {"authorization", "accept", "accept-encoding", "origin", "x-gateway-cost", "x-gateway-timeout"}
# Status, caching, the request's first words, its header fields, its body.
ANSWERS = [
    (200, FRESH, f"GET {QUERY}", (ALICE,), b""),
    (200, FRESH, f"GET {QUERY}", (ALICE, RESPONSE), b""),
    (200, FRESH, f"GET {QUERY}", (ALICE, "Range: bytes=0-1"), b""),
    (200, FRESH, f"GET {QUERY}", (ALICE, "X-Gateway-Cost: report"), b""),
    (200, NEVER, f"GET {QUERY}", (ALICE, "X-Gateway-Cost: validate"), b""),
    (400, NEVER, f"GET {QUERY}", (ALICE, "X-Gateway-Cost: guess"), b""),
    (400, NEVER, f"GET {QUERY}", (ALICE, "X-Gateway-Timeout: soon"), b""),
    (401, NEVER, f"GET {QUERY}", (), b""),
    (401, NEVER, f"GET {QUERY}", ("Authorization: Basic eA==",), b""),
    (401, NEVER, f"GET {QUERY}", (INVENTED,), b""),
    (405, NEVER, f"HEAD {QUERY}", (ALICE,), b""),
    (406, NEVER, f"GET {QUERY}", (ALICE, "Accept: text/plain"), b""),
    (421, NEVER, f"GET {QUERY}", (ALICE, "Host: another"), b""),
    (400, NEVER, f"GET {QUERY}", (ALICE, "Host: localhost", "Host: another"), b""),
    (404, NEVER, "GET /graphql/", (ALICE,), b""),
    (200, FRESH, f"GET {QUERY}", (ALICE, "Connection: Upgrade", "Upgrade: h2c"), b""),
    (431, NEVER, f"GET {QUERY}", (ALICE, f"X-Long: {'x' * 5000}"), b""),
    (422, NEVER, "GET /graphql", (ALICE,), b""),
    (422, NEVER, "GET /graphql?query=%7Bnope%7D", (ALICE, RESPONSE), b""),
    (422, NEVER, "GET /graphql?query=%7Bnope%7D", (ALICE,), b""),
    (200, NEVER, "GET /graphql", ("Accept: text/html",), b""),
    (200, FRESH, "POST /graphql", (ALICE, KIND), QUERY_BODY),
    (200, FRESH, "POST /graphql", (ALICE, KIND, "X-Request-Id: mine"), QUERY_BODY),
    (422, NEVER, "POST /graphql", (ALICE, KIND), b'{"query": "{ nope }"}'),
    (400, NEVER, "POST /graphql", (ALICE, KIND), b"no JSON"),
    (401, NEVER, "POST /graphql", (KIND,), QUERY_BODY),
    (401, NEVER, "POST /graphql", (INVENTED, KIND), QUERY_BODY),
    (401, NEVER, "POST /graphql", (INVENTED, KIND, "X-Request-Id: mine"), QUERY_BODY),
    (413, NEVER, "POST /graphql", (ALICE, KIND), b" " * 2000),
    (415, NEVER, "POST /graphql", (ALICE, "Content-Type: text/plain"), QUERY_BODY),
    (405, NEVER, "DELETE /graphql", (ALICE,), b""),
    (405, NEVER, "OPTIONS /graphql", (), b""),
    (307, NEVER, "GET /", (), b""),
    (404, NEVER, "GET /nowhere", (), b""),
    (404, NEVER, "GET /explorer/none.js", (), b""),
    (405, NEVER, "POST /health/live", (), b""),
    (200, NEVER, "GET /health/live", (), b""),
    (200, NEVER, "HEAD /health/ready", (), b""),
    (400, NEVER, "nonsense", (), b""),
]  # fmt: skip


def request(first: str, *fields: str, body: bytes = b"") -> bytes:
    own = () if any(field.startswith("Host:") for field in fields) else ("Host: localhost",)
    length = (f"Content-Length: {len(body)}",) if body else ()
    return "\r\n".join((f"{first} HTTP/1.1", *own, *fields, *length, "Connection: close", "", "")).encode() + body


def received(raw: bytes) -> tuple[int, dict[str, list[str]], bytes]:
    """Status, the values of each header field, and body of one whole response."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields: dict[str, list[str]] = {}
    for name, _, value in (line.partition(": ") for line in lines):
        fields.setdefault(name.lower(), []).append(value)
    return int(first.split()[1]), fields, body


def varies(fields: dict[str, list[str]]) -> list[str]:
    """The field names of the response's only Vary line."""
    (line,) = fields["vary"]
    return sorted(line.lower().split(", "))


def loads(one: ServedGateway) -> tuple[int, int]:
    """The number of running and of waiting operations."""
    load = one.load()
    return load["operations"], load["queued"]


@contextmanager
def full(one: ServedGateway, seconds: float):
    """Within the block the gateway rejects all requests of Alice."""
    one.simulator.faults.rules = [Fault("latency", seconds=seconds)]
    busy = [KeepAliveConnection(one) for _ in range(2)]
    running = [threading.Thread(target=each.ask, args=(request_of(),)) for each in busy]
    for each, (operations, queued) in zip(running, ((1, 0), (1, 1)), strict=True):
        each.start()
        assert waits_until(lambda load=(operations, queued): loads(one) == load)
    one.say(request("POST /graphql", ALICE, KIND, body=QUERY_BODY))  # from here on she is remembered as a flood
    yield
    for each in running:
        each.join()
    for each in busy:
        each.close()


@pytest.mark.parametrize("origins", ["", PAGE], ids=["one origin", "two origins"])
def test_every_response_has_a_complete_vary_header(server, origins):
    """All kinds of response name every request header in one Vary line, for any Origin; only data may be cached."""
    one = server(
        http={"cors_origins": origins, "allowed_hosts": "localhost", "header_bytes_max": 4096, "body_bytes_max": 1024}
    )
    for origin in ((), (f"Origin: {PAGE}",), ("Origin: https://another.test",)):
        for expected, caching, first, given, body in ANSWERS:
            sent = request(first, *given, *origin, body=body)
            status, fields, _ = received(one.say(sent))
            assert status == expected, sent
            assert fields["cache-control"][0].startswith(caching), sent
            assert len(fields["cache-control"]) == 1, sent
            assert varies(fields) == sorted(DEPENDS), sent
            # A page of another origin may read the application's responses, but not those of the server before it.
            readable = bool(origins) and origin[:1] == (f"Origin: {PAGE}",) and status != 431
            assert ("access-control-allow-origin" in fields) == (readable and first != "nonsense"), sent


def test_failures_have_a_complete_vary_header(server):
    """Bugs, full queues and too many connections are reported like other errors, by POST, GET and HEAD."""
    one = server(limits=FULL, cache={"enabled": False}, coalescing={"enabled": False})
    small = server(http={"connections_max": 2, "address_connections_max": 2})
    get, post = request(f"GET {QUERY}", ALICE), request("POST /graphql", ALICE, KIND, body=QUERY_BODY)
    head = request(f"HEAD {QUERY}", ALICE)
    with full(one, 1.0):
        rejections = [(503, one.say(sent)) for sent in (get, post, head)]
    one.simulator.faults.rules = []
    small.simulator.faults.rules = [Fault("latency", seconds=1)]
    with closing(KeepAliveConnection(small)) as first, closing(KeepAliveConnection(small)) as second:
        for each in (first, second):
            each.connection.sendall(request_of())
        assert waits_until(lambda: loads(small) == (2, 0))
        rejections.append((503, small.say(get)))
        assert [first.ask(), second.ask()] == [200, 200]
    one.server.config.app.graphql.runtime = None  # a bug
    rejections += [(500, one.say(sent)) for sent in (get, post)]
    for expected, answer in rejections:
        status, fields, body = received(answer)
        assert status == expected
        assert fields["cache-control"] == ["no-store"]
        assert varies(fields) == sorted(DEPENDS)
        assert bool(body) == (answer is not rejections[2][1])


@pytest.mark.parametrize(("origins", "depends"), [("", []), (PAGE, ["Origin"])], ids=["one origin", "two origins"])
def test_files_of_the_explorer_are_public(server, origins, depends):
    """They depend on no caller, so any cache may store them; which page may read them is another matter."""
    one = server(http={"cors_origins": origins})
    _, fields, _ = received(one.say(request("GET /explorer/plain.js")))
    assert fields["cache-control"] == ["public, max-age=3600"]
    assert fields["vary"] == ["Accept-Encoding", *depends]


def test_plain_and_compressed_responses_vary_alike(server):
    """Gzip or not, cached or not, a response names Accept-Encoding."""
    one = server()
    body = json.dumps(
        {"query": "{ vehicles(first: 50) { nodes { id vehicleId masterData { brand model } } } }"}
    ).encode()
    plain = request("POST /graphql", ALICE, KIND, body=body)
    compressed = request("POST /graphql", ALICE, KIND, "Accept-Encoding: gzip", body=body)
    answers = [received(one.say(sent)) for sent in (compressed, plain, plain, compressed)]
    assert [fields.get("content-encoding") for _, fields, _ in answers] == [["gzip"], None, None, ["gzip"]]
    assert [varies(fields) for _, fields, _ in answers] == [sorted(DEPENDS)] * 4


def test_a_rejection_of_head_has_no_body(server):
    """The next bytes on the connection are the next response, also while a flood is rejected."""
    one = server(limits=FULL, cache={"enabled": False}, coalescing={"enabled": False})
    with full(one, 1.0), closing(KeepAliveConnection(one)) as talk:
        for _ in range(2):
            talk.connection.sendall(HEAD)
            assert talk.file.readline().split()[1] == b"503"
            assert b"content-type: application/graphql-response+json; charset=utf-8\r\n" in list(
                iter(talk.file.readline, b"\r\n")
            )
            assert talk.ask(LIVE) == 200


def test_pipelined_requests_get_responses_in_order(server):
    """With requests of several callers in one piece, a delayed rejection is not overtaken by later responses."""
    limits = FULL | {"rejection_cpu_share": 0.0004, "cpu_threshold": 1e-9}
    one = server(limits=limits, cache={"enabled": False}, coalescing={"enabled": False})
    with full(one, 2.0):
        for _ in range(4):
            with closing(KeepAliveConnection(one)) as talk:
                talk.connection.sendall(request_of() + LIVE + request_of() + LIVE)
                assert [talk.ask() for _ in range(4)] == [503, 200, 503, 200]
