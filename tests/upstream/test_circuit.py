"""The circuit breaker: what opens it, which calls it allows, and how it closes."""

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
from gateway.upstream.circuit import Circuit, is_outage
from tests.upstream.fakes import Clock, FakeFetcher, calls_over, vehicle_read

SETTINGS = {"failure_threshold": 5, "open_seconds": 1, "open_seconds_max": 8}


class World:
    def __init__(self) -> None:
        self.fleet, self.clock = FakeFetcher(), Clock()
        self.calls = calls_over(self.fleet, self.clock, breaker=SETTINGS)

    async def read(self) -> Exception | None:
        try:
            await self.calls.fetch(vehicle_read())
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


class Timeline:
    """A circuit, and the calls that end at the times that a test names; failures count within ten seconds."""

    def __init__(self, **settings: object) -> None:
        defaults = {"window": 10, "failure_threshold": 4, "failure_rate": 0.5, "open_seconds": 2, "open_seconds_max": 5}
        self.circuit = Circuit(BreakerSettings(**{**defaults, **settings}))

    def end(self, *calls: tuple[float, bool | None]) -> list[bool]:
        return [self.circuit.ended(at, outage=outage) for at, outage in calls]


def test_the_call_that_opens_it_says_so():
    """Only the failure that reaches the threshold reports a change, and the circuit is then open for the pause."""
    timeline = Timeline()
    assert timeline.end(*[(100.0, True)] * 4) == [False, False, False, True]
    assert timeline.circuit.open_until == 102.0
    assert timeline.circuit.is_open


@pytest.mark.parametrize(("successes", "opens"), [(4, True), (5, False)])
def test_failures_have_to_be_their_share_of_the_calls(successes, opens):
    """Half of the calls is enough, less is not."""
    timeline = Timeline()
    timeline.end(*[(100.0, False)] * successes, *[(100.5, True)] * 3)
    assert timeline.end((100.9, True)) == [opens]


@pytest.mark.parametrize(("later", "opens"), [(109.99, True), (110.0, False)])
def test_a_failure_counts_for_the_seconds_of_the_window(later, opens):
    """The second in which it happened leaves the window as a whole."""
    timeline = Timeline()
    timeline.end((100.3, True), (103.0, True), (104.0, True))
    assert timeline.end((later, True)) == [opens]


def test_calls_of_one_second_are_counted_together():
    """A second begins anew where its number changes, not with each call, so the memory stays bounded."""
    timeline = Timeline(window=3)
    for tenths in range(1000, 1100):
        timeline.end((tenths / 10, False))
    assert [second.number for second in timeline.circuit._recent] == [107, 108, 109]
    assert {second.calls for second in timeline.circuit._recent} == {10}


def test_a_clock_that_is_set_back_forgets_the_calls_that_seem_to_come():
    """Calls of a later second than now have an unknown age."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 3)
    timeline.end((90.0, True))
    assert not timeline.circuit.is_open
    assert [second.number for second in timeline.circuit._recent] == [90]


def test_a_call_that_says_nothing_is_not_counted():
    """It does not become part of the share."""
    timeline = Timeline()
    timeline.end(*[(100.0, None)] * 9, *[(100.0, True)] * 3)
    assert timeline.end((100.0, True)) == [True]


def test_nothing_opens_it_where_it_is_disabled():
    """Without a circuit breaker all calls are made."""
    timeline = Timeline(enabled=False)
    assert not any(timeline.end(*[(100.0, True)] * 50))
    assert timeline.circuit.wait(100.0) is None


def test_one_probe_at_a_time():
    """Until the pause is over calls wait for its end; then one is allowed, and others wait for another pause."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    assert [timeline.circuit.wait(at) for at in (100.0, 101.5)] == [2.0, 0.5]
    assert timeline.circuit.wait(102.0) is None
    assert timeline.circuit.wait(102.0) == 2
    assert timeline.end((102.5, False)) == [True]
    assert (timeline.circuit.is_open, timeline.circuit.wait(102.5)) == (False, None)


def test_an_inconclusive_probe_makes_room_for_the_next():
    """The circuit stays open, and the next call is the probe."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    assert timeline.circuit.wait(103.0) is None
    assert timeline.end((103.0, None)) == [False]
    assert timeline.circuit.is_open
    assert timeline.circuit.wait(103.0) is None


def test_calls_that_began_before_it_opened_change_nothing():
    """Neither do their answers close it nor do their failures make it wait longer."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    assert timeline.end((100.5, False), (101.0, True), (102.0, True)) == [False] * 3
    assert timeline.circuit.open_until == 102.0


def test_a_failed_probe_opens_it_for_longer_and_a_success_resets_that():
    """The pause doubles up to its bound; after the circuit was closed it begins with the first again."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    for at, until in ((102.0, 106.0), (106.0, 111.0), (111.0, 116.0)):
        assert timeline.circuit.wait(at) is None
        assert timeline.end((at, True)) == [False]
        assert timeline.circuit.open_until == until
    timeline.circuit.wait(116.0)
    timeline.end((116.0, False), *[(117.0, True)] * 4)
    assert timeline.circuit.open_until == 119.0


def test_what_counted_before_it_opened_counts_no_more_after():
    """Closed again, it takes as many failures as at first to open."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    timeline.circuit.wait(102.0)
    timeline.end((102.0, False), *[(102.1, True)] * 3)
    assert not timeline.circuit.is_open
    assert timeline.end((102.2, True)) == [True]


@pytest.mark.parametrize(
    ("failure", "outage"),
    [
        (UpstreamUnavailable(), True),
        (UpstreamUnavailable(Problem(500)), True),
        (UpstreamUnavailable(Problem(500, "/problems/internal")), True),
        (UpstreamUnavailable(Problem(500, "/problems/telematics-unit/error")), False),
        (UpstreamTimeout(), True),
        (UpstreamForbidden(), False),
        (RateLimited(Problem(429)), False),
        (RateLimited(), None),
        (UpstreamInvalidResponse(Problem(200)), None),
    ],
)
def test_what_a_failure_says_of_the_fleet_api(failure, outage):
    """Down, up, or nothing."""
    assert is_outage(failure) is outage
