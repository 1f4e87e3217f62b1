"""Responses: how they are made and sent, and the header fields that every one of them has.

An error is told in GraphQL's own form, so that every client can read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.asgi import WHOLE_RESPONSE
from gateway.errors import IssuerUnavailable, Overloaded

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]
Parts = tuple[bytes | memoryview, ...]

# RFC 6750: the error is named only where a token was given.
CHALLENGE = 'Bearer realm="fleet"'
INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'
NO_TOKEN = "Authorization header with a bearer token is required."  # noqa: S105 - words
NOT_RETRYABLE = {"retryable": False}
# The request fields that a response may depend on. Each response names all of them: an error that named fewer than the
# response it stands for would be taken for it by a cache.
VARY = b"Authorization, Accept, Accept-Encoding, Origin, X-Gateway-Cost, X-Gateway-Timeout"
# Sent with every response that does not say otherwise.
SECURITY_HEADERS: Fields = (
    (b"cache-control", b"no-store"),
    (b"vary", VARY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
NO_STORE: Fields = ((b"cache-control", b"no-store"),)


class Response(NamedTuple):
    """A whole response: status, its own header fields in lower case, and the body in parts."""

    status: int
    fields: Fields
    parts: Parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it as ASGI messages, for whoever completes the header."""
        length = (b"content-length", str(sum(map(len, self.parts))).encode())
        await send({"type": "http.response.start", "status": self.status, "headers": [length, *self.fields]})
        await send({"type": "http.response.body", "body": b"".join(self.parts)})


async def send_response(
    scope: Scope, send: Send, response: Response, request_id: str, more: Fields = (), *, deferred: bool = False
) -> None:
    """Sends a response with its request id and the fields of every response; `more` are those of its origin.

    The gateway's own server takes it whole. A `deferred` one leaves with the others of this event-loop iteration.
    """
    fields, lines = _header(response.fields, more)
    extension = scope.get("extensions", {}).get(WHOLE_RESPONSE)
    if extension is not None and response.status == 200 and scope["method"] != "HEAD":  # noqa: PLR2004 - others are rare
        length = sum(map(len, response.parts))
        own_lines = f"content-length: {length}\r\nx-request-id: {request_id}\r\n".encode("ascii")
        if extension["send"](scope, own_lines + lines, response.parts, together=deferred):
            return
    own = (b"x-request-id", request_id.encode("ascii"))
    await Response(response.status, (own, *fields), response.parts)(scope, _no_receive, send)


async def _no_receive() -> dict[str, str]:
    raise AssertionError


@lru_cache(1024)
def _header(fields: Fields, more: Fields) -> tuple[Fields, bytes]:
    """The header fields of responses that have these in common, and the same as lines."""
    completed = tuple(completed_fields((*fields, *more)))
    return completed, b"".join(b"%b: %b\r\n" % field for field in completed)


def completed_fields(fields: Sequence[Field]) -> list[Field]:
    """Header fields and those of every response that they lack; the names in both `vary` fields are united.

    A public response is the same for everybody: it depends only on what its own `vary` names.
    """
    given = dict(fields)
    is_public = given.get(b"cache-control", b"").startswith(b"public")
    if is_public:
        given.setdefault(b"vary", b"")
    elif b"vary" in given:
        named = b",".join(value for name, value in fields if name == b"vary")
        fields = [*(field for field in fields if field[0] != b"vary"), (b"vary", _united(named))]
    return [*fields, *(field for field in SECURITY_HEADERS if field[0] not in given)]


@lru_cache(16)
def _united(vary: bytes) -> bytes:
    known = {name.strip().lower() for name in VARY.split(b",")}
    return b", ".join((VARY, *(name.strip() for name in vary.split(b",") if name.strip().lower() not in known)))


def error_body(code: str, message: str, extensions: Mapping[str, object] = NOT_RETRYABLE) -> bytes:
    """A body that has one coded error and no data."""
    return msgspec.json.encode({"errors": [{"message": message, "extensions": {"code": code, **extensions}}]})


def error(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] = NOT_RETRYABLE,
) -> Response:
    """A response with one coded error and no data."""
    own = ((name.lower().encode(), value.encode()) for name, value in (headers or {}).items())
    fields = ((b"content-type", b"application/json"), *own)
    return Response(status, fields, (error_body(code, message, extensions),))


def internal_error(request_id: str) -> Response:
    """500 for a bug of the gateway; the log has more under the request id."""
    return error(500, "INTERNAL", "Internal error.", None, {**NOT_RETRYABLE, "requestId": request_id})


def too_large() -> Response:
    """413, and the connection is closed: the rest of the body is not read."""
    return error(413, "BODY_TOO_LARGE", "Request body is too large.", {"Connection": "close"})


def unavailable(failure: Overloaded | IssuerUnavailable, seconds: int) -> Response:
    """503, and when to try again."""
    return error(503, failure.code, str(failure), {"Retry-After": str(seconds)}, failure.extensions())


def rejection_bytes() -> bytes:
    """A whole HTTP response with 503, for the server to send before it has parsed a request."""
    rejection = unavailable(Overloaded(), Overloaded.retry_after)
    body = b"".join(rejection.parts)
    header = [(b"content-length", str(len(body)).encode()), *completed_fields(rejection.fields)]
    lines = b"".join(b"%b: %b\r\n" % field for field in header)
    return b"HTTP/1.1 503 Service Unavailable\r\n" + lines + b"\r\n" + body


def unauthenticated(message: str, *, invalid: bool = True) -> Response:
    """401 with the challenge that says what is wrong with the token, or that there is none."""
    return error(401, "UNAUTHENTICATED", message, {"WWW-Authenticate": INVALID_TOKEN if invalid else CHALLENGE})


@lru_cache(1024)
def freshness_fields(age: int, remaining: int) -> Fields:
    """How old a response is, and for how long it is fresh still, in seconds (RFC 9111)."""
    max_age = age + remaining if remaining else 0
    return (b"cache-control", f"private, max-age={max_age}".encode()), (b"age", str(age).encode())
