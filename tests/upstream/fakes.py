"""A fleet API without HTTP, and a manual clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from gateway.identity import Caller
from gateway.settings import CacheSettings, Settings, UpstreamSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.circuit import Circuit
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.endpoints import FleetEndpoints
from gateway.upstream.models import Vehicle, decoded
from gateway.upstream.rate_limit import LocalRateLimiter, RateLimiter
from gateway.upstream.requests import (
    SEND,
    RequestScope,
    RequestStats,
    Steps,
    UpstreamCall,
    UpstreamRequest,
    UpstreamResponse,
    now,
)
from gateway.upstream.resilience import Resilience
from gateway.upstream.retry import RetryPolicy


def endpoints_that_live(fresh: float, revalidating: float, if_error: float, missing: float) -> FleetEndpoints:
    """The fleet API's endpoints, with one lifetime in seconds for all, and one for a 404."""
    names = ("vehicles", "vehicle", "latest_state")
    seconds = {"ttl": fresh, "stale_while_revalidate": revalidating, "stale_if_error": if_error}
    lifetimes = {f"{name}_{part}": value for name in names for part, value in seconds.items()}
    return FleetEndpoints(UpstreamSettings(), CacheSettings(negative_ttl=missing, **lifetimes))


ENDPOINTS = endpoints_that_live(10, 5, 100, 3)


class Clock:
    """Epoch seconds, set by tests."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


class Sending:
    """The only layer of a stack: sends the request."""

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        yield SEND


class FakeFetcher:
    """Responds to requests with a function, counts them, and can be blocked or made to fail."""

    sends_inline = False

    def __init__(self, respond: Callable[[UpstreamRequest[Any]], Any] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.reads: list[UpstreamRequest[Any]] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self._respond = respond or (
            lambda request: decoded(b'{"id":"%b"}' % f"{request.caller.principal[:6]} {request.path}".encode(), Vehicle)
        )
        self.etag: str | None = None
        self.body: bytes | None = None

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    async def fetch(self, request: UpstreamRequest[Any]) -> UpstreamResponse[Any]:
        self.calls[request.path] += 1
        self.reads.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if request.known is not None and request.known.etag == self.etag is not None:
            return request.known
        return UpstreamResponse(self._respond(request), 1000, self.etag, body=self.body)


def calls_over(
    fleet: Any, clock: Callable[[], float] = now, *, limiter: RateLimiter | None = None, **groups: Any
) -> Uncoalesced:
    """Calls of a fake fleet API with resilience; by default without rate limiter, retries and circuit."""
    settings = {"breaker": {"enabled": False}, "retry": {"attempts": 1}, "rate_limit": {"enabled": False}} | groups
    chosen = Settings(**settings)
    limiter = limiter or LocalRateLimiter(chosen.rate_limit)
    return Uncoalesced(
        Resilience(Circuit(chosen.breaker), RetryPolicy(chosen.retry), limiter, clock, Metrics()), fleet, Metrics()
    )


def scope(token: str = "alice", expires_at: float | None = None) -> RequestScope:
    return RequestScope(Caller(token, expires_at=expires_at), RequestStats())


def vehicle_read(
    vehicle_id: str = "A",
    by: RequestScope | None = None,
    endpoints: FleetEndpoints = ENDPOINTS,
    mask: type | None = None,
) -> UpstreamRequest[Vehicle]:
    """The request for one vehicle."""
    return UpstreamRequest.of(by or scope(), endpoints.vehicle, item_id=vehicle_id, mask=mask)
