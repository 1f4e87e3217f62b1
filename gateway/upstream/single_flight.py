"""Equal reads at the same time are one. Each flight goes its own way: it lasts as long as anyone waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from gateway.errors import DeadlineExceeded
from gateway.upstream.fetching import Fetcher, Patience, Read, Reply

T = TypeVar("T")
Outcome = Reply[T] | BaseException


class Flight(Struct, Generic[T], eq=False):
    """A read under way. Who waits may leave, or run out of time; when the last has gone, the flight is given up.

    The read is the flight's from now on; it has the patience of the most patient who waits. `outcome` is the reply, or
    the error, once it has landed.
    """

    read: Read[T]
    flights: Flights
    waiting: int = 0
    abandoned: bool = False  # whether the last who waited has gone
    outcome: Outcome[T] | None = None
    task: asyncio.Task[Reply[T]] | None = None  # what comes to its end as the flight does
    together: list[Together] = []
    is_shared: bool = False  # whether the read's patience is no longer that of one who waits
    heard: asyncio.Future[None] | None = None

    def landing(self) -> asyncio.Future[None]:
        """Has its result when a flight under way has landed; it is made when somebody waits for that."""
        if self.heard is None:
            self.heard = asyncio.get_running_loop().create_future()
        return self.heard

    def goes_on_as(self, task: asyncio.Task[Reply[T]]) -> None:
        """It lands as a task ends."""
        self.task = task
        task.add_done_callback(self._ended)

    def join(self, patience: Patience) -> None:
        """One more waits."""
        self.waiting += 1
        if patience is not self.read.patience:
            if not self.is_shared:
                self.is_shared, self.read.patience = True, Patience(self.read.patience.deadline)
            self.read.patience.extend(patience.deadline)

    def leave(self) -> None:
        """One who waited goes, with the reply or without."""
        self.waiting -= 1
        if not self.waiting and self.outcome is None:
            self.abandoned = True
            self.give_up()

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if self.task is not None:
            self.task.cancel()

    def land(self, outcome: Outcome[T]) -> None:
        """It is over, in this way."""
        self.outcome = outcome
        self.flights.landed(self)
        for each in self.together:
            each.landed(self)
        if self.heard is not None:
            self.heard.set_result(None)

    def _ended(self, task: asyncio.Task[Reply[T]]) -> None:
        self.task = None  # it knows this object: a circle
        self.land(asyncio.CancelledError() if task.cancelled() else task.exception() or task.result())


class Flights(Protocol):
    """Where a flight is registered."""

    def landed(self, flight: Flight[Any]) -> None: ...


class Together(Protocol):
    """One of those who wait for more than one flight."""

    def landed(self, flight: Flight[Any]) -> None: ...


class Quickly(Protocol):
    """Begins flights whose reads need nothing but the call."""

    def begin(self, read: Read[T], flights: Flights) -> Flight[T] | None: ...


class OwnFlight:
    """Every read has a flight of its own: what is left of a single flight where coalescing is off."""

    def __init__(self, following: Fetcher, quickly: Quickly | None = None) -> None:
        self._following = following
        self._quickly = quickly or _Never()
        self._others: set[Flight[Any]] = set()  # those that nobody can join

    def __len__(self) -> int:
        return len(self._others)

    async def fetch(self, read: Read[T]) -> Reply[T]:
        (outcome,) = await self.fetch_all((read,), 1)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def fetch_all(self, reads: Sequence[Read[T]], at_a_time: int) -> list[Outcome[T]]:
        """The reply or the error of each of a request's reads, in order; at most so many are under way at a time."""
        if not reads:
            return []
        patience = reads[0].patience
        try:
            patience.check()
        except DeadlineExceeded as ended:
            return [ended] * len(reads)
        together = _Batch(self, reads, at_a_time, patience)
        try:
            await patience.wait_for_own(together.whole)
            is_late = together.is_under_way
        finally:
            together.leave()
        if is_late:
            late = DeadlineExceeded()
            return [late if outcome is None else outcome for outcome in together.outcomes]
        return together.outcomes  # type: ignore[return-value]

    def board(self, read: Read[T]) -> Flight[T]:
        """The flight that takes this read."""
        flight = self._quickly.begin(read, self) or self._slowly(read)
        self._others.add(flight)
        return flight

    def landed(self, flight: Flight[Any]) -> None:
        """A flight is over."""
        self._others.remove(flight)

    async def settle(self) -> None:
        """Waits for the flights under way."""
        if len(self):
            await asyncio.wait([flight.landing() for flight in self._under_way()])

    def _under_way(self) -> list[Flight[Any]]:
        return [*self._others]

    def _slowly(self, read: Read[T]) -> Flight[T]:
        flight = Flight(read, self)
        flight.goes_on_as(asyncio.get_running_loop().create_task(self._following.fetch(read)))
        return flight


