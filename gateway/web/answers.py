"""Refusals outside of GraphQL execution, in GraphQL's own form so that every client can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

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


Field = tuple[bytes, bytes]
# The request headers that an answer may depend on. All of them in each answer: which of them decided is for no cache to
# find out, and a refusal that names fewer than the answer it stands for would be taken for it.
VARY = b"Authorization, Accept, Accept-Encoding, Origin, X-Gateway-Cost, X-Gateway-Timeout"
# Sent with every answer that does not say otherwise.
HARDENING: tuple[Field, ...] = (
    (b"cache-control", b"no-store"),
    (b"vary", VARY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def hardened(fields: Sequence[Field]) -> list[Field]:
    """Header fields and those of every answer that they lack; of what they name in `vary` and what we do, one line.

    What is public is the same for everybody: it depends on nothing but what its own `vary` names.
    """
    given = dict(fields)
    is_public = given.get(b"cache-control", b"").startswith(b"public")
    if is_public:
        given.setdefault(b"vary", b"")
    elif b"vary" in given:
        fields = [field for field in fields if field[0] != b"vary"]
        fields.append((b"vary", _united(given[b"vary"])))
    return [*fields, *(field for field in HARDENING if field[0] not in given)]


@lru_cache(16)
def _united(vary: bytes) -> bytes:
    """Our `vary` and the names that another has beside."""
    known = {name.strip().lower() for name in VARY.split(b",")}
    return b", ".join((VARY, *(name.strip() for name in vary.split(b",") if name.strip().lower() not in known)))


NO_TOKEN = "A bearer token is required in the Authorization header."  # noqa: S105 - words


def unauthenticated(message: str, *, invalid: bool = True) -> Response:
    """401 with the challenge that says what is wrong with the token, or that there is none."""
    return refusal(401, "UNAUTHENTICATED", message, {"WWW-Authenticate": INVALID_TOKEN if invalid else CHALLENGE})
