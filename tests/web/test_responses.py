"""Responses: their header fields, and both ways in which a server receives them."""

from __future__ import annotations

import json

import pytest

from gateway.asgi import WHOLE_RESPONSE
from gateway.errors import IssuerUnavailable, Overloaded
from gateway.web.graphql_request import too_large
from gateway.web.responses import (
    SECURITY_HEADERS,
    VARY,
    Response,
    completed_fields,
    error,
    freshness_fields,
    internal_error,
    rejection_bytes,
    send_response,
    unauthenticated,
    unavailable,
)

OWN = ((b"content-type", b"text/plain"),)


async def sent(response: Response, *, method: str = "GET", takes: bool | None = None, more=()) -> list[object]:
    """The server's input: one whole response if it `takes` those, or the ASGI messages."""
    got: list[object] = []

    async def send(message):
        got.append(message)

    def send_whole(scope, lines, parts, *, together):
        if takes:
            got.append((lines, parts, together))
        return takes

    extensions = {} if takes is None else {WHOLE_RESPONSE: {"send": send_whole}}
    await send_response({"method": method, "extensions": extensions}, send, response, "id-1", more, deferred=True)
    return got


async def test_any_server_gets_two_messages():
    """The header has the length, the request id, the response's own fields, those of its origin, and security headers."""
    start, body = await sent(
        Response(200, OWN, (b"ab", memoryview(b"cde"))), more=((b"access-control-allow-origin", b"*"),)
    )
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert start["headers"][:4] == [
        (b"content-length", b"5"), (b"x-request-id", b"id-1"), *OWN, (b"access-control-allow-origin", b"*"),
    ]  # fmt: skip
    assert start["headers"][4:] == list(SECURITY_HEADERS)
    assert body == {"type": "http.response.body", "body": b"abcde"}


async def test_the_gateways_server_gets_it_whole():
    """The same fields as lines, the parts uncopied, and whether it may be batched in the iteration."""
    parts = (b"ab", memoryview(b"cde"))
    ((lines, given, together),) = await sent(Response(200, OWN, parts), takes=True)
    assert lines.startswith(b"content-length: 5\r\nx-request-id: id-1\r\ncontent-type: text/plain\r\n")
    assert lines.count(b"\r\n") == 3 + len(SECURITY_HEADERS)
    assert given is parts
    assert together


@pytest.mark.parametrize(("response", "method", "takes"), [
    (Response(200, OWN, (b"a",)), "GET", False),
    (Response(200, OWN, (b"a",)), "HEAD", True),
    (Response(404, OWN, (b"a",)), "GET", True),
])  # fmt: skip
async def test_other_responses_are_sent_as_messages(response, method, takes):
    """A response to HEAD, any with another status, and one that the server can't write now."""
    start, _ = await sent(response, method=method, takes=takes)
    assert start["status"] == response.status


def test_a_response_may_override_headers():
    """Its own fields replace the security headers; the names in `vary` are united, each once and in one line."""
    fields = dict(completed_fields([(b"cache-control", b"private"), (b"vary", b"Origin, X-Own"), (b"vary", b"accept")]))
    assert fields[b"cache-control"] == b"private"
    assert fields[b"vary"] == VARY + b", X-Own"
    assert fields[b"x-frame-options"] == b"DENY"


def test_a_public_response_has_only_its_own_vary():
    """It has an empty one where it names none."""
    public = [(b"cache-control", b"public, max-age=60")]
    assert (b"vary", b"") not in completed_fields(public)
    assert VARY not in dict(completed_fields(public)).values()
    assert dict(completed_fields([*public, (b"vary", b"Origin")]))[b"vary"] == b"Origin"


def decoded_body(response: Response) -> dict:
    (body,) = response.parts
    return json.loads(body)["errors"][0]["extensions"]


def test_errors_are_coded():
    """Each has its status, its code and the header fields that its clients need."""
    assert (error(404, "NOT_FOUND", "x").status, decoded_body(error(404, "NOT_FOUND", "x"))) == (
        404, {"code": "NOT_FOUND", "retryable": False},
    )  # fmt: skip
    assert decoded_body(internal_error("id-1")) == {"code": "INTERNAL", "retryable": False, "requestId": "id-1"}
    assert internal_error("id-1").status == 500
    assert (too_large().status, too_large().code) == (413, "BODY_TOO_LARGE")
    assert dict(unavailable(IssuerUnavailable(), 5).fields)[b"retry-after"] == b"5"
    assert unavailable(IssuerUnavailable(), 5).status == 503
    assert dict(unauthenticated("x").fields)[b"www-authenticate"].endswith(b'error="invalid_token"')
    assert dict(unauthenticated("x", invalid=False).fields)[b"www-authenticate"] == b'Bearer realm="fleet"'
    assert unauthenticated("x").status == 401


def test_a_rejection_is_ready_to_be_written():
    """It is a whole HTTP response with 503, with the usual header fields."""
    head, _, body = rejection_bytes().partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    assert first == b"HTTP/1.1 503 Service Unavailable"
    assert int(fields[b"content-length"]) == len(body)
    assert fields[b"retry-after"] == str(Overloaded.retry_after).encode()
    assert dict(SECURITY_HEADERS).items() <= fields.items()
    assert json.loads(body)["errors"][0]["extensions"]["code"] == "OVERLOADED"


@pytest.mark.parametrize(("age", "remaining", "max_age"), [(0, 10, 10), (3, 7, 10), (3, 0, 0)])
def test_freshness_is_reported_as_http_caches_count_it(age, remaining, max_age):
    """`max-age` counts from when the content was new; a response that is not fresh has none."""
    assert dict(freshness_fields(age, remaining)) == {
        b"cache-control": f"private, max-age={max_age}".encode(), b"age": str(age).encode(),
    }  # fmt: skip
