"""Refusals outside of GraphQL execution, in GraphQL's own form so that every client can read them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

# RFC 6750: the error is named only where a token was given.
CHALLENGE = 'Bearer realm="fleet"'
INVALID_TOKEN = f'{CHALLENGE}, error="invalid_token"'


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with one coded error and no data."""
    body = {"errors": [{"message": message, "extensions": {"code": code, "retryable": False}}]}
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def too_large() -> Response:
    """413, and the connection closed: the rest of the body is not waited for."""
    return refusal(413, "BODY_TOO_LARGE", "The request body is too large.", {"Connection": "close"})


def unauthenticated(message: str, *, invalid: bool = True) -> Response:
    """401 with the challenge that says what is wrong with the token, or that there is none."""
    return refusal(401, "UNAUTHENTICATED", message, {"WWW-Authenticate": INVALID_TOKEN if invalid else CHALLENGE})
