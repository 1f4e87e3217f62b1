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
from gateway.upstream.endpoints import Endpoint, Parameters

T = TypeVar("T")


class CacheUse(NamedTuple):
    """A read whose answer was used, by its key, and when that was known, in epoch seconds."""

    key: str
    endpoint: Endpoint[Any]
    at: float


@dataclass(slots=True)
class RequestStats:
    """What one request has cost so far, and how old its oldest part is; `reads` are noted where somebody asks.

    `accepted` says that the fleet API has answered, so the caller's token is one of its own.
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
        """Notes a part of the answer: since when it is known and until when it is fresh, in epoch seconds."""
        if self.oldest is None or stored_at < self.oldest:
            self.oldest = stored_at
        if self.fresh_until is None or fresh_until < self.fresh_until:
            self.fresh_until = fresh_until
        self.stale = self.stale or stale


@dataclass(slots=True)
class RequestScope:
    """On whose behalf a request reads, at what cost so far, for how long, in which trace (W3C `traceparent`).

    `unpriced_calls` counts the reads that were no part of its price; many of them are made in turn.
    """

    caller: Caller
    stats: RequestStats
    traceparent: str | None = None
    deadline: Deadline = field(default_factory=Deadline)
    unpriced_calls: int = 0
    one_at_a_time: asyncio.Lock | None = None


# A path as long as this needs no digest; no digest begins with a slash.
PATH_MAX = 200


def digest_of(path: str, parameters: Parameters = ()) -> str:
    """What is read, whoever reads it: the digest of a read in its canonical form, or that itself where it is short."""
    if not parameters and len(path) <= PATH_MAX:
        return path
    canonical = "\0".join((path, *(text for pair in sorted(parameters) for text in pair)))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def key_of(caller: Caller, digest: str) -> str:
    """The key of a caller's read: the principal comes first."""
    return f"{caller.principal}:{digest}"


class UpstreamRequest(Struct, Generic[T], eq=False):
    """One request to an endpoint for one caller, with a `body` where its method takes one.

    Of equal `key`s the answers are equal. `item_id` is the id of the item in the path. `mask` is the form it is needed
    in at first, `parts` which other reads its answer holds, `known` an older answer; what is read `afresh` is not
    answered by what is kept. `deadline` is the errand's until the read is part of something that others wait for, too.
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
    afresh: bool = False
    body: bytes = b""

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
        """The request to an endpoint with parameters, for the item with an id where its path holds one."""
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
    def shows_itself(self) -> bool:
        """Whether the answer's id shows that it is the answer to this request."""
        return self.item_id is not None and self.endpoint.id_of is not None

    def invalidated(self) -> list[str]:
        """The keys of the caller's entries that may be out of date once this request was carried out."""
        ids = [] if self.item_id is None else [self.item_id]
        paths = [path for endpoint in self.endpoint.invalidates for path in endpoint.paths(ids)]
        return [key_of(self.caller, digest_of(path)) for path in paths]

    def having(self, known: UpstreamResponse[T]) -> UpstreamRequest[T]:
        """The same read by one who has an older answer, and needs another only if that has changed."""
        return replace(self, known=known)

    def during(self, deadline: Deadline) -> UpstreamRequest[T]:
        """The same read with a patience of its own."""
        return replace(self, deadline=deadline)


def requests_of(
    scope: RequestScope, endpoint: Endpoint[T], ids: Sequence[str], mask: type | None = None
) -> list[UpstreamRequest[T]]:
    """The reads of items by their ids, made together."""
    start, deadline = key_of(scope.caller, ""), scope.deadline
    return [
        UpstreamRequest(
            scope, endpoint, path, start + (path if len(path) <= PATH_MAX else digest_of(path)), deadline, mask, i
        )
        for path, i in zip(endpoint.paths(ids), ids, strict=True)
    ]


class Rate(NamedTuple):
    """A client's rate limit as an answer told it: calls in a window, calls left, and its end in epoch seconds."""

    limit: int
    remaining: int
    reset: float


class UpstreamResponse(Struct, Generic[T], gc=False):
    """A decoded answer; `value` is None where the upstream says 404. `size` is the body's length in bytes.

    `body` is there where it may be kept in place of the value.
    """

    value: T | None
    size: int = 0
    etag: str | None = None
    flow_id: str | None = None
    rate: Rate | None = None
    body: bytes | None = None


class Step(Enum):
    """A step of a call that is no awaitable."""

    SEND = "send"


# Sends the request; its reply is then that of the call.
SEND: Final = Step.SEND
Wait = Awaitable[Any] | Literal[Step.SEND]
# The steps of a call: yields what it waits for, and is sent what an awaitable resulted in.
Steps = Generator[Wait, Any, None]


class UpstreamCall(Protocol[T]):
    """A read under way, and its reply as soon as there is one."""

    read: UpstreamRequest[T]
    reply: UpstreamResponse[T]


class Layer(Protocol):
    """A part of the stack below coalescing: every call takes its steps, and it takes those of the next layer."""

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """The steps to the reply of a call, which raise our errors."""


class ManyFetcher(Protocol):
    """Takes a read to its reply, or raises one of our errors; or many, at most so many at a time, in order."""

    async def fetch(self, read: UpstreamRequest[T]) -> UpstreamResponse[T]: ...

    async def fetch_all(
        self, reads: Sequence[UpstreamRequest[T]], at_a_time: int
    ) -> list[UpstreamResponse[T] | BaseException]: ...


Clock = Callable[[], float]
now: Clock = time.time
