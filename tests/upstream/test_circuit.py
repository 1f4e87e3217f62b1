"""The circuit breaker: what opens it, which calls it allows, and how it closes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import (
    DeadlineExceeded,
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

    async def probe(self) -> asyncio.Task[Exception | None]:
        """Opens the circuit, and starts a probe that waits for `fleet.gate`."""
        await self.fail(UpstreamUnavailable(), 5)
        self.clock.time += 1.1
        self.fleet.failure, self.fleet.gate = None, asyncio.Event()
        probe = asyncio.create_task(self.read())
        await asyncio.sleep(0.001)
        return probe


@pytest.fixture
def world():
    return World()


@pytest.mark.parametrize("failure", [UpstreamUnavailable(), UpstreamTimeout(), UpstreamUnavailable(Problem(503))])
async def test_an_outage_opens_it(world, failure):
    """After enough failures calls fail at once, with the seconds until the next probe."""
    await world.fail(failure, 5)
    rejected = await world.read()
    assert world.fleet.total == 5
    assert isinstance(rejected, UpstreamUnavailable)
    assert rejected.extensions()["retryAfter"] == 1


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
async def test_other_failures_leave_it_closed(world, failure):
    """Problems of one vehicle's unit, or of one caller's permissions or rate, show that the fleet API is up."""
    await world.fail(failure, 50)
    assert world.fleet.total == 50


async def test_a_low_failure_rate_leaves_it_closed(world):
    """Failures also have to be a share of the calls."""
    for _ in range(20):
        await world.fail(None)
        await world.fail(None)
        await world.fail(UpstreamUnavailable())
    assert world.fleet.total == 60


async def test_old_failures_are_forgotten(world):
    """Failures count only within the window."""
    for _ in range(10):
        await world.fail(UpstreamUnavailable(), 2)
        world.clock.time += 11
    assert world.fleet.total == 20


async def test_one_successful_probe_closes_it(world):
    """After the open time one call is sent while the others still fail; its response closes the circuit."""
    probe = await world.probe()
    assert isinstance(await world.read(), UpstreamUnavailable)
    world.fleet.gate.set()
    assert await probe is None
    assert await world.read() is None
    assert world.fleet.total == 7


async def test_failed_probes_wait_longer_each_time(world):
    """Each failed probe doubles the open time, up to its bound."""
    await world.fail(UpstreamUnavailable(), 5)
    pauses = []
    for _ in range(5):
        rejected = await world.read()
        pauses.append(rejected.retry_after)
        world.clock.time += rejected.retry_after
        await world.read()
    assert pauses == [1, 2, 4, 8, 8]
    assert world.fleet.total == 10


async def test_a_cancelled_probe_is_replaced(world):
    """The next call is the probe."""
    probe = await world.probe()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    world.fleet.gate.set()
    assert await world.read() is None


async def test_a_probe_that_the_rate_limiter_rejects_is_inconclusive(world):
    """It was never sent, so it doesn't close the circuit, and the next call is the probe."""
    await world.fail(UpstreamUnavailable(), 5)
    world.clock.time += 1.1
    await world.fail(RateLimited(retry_after=60))
    await world.fail(UpstreamUnavailable())
    assert isinstance(await world.read(), UpstreamUnavailable)
    assert world.fleet.total == 7


async def test_rejections_by_the_rate_limiter_do_not_count(world):
    """The failure rate covers only calls that were sent."""
    await world.fail(RateLimited(retry_after=60), 50)
    await world.fail(UpstreamUnavailable(), 5)
    await world.read()
    assert world.fleet.total == 55


async def test_cancelled_calls_do_not_open_it(world):
    """A cancelled call is inconclusive."""
    world.fleet.gate = asyncio.Event()
    for _ in range(20):
        call = asyncio.create_task(world.read())
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    world.fleet.gate.set()
    assert await world.read() is None


class Timeline:
    """A circuit, and calls that end at stated times; failures count within ten seconds."""

    def __init__(self, **settings: object) -> None:
        defaults = {"window": 10, "failure_threshold": 4, "failure_rate": 0.5, "open_seconds": 2, "open_seconds_max": 5}
        self.circuit = Circuit(BreakerSettings(**{**defaults, **settings}))

    def end(self, *calls: tuple[float, bool | None]) -> list[bool]:
        return [self.circuit.ended(at, outage=outage) for at, outage in calls]


def test_the_call_that_opens_it_reports_that():
    """Only the failure that reaches the threshold reports a change, and the circuit is then open."""
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
    """Seconds leave the window as a whole."""
    timeline = Timeline()
    timeline.end((100.3, True), (103.0, True), (104.0, True))
    assert timeline.end((later, True)) == [opens]


def test_calls_of_one_second_are_counted_together():
    """A new second begins when its number changes, so memory is bounded."""
    timeline = Timeline(window=3)
    for tenths in range(1000, 1100):
        timeline.end(*[(tenths / 10, False)] * 2)
    assert [second.number for second in timeline.circuit._recent] == [107, 108, 109]
    assert {second.calls for second in timeline.circuit._recent} == {20}


def test_a_clock_that_is_set_back_forgets_later_calls():
    """Their age is unknown."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 3)
    timeline.end((90.0, True))
    assert not timeline.circuit.is_open
    assert [second.number for second in timeline.circuit._recent] == [90]


def test_an_inconclusive_call_is_not_counted():
    """It is no part of the failure rate."""
    timeline = Timeline()
    timeline.end(*[(100.0, None)] * 9, *[(100.0, True)] * 3)
    assert timeline.end((100.0, True)) == [True]


def test_a_disabled_circuit_never_opens():
    """All calls are made."""
    timeline = Timeline(enabled=False)
    assert not any(timeline.end(*[(100.0, True)] * 50))
    assert timeline.circuit.wait(100.0) is None


def test_one_probe_at_a_time():
    """Calls fail until the open time is over; then one is allowed, and others fail until it ends."""
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


@pytest.mark.parametrize("at", [100.0, 101.9])
def test_a_call_that_ends_within_the_open_time_is_not_the_probe(at):
    """If the clock is set back during the probe, other calls that end then change nothing."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    assert timeline.circuit.wait(102.0) is None
    assert timeline.end((at, False)) == [False]
    assert timeline.circuit.is_open


def test_calls_that_began_before_it_opened_change_nothing():
    """Their successes do not close it, and their failures do not prolong it."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    assert timeline.end((100.5, False), (101.0, True), (102.0, True)) == [False] * 3
    assert timeline.circuit.open_until == 102.0


def test_a_failed_probe_opens_it_for_longer_and_a_success_resets_that():
    """The open time doubles up to its bound; after a success it starts from the first again."""
    timeline = Timeline()
    timeline.end(*[(100.0, True)] * 4)
    for at, until in ((102.0, 106.0), (106.0, 111.0), (111.0, 116.0)):
        assert timeline.circuit.wait(at) is None
        assert timeline.end((at, True)) == [False]
        assert timeline.circuit.open_until == until
    timeline.circuit.wait(116.0)
    timeline.end((116.0, False), *[(117.0, True)] * 4)
    assert timeline.circuit.open_until == 119.0


def test_closing_resets_the_counts():
    """Once closed, it takes as many failures as at first to open."""
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
        (DeadlineExceeded(), None),
        (UpstreamForbidden(), False),
        (RateLimited(Problem(429)), False),
        (RateLimited(), None),
        (UpstreamInvalidResponse(Problem(200)), None),
    ],
)
def test_failures_are_outages_or_not(failure, outage):
    """Down, up, or inconclusive."""
    assert is_outage(failure) is outage
