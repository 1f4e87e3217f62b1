"""Spans of batches: which reads an operation made together, and where their responses came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from gateway.upstream.requests import ManyFetcher, UpstreamRequest, UpstreamResponse

T = TypeVar("T")


class TracedBatches(ManyFetcher):
    """The outermost fetcher if there are traces: makes a span for each batch of an operation that is sampled."""

    def __init__(self, following: ManyFetcher) -> None:
        self._following = following

    async def fetch_all(
        self, requests: Sequence[UpstreamRequest[T]], at_a_time: int
    ) -> list[UpstreamResponse[T] | BaseException]:
        """The response or the error of each request, in order; all of them are for one endpoint."""
        span = requests[0].scope.span if requests else None
        if span is None:
            return await self._following.fetch_all(requests, at_a_time)
        endpoint = requests[0].endpoint
        batch = span.child(
            f"{'read' if endpoint.idempotent else 'write'} {endpoint.name}", {"gateway.batch.size": len(requests)}
        )
        for request in requests:
            request.span = batch
        outcomes: list[UpstreamResponse[T] | BaseException] = []
        try:
            outcomes = await self._following.fetch_all(requests, at_a_time)
        finally:
            errors = sum(1 for outcome in outcomes if isinstance(outcome, BaseException))
            sources = Counter(request.source for request in requests)
            numbers = {f"gateway.batch.{source}": number for source, number in sources.items()}
            batch.end({**numbers, "gateway.batch.errors": errors}, failed=bool(errors) or not outcomes)
        return outcomes
