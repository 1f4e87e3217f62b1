"""All errors of the gateway, with their codes and the messages that clients see.

GatewayError
├─ CallerError                    the client can correct the request
│  ├─ Unauthenticated             UNAUTHENTICATED
│  ├─ InputInvalid                BAD_USER_INPUT
│  ├─ GlobalIdInvalid             GLOBAL_ID_INVALID
│  ├─ PageSizeInvalid             PAGE_SIZE_INVALID
│  ├─ WalkLimitExceeded           WALK_LIMIT_EXCEEDED
│  ├─ CallLimitExceeded           LIMIT_EXCEEDED     `limit` is upstreamCalls: more calls than estimated
│  ├─ WritesDisabled              WRITES_DISABLED    a setting has to be changed first
│  ├─ IdempotencyKeyReused        IDEMPOTENCY_KEY_REUSED   the key belongs to another input
│  ├─ BackwardPagingUnsupported   BACKWARD_PAGING_UNSUPPORTED
│  └─ CursorError
│     ├─ CursorInvalid            CURSOR_INVALID     not a cursor of this gateway
│     ├─ CursorForeign            CURSOR_FOREIGN     a cursor of another connection, filter or fleet
│     └─ CursorExpired            CURSOR_EXPIRED     the upstream no longer accepts it
├─ Overloaded                     OVERLOADED             HTTP 503: too much concurrent work
├─ WritesUnavailable              WRITES_UNAVAILABLE     nothing was sent, because Redis is unavailable
├─ IssuerUnavailable              IDENTITY_UNAVAILABLE   HTTP 503: the issuer's keys are unavailable
└─ UpstreamError                  the fleet API failed or rejected the call
   ├─ UpstreamUnauthenticated     UNAUTHENTICATED    401: the whole response becomes a 401
   ├─ UpstreamForbidden           FORBIDDEN
   ├─ UpstreamRejected            UPSTREAM_REJECTED  any other 4xx
   ├─ RateLimited                 RATE_LIMITED
   ├─ UpstreamUnavailable         UPSTREAM_UNAVAILABLE
   ├─ UpstreamTimeout             UPSTREAM_TIMEOUT
   │  └─ DeadlineExceeded         DEADLINE_EXCEEDED  the operation's deadline has passed
   └─ UpstreamInvalidResponse     UPSTREAM_INVALID_RESPONSE

Clients see the messages, so a message never contains a token, a URL, a header or text from the upstream.
A 404 is not an error: a missing object is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """The problem details of an upstream response; `type` is a stable code, e.g. `/problems/validation-error`."""

    status: int
    type: str | None = None
    flow_id: str | None = None


class GatewayError(Exception):
    """An error with a code and a message that is safe to show to clients."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def extensions(self) -> dict[str, object]:
        """GraphQL's `extensions`: `code`, `retryable` and the members that this kind of error adds."""
        return {"code": self.code, "retryable": self.retryable}


class CallerError(GatewayError):
    """An error that the client can correct."""


class Unauthenticated(CallerError):
    """The request carries no usable bearer token."""

    code = "UNAUTHENTICATED"


class InputInvalid(CallerError):
    """The value of an argument is invalid; `argument` names it."""

    code = "BAD_USER_INPUT"

    def __init__(self, message: str, argument: str) -> None:
        super().__init__(message)
        self.argument = argument

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "argument": self.argument}


class GlobalIdInvalid(InputInvalid):
    """A value that is not a global id of this schema."""

    code = "GLOBAL_ID_INVALID"


class PageSizeInvalid(InputInvalid):
    """`first` or `last` is negative or above `maximum`."""

    code = "PAGE_SIZE_INVALID"

    def __init__(self, argument: str, requested: int, maximum: int) -> None:
        super().__init__(f"`{argument}` must be between 0 and {maximum}; it was {requested}.", argument)
        self.maximum = maximum

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "maximum": self.maximum}


class WalkLimitExceeded(CallerError):
    """A field would read more upstream pages than it may."""

    code = "WALK_LIMIT_EXCEEDED"

    def __init__(self, pages: int) -> None:
        super().__init__(f"Field reads more than the limit of {pages} upstream pages.")
        self.pages = pages

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "maximumPages": self.pages}


class CallLimitExceeded(CallerError):
    """An operation needs more upstream calls than its estimated cost, and more than it may make."""

    code = "LIMIT_EXCEEDED"

    def __init__(self, maximum: int) -> None:
        super().__init__(f"Operation needs more than the limit of {maximum} upstream calls.")
        self.maximum = maximum

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "limit": "upstreamCalls", "maximum": self.maximum}


class WritesDisabled(CallerError):
    """A mutation that a setting does not allow."""

    code = "WRITES_DISABLED"

    def __init__(self, *values: str) -> None:
        choice = " or ".join(f"GATEWAY_WRITES={value}" for value in values)
        super().__init__(f"Mutation is off on this gateway, which needs {choice}. Nothing was sent.")


