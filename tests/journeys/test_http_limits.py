"""Limits of the server against hostile or careless clients, over real sockets, and their errors."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import threading
import time

import httpx
import pytest

from gateway.simulator import Fault
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import TOKENS
from tests.served_gateway import QUERY_BODY, KeepAliveConnection, request_of
from tests.waiting import waits_until

ALICE = f"Bearer {TOKENS['alice']}"
HEADERS_TOO_LARGE, URI_TOO_LONG = (431, "HEADERS_TOO_LARGE"), (414, "URI_TOO_LONG")


class OldConnection(http.client.HTTPConnection):
    """HTTP/1.0, whose connections end with the response."""

    _http_vsn, _http_vsn_str = 10, "HTTP/1.0"


def code_of(raw: bytes) -> tuple[int, str]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["errors"][0]["extensions"]["code"]


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"GET /graphql HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n", HEADERS_TOO_LARGE),
        (b"GET /graphql HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 6000 + b"\r\n", HEADERS_TOO_LARGE),
        (b"GET /graphql HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"x" * 200_000, HEADERS_TOO_LARGE),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", URI_TOO_LONG),
        (b"GET /graphql?query=" + b"x" * 200_000, URI_TOO_LONG),
        (b"GET /graphql?" + b"x" * 32_000 + b" HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 1000 + b"\r\n\r\n", URI_TOO_LONG),
    ],
    ids=["long", "many", "endless", "path", "endless query", "query and headers"],
)  # fmt: skip
def test_heads_have_a_limit(server, head, error):
    """Headers beyond the limit are 431 and a target 414, endless ones too."""
    assert code_of(server().say(head)) == error


def test_a_client_that_sends_on_still_gets_its_error(server):
    """A large body is dropped after an error, and the connection is usable then unless it ends; a long target gets 414."""
    gateway = server()
    body = b" " * 8 * 2**20
    fields = {"Authorization": ALICE, "Content-Type": "application/json"}
    small, text = body[: 2**20 - 1], {**fields, "Content-Type": "text/plain"}
    for rejected, sent, status in ((fields, body, 413), ({}, small, 401), (text, small, 415)):
        for version in (http.client.HTTPConnection, OldConnection):
            client = version(*gateway.address, timeout=10)
            client.request("POST", "/graphql", sent, {**rejected, "Connection": "close"})
            with client.getresponse() as response:
                assert response.status == status
                assert response.read()
            client.close()
    client = http.client.HTTPConnection(*gateway.address, timeout=10)
    for content, status in ((body, 413), (QUERY_BODY, 200)):
        client.request("POST", "/graphql", content, fields)
        with client.getresponse() as response:
            assert response.status == status
            assert response.read()
    client.close()
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.sendall(b"GET /graphql?query=" + b"x" * 2**17)
        assert connection.recv(20).startswith(b"HTTP/1.1 414 ")


def test_an_error_of_the_body_ends_the_operation(server):
    """The framing of a body that is too large gets 431 while the operation of its header runs, which is cancelled."""
    gateway = server(cache={"enabled": False})
    gateway.simulator.faults.rules = [Fault("latency", seconds=60)]
    head = f"GET /graphql?query={{vehicle(id:%22A%22){{id}}}} HTTP/1.1\r\nHost: x\r\nAuthorization: {ALICE}\r\n"
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n1;")
        assert waits_until(lambda: gateway.load()["operations"] == 1)
        connection.sendall(b"x" * 50_000)
        assert connection.recv(20).startswith(b"HTTP/1.1 431 ")
        assert waits_until(lambda: gateway.load()["operations"] == 0)


@pytest.mark.parametrize(
    "parts",
    [
        (b"",),
        (b"GET /graphql HT",),
        (b"GET /health/live HTTP/1.1\r\n", b"Host: x\r\n"),
        (b"POST /graphql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n", b"{"),
    ],
    ids=["nothing", "line", "headers", "body"],
)  # fmt: skip
def test_a_request_that_does_not_arrive_times_out(server, parts):
    """A connection that sends too little for too long gets 408 and is closed."""
    began = time.monotonic()
    assert code_of(server(http={"request_timeout": 0.3}).say(*parts, wait=0.05)) == (408, "REQUEST_TIMEOUT")
    assert time.monotonic() - began < 5


def test_malformed_http_is_rejected(server):
    """Malformed bytes get a 400 with a code, and the next connection works."""
    gateway = server()
    assert code_of(gateway.say(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")) == (400, "BAD_REQUEST")
    assert httpx.get(f"{gateway.url}/health/live", verify=False).json() == {"status": "live"}


def test_a_slow_response_is_no_slow_request(server):
    """The request time-out ends when the request is complete: its response may take longer."""
    gateway = server(http={"request_timeout": 0.2})
    gateway.simulator.faults.rules = [Fault("latency", seconds=0.6)]
    with httpx.Client(headers={"Authorization": f"Bearer {TOKENS['alice']}"}, verify=False) as http:
        for _ in range(2):
            answer = http.post(f"{gateway.url}/graphql", json={"query": '{ vehicle(id: "JQ7RP") { vehicleId } }'})
            assert answer.json() == {"data": {"vehicle": {"vehicleId": "JQ7RP"}}}


@pytest.mark.parametrize(
    ("url", "warned"), [("http://fleet.test", True), ("http://127.0.0.1:9", False), ("https://fleet.test", False)]
)
def test_tokens_over_plain_http_cause_a_warning(tmp_path, url, warned):
    """`serve` warns if the fleet API is called without TLS, unless it is on this machine."""
    gateway = GatewayProcess(tmp_path, upstream_url=url)
    gateway.wait_until_ready()
    gateway.stop()
    assert ("unencrypted" in gateway.output) is warned


def test_every_response_has_security_headers(server):
    """Browsers are told not to sniff, frame or refer; GraphiQL's page has its own policy."""
    gateway = server()
    for path, accept in (("/graphql", "*/*"), ("/nowhere", "*/*"), ("/graphql", "text/html"), ("/health/live", "*/*")):
        headers = httpx.get(gateway.url + path, headers={"Accept": accept}, verify=False).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Referrer-Policy" in headers
        assert "frame-ancestors" in headers["Content-Security-Policy"] or headers["X-Frame-Options"] == "DENY"
        assert len(headers.get_list("Content-Security-Policy")) == 1
        assert "Server" not in headers


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("api.example.com", "/graphql", 401),
        ("api.example.com:8000", "/graphql", 401),
        ("a.b.example.org", "/graphql", 401),
        ("example.org", "/graphql", 421),
        ("evil.test", "/graphql", 421),
        ("", "/graphql", 400),
        ("evil.test", "/health/live", 200),
    ],
)
def test_hosts_are_checked_where_they_are_set(server, host, path, status):
    """Another name in Host is 421 with a code; health responds for any host."""
    gateway = server(http={"allowed_hosts": "api.example.com, *.example.org"})
    response = httpx.get(gateway.url + path, headers={"Host": host}, verify=False)
    assert response.status_code == status
    if status == 421:
        assert response.json()["errors"][0]["extensions"]["code"] == "HOST_UNKNOWN"


