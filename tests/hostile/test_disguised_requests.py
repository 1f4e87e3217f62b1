"""Upgrades to other protocols, and trailers."""

from __future__ import annotations

import json

import pytest

from tests.gateways import TOKENS
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, code_of
from tests.hostile.raw_responses import responses_of, statuses_of

QUERY = b'{"query": "{ __typename }"}'
ALICE = b"Authorization: Bearer " + TOKENS["alice"].encode() + b"\r\nContent-Type: application/json\r\n"
POST = b"POST /graphql HTTP/1.1\r\nHost: a\r\n" + ALICE
LAST = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    "anything": b"Upgrade: x/1\r\nupgrade: y\r\nConnection: keep-alive, uPgRaDe\r\n",
    "no connection": b"Upgrade: h2c\r\n",
    "no protocol": b"Connection: Upgrade\r\n",
    "closing": b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n",
}
# A body that would be a request of its own if it were not framed.
SMUGGLED = b"GET /explorer/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def length_of(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunks_of(body: bytes) -> bytes:
    parts = (body[at : at + 5] for at in range(0, len(body), 5))
    return b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("upgrade", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("framed", [length_of, chunks_of], ids=["length", "chunks"])
def test_an_upgrade_is_ignored(attacked, upgrade, framed):
    """The response comes over HTTP/1.1, however the request is cut, and its body is never read as a request."""
    request = POST + upgrade + framed(QUERY)
    for cut in range(0, len(request), 9):
        said = attacked.say(request[:cut], request[cut:] + LAST)
        first, *others = responses_of(said)
        assert first == (200, b'{"data":{"__typename":"Query"}}')
        assert [status for status, _ in others] == ([] if b"close" in upgrade else [200])
    smuggling = attacked.say(POST + upgrade + framed(SMUGGLED) + LAST)
    assert statuses_of(smuggling) == ([400] if b"close" in upgrade else [400, 200])
    assert code_of(responses_of(smuggling)[0][1]) == "BAD_REQUEST"


def test_many_upgrades_arrive_at_once(attacked):
    """Thousands of upgrades in one piece each get a response, in order, at the cost of other requests."""
    number = 3000
    one = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with attacked.measured() as harm:
        said = attacked.say(one * number + LAST)
    assert statuses_of(said) == [200] * (number + 1)
    assert harm.cpu < 2 * INVALID_TOKEN_CPU_MAX


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET /graphql HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /graphql\r\n\r\n",
    ],
    ids=["tunnel", "tunnel with an offer", "preface", "version", "HTTP/0.9"],
)
def test_other_protocols_are_rejected(attacked, raw):
    """CONNECT, prior-knowledge HTTP/2, old versions and other protocols get one 400 and a closed connection."""
    assert statuses_of(attacked.say(raw + SMUGGLED)) == [400]


@pytest.mark.parametrize("token", [b"", b"Authorization: Bearer x\r\n"], ids=["none", "another"])
def test_trailers_are_no_headers(attacked, token):
    """A token or host after the body is ignored, in the same piece as the rest or later."""
    start = (
        b"POST /graphql HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + token
    )
    query = b'{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}'
    body = b"\r\n%x\r\n%b\r\n0\r\n" % (len(query), query)
    trailer = ALICE + b"Host: b\r\nX-Request-Id: trailer\r\nExpect: 100-continue\r\n\r\n"
    for parts in ((start + body + trailer + LAST,), (start, body, trailer, LAST)):
        said = attacked.say(*parts)
        assert statuses_of(said) == [401, 200]
        assert b"trailer" not in said


def test_a_long_trailer_is_not_the_next_requests_head(attacked):
    """Trailers within the limit of a head are dropped; later requests of the connection get responses."""
    trailer = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 1000) for number in range(29))
    one = POST + chunks_of(QUERY)[:-2] + trailer + b"\r\n"
    assert statuses_of(attacked.say(*[one] * 3, POST + length_of(QUERY) + LAST)) == [200] * 5


def test_rejections_are_json(attacked):
    """An error of the server itself is JSON, as all errors are."""
    said = attacked.say(b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert json.loads(responses_of(said)[0][1])["errors"][0]["extensions"] == {
        "code": "BAD_REQUEST",
        "retryable": False,
    }
