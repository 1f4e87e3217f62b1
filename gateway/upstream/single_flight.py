"""Equal reads at the same time are one. Each flight is a task of its own: it lasts as long as anyone waits for it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Generic, TypeVar

from gateway.upstream.fetching import Fetcher, Patience, Read, Reply

T = TypeVar("T")


class Flight(Generic[T]):
    """A read under way. Who waits may leave, or run out of time; when the last has gone, the flight is cancelled."""

    def __init__(self, following: Fetcher, read: Read[T]) -> None:
        self._patience = Patience(read.errand.patience.deadline)
        self._waiting = 0
        self.task: asyncio.Task[Reply[T]] = asyncio.create_task(following.fetch(read.during(self._patience)))
        self.task.add_done_callback(look_at_error)

    @property
    def abandoned(self) -> bool:
        """Whether the last who waited has gone."""
        return self.task.cancelling() > 0

    async def wait(self, patience: Patience) -> Reply[T]:
        """Its reply or error, unless the patience ends first."""
        self._waiting += 1
        self._patience.extend(patience.deadline)
        try:
            return await patience.wait(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self.task.done():
                self.task.cancel()


class SingleFlight:
    """Lets one of several equal reads through; all get its reply, or its error."""

    def __init__(self, following: Fetcher) -> None:
        self._following = following
        self._flights: dict[str, Flight[Any]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def fetch(self, read: Read[T]) -> Reply[T]:
        key = read.key
        read.errand.patience.check()
        flight: Flight[T] | None = self._flights.get(key)
        if flight is None or flight.abandoned:
            flight = self._flights[key] = Flight(self._following, read)
            flight.task.add_done_callback(partial(self._landed, key))
        else:
            read.tally.coalesced += 1
        return await flight.wait(read.errand.patience)

    async def settle(self) -> None:
        """Waits for the flights under way."""
        if self._flights:
            await asyncio.wait([flight.task for flight in self._flights.values()])

    def _landed(self, key: str, task: asyncio.Task[Any]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


class OwnFlight:
    """Every read has a flight of its own: what is left of a single flight where coalescing is off."""

    def __init__(self, following: Fetcher) -> None:
        self._following = following
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def fetch(self, read: Read[T]) -> Reply[T]:
        read.errand.patience.check()
        flight = Flight(self._following, read)
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return await flight.wait(read.errand.patience)

    async def settle(self) -> None:
        """Waits for the flights under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def look_at_error(call: asyncio.Task[Any]) -> None:
    """Marks a task's error as seen: whoever waited may have left, and the loop would report it as lost."""
    if not call.cancelled():
        call.exception()