class SingleFlight(OwnFlight):
    """Lets one of several equal reads through; all get its reply, or its error."""

    def __init__(self, following: Fetcher, quickly: Quickly | None = None) -> None:
        super().__init__(following, quickly)
        self._flights: dict[str, Flight[Any]] = {}

    def __len__(self) -> int:
        return len(self._flights) + len(self._others)

    def board(self, read: Read[T]) -> Flight[T]:
        if not read.endpoint.idempotent:
            return super().board(read)
        key = read.key
        known: Flight[T] | None = self._flights.get(key)
        if known is not None and not known.abandoned:
            read.errand.tally.coalesced += 1
            return known
        flight = self._quickly.begin(read, self) or self._slowly(read)
        if known is not None:
            self._others.add(known)
        self._flights[key] = flight
        return flight

    def landed(self, flight: Flight[Any]) -> None:
        if flight in self._others:  # it was abandoned, and another took its place
            self._others.remove(flight)
        else:
            del self._flights[flight.read.key]

    def _under_way(self) -> list[Flight[Any]]:
        return [*self._flights.values(), *self._others]


class _Never:
    """Begins nothing."""

    def begin(self, read: Read[T], flights: Flights) -> Flight[T] | None:
        return None


class _Batch(Generic[T]):
    """Flights that one request waits for; when one lands, the next read boards."""

    def __init__(self, flights: OwnFlight, reads: Sequence[Read[T]], at_a_time: int, patience: Patience) -> None:
        self._flights = flights
        self._patience = patience
        # Those that have not boarded, the next one last.
        self._left = list(enumerate(reads))[at_a_time:][::-1]
        # Equal reads have one flight.
        self._places: dict[Flight[T], list[int]] = {}
        self.outcomes: list[Outcome[T] | None] = [None] * len(reads)
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for index, read in enumerate(reads[:at_a_time]):
            self._begin(index, read)

    @property
    def is_under_way(self) -> bool:
        """Whether something has not landed."""
        return bool(self._places)

    def leave(self) -> None:
        """Whatever has not landed is waited for no longer."""
        under_way, self._places = self._places, {}
        for flight in under_way:
            flight.leave()

    def landed(self, flight: Flight[T]) -> None:
        """A flight is over."""
        places = self._places.pop(flight, None)
        if places is None:
            return  # it was left
        for index in places:
            self.outcomes[index] = flight.outcome
        if self._left:
            for _ in range(min(len(places), len(self._left))):
                self._begin(*self._left.pop())
        elif not self._places and not self.whole.done():
            self.whole.set_result(None)

    def _begin(self, index: int, read: Read[T]) -> None:
        flight = self._flights.board(read)
        places = self._places.get(flight)
        if places is not None:
            places.append(index)
            return
        self._places[flight] = [index]
        flight.together.append(self)
        if flight.waiting or read.patience is not self._patience:
            flight.join(self._patience)
        else:
            flight.waiting = 1


def look_at_error(call: asyncio.Future[Any]) -> None:
    """Marks an error as seen: whoever waited may have left, and the loop would report it as lost."""
    if not call.cancelled():
        call.exception()
