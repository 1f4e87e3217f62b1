"""Equal reads at the same time are one. Each flight is a task of its own, so nobody who leaves can end it."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from gateway.upstream.fetching import Fetcher, Read, Reply

T = TypeVar("T")


class SingleFlight:
    """Lets one of several equal reads through; all get its reply, or its error."""

    def __init__(self, following: Fetcher) -> None:
        self._following = following
        self._flights: dict[str, asyncio.Task[Any]] = {}

    async def fetch(self, read: Read[T]) -> Reply[T]:
        key = read.key
        flight: asyncio.Task[Reply[T]] | None = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._following.fetch(read))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        else:
            read.tally.coalesced += 1
        return await asyncio.shield(flight)

    async def settle(self) -> None:
        """Waits for the flights under way."""
        if self._flights:
            await asyncio.wait(self._flights.values())

    def _landed(self, key: str, flight: asyncio.Task[Any]) -> None:
        del self._flights[key]
        look_at_error(flight)


class OwnTask:
    """Reads in a task of its own without sharing it: what is left of a flight where coalescing is off."""

    def __init__(self, following: Fetcher) -> None:
        self._following = following
        self._calls: set[asyncio.Task[Any]] = set()

    async def fetch(self, read: Read[T]) -> Reply[T]:
        call = asyncio.create_task(self._following.fetch(read))
        self._calls.add(call)
        call.add_done_callback(self._ended)
        return await asyncio.shield(call)

    async def settle(self) -> None:
        """Waits for the calls under way."""
        if self._calls:
            await asyncio.wait(self._calls)

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        look_at_error(call)


def look_at_error(call: asyncio.Task[Any]) -> None:
    """Marks a task's error as seen: whoever waited may have left, and the loop would report it as lost."""
    if not call.cancelled():
        call.exception()
