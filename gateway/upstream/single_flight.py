"""Equal reads at the same time are one. Each flight goes its own way: it lasts as long as anyone waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from gateway.errors import DeadlineExceeded
from gateway.upstream.fetching import Fetcher, Patience, Read, Reply

T = TypeVar("T")


class Flight(Generic[T]):
    """A read under way. Who waits may leave, or run out of time; when the last has gone, the flight is cancelled.

    The read is the flight's from now on; it has the patience of the most patient who waits. Who begins it says how it
    is given up, and has it land: with the reply, or the error.
    """

    __slots__ = ("_is_shared", "_then", "_waiting", "_work", "abandoned", "give_up", "outcome", "read")

    def __init__(self, read: Read[T], landed: Callable[[Flight[Any]], None]) -> None:
        self.read = read
        self._is_shared = False  # whether the read's patience is no longer that of one who waits
        self._waiting = 0
        self._then = [landed]
        self._work: asyncio.Future[Reply[T]] | None = None
        self.abandoned = False  # whether the last who waited has gone
        self.outcome: Reply[T] | BaseException | None = None
        self.give_up: Callable[[], object] = _nothing

    @property
    def work(self) -> asyncio.Future[Reply[T]]:
        """The outcome to wait for; it is made when somebody does."""
        if self._work is None:
            self._work = asyncio.get_running_loop().create_future()
            if self.outcome is not None:
                _tell(self._work, self.outcome)
        return self._work

    def then(self, do: Callable[[Flight[Any]], None]) -> None:
        """Does something when it has landed."""
        self._then.append(do)

    def join(self, patience: Patience) -> None:
        """One more waits."""
        self._waiting += 1
        if patience is not self.read.patience:
            if not self._is_shared:
                self._is_shared, self.read.patience = True, Patience(self.read.patience.deadline)
            self.read.patience.extend(patience.deadline)

    def leave(self) -> None:
        """One who waited goes, with the reply or without."""
        self._waiting -= 1
        if not self._waiting and self.outcome is None:
            self.abandoned = True
            self.give_up()

    async def wait(self, patience: Patience) -> Reply[T]:
        """Its reply or error, unless the patience ends first."""
        self.join(patience)
        try:
            return await patience.wait(self.work)
        finally:
            self.leave()

    def land(self, outcome: Reply[T] | BaseException) -> None:
        """It is over, in this way."""
        self.outcome = outcome
        self.give_up = _nothing  # what it was may know this object: a circle
        if self._work is not None:
            _tell(self._work, outcome)
        for do in self._then:
            do(self)

    def ended(self, task: asyncio.Task[Reply[T]]) -> None:
        """The same, as a task ended."""
        self.land(asyncio.CancelledError() if task.cancelled() else task.exception() or task.result())


# Begins a flight, if its read needs nothing but the call: what gives it up.
Quickly = Callable[[Flight[Any]], Callable[[], object] | None]


def _nothing() -> None:
    """Gives up what has not begun."""


def _tell(work: asyncio.Future[Reply[T]], outcome: Reply[T] | BaseException) -> None:
    if isinstance(outcome, asyncio.CancelledError):
        work.cancel()
    elif isinstance(outcome, BaseException):
        work.set_exception(outcome)
        look_at_error(work)
    else:
        work.set_result(outcome)


class OwnFlight:
    """Every read has a flight of its own: what is left of a single flight where coalescing is off."""

    def __init__(self, following: Fetcher, quickly: Quickly = lambda _: None) -> None:
        self._following = following
        self._quickly = quickly
        self._under_way: set[Flight[Any]] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    async def fetch(self, read: Read[T]) -> Reply[T]:
        patience = read.patience
        patience.check()
        return await self.board(read).wait(patience)

    async def fetch_all(self, reads: Sequence[Read[T]], at_a_time: int) -> list[Reply[T] | BaseException]:
        """The reply or the error of each of a request's reads, in order; at most so many are under way at a time."""
        if not reads:
            return []
        patience = reads[0].patience
        try:
            patience.check()
        except DeadlineExceeded as late:
            return [late] * len(reads)
        together = _Together(self.board, reads, at_a_time, patience)
        try:
            await patience.wait(together.whole)
        except DeadlineExceeded as late:
            return [late if outcome is None else outcome for outcome in together.outcomes]
        finally:
            together.leave()
        return together.outcomes  # type: ignore[return-value]

    def board(self, read: Read[T]) -> Flight[T]:
        """The flight that takes this read."""
        flight = Flight(read, self._landed)
        give_up = self._quickly(flight)
        if give_up is None:
            task = asyncio.get_running_loop().create_task(self._following.fetch(read))
            task.add_done_callback(flight.ended)
            give_up = task.cancel
        flight.give_up = give_up
        self._under_way.add(flight)
        return flight

    async def settle(self) -> None:
        """Waits for the flights under way."""
        if self._under_way:
            await asyncio.wait([flight.work for flight in self._under_way])

    def _landed(self, flight: Flight[Any]) -> None:
        self._under_way.discard(flight)


class SingleFlight(OwnFlight):
    """Lets one of several equal reads through; all get its reply, or its error."""

    def __init__(self, following: Fetcher, quickly: Quickly = lambda _: None) -> None:
        super().__init__(following, quickly)
        self._flights: dict[str, Flight[Any]] = {}

    def board(self, read: Read[T]) -> Flight[T]:
        key = read.key
        flight: Flight[T] | None = self._flights.get(key)
        if flight is not None and not flight.abandoned:
            read.errand.tally.coalesced += 1
            return flight
        flight = self._flights[key] = super().board(read)
        return flight

    def _landed(self, flight: Flight[Any]) -> None:
        super()._landed(flight)
        key = flight.read.key
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Together(Generic[T]):
    """Flights that one request waits for; when one lands, the next read boards."""

    def __init__(
        self, board: Callable[[Read[T]], Flight[T]], reads: Sequence[Read[T]], at_a_time: int, patience: Patience
    ) -> None:
        self._board = board
        self._patience = patience
        self._left = iter(enumerate(reads))
        self._under_way: dict[int, Flight[T]] = {}
        self.outcomes: list[Reply[T] | BaseException | None] = [None] * len(reads)
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for index, read in islice(self._left, at_a_time):
            self._begin(index, read)

    def leave(self) -> None:
        """Whatever has not landed is waited for no longer."""
        under_way, self._under_way = self._under_way, {}
        for flight in under_way.values():
            flight.leave()

    def _begin(self, index: int, read: Read[T]) -> None:
        flight = self._under_way[index] = self._board(read)
        flight.join(self._patience)
        flight.then(partial(self._landed, index))

    def _landed(self, index: int, flight: Flight[T]) -> None:
        if self._under_way.pop(index, None) is None:
            return  # it was left
        flight.leave()
        self.outcomes[index] = flight.outcome
        for following in islice(self._left, 1):
            self._begin(*following)
        if not self._under_way and not self.whole.done():
            self.whole.set_result(None)


def look_at_error(call: asyncio.Future[Any]) -> None:
    """Marks an error as seen: whoever waited may have left, and the loop would report it as lost."""
    if not call.cancelled():
        call.exception()