async def test_a_client_disconnect_ends_the_upstream_call(server):
    """When the connection closes, the reads under way end at once and the slot is free."""
    gateway = server()
    gateway.simulator.faults.rules = [Fault("latency", seconds=20)]
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"Authorization": f"Bearer {TOKENS['alice']}"}, verify=False
    ) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/graphql", json={"query": "{ vehicles { nodes { id } } }"}, timeout=0.3)
        for _ in range(100):
            load = (await http.get("/health/ready")).json()
            if not load["reads"] + load["operations"]:
                break
            await asyncio.sleep(0.02)
        assert load == {"status": "ready", "operations": 0, "queued": 0, "reads": 0, "upstream": "up"}


async def test_operations_beyond_the_bounds_get_503(server):
    """Beyond its slots a principal gets 503 with Retry-After, sooner than any operation ends; another's still runs."""
    gateway = server(limits={"principal_concurrency": 2, "principal_queue": 2})
    gateway.simulator.faults.rules = [Fault("latency", seconds=1, client="T7K2M#alice")]
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, verify=False) as http:

        async def ask(who: str, number: int) -> httpx.Response:
            query = f'{{ vehicle(id: "V{number}") {{ vehicleId }} }}'
            return await http.post(
                "/graphql", json={"query": query}, headers={"Authorization": f"Bearer {TOKENS[who]}"}
            )

        flood = [asyncio.create_task(ask("alice", number)) for number in range(10)]
        await asyncio.sleep(0.2)
        assert (await ask("bob", 1)).status_code == 200
        answers = await asyncio.gather(*flood)
    assert [answer.status_code for answer in answers].count(200) == 4
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert re.fullmatch(r"\d+", refused.headers["Retry-After"])
    extensions = refused.json()["errors"][0]["extensions"]
    assert extensions == {"code": "OVERLOADED", "retryable": True, "retryAfter": 1}
    assert refused.elapsed.total_seconds() < 0.9


