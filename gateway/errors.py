"""Every failure the gateway knows, its machine code and what may be told of it.

GatewayError
├─ CallerError                    the caller can mend it
│  ├─ Unauthenticated             UNAUTHENTICATED
│  ├─ InputInvalid                BAD_USER_INPUT
│  ├─ GlobalIdInvalid             GLOBAL_ID_INVALID
│  ├─ PageSizeInvalid             PAGE_SIZE_INVALID
│  ├─ WalkLimitExceeded           WALK_LIMIT_EXCEEDED
│  ├─ CallLimitExceeded           LIMIT_EXCEEDED     with `limit` upstreamCalls, where the price could not foresee it
│  ├─ BackwardPagingUnsupported   BACKWARD_PAGING_UNSUPPORTED
│  └─ CursorError
│     ├─ CursorInvalid            CURSOR_INVALID     not a cursor of ours
│     ├─ CursorForeign            CURSOR_FOREIGN     a cursor of another connection, filter or fleet
│     └─ CursorExpired            CURSOR_EXPIRED     the upstream no longer takes it
├─ Overloaded                     OVERLOADED             more is asked of this process than it takes on: HTTP 503
├─ IssuerUnavailable              IDENTITY_UNAVAILABLE   the issuer's keys can't be had, so no token can be verified
└─ UpstreamError                  the fleet API did not give what was asked for
   ├─ UpstreamUnauthenticated     UNAUTHENTICATED    401: the whole answer turns into a 401
   ├─ UpstreamForbidden           FORBIDDEN
   ├─ UpstreamRejected            UPSTREAM_REJECTED  any other 4xx
   ├─ RateLimited                 RATE_LIMITED
   ├─ UpstreamUnavailable         UPSTREAM_UNAVAILABLE
   ├─ UpstreamTimeout             UPSTREAM_TIMEOUT
   │  └─ DeadlineExceeded         DEADLINE_EXCEEDED  the time of the whole operation is over
   └─ UpstreamInvalidResponse     UPSTREAM_INVALID_RESPONSE

Messages are shown to callers, so they never hold a token, a URL, a header or anything the upstream said.
A 404 is not in the tree: what does not exist is a plain null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """What an upstream answer said of its own failure; `type` is the stable code, e.g. `/problems/validation-error`."""

    status: int
    type: str | None = None
    flow_id: str | None = None


class GatewayError(Exception):
    """A failure with a machine code and a sentence that a caller may read."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def extensions(self) -> dict[str, object]:
        """The members of GraphQL's `extensions`: `code`, `retryable` and what the kind of failure adds."""
        return {"code": self.code, "retryable": self.retryable}


class CallerError(GatewayError):
    """The request can be mended by whoever sent it."""


class Unauthenticated(CallerError):
    """The request carries no usable bearer token."""

    code = "UNAUTHENTICATED"


class InputInvalid(CallerError):
    """An argument's value can't be used; `argument` names it."""

    code = "BAD_USER_INPUT"

    def __init__(self, message: str, argument: str) -> None:
        super().__init__(message)
        self.argument = argument

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "argument": self.argument}


class GlobalIdInvalid(InputInvalid):
    """Not a global id of this schema."""

    code = "GLOBAL_ID_INVALID"


class PageSizeInvalid(InputInvalid):
    """`first` or `last` is negative or above `maximum`."""

    code = "PAGE_SIZE_INVALID"

    def __init__(self, argument: str, asked: int, maximum: int) -> None:
        super().__init__(f"`{argument}` must be between 0 and {maximum}; it was {asked}.", argument)
        self.maximum = maximum

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "maximum": self.maximum}


class WalkLimitExceeded(CallerError):
    """Answering would read more upstream pages than one field may."""

    code = "WALK_LIMIT_EXCEEDED"

    def __init__(self, pages: int) -> None:
        super().__init__(f"This would read more than {pages} pages of the fleet, the limit for one field.")
        self.pages = pages

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "maximumPages": self.pages}


class CallLimitExceeded(CallerError):
    """What the operation has read turned out to need more upstream calls than one operation may take."""

    code = "LIMIT_EXCEEDED"

    def __init__(self, maximum: int) -> None:
        super().__init__(f"This would take more than {maximum} upstream calls, the limit for one operation.")
        self.maximum = maximum

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "limit": "upstreamCalls", "maximum": self.maximum}


