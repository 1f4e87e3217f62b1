"""Single flight: equal concurrent reads share one call, even if some are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.telemetry.metrics import Metrics
from gateway.upstream.coalescing import SingleFlight
from tests.upstream.fakes import FakeFetcher, Sending, scope, vehicle_read


async def test_followers_get_the_error_too():
    """If the call fails, every waiter gets the same error, and the next read starts a new call."""
    fleet = FakeFetcher()
    fleet.failure = UpstreamUnavailable()
    flights = SingleFlight(Sending(), fleet, Metrics())
    results = await asyncio.gather(*(flights.fetch(vehicle_read()) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamUnavailable] * 5
    assert fleet.total == 1
    with pytest.raises(UpstreamUnavailable):
        await flights.fetch(vehicle_read())
    assert fleet.total == 2


async def test_a_cancelled_leader_does_not_end_the_flight():
    """The others still get the response of the one call."""
    fleet = FakeFetcher()
    fleet.gate = asyncio.Event()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leader, follower = (asyncio.create_task(flights.fetch(vehicle_read())) for _ in range(2))
    await asyncio.sleep(0.001)
    leader.cancel()
    await asyncio.sleep(0.001)
    fleet.gate.set()
    assert (await follower).value is not None
    assert fleet.total == 1
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_flights_are_not_shared_between_principals():
    """Equal concurrent reads of two callers are two calls."""
    fleet = FakeFetcher()
    flights = SingleFlight(Sending(), fleet, Metrics())
    replies = await asyncio.gather(*(flights.fetch(vehicle_read(by=scope(name))) for name in ("alice", "bob")))
    assert replies[0].value != replies[1].value
    assert fleet.total == 2


async def test_a_complete_flight_is_removed():
    """`settle` waits for flights in progress, and none remains."""
    fleet = FakeFetcher()
    flights = SingleFlight(Sending(), fleet, Metrics())
    await asyncio.gather(*(flights.fetch(vehicle_read(str(number))) for number in range(10)))
    await flights.settle()
    await asyncio.sleep(0)
    assert flights._flights == {}
