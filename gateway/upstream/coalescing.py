"""Coalescing: equal reads at the same time share one upstream call, which lasts as long as anyone waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.upstream.requests import Layer, UpstreamRequest, UpstreamResponse
from gateway.upstream.resilience import Outcome, RunningCall, Sender

T = TypeVar("T")


class Flight(RunningCall[T], Generic[T], eq=False, kw_only=True):
    """A read under way. A waiter can leave or run out of time; when the last has gone, the call is cancelled.

    The read belongs to the flight: its deadline is the latest of its waiters'. `outcome` is the reply or the error once
    the flight is complete.
    """

    flights: Flights
    waiters: int = 0
    abandoned: bool = False  # whether the last waiter has gone
    outcome: Outcome[T] | None = None
    batches: tuple[Batch, ...] = ()
    is_shared: bool = False  # whether the read's deadline is no longer that of one waiter
    completion: asyncio.Future[None] | None = None

    def completed(self) -> asyncio.Future[None]:
        """A future that has its result when the flight is complete; it is made when it is asked for."""
        if self.completion is None:
            self.completion = asyncio.get_running_loop().create_future()
        return self.completion

    def join(self, deadline: Deadline) -> None:
        """Adds a waiter."""
        self.waiters += 1
        if deadline is not self.read.deadline:
            if not self.is_shared:
                self.is_shared, self.read.deadline = True, Deadline(self.read.deadline.at)
            self.read.deadline.extend(deadline.at)

    def leave(self) -> None:
        """Removes a waiter."""
        self.waiters -= 1
        if not self.waiters and self.outcome is None:
            self.abandoned = True
            self.cancel()

    def done(self) -> bool:
        """Whether nobody waits for the outcome any more."""
        return self.abandoned or self.outcome is not None

    def complete(self, outcome: Outcome[T]) -> None:
        """Sets the outcome and notifies all who wait for it."""
        self.outcome = outcome
        self.flights.remove(self)
        for each in self.batches:
            each.completed(self)
        if self.completion is not None:
            self.completion.set_result(None)


class Flights(Protocol):
    """The registry of a flight."""

    def remove(self, flight: Flight[Any]) -> None:
        """A flight is complete."""


class Batch(Protocol):
    """A waiter for any number of flights."""

    def completed(self, flight: Flight[Any]) -> None:
        """A flight is complete."""


class Uncoalesced:
    """Every read has a flight of its own: the stack without coalescing."""

    def __init__(self, layer: Layer, sender: Sender) -> None:
        self._layer = layer
        self._sender = sender
        self._others: set[Flight[Any]] = set()  # those that can't be joined

    def __len__(self) -> int:
        return len(self._others)

    async def fetch(self, read: UpstreamRequest[T]) -> UpstreamResponse[T]:
        """The reply of a read."""
        (outcome,) = await self.fetch_all((read,), 1)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def fetch_all(self, reads: Sequence[UpstreamRequest[T]], at_a_time: int) -> list[Outcome[T]]:
        """The reply or the error of each of a request's reads, in order; at most so many are under way at a time."""
        if not reads:
            return []
        deadline = reads[0].deadline
        try:
            deadline.check()
        except DeadlineExceeded as ended:
            return [ended] * len(reads)
        batch = _Batch(self, reads, at_a_time, deadline)
        try:
            await deadline.wait_event(batch.whole)
            is_late = batch.is_under_way
        finally:
            batch.leave()
        if is_late:
            late = DeadlineExceeded()
            return [late if outcome is None else outcome for outcome in batch.outcomes]
        return batch.outcomes  # type: ignore[return-value] # all are there

    def flight_of(self, read: UpstreamRequest[T]) -> Flight[T]:
        """The flight that a read starts or joins; it may be complete."""
        flight = Flight(read, self._sender, flights=self)
        flight.steps = self._layer.steps(flight)
        self._others.add(flight)
        flight.run()
        return flight

    def remove(self, flight: Flight[Any]) -> None:
        """A flight is complete."""
        self._others.remove(flight)

    async def settle(self) -> None:
        """Waits for the flights under way."""
        if len(self):
            await asyncio.wait([flight.completed() for flight in self._under_way()])

    def _under_way(self) -> list[Flight[Any]]:
        return [*self._others]


class SingleFlight(Uncoalesced):
    """Equal reads share a flight: all get its reply, or its error."""

    def __init__(self, layer: Layer, sender: Sender) -> None:
        super().__init__(layer, sender)
        self._flights: dict[str, Flight[Any]] = {}

    def __len__(self) -> int:
        return len(self._flights) + len(self._others)

    def flight_of(self, read: UpstreamRequest[T]) -> Flight[T]:
        """The flight that a read starts or joins; it may be complete."""
        if not read.endpoint.idempotent:
            return super().flight_of(read)
        key = read.key
        known: Flight[T] | None = self._flights.get(key)
        if known is not None:
            if not known.abandoned:
                read.scope.stats.coalesced += 1
                return known
            self._others.add(known)
        flight = self._flights[key] = Flight(read, self._sender, flights=self)
        flight.steps = self._layer.steps(flight)
        flight.run()
        return flight

    def remove(self, flight: Flight[Any]) -> None:
        """A flight is complete."""
        if flight in self._others:  # It was abandoned, and an equal read has started another.
            self._others.remove(flight)
        else:
            del self._flights[flight.read.key]

    def _under_way(self) -> list[Flight[Any]]:
        return [*self._flights.values(), *self._others]


class _Batch(Generic[T]):
    """The reads of one request; when a flight completes, the next read starts."""

    def __init__(
        self, flights: Uncoalesced, reads: Sequence[UpstreamRequest[T]], at_a_time: int, deadline: Deadline
    ) -> None:
        self._flights = flights
        self._patience = deadline
        # Those that have not started, the next one last.
        self._left = list(enumerate(reads))[::-1]
        # The indices of the reads of each flight under way: equal reads share one.
        self._indices: dict[Flight[T], list[int]] = {}
        self.outcomes: list[Outcome[T] | None] = [None] * len(reads)
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start(at_a_time)
        if not self._indices:
            self.whole.set_result(None)

    @property
    def is_under_way(self) -> bool:
        """Whether a flight is not complete."""
        return bool(self._indices)

    def leave(self) -> None:
        """Leaves the flights that are not complete."""
        under_way, self._indices = self._indices, {}
        for flight in under_way:
            flight.leave()

    def completed(self, flight: Flight[T]) -> None:
        """A flight is complete."""
        indices = self._indices.pop(flight, None)
        if indices is None:
            return  # This batch has left it.
        for index in indices:
            self.outcomes[index] = flight.outcome
        if self._left:
            self._start(len(indices))
        if not self._indices and not self.whole.done():
            self.whole.set_result(None)

    def _start(self, number: int) -> None:
        """Starts so many of the reads that are left, and more for those that complete at once."""
        while number and self._left:
            index, read = self._left.pop()
            flight = self._flights.flight_of(read)
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
            if flight.waiters or read.deadline is not self._patience:
                flight.join(self._patience)
            else:
                flight.waiters = 1


def retrieve_exception(call: asyncio.Future[Any]) -> None:
    """Marks an error as seen, because the loop would report it as lost where nobody waits for it any more."""
    if not call.cancelled():
        call.exception()
