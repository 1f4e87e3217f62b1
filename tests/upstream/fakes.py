"""A fleet API without HTTP, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from gateway.identity import Caller
from gateway.upstream.fetching import Errand, Read, Reply, Resource, Tally
from gateway.upstream.models import Vehicle


class Clock:
    """Epoch seconds, moved by hand."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


class FakeFetcher:
    """Answers reads from a function, counts them, and can be held up or made to fail."""

    def __init__(self, answer: Callable[[Read[Any]], Any] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.reads: list[Read[Any]] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self._answer = answer or (lambda read: Vehicle(vehicle_id=f"{read.caller.principal[:6]} {read.path}"))
        self.etag: str | None = None
        self.body: bytes | None = None

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    async def fetch(self, read: Read[Any]) -> Reply[Any]:
        self.calls[read.path] += 1
        self.reads.append(read)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if read.known is not None and read.known.etag == self.etag is not None:
            return read.known
        return Reply(self._answer(read), 1000, self.etag, body=self.body)


def errand(token: str = "alice", expires_at: float | None = None) -> Errand:
    return Errand(Caller(token, expires_at=expires_at), Tally())


def vehicle_read(vehicle_id: str = "A", by: Errand | None = None) -> Read[Vehicle]:
    return Read.of(by or errand(), Resource.VEHICLE, f"/vehicles/{vehicle_id}", Vehicle)