class BackwardPagingUnsupported(CallerError):
    """The upstream offers no way to its last page (or back), and a silent walk over all pages is refused."""

    code = "BACKWARD_PAGING_UNSUPPORTED"

    def __init__(self) -> None:
        super().__init__("The upstream offers no cursor for paging backward here; page forward with `first`.")


class CursorError(InputInvalid):
    """`after` or `before` can't be used."""


class CursorInvalid(CursorError):
    """Not a cursor this gateway gave out."""

    code = "CURSOR_INVALID"

    def __init__(self, argument: str) -> None:
        super().__init__(f"`{argument}` is not a cursor of this gateway.", argument)


class CursorForeign(CursorError):
    """A cursor of another connection, search or fleet."""

    code = "CURSOR_FOREIGN"

    def __init__(self, argument: str) -> None:
        super().__init__(f"`{argument}` belongs to another connection, search or fleet.", argument)


class CursorExpired(CursorError):
    """The page a cursor points into is gone; the walk has to start again."""

    code = "CURSOR_EXPIRED"

    def __init__(self, argument: str) -> None:
        super().__init__(f"`{argument}` has expired; start again without it.", argument)

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "restart": True}


class Overloaded(GatewayError):
    """Too many operations at the same time, of this principal or of all."""

    code = "OVERLOADED"
    retryable = True
    retry_after: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__("The gateway is busy; try again.")

    def extensions(self) -> dict[str, object]:
        return {**super().extensions(), "retryAfter": self.retry_after}


class IssuerUnavailable(GatewayError):
    """The OpenID Connect issuer's keys can't be fetched."""

    code = "IDENTITY_UNAVAILABLE"
    retryable = True

    def __init__(self) -> None:
        super().__init__("Tokens can't be verified at the moment.")


class UpstreamError(GatewayError):
    """The fleet API's fault, or its refusal; `problem` is what it said, where it said anything."""

    message: ClassVar[str] = "The fleet API did not answer as expected."

    def __init__(self, problem: Problem | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(self.message)
        self.problem = problem
        self.retry_after = retry_after
        self.rate: tuple[int, int, float] | None = None  # the limit that came with the answer: for pacing, not told

    def extensions(self) -> dict[str, object]:
        told = super().extensions()
        if self.retry_after is not None:
            told["retryAfter"] = self.retry_after
        if self.problem is not None:
            told["upstream"] = {
                "status": self.problem.status,
                "type": self.problem.type,
                "flowId": self.problem.flow_id,
            }
        return told


class UpstreamUnauthenticated(UpstreamError):
    """401: the caller's token is missing there, invalid or expired."""

    code = "UNAUTHENTICATED"
    message = "The fleet API refused the bearer token."


class UpstreamForbidden(UpstreamError):
    """403: a permission or an OAuth scope is missing."""

    code = "FORBIDDEN"
    message = "The fleet API does not let this caller read that."


class UpstreamRejected(UpstreamError):
    """A 4xx that has no error of its own."""

    code = "UPSTREAM_REJECTED"
    message = "The fleet API rejected the request."


class RateLimited(UpstreamError):
    """429; `retryAfter` in seconds where the upstream named a time."""

    code = "RATE_LIMITED"
    retryable = True
    message = "The fleet API is limiting this caller's rate."


class UpstreamUnavailable(UpstreamError):
    """5xx, or no connection."""

    code = "UPSTREAM_UNAVAILABLE"
    retryable = True
    message = "The fleet API is not available."


class UpstreamTimeout(UpstreamError):
    """No answer in time."""

    code = "UPSTREAM_TIMEOUT"
    retryable = True
    message = "The fleet API did not answer in time."


class DeadlineExceeded(UpstreamTimeout):
    """The operation's own time is over: its setting's, or what the caller asked for."""

    code = "DEADLINE_EXCEEDED"
    message = "The fleet API did not answer within the time that this operation has."


class UpstreamInvalidResponse(UpstreamError):
    """An answer that can't be read: not JSON, too large, without an id, or pages that lead nowhere."""

    code = "UPSTREAM_INVALID_RESPONSE"
    message = "The fleet API's answer could not be read."