class IdempotencyKeyReused(InputInvalid):
    """An idempotency key with another input than before."""

    code = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        super().__init__("`idempotencyKey` was used with another input. Nothing was sent.", "idempotencyKey")


class BackwardPagingUnsupported(CallerError):
    """The upstream has no cursor for the last or the previous page; the gateway does not scan all pages instead."""

    code = "BACKWARD_PAGING_UNSUPPORTED"

    def __init__(self) -> None:
        super().__init__("The fleet API has no cursor for paging backward here. Use `first` instead.")


class CursorError(InputInvalid):
    """`after` or `before` can't be used here."""


class CursorInvalid(CursorError):
    """A value that is not a cursor of this gateway."""

    code = "CURSOR_INVALID"

    def __init__(self, argument: str) -> None:
        super().__init__(f"`{argument}` is not a cursor of this gateway.", argument)


class CursorForeign(CursorError):
    """A cursor of another connection, search or fleet."""

    code = "CURSOR_FOREIGN"

    def __init__(self, argument: str) -> None:
        super().__init__(f"`{argument}` belongs to another connection, search or fleet.", argument)


class CursorExpired(CursorError):
    """The upstream no longer has the page of a cursor; the client has to start again without a cursor."""

    code = "CURSOR_EXPIRED"

    def __init__(self, argument: str) -> None:
        super().__init__(f"`{argument}` has expired. Start again without it.", argument)

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "restart": True}


class Overloaded(GatewayError):
    """Too many concurrent operations, of this principal or in total."""

    code = "OVERLOADED"
    retryable = True
    retry_after: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__("The gateway is overloaded. Try again later.")

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "retryAfter": self.retry_after}


class WritesUnavailable(GatewayError):
    """A write that was not sent, because it could not be recorded or announced."""

    code = "WRITES_UNAVAILABLE"
    retryable = True

    def __init__(self) -> None:
        super().__init__("Writes can't be recorded at the moment. Nothing was sent. Try again with the same key.")


class IssuerUnavailable(GatewayError):
    """The keys of the OpenID Connect issuer are unavailable."""

    code = "IDENTITY_UNAVAILABLE"
    retryable = True

    def __init__(self) -> None:
        super().__init__("Tokens can't be verified at the moment. Try again later.")


class UpstreamError(GatewayError):
    """An upstream call failed or was rejected; `problem` has the problem details of the response, if any."""

    message: ClassVar[str] = "The fleet API request failed."

    def __init__(self, problem: Problem | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(self.message)
        self.problem = problem
        self.retry_after = retry_after
        self.rate: tuple[int, int, float] | None = None  # the response's rate limit
        self.is_unsent = False  # whether it is certain that no byte of the request was sent

    def extensions(self) -> dict[str, object]:
        extensions = super().extensions()
        if self.retry_after is not None:
            extensions["retryAfter"] = self.retry_after
        if self.problem is not None:
            extensions["upstream"] = {
                "status": self.problem.status,
                "type": self.problem.type,
                "flowId": self.problem.flow_id,
            }
        return extensions


class UpstreamUnauthenticated(UpstreamError):
    """401: the token is invalid or expired."""

    code = "UNAUTHENTICATED"
    message = "The fleet API rejected the bearer token."


class UpstreamForbidden(UpstreamError):
    """403: a permission or an OAuth scope is missing."""

    code = "FORBIDDEN"
    message = "The fleet API denied access."


class UpstreamRejected(UpstreamError):
    """Any other 4xx."""

    code = "UPSTREAM_REJECTED"
    message = "The fleet API rejected the request."


class RateLimited(UpstreamError):
    """429, or the shared rate limiter rejected the call; `retryAfter` is in seconds where it is known."""

    code = "RATE_LIMITED"
    retryable = True
    message = "The fleet API's rate limit is reached."


class UpstreamUnavailable(UpstreamError):
    """5xx, no connection, or an open circuit breaker."""

    code = "UPSTREAM_UNAVAILABLE"
    retryable = True
    message = "The fleet API is unavailable."


class UpstreamTimeout(UpstreamError):
    """The upstream call timed out."""

    code = "UPSTREAM_TIMEOUT"
    retryable = True
    message = "The fleet API did not respond in time."


class DeadlineExceeded(UpstreamTimeout):
    """The deadline of the operation has passed: the configured one, or the earlier one that the client set."""

    code = "DEADLINE_EXCEEDED"
    message = "The operation's deadline passed before the fleet API responded."


class UpstreamInvalidResponse(UpstreamError):
    """An invalid upstream response: malformed HTTP, not JSON, too large, without an id, or with invalid cursors."""

    code = "UPSTREAM_INVALID_RESPONSE"
    message = "The fleet API sent an invalid response."
