"""Deadlines: how long callers wait, and when abandoned calls are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.identity import Caller
from gateway.telemetry.metrics import Metrics
from gateway.upstream.coalescing import SingleFlight, Uncoalesced
from gateway.upstream.requests import RequestScope, RequestStats
from tests.upstream.fakes import FakeFetcher, Sending, vehicle_read


def hurried(seconds: float | None) -> RequestScope:
    deadline = Deadline() if seconds is None else Deadline.after(seconds)
    return RequestScope(Caller("alice"), RequestStats(), deadline=deadline)


class HeldUp(FakeFetcher):
    """Responds when its gate opens, and counts the calls that were cancelled before."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.cancelled = 0

    async def fetch(self, read):
        try:
            return await super().fetch(read)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("kind", [SingleFlight, Uncoalesced])
async def test_the_deadline_ends_the_wait_and_the_call(kind):
    """At the deadline the read fails, and a call without waiters is cancelled."""
    fleet = HeldUp()
    flights = kind(Sending(), fleet, Metrics())
    with pytest.raises(DeadlineExceeded):
        await flights.fetch(vehicle_read(by=hurried(0.02)))
    await flights.settle()
    assert fleet.cancelled == 1
    await asyncio.sleep(0)
    assert len(flights) == 0


async def test_a_call_lasts_as_long_as_anyone_waits():
    """The first caller fails at its deadline; one that joined with more time gets the response of the same call."""
    fleet = HeldUp()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leader = asyncio.create_task(flights.fetch(vehicle_read(by=hurried(0.02))))
    follower = asyncio.create_task(flights.fetch(vehicle_read(by=hurried(5))))
    with pytest.raises(DeadlineExceeded):
        await leader
    fleet.gate.set()
    assert (await follower).value is not None
    assert (fleet.total, fleet.cancelled) == (1, 0)


async def test_cancelling_a_deadline_ends_all_waits():
    """It ends each read in progress and prevents new ones."""
    fleet = HeldUp()
    flights = SingleFlight(Sending(), fleet, Metrics())
    scope = hurried(None)
    reads = [asyncio.create_task(flights.fetch(vehicle_read(name, by=scope))) for name in "AB"]
    await asyncio.sleep(0.001)
    scope.deadline.cancel()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(result) for result in results] == [DeadlineExceeded] * 2
    with pytest.raises(DeadlineExceeded):
        await flights.fetch(vehicle_read("C", by=scope))
    await flights.settle()
    assert (fleet.total, fleet.cancelled) == (2, 2)


async def test_a_cancelled_call_is_not_joined():
    """A read that equals a call being cancelled starts a call of its own."""
    fleet = HeldUp()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leaving = hurried(None)
    first = asyncio.create_task(flights.fetch(vehicle_read(by=leaving)))
    await asyncio.sleep(0.001)
    leaving.deadline.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(flights.fetch(vehicle_read(by=hurried(None))))
    await asyncio.sleep(0.001)
    fleet.gate.set()
    assert (await second).value is not None
    assert fleet.total == 2
