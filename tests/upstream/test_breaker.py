"""The breaker: what opens it, what it lets through, and how it closes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import (
    GatewayError,
    Problem,
    RateLimited,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.settings import BreakerSettings
from gateway.upstream.breaker import Breaker
from tests.upstream.fakes import Clock, FakeFetcher, vehicle_read

SETTINGS = BreakerSettings(failures=5, pause=1, pause_max=8)


class World:
    def __init__(self) -> None:
        self.fleet, self.clock = FakeFetcher(), Clock()
        self.breaker = Breaker(self.fleet, SETTINGS, self.clock)

    async def read(self) -> Exception | None:
        try:
            await self.breaker.fetch(vehicle_read())
        except GatewayError as failure:
            return failure
        return None

    async def fail(self, failure: Exception | None, times: int = 1) -> None:
        self.fleet.failure = failure
        for _ in range(times):
            await self.read()


@pytest.fixture
def world():
    return World()


@pytest.mark.parametrize("failure", [UpstreamUnavailable(), UpstreamTimeout(), UpstreamUnavailable(Problem(503))])
async def test_an_outage_opens_it(world, failure):
    """After so many failures calls fail at once, with the seconds until the next probe."""
    await world.fail(failure, 5)
    refused = await world.read()
    assert world.fleet.total == 5
    assert isinstance(refused, UpstreamUnavailable)
    assert refused.extensions()["retryAfter"] == 1


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamUnavailable(Problem(500, "/problems/telematics-unit/error")),
        UpstreamUnavailable(Problem(504, "/problems/vehicle/not-reachable")),
        UpstreamForbidden(),
        RateLimited(Problem(429)),
        RateLimited(),
        UpstreamInvalidResponse(),
    ],
)
async def test_what_is_no_outage_leaves_it_closed(world, failure):
    """One vehicle's unit, one caller's permissions or rate: the fleet API is up."""
    await world.fail(failure, 50)
    assert world.fleet.total == 50


async def test_a_few_failures_among_many_answers_leave_it_closed(world):
    """Failures have to be a share of the calls, too."""
    for _ in range(20):
        await world.fail(None)
        await world.fail(None)
        await world.fail(UpstreamUnavailable())
    assert world.fleet.total == 60


async def test_old_failures_are_forgotten(world):
    """Failures count within the window only."""
    for _ in range(10):
        await world.fail(UpstreamUnavailable(), 2)
        world.clock.time += 11
    assert world.fleet.total == 20


async def test_one_probe_asks_and_an_answer_closes_it(world):
    """After the pause one call goes through while the others still fail; its answer lets all through."""
    await world.fail(UpstreamUnavailable(), 5)
    world.clock.time += 1.1
    world.fleet.failure, world.fleet.gate = None, asyncio.Event()
    probe = asyncio.create_task(world.read())
    await asyncio.sleep(0.001)
    assert isinstance(await world.read(), UpstreamUnavailable)
    world.fleet.gate.set()
    assert await probe is None
    assert await world.read() is None
    assert world.fleet.total == 7


async def test_failed_probes_wait_longer_each_time(world):
    """Each failed probe doubles the pause, up to its bound."""
    await world.fail(UpstreamUnavailable(), 5)
    pauses = []
    for _ in range(5):
        refused = await world.read()
        pauses.append(refused.retry_after)
        world.clock.time += refused.retry_after
        await world.read()
    assert pauses == [1, 2, 4, 8, 8]
    assert world.fleet.total == 10


async def test_a_probe_that_is_given_up_leaves_room_for_another(world):
    """When whoever sent the probe leaves, the next call is the probe."""
    await world.fail(UpstreamUnavailable(), 5)
    world.clock.time += 1.1
    world.fleet.failure, world.fleet.gate = None, asyncio.Event()
    probe = asyncio.create_task(world.read())
    await asyncio.sleep(0.001)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    world.fleet.gate.set()
    assert await world.read() is None


async def test_a_probe_that_our_own_pacing_refuses_shows_nothing(world):
    """A call that was never sent doesn't close the circuit, and the next one is the probe."""
    await world.fail(UpstreamUnavailable(), 5)
    world.clock.time += 1.1
    await world.fail(RateLimited(retry_after=60))
    await world.fail(UpstreamUnavailable())
    assert isinstance(await world.read(), UpstreamUnavailable)
    assert world.fleet.total == 7


async def test_refusals_of_our_own_pacing_do_not_outvote_an_outage(world):
    """Calls that were never sent are no answers: failures are weighed against those that were."""
    await world.fail(RateLimited(retry_after=60), 50)
    await world.fail(UpstreamUnavailable(), 5)
    await world.read()
    assert world.fleet.total == 55


async def test_callers_who_leave_do_not_open_it(world):
    """A call that was given up tells nothing of the fleet API."""
    world.fleet.gate = asyncio.Event()
    for _ in range(20):
        call = asyncio.create_task(world.read())
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    world.fleet.gate.set()
    assert await world.read() is None
