"""Coalescing: equal concurrent reads share one upstream call, which is cancelled when its last waiter leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.telemetry.metrics import COALESCED, Metrics
from gateway.upstream.changes import Changes, group_of
from gateway.upstream.requests import Layer, ManyFetcher, UpstreamRequest
from gateway.upstream.resilience import Outcome, RunningCall, Sender

T = TypeVar("T")


class Flight(RunningCall[T], Generic[T], eq=False, kw_only=True):
    """A call in progress with its waiters. When the last waiter leaves or times out, the call is cancelled.

    The flight owns its request, whose deadline becomes the latest of its waiters'. `outcome` is the response or the
    error once the flight is complete.
    """

    flights: Flights
    waiters: int = 0
    abandoned: bool = False  # whether the last waiter has left
    outcome: Outcome[T] | None = None
    batches: tuple[Batch, ...] = ()
    number: int = 0  # of the latest write that was known when it started
    is_shared: bool = False  # whether the request's deadline is no longer that of one waiter
    completion: asyncio.Future[None] | None = None

    def completed(self) -> asyncio.Future[None]:
        """A future that is done when the flight is complete; created on first use."""
        if self.completion is None:
            self.completion = asyncio.get_running_loop().create_future()
        return self.completion

    def join(self, deadline: Deadline) -> None:
        """Adds a waiter."""
        self.waiters += 1
        if deadline is not self.request.deadline:
            if not self.is_shared:
                self.is_shared, self.request.deadline = True, Deadline(self.request.deadline.at)
            self.request.deadline.extend(deadline.at)

    def leave(self) -> None:
        """Removes a waiter."""
        self.waiters -= 1
        if not self.waiters and self.outcome is None:
            self.abandoned = True
            self.cancel()

    def done(self) -> bool:
        """Whether no waiter is left."""
        return self.abandoned or self.outcome is not None

    def complete(self, outcome: Outcome[T]) -> None:
        """Sets the outcome and notifies all waiters."""
        self.outcome = outcome
        self.flights.remove(self)
        for each in self.batches:
            each.completed(self)
        if self.completion is not None:
            self.completion.set_result(None)


class Flights(Protocol):
    """The registry of a flight."""

    def remove(self, flight: Flight[Any]) -> None:
        """Removes a flight that is complete."""


class Batch(Protocol):
    """A waiter for any number of flights."""

    def completed(self, flight: Flight[Any]) -> None:
        """Called when a flight is complete."""


class Uncoalesced(ManyFetcher):
    """Starts a flight for every request: the stack without coalescing."""

    def __init__(self, layer: Layer, sender: Sender, metrics: Metrics) -> None:
        self._layer = layer
        self._sender = sender
        self._metrics = metrics
        self._others: set[Flight[Any]] = set()  # those that can't be joined

    def __len__(self) -> int:
        return len(self._others)

    async def fetch_all(self, requests: Sequence[UpstreamRequest[T]], at_a_time: int) -> list[Outcome[T]]:
        """The response or the error of each request of one scope, in order, with at most `at_a_time` in progress."""
        if not requests:
            return []
        deadline = requests[0].deadline
        try:
            deadline.check()
        except DeadlineExceeded as ended:
            return [ended] * len(requests)
        batch = _Batch(self, requests, at_a_time, deadline)
        try:
            await deadline.wait_event(batch.all_done)
            is_late = batch.is_under_way
        finally:
            batch.leave()
        if is_late:
            late = DeadlineExceeded()
            return [late if outcome is None else outcome for outcome in batch.outcomes]
        return batch.outcomes  # type: ignore[return-value] # all are set

    def flight_of(self, request: UpstreamRequest[T]) -> Flight[T]:
        """The flight that a request starts or joins; it may be complete."""
        flight = Flight(request, self._sender, flights=self)
        flight.steps = self._layer.steps(flight)
        self._others.add(flight)
        flight.run()
        return flight

    def remove(self, flight: Flight[Any]) -> None:
        """Removes a flight that is complete."""
        self._others.remove(flight)

    async def settle(self) -> None:
        """Waits for the flights in progress."""
        if len(self):
            await asyncio.wait([flight.completed() for flight in self._under_way()])

    def _under_way(self) -> list[Flight[Any]]:
        return [*self._others]


class SingleFlight(Uncoalesced):
    """Equal reads share a flight: all get its response or its error. One that a write has made stale is not shared."""

    def __init__(self, layer: Layer, sender: Sender, metrics: Metrics, changes: Changes | None = None) -> None:
        super().__init__(layer, sender, metrics)
        self._changes = changes or Changes()
        self._flights: dict[str, Flight[Any]] = {}

    def __len__(self) -> int:
        return len(self._flights) + len(self._others)

    def flight_of(self, request: UpstreamRequest[T]) -> Flight[T]:
        """The flight that a request starts or joins; it may be complete."""
        if not request.endpoint.idempotent:
            return super().flight_of(request)
        key = request.key
        known: Flight[T] | None = self._flights.get(key)
        if known is not None:
            if not known.abandoned and not self._changes.is_stale(key, known.number, group_of(request.caller)):
                request.scope.stats.coalesced += 1
                request.source = "coalesced"
                self._metrics.count(COALESCED, (request.endpoint.name,))
                return known
            self._others.add(known)
        flight = Flight(request, self._sender, flights=self, number=self._changes.latest)
        self._flights[key] = flight
        flight.steps = self._layer.steps(flight)
        flight.run()
        return flight

    def remove(self, flight: Flight[Any]) -> None:
        """Removes a flight that is complete."""
        if flight in self._others:  # It was abandoned or has become stale, and an equal read started another.
            self._others.remove(flight)
        else:
            del self._flights[flight.request.key]

    def _under_way(self) -> list[Flight[Any]]:
        return [*self._flights.values(), *self._others]


class _Batch(Generic[T]):
    """The upstream requests of one scope; when a flight completes, the next request starts."""

    def __init__(
        self, flights: Uncoalesced, requests: Sequence[UpstreamRequest[T]], at_a_time: int, deadline: Deadline
    ) -> None:
        self._flights = flights
        self._deadline = deadline
        # Requests that have not started, the next one last.
        self._pending = list(enumerate(requests))[::-1]
        # The indices of the requests of each flight in progress: equal reads share one.
        self._indices: dict[Flight[T], list[int]] = {}
        self.outcomes: list[Outcome[T] | None] = [None] * len(requests)
        self.all_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start(at_a_time)
        if not self._indices:
            self.all_done.set_result(None)

    @property
    def is_under_way(self) -> bool:
        """Whether a flight is not complete."""
        return bool(self._indices)

    def leave(self) -> None:
        """Leaves the incomplete flights."""
        under_way, self._indices = self._indices, {}
        for flight in under_way:
            flight.leave()

    def completed(self, flight: Flight[T]) -> None:
        """Takes the outcome of a flight and starts further requests."""
        indices = self._indices.pop(flight, None)
        if indices is None:
            return  # This batch has left the flight.
        for index in indices:
            self.outcomes[index] = flight.outcome
        if self._pending:
            self._start(len(indices))
        if not self._indices and not self.all_done.done():
            self.all_done.set_result(None)

    def _start(self, number: int) -> None:
        """Starts `number` of the pending requests, and another for each that completes at once."""
        while number and self._pending:
            index, request = self._pending.pop()
            flight = self._flights.flight_of(request)
            if flight.outcome is not None:
                self.outcomes[index] = flight.outcome
                continue
            number -= 1
            indices = self._indices.get(flight)
            if indices is not None:
                indices.append(index)
                continue
            self._indices[flight] = [index]
            flight.batches += (self,)
            if flight.waiters or request.deadline is not self._deadline:
                flight.join(self._deadline)
            else:
                flight.waiters = 1


def retrieve_exception(call: asyncio.Future[Any]) -> None:
    """Retrieves a future's exception, because the event loop would log it as never retrieved."""
    if not call.cancelled():
        call.exception()
