"""Builds and sends responses, with the header fields that all of them have.

Errors have the form of GraphQL errors, so that every client can read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.asgi import WHOLE_RESPONSE
from gateway.errors import IssuerUnavailable, Overloaded
from gateway.web.graphql_request import RESPONSE

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]
Parts = tuple[bytes | memoryview, ...]

# The media type of all errors, whatever a client accepts, by the GraphQL over HTTP specification.
ERROR_TYPE: Field = (b"content-type", f"{RESPONSE}; charset=utf-8".encode())
# RFC 6750: the challenge names an error only if the request had a token.
CHALLENGE = 'Bearer realm="fleet"'
INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'
NO_TOKEN = "Authorization header with a bearer token is required."  # noqa: S105 - a message
NOT_RETRYABLE = {"retryable": False}
# All request fields that may affect a response. Every response names all of them: with fewer, a cache could use an
# error for a request that would get another response.
VARY = b"Authorization, Accept, Accept-Encoding, Origin, X-Gateway-Cost, X-Gateway-Timeout"
# The defaults of all responses.
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
    """A whole response: status, its own header fields in lower case, and the body in parts.

    `codes` and `flow_ids` are those of all its errors, for logs and metrics.
    """

    status: int
    fields: Fields
    parts: Parts
    codes: tuple[str, ...] = ()
    flow_ids: tuple[str, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it as ASGI messages, as a Starlette response does."""
        length = (b"content-length", str(sum(map(len, self.parts))).encode())
        await send({"type": "http.response.start", "status": self.status, "headers": [length, *self.fields]})
        await send({"type": "http.response.body", "body": b"".join(self.parts)})


async def send_response(
    scope: Scope, send: Send, response: Response, request_id: str, more: Fields = (), *, deferred: bool = False
) -> None:
    """Sends a response with its request id and the fields that all responses have; `more` are CORS fields.

    The gateway's own server sends it at once. A `deferred` response is sent at the end of the event-loop iteration,
    together with others.
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
    """The completed header fields, and the same as lines."""
    completed = tuple(completed_fields((*fields, *more)))
    return completed, b"".join(b"%b: %b\r\n" % field for field in completed)


def completed_fields(fields: Sequence[Field]) -> list[Field]:
    """Adds the default header fields that are missing, and merges the names in `vary`.

    A public response is the same for all clients; it depends only on the names in its own `vary`.
    """
    given = dict(fields)
    is_public = given.get(b"cache-control", b"").startswith(b"public")
    if is_public:
        given.setdefault(b"vary", b"")
    elif b"vary" in given:
        named = b",".join(value for name, value in fields if name == b"vary")
        fields = [*(field for field in fields if field[0] != b"vary"), (b"vary", _merged(named))]
    return [*fields, *(field for field in SECURITY_HEADERS if field[0] not in given)]


@lru_cache(16)
def _merged(vary: bytes) -> bytes:
    known = {name.strip().lower() for name in VARY.split(b",")}
    return b", ".join((VARY, *(name.strip() for name in vary.split(b",") if name.strip().lower() not in known)))


def error_body(code: str, message: str, extensions: Mapping[str, object] = NOT_RETRYABLE) -> bytes:
    """The body of a response with one coded error and no data."""
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
    return Response(status, (ERROR_TYPE, *own), (error_body(code, message, extensions),), (code,))


def internal_error(request_id: str) -> Response:
    """500 for a bug of the gateway; the log has details under the request id."""
    return error(500, "INTERNAL", "Internal error.", None, {**NOT_RETRYABLE, "requestId": request_id})


def unavailable(failure: Overloaded | IssuerUnavailable, seconds: int) -> Response:
    """503 with `Retry-After`."""
    return error(503, failure.code, str(failure), {"Retry-After": str(seconds)}, failure.extensions())


def rejection_bytes() -> bytes:
    """A whole HTTP response with 503, which the server sends without parsing the request."""
    rejection = unavailable(Overloaded(), Overloaded.retry_after)
    body = b"".join(rejection.parts)
    header = [(b"content-length", str(len(body)).encode()), *completed_fields(rejection.fields)]
    lines = b"".join(b"%b: %b\r\n" % field for field in header)
    return b"HTTP/1.1 503 Service Unavailable\r\n" + lines + b"\r\n" + body


def unauthenticated(message: str, *, invalid: bool = True) -> Response:
    """401 with a challenge that says whether the token is invalid or missing."""
    return error(401, "UNAUTHENTICATED", message, {"WWW-Authenticate": INVALID_TOKEN if invalid else CHALLENGE})


@lru_cache(1024)
def freshness_fields(age: int, remaining: int) -> Fields:
    """`Age` and `Cache-Control` (RFC 9111) for an age and a remaining lifetime in seconds."""
    max_age = age + remaining if remaining else 0
    return (b"cache-control", f"private, max-age={max_age}".encode()), (b"age", str(age).encode())
