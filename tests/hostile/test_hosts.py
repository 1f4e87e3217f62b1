"""Requests that name no host, several hosts, or a wrong one; and redirects."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Simulator
from tests.gateways import PLANS, TOKENS, serving
from tests.hostile.attacked import AttackedGateway, code_of
from tests.hostile.raw_responses import responses_of, statuses_of

QUERY = b'{"query": "{ __typename }"}'
ALICE = b"Authorization: Bearer " + TOKENS["alice"].encode() + b"\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(QUERY) + QUERY


HOSTS = [
    (b"", 400),
    (b"Host: a\r\nHost: a\r\n", 400),
    (b"Host: a\r\nHost: b\r\n", 400),
    (b"Host: a\r\nHost:\r\n", 400),
    (b"Host:\r\n", 400),
    (b"Host: a, b\r\n", 400),
    (b"Host: a b\r\n", 400),
    (b"Host: user@a\r\n", 400),
    (b"Host: a/graphql\r\n", 400),
    (b"Host: a#b\r\n", 400),
    (b"Host: a?b\r\n", 400),
    (b"Host: http://a\r\n", 400),
    (b"Host: a\\b\r\n", 400),
    (b"Host: a..b\r\n", 400),
    (b"Host: .a\r\n", 400),
    (b"Host: a\xe4\r\n", 400),
    (b"Host: a:b\r\n", 400),
    (b"Host: a:-1\r\n", 400),
    (b"Host: a:65536\r\n", 400),
    (b"Host: [::1\r\n", 400),
    (b"Host: [::g]\r\n", 400),
    (b"Host: [1.2.3.4]\r\n", 400),
    (b"Host: " + b"a" * 9000 + b"\r\n", 400),
    (b"Host: a\r\n", 200),
    (b"host:a.\t\r\n", 200),
    (b"Host: A.example.com:65535\r\n", 200),
    (b"Host: a:\r\n", 200),
    (b"Host: my_service:80\r\n", 200),
    (b"Host: [::1]:8000\r\n", 200),
    (b"Host: 127.0.0.1:8000\r\n", 200),
]


@pytest.mark.parametrize(
    ("host", "status"), HOSTS, ids=[host.decode("latin-1")[:30].strip() or "none" for host, _ in HOSTS]
)
def test_a_request_names_one_host(attacked, host, status):
    """No host, two or an invalid one is 400 with a code, by GET and POST, with or without a request id; health, too."""
    for more in (b"", b"X-Request-Id: a\r\n"):
        said = attacked.say(b"POST /graphql HTTP/1.1\r\n" + host + ALICE + b"Connection: close\r\n" + more + LENGTH)
        assert statuses_of(said) == [status]
        assert status == 200 or code_of(responses_of(said)[0][1]) == "BAD_REQUEST"
    said = attacked.say(b"GET /health/live HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n")
    assert statuses_of(said) == [status]


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        (b"http://a/health/live", b"HTTP/1.1\r\nHost: a\r\n", 200),
        (b"HTTP://A:80/health/live", b"HTTP/1.1\r\nHost: a\r\n", 200),
        (b"https://a/health/live", b"HTTP/1.1\r\nHost: a:443\r\n", 200),
        (b"http://a/health/live", b"HTTP/1.0\r\n", 200),
        (b"http://a", b"HTTP/1.1\r\nHost: a\r\n", 307),
        (b"http://a?x", b"HTTP/1.1\r\nHost: a\r\n", 307),
        (b"http://a/health/live", b"HTTP/1.1\r\n", 400),
        (b"http://a/health/live", b"HTTP/1.1\r\nHost: b\r\n", 400),
        (b"http://a:81/health/live", b"HTTP/1.1\r\nHost: a\r\n", 400),
        (b"https://a/health/live", b"HTTP/1.1\r\nHost: a:80\r\n", 400),
        (b"http://user@a/health/live", b"HTTP/1.1\r\nHost: a\r\n", 400),
        (b"http:///health/live", b"HTTP/1.1\r\nHost: a\r\n", 400),
        (b"ftp://a/health/live", b"HTTP/1.1\r\nHost: a\r\n", 400),
        (b"a/health/live", b"HTTP/1.1\r\nHost: a\r\n", 400),
        (b"//a/health/live", b"HTTP/1.1\r\nHost: b\r\n", 404),
        (b"*", b"HTTP/1.1\r\nHost: a\r\n", 400),
    ],
)
def test_a_target_and_its_host_agree(attacked, target, fields, status):
    """An absolute form whose host equals `Host` is used as its path; any other absolute form is 400."""
    said = attacked.say(b"GET " + target + b" " + fields + b"Connection: close\r\n\r\n")
    assert statuses_of(said) == [status]


@pytest.fixture(scope="module")
def gateway_with_hosts(tmp_path_factory):
    """A gateway with allowed hosts."""
    hosts = " API.Example.com:443, *.Example.org. ,bücher.example,[0:0:0:0:0:0:0:1],"
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("named")
        one = AttackedGateway(folder, lambda app: stack.enter_context(serving(app)), http_allowed_hosts=hosts)
        stack.callback(one.stop)
        yield one


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"api.example.com", 200),
        (b"API.EXAMPLE.COM.:8000", 200),
        (b"a.b.example.ORG", 200),
        (b"xn--bcher-kva.example", 200),
        (b"[::1]:8000", 200),
        (b"example.org", 421),
        (b"evilexample.org", 421),
        (b"api.example.com.evil.test", 421),
        (b"api.example.com,evil.test", 400),
        (b"evil.test:80@api.example.com", 400),
    ],
)
def test_names_are_compared_as_dns_does(gateway_with_hosts, host, status):
    """Case, a final dot, the port and the form of an address do not matter, in the setting or in the request."""
    for more in (b"", b"X-Request-Id: a\r\n"):
        head = b"POST /graphql HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n" + ALICE + more
        said = gateway_with_hosts.say(head + LENGTH)
        assert statuses_of(said) == [status]
        assert status == 200 or code_of(responses_of(said)[0][1]) == {400: "BAD_REQUEST", 421: "HOST_UNKNOWN"}[status]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health/live HTTP/1.0\r\n", 200),
        (b"GET /graphql HTTP/1.0\r\n", 421),
        (b"GET http://api.example.com/graphql HTTP/1.0\r\n", 401),
        (b"GET http://evil.test/graphql HTTP/1.0\r\n", 421),
        (b"GET http://evil.test/graphql HTTP/1.1\r\nHost: api.example.com\r\n", 400),
        (b"GET http://api.example.com/graphql HTTP/1.1\r\nHost: evil.test\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nHost: evil.test\r\n", 200),
        (b"GET /graphql/ HTTP/1.1\r\nHost: evil.test\r\n", 421),
        (b"GET /health/live/ HTTP/1.1\r\nHost: evil.test\r\n", 404),
    ],
)
def test_no_form_of_request_bypasses_the_allowed_hosts(gateway_with_hosts, head, status):
    """A request without a host, or with another in its target, is rejected where hosts are restricted."""
    assert statuses_of(gateway_with_hosts.say(head + b"Connection: close\r\n\r\n")) == [status]


@pytest.mark.parametrize("path", ["/graphql/", "/health/live/", "/explorer/plain.css/", "//evil.test/", "/graphql//"])
def test_no_redirect_contains_the_callers_host(attacked, path):
    """A path with an extra slash is a 404 with a code for all methods; the one redirect has no host."""
    for method in ("GET", "POST"):
        answer = httpx.request(
            method, attacked.gateway.url + path, headers={"Host": "evil.test", "Authorization": "Bearer x"}
        )
        assert (answer.status_code, code_of(answer.content)) == (404, "NOT_FOUND")
        assert "location" not in answer.headers
    answer = httpx.get(attacked.gateway.url, headers={"Host": "evil.test"}, verify=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/graphql")


def test_hosts_are_checked_under_any_server(serve):
    """Under another server the same requests are rejected: no host, two, an invalid or another one; and no redirect."""
    settings = Settings(
        upstream={"url": serve(Simulator(PLANS).app)}, log={"level": "error"}, http={"allowed_hosts": "API.example.com"}
    )
    address = ("127.0.0.1", int(serve(create_app(settings)).rpartition(":")[2]))

    def status_of(host: bytes, path: bytes = b"/graphql") -> int:
        with socket.create_connection(address, timeout=5) as talk:
            head = b"POST " + path + b" HTTP/1.1\r\n" + host + ALICE + b"Connection: close\r\n"
            talk.sendall(head + LENGTH)
            with talk.makefile("rb") as file:
                return int(file.readline().split()[1])

    good = b"Host: api.EXAMPLE.com:80\r\n"
    assert status_of(good) == 200
    assert [status_of(host) for host in (b"", good + good, b"Host: a b\r\n", b"Host: evil.test\r\n")] == [
        400,
        400,
        400,
        421,
    ]
    assert [status_of(good, path) for path in (b"/graphql/", b"/health/live/")] == [404, 404]


@pytest.mark.parametrize(
    "hosts", ["https://api.example.com", "api.example.com/", "*", "a b", "straße.example", "*.[::1]"]
)
def test_an_impossible_allowed_host_fails_at_start(hosts):
    """A setting that would reject every request is an error that says which name is wrong."""
    with pytest.raises(ValueError, match=re.escape(repr(hosts))):
        Settings(http={"allowed_hosts": hosts})
