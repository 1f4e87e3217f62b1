"""Refusals outside of GraphQL execution, in GraphQL's own form so that every client can read them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from gateway.errors import IssuerUnavailable, Overloaded

# RFC 6750: the error is named only where a token was given.
CHALLENGE = 'Bearer realm="fleet"'
NOT_RETRYABLE = {"retryable": False}
INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'


def problem(code: str, message: str, extensions: Mapping[str, object] = NOT_RETRYABLE) -> dict[str, object]:
    """The body of an answer that has one coded error and no data."""
    return {"errors": [{"message": message, "extensions": {"code": code, **extensions}}]}


def refusal(
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] = NOT_RETRYABLE,
) -> Response:
    """An answer with one coded error and no data."""
    return Response(msgspec.json.encode(problem(code, message, extensions)), status, headers, "application/json")


def broken(request_id: str) -> Response:
    """500 for a bug of the gateway: what is told is where in the log to look."""
    told = {**NOT_RETRYABLE, "requestId": request_id}
    answer = refusal(500, "INTERNAL", "Internal error.", {"X-Request-Id": request_id}, told)
    answer.raw_headers.extend(HARDENING)
    return answer


def too_large() -> Response:
    """413, and the connection closed: the rest of the body is not waited for."""
    return refusal(413, "BODY_TOO_LARGE", "The request body is too large.", {"Connection": "close"})


def busy(failure: Overloaded | IssuerUnavailable, seconds: int) -> Response:
    """503, and when to try again."""
    return refusal(503, failure.code, str(failure), {"Retry-After": str(seconds)}, failure.extensions())


# Sent with every answer.
HARDENING = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
NO_TOKEN = "A bearer token is required in the Authorization header."  # noqa: S105 - words


def unauthenticated(message: str, *, invalid: bool = True) -> Response:
    """401 with the challenge that says what is wrong with the token, or that there is none."""
    return refusal(401, "UNAUTHENTICATED", message, {"WWW-Authenticate": INVALID_TOKEN if invalid else CHALLENGE})