@pytest.mark.parametrize(
    "accept", ["application/json", pytest.param("application/graphql-response+json", marks=thorough_only)]
)
async def test_a_flood_of_invented_tokens_leaves_slots_to_trusted_callers(server, accept):
    """Callers with a new token in each request count as one principal against those the fleet API has accepted."""
    limits = {"concurrency": 4, "queue": 6, "principal_concurrency": 2, "principal_queue": 4}
    gateway = server(limits=limits, cache={"enabled": False}, coalescing={"enabled": False})
    # In any form of request.
    traced = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} if "graphql" in accept else {}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, verify=False) as http:

        async def ask(token: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}", "Accept": accept, **traced}
            return await http.post(
                "/graphql", content=QUERY_BODY, headers={**headers, "Content-Type": "application/json"}
            )

        assert (await ask(TOKENS["alice"])).status_code == 200
        gateway.simulator.faults.rules = [Fault("latency", seconds=2)]
        flood = [asyncio.create_task(ask(f"invented-{number}")) for number in range(40)]
        await asyncio.sleep(0.2)
        assert (await ask(TOKENS["alice"])).status_code == 200
        answers = await asyncio.gather(*flood)
        gateway.simulator.faults.rules = []
        codes = [answer.json()["errors"][0]["extensions"]["code"] for answer in answers]
        # Those that have slots or are queued while Alice's request is: at most nine.
        assert 0 < codes.count("UNAUTHENTICATED") <= 9
        assert codes.count("UNAUTHENTICATED") + codes.count("OVERLOADED") == 40
        assert [(await ask(TOKENS["bob"])).status_code for _ in range(3)] == [200] * 3
        assert (await http.get("/health/ready")).json()["queued"] == 0


def test_rejections_keep_the_connection_usable(server):
    """The same request again, another, one in pieces, two at once: rejected while the queue is full, served after."""
    limits = {"concurrency": 1, "queue": 1, "principal_concurrency": 1, "principal_queue": 1}
    one = server(limits=limits, cache={"enabled": False}, coalescing={"enabled": False})
    one.simulator.faults.rules = [Fault("latency", seconds=1.5)]
    busy, talk = [KeepAliveConnection(one) for _ in range(2)], KeepAliveConnection(one)
    running = [threading.Thread(target=each.ask, args=(request_of(),)) for each in busy]
    for each in running:
        each.start()
        time.sleep(0.2)
    other = request_of(QUERY_BODY.replace(b"first: 1", b"first: 2"))
    parted = request_of()
    assert [talk.ask(request_of()) for _ in range(4)] == [503] * 4
    assert [talk.ask(other), talk.ask(request_of()), talk.ask(request_of())] == [503] * 3
    assert talk.ask(parted[:50], parted[50:-10], parted[-10:]) == 503
    assert talk.ask(request_of() + request_of()) == 503
    assert talk.ask() == 503
    for each in running:
        each.join()
    one.simulator.faults.rules = []
    assert [talk.ask(request_of()), talk.ask(other), talk.ask(request_of())] == [200] * 3
    for each in (*busy, talk):
        each.close()


