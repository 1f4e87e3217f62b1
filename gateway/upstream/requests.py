"""Requests to the fleet API, their responses, and the protocols of the layers in between."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.concurrency.deadline import Deadline
from gateway.identity import Caller
from gateway.telemetry.traces import Span
from gateway.upstream.endpoints import Endpoint, Parameters

T = TypeVar("T")


class CacheUse(NamedTuple):
    """The use of a response, by its cache key; `at` is when it was stored, in epoch seconds."""

    key: str
    endpoint: Endpoint[Any]
    at: float


@dataclass(slots=True)
class RequestStats:
    """The cost of one GraphQL request so far, and the freshness of its data; `reads` is recorded if it is a list.

    `accepted` says that the fleet API has accepted the caller's token.
    """

    upstream_calls: int = 0
    cache_hits: int = 0
    coalesced: int = 0
    oldest: float | None = None
    fresh_until: float | None = None
    stale: bool = False
    accepted: bool = False
    reads: list[CacheUse] | None = None

    def used(self, stored_at: float, fresh_until: float, *, stale: bool) -> None:
        """Records used data: when it was stored and when it becomes stale, in epoch seconds."""
        if self.oldest is None or stored_at < self.oldest:
            self.oldest = stored_at
        if self.fresh_until is None or fresh_until < self.fresh_until:
            self.fresh_until = fresh_until
        self.stale = self.stale or stale


@dataclass(slots=True)
class RequestScope:
    """The caller, stats, deadline and trace (W3C `traceparent`) of one GraphQL request, and its span if it is sampled.

    `uncosted_calls` counts the calls that its estimated cost omits; above a limit they are made under `call_lock`.
    """

    caller: Caller
    stats: RequestStats
    traceparent: str | None = None
    span: Span | None = None
    deadline: Deadline = field(default_factory=Deadline)
    uncosted_calls: int = 0
    call_lock: asyncio.Lock | None = None


# A path up to this length is its own digest; digests never start with a slash.
PATH_MAX = 200


def digest_of(path: str, parameters: Parameters = ()) -> str:
    """The digest of a request in canonical form, independent of the caller; a short path is its own digest."""
    if not parameters and len(path) <= PATH_MAX:
        return path
    canonical = "\0".join((path, *(text for pair in sorted(parameters) for text in pair)))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def key_of(caller: Caller, digest: str) -> str:
    """The cache key of a caller's request; it starts with the principal."""
    return f"{caller.principal}:{digest}"


class UpstreamRequest(Struct, Generic[T], eq=False):
    """One request to an endpoint for one caller, with a `body` if its method takes one.

    Requests with equal `key`s have equal responses. `item_id` is the id of the item in the path. `mask` is the field
    mask to decode with, `parts` splits a response into its items' requests and values, `known` is an older response to
    revalidate, `bypass_cache` ignores cached responses, and `needs_version` those without an ETag. `if_match` is the
    ETag that a write expects, `concerns` the fleets that may see what it changes, and `send_by` the time
    (`time.monotonic`) after which it must not be sent. `deadline` is the scope's until the call has other waiters.
    `span` is that of its batch and `traceparent` that of its current call, if they are sampled; `source` says where the
    response came from.
    """

    scope: RequestScope
    endpoint: Endpoint[T]
    path: str
    key: str
    deadline: Deadline
    mask: type | None = None
    item_id: str | None = None
    parameters: Parameters = ()
    parts: Callable[[T], Iterable[tuple[UpstreamRequest[Any], Any]]] | None = None
    known: UpstreamResponse[T] | None = None
    bypass_cache: bool = False
    body: bytes = b""
    needs_version: bool = False
    if_match: str | None = None
    concerns: frozenset[str] = frozenset()
    send_by: float | None = None
    span: Span | None = None
    traceparent: str | None = None
    source: Literal["call", "cache", "stale", "coalesced"] = "call"

    @classmethod
    def of(
        cls,
        scope: RequestScope,
        endpoint: Endpoint[T],
        *,
        parameters: Parameters = (),
        parts: Callable[[T], Iterable[tuple[UpstreamRequest[Any], Any]]] | None = None,
        mask: type | None = None,
        item_id: str | None = None,
        body: bytes = b"",
    ) -> UpstreamRequest[T]:
        """A request to an endpoint with parameters, or for an item if its path contains an id."""
        path = endpoint.path if item_id is None else endpoint.paths([item_id])[0]
        key = key_of(scope.caller, digest_of(path, parameters))
        return cls(scope, endpoint, path, key, scope.deadline, mask, item_id, parameters, parts, body=body)

    @property
    def caller(self) -> Caller:
        return self.scope.caller

    @property
    def stats(self) -> RequestStats:
        return self.scope.stats

    @property
    def is_matched_by_id(self) -> bool:
        """Whether the id in a response shows that it belongs to this request."""
        return self.item_id is not None and self.endpoint.id_of is not None and self.endpoint.idempotent

    @property
    def seconds_to_send(self) -> float:
        """The seconds until it must have been sent."""
        remaining = self.deadline.remaining
        return remaining if self.send_by is None else max(0.0, min(remaining, self.send_by - time.monotonic()))

    def with_deadline(self, deadline: Deadline) -> UpstreamRequest[T]:
        """The same request with another deadline."""
        return replace(self, deadline=deadline)


def requests_of(
    scope: RequestScope, endpoint: Endpoint[T], ids: Sequence[str], mask: type | None = None
) -> list[UpstreamRequest[T]]:
    """The requests of items by their ids."""
    start, deadline = key_of(scope.caller, ""), scope.deadline
    return [
        UpstreamRequest(
            scope, endpoint, path, start + (path if len(path) <= PATH_MAX else digest_of(path)), deadline, mask, i
        )
        for path, i in zip(endpoint.paths(ids), ids, strict=True)
    ]


class Rate(NamedTuple):
    """A client's rate limit as a response states it: calls per window, calls left, and its end in epoch seconds."""

    limit: int
    remaining: int
    reset: float


class UpstreamResponse(Struct, Generic[T], gc=False):
    """A decoded response; `value` is None for a 404. `size` is the body's length in bytes,
    `status` the HTTP status.

    `body` is set if the cache is to store it in place of the value.
    """

    value: T | None
    size: int = 0
    etag: str | None = None
    flow_id: str | None = None
    rate: Rate | None = None
    body: bytes | None = None
    status: int = 200


class Step(Enum):
    """A step of a call that is not an awaitable."""

    SEND = "send"


# Sends the request and sets the call's response.
SEND: Final = Step.SEND
Wait = Awaitable[Any] | Literal[Step.SEND]
# The steps of a call: yields what it waits for, and is sent the results of awaitables.
Steps = Generator[Wait, Any, None]


class UpstreamCall(Protocol[T]):
    """A call in progress; `response` is set once there is one."""

    request: UpstreamRequest[T]
    response: UpstreamResponse[T]


class Layer(Protocol):
    """A layer of the stack below coalescing; its steps include those of the next layer."""

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """The steps of a call until its response; they raise the gateway's errors."""


class ManyFetcher(Protocol):
    """Gets the responses to requests of one scope."""

    async def fetch_all(
        self, requests: Sequence[UpstreamRequest[T]], at_a_time: int
    ) -> list[UpstreamResponse[T] | BaseException]:
        """The response or the error of each request, in order, with at most `at_a_time` calls at a time."""

    async def fetch(self, request: UpstreamRequest[T]) -> UpstreamResponse[T]:
        """The response to one request; raises its error."""
        (outcome,) = await self.fetch_all((request,), 1)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


Clock = Callable[[], float]
now: Clock = time.time