def test_rejections_of_a_flood_are_throttled_and_in_order(server):
    """Beyond a rate rejections are delayed, but all are sent; a request behind one is handled after it."""
    queue = {"concurrency": 1, "queue": 1, "principal_concurrency": 1, "principal_queue": 1}
    limits = queue | {
        "rejection_cpu_share": 0.0004,
        "cpu_threshold": 1e-9,
    }  # a rejection costs a hundredth of a second's share or more
    one = server(limits=limits, cache={"enabled": False}, coalescing={"enabled": False})
    one.simulator.faults.rules = [Fault("latency", seconds=2.5)]
    busy, talk, other = [KeepAliveConnection(one) for _ in range(2)], KeepAliveConnection(one), KeepAliveConnection(one)
    running = [threading.Thread(target=each.ask, args=(request_of(),)) for each in busy]
    for each in running:
        each.start()
        time.sleep(0.2)
    began = time.monotonic()
    assert [talk.ask(request_of()) for _ in range(8)] == [503] * 8
    assert time.monotonic() - began >= 0.5
    talk.connection.sendall(request_of())
    other.connection.sendall(request_of())
    time.sleep(0.02)
    assert talk.ask(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n") == 503
    assert talk.file.readline().split()[1] == b"200"
    assert other.ask() == 503
    for each in running:
        each.join()
    for each in (*busy, talk, other):
        each.close()


def test_a_body_in_the_piece_of_its_head_is_no_head(server):
    """The limit of the head does not count the body behind it, on a new connection or a kept-alive one."""
    one = server(http={"header_bytes_max": 1024})
    talk = KeepAliveConnection(one)
    large = request_of(QUERY_BODY + b" " * 8000)
    assert [talk.ask(large) for _ in range(3)] == [200] * 3
    assert [talk.ask(request_of()), talk.ask(large)] == [200] * 2
    talk.close()


def test_a_disconnect_in_the_queue_frees_the_queue_entry(server):
    """A disconnected client leaves the queue at once, while the operation before it still runs."""
    one = server(limits={"concurrency": 1, "principal_concurrency": 1}, cache={"enabled": False})
    warm = KeepAliveConnection(one)
    assert warm.ask(request_of()) == 200
    one.simulator.faults.rules = [Fault("latency", seconds=2)]
    running, waiting = KeepAliveConnection(one), KeepAliveConnection(one)
    asking = threading.Thread(target=running.ask, args=(request_of(),))
    asking.start()
    time.sleep(0.2)
    waiting.connection.sendall(request_of())
    time.sleep(0.2)
    load = httpx.get(f"{one.url}/health/ready", verify=False).json()
    assert (load["operations"], load["queued"]) == (1, 1)
    waiting.close()
    time.sleep(0.2)
    load = httpx.get(f"{one.url}/health/ready", verify=False).json()
    assert (load["operations"], load["queued"]) == (1, 0)
    asking.join()
    running.close()
    warm.close()


def test_a_disconnect_ends_all_pipelined_requests(server):
    """Of two requests in one piece both end when the connection does: the running and the waiting one."""
    one = server(limits={"deadline": 20})
    one.simulator.faults.rules = [Fault("latency", seconds=15)]
    talk = KeepAliveConnection(one)
    talk.connection.sendall(request_of() + request_of(QUERY_BODY.replace(b"first: 1", b"first: 2")))
    assert waits_until(lambda: one.load()["operations"] == 1)
    talk.close()
    assert waits_until(
        lambda: one.load() == {"status": "ready", "operations": 0, "queued": 0, "reads": 0, "upstream": "up"}, 2
    )


def test_many_pipelined_requests_get_responses_in_order(server):
    """More than may wait on one connection: each gets its response, and the connection stays usable."""
    one = server()
    talk = KeepAliveConnection(one)
    many = [QUERY_BODY.replace(b"first: 1", b"first: %d" % number) for number in range(1, 60)]
    talk.connection.sendall(b"".join(map(request_of, many)))
    for number in range(1, 60):
        length = 0
        assert talk.file.readline().split()[1] == b"200"
        while (line := talk.file.readline().lower()) != b"\r\n":
            length = int(line.split()[1]) if line.startswith(b"content-length") else length
        assert len(json.loads(talk.file.read(length))["data"]["vehicles"]["nodes"]) == number
    assert talk.ask(request_of()) == 200
    assert one.server.config.limits.pipelined_bytes == 0
    talk.close()


def test_a_timeout_waits_for_the_response_before_it(server):
    """The due response is sent first; then the request that never arrived gets 408."""
    one = server(http={"request_timeout": 0.3}, cache={"enabled": False})
    one.simulator.faults.rules = [Fault("latency", seconds=1)]
    talk = KeepAliveConnection(one)
    assert talk.ask(request_of() + b"POST /graphql HTTP/1.1\r\n") == 200
    assert talk.file.readline().split()[1] == b"408"
    talk.close()


def test_empty_lines_keep_no_connection_open(server):
    """A line break after a response is no request: the connection is still closed when idle."""
    one = server(http={"request_timeout": 0.3, "keep_alive": 1})
    talk = KeepAliveConnection(one)
    assert talk.ask(request_of()) == 200
    talk.connection.sendall(b"\r\n")
    assert talk.file.readline().split()[1] == b"408"
    assert talk.file.read().endswith(b"}")
    talk.close()


def test_a_client_that_reads_nothing_is_disconnected(server):
    """A client that sends requests and never reads is disconnected; one that reads slowly stays."""
    one = server(http={"slow_reader_timeout": 1}, cache={"vehicles_ttl": 600})
    large = request_of(b'{"query": "{ vehicles(first: 500) { nodes { vehicleId masterData { vin brand model } } } }"}')
    slow, deaf = KeepAliveConnection(one), KeepAliveConnection(one)
    slow.connection.sendall(large * 400)
    deaf.connection.sendall(large * 400)
    open_ones = one.server.server_state.connections
    assert waits_until(lambda: len(open_ones) == 2)
    read, immediate = 0, 0
    while immediate < 3:
        read += len(slow.connection.recv(1 << 18))
        time.sleep(0.05)
        immediate += len(open_ones) == 1
        assert read < 25_000_000, "the deaf one is still there"
    assert len(slow.connection.recv(1)) == 1
    for talk in (slow, deaf):
        talk.close()


def test_connections_have_a_limit(server):
    """A connection beyond the limit closes the one that was idle for longest; active ones stay."""
    one = server(http={"connections_max": 2, "address_connections_max": 2})
    talks = [KeepAliveConnection(one), KeepAliveConnection(one)]
    assert [talk.ask(request_of()) for talk in talks] == [200, 200]
    talks.append(KeepAliveConnection(one))
    assert talks[2].ask(request_of()) == 200
    assert talks[0].file.read() == b""
    assert talks[1].ask(request_of()) == 200
    for talk in talks:
        talk.close()


def test_without_an_idle_connection_a_new_one_is_rejected(server):
    """It gets 503 with Retry-After and is closed; health still responds."""
    one = server(http={"connections_max": 2, "address_connections_max": 2})
    one.simulator.faults.rules = [Fault("latency", seconds=1)]
    talks = [KeepAliveConnection(one), KeepAliveConnection(one)]
    for talk in talks:
        talk.connection.sendall(request_of())
    assert waits_until(lambda: one.load()["operations"] == 2)
    surplus = one.say(request_of())
    assert code_of(surplus) == (503, "OVERLOADED")
    assert b"\r\nretry-after: 1\r\n" in surplus
    live = one.say(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert live.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in live
    assert [talk.ask() for talk in talks] == [200, 200]
    for talk in talks:
        talk.close()


def test_inflight_bodies_have_a_common_limit(server):
    """Beyond it large bodies are rejected and small ones are not; bytes that never arrive are released."""
    one = server(http={"inflight_body_bytes_max": 300_000})
    padded = request_of(QUERY_BODY + b" " * 200_000)
    uploads = [KeepAliveConnection(one) for _ in range(2)]
    uploads[0].connection.sendall(padded[:-1])
    time.sleep(0.2)
    uploads[1].connection.sendall(padded[:-1])
    assert uploads[1].file.readline().split()[1] == b"503"
    small = KeepAliveConnection(one)
    assert small.ask(request_of()) == 200
    assert uploads[0].ask(padded[-1:]) == 200
    uploads[0].connection.sendall(padded[:-1])
    time.sleep(0.2)
    for talk in uploads:
        talk.close()
    assert waits_until(lambda: one.server.config.limits.inflight_body_bytes == 0)
    assert small.ask(padded) == 200
    small.close()


def test_a_search_too_long_for_the_fleet_api_is_not_sent(server):
    """A search beyond the limit of servers is rejected by the gateway; it is no outage, and other reads still work."""
    one = server()
    long = QUERY_BODY.replace(b"first: 1", b'first: 1, search: \\"%b\\"' % (b"x" * 30_000))
    headers = {"Authorization": f"Bearer {TOKENS['alice']}", "Content-Type": "application/json"}
    for _ in range(12):
        answer = httpx.post(f"{one.url}/graphql", content=long, headers=headers, verify=False).json()
        extensions = answer["errors"][0]["extensions"]
        assert extensions["code"] == "UPSTREAM_REJECTED"
        assert extensions["upstream"]["status"] == 414
    assert one.simulator.requests.total == 0
    assert "errors" not in httpx.post(f"{one.url}/graphql", content=QUERY_BODY, headers=headers, verify=False).json()
