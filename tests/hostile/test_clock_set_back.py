"""A clock that is set back: no freshness, rejection or outage lasts for as long as the clock is behind."""

from __future__ import annotations

import time

import httpx
import pytest

from gateway.app import create_app
from gateway.errors import RateLimited, UpstreamUnavailable
from gateway.settings import (
    BreakerSettings,
    RateLimitSettings,
    RedisSettings,
    RetrySettings,
    Settings,
    UpstreamSettings,
)
from gateway.simulator import Behaviours, Simulator
from gateway.telemetry.metrics import Metrics
from gateway.upstream.cache import Entry, MemoryStore
from gateway.upstream.circuit import Circuit
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.lease import SKEW, LeaseCoalescing
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.models import Vehicle
from gateway.upstream.rate_limit import LocalRateLimiter
from gateway.upstream.rate_limit_redis import RedisRateLimiter
from gateway.upstream.redis_store import RedisStore
from gateway.upstream.requests import Rate
from gateway.upstream.resilience import Resilience
from gateway.upstream.retry import RetryPolicy
from tests.gateways import PLANS, TOKENS
from tests.upstream.fakes import Clock, FakeFetcher, Sending, calls_over, scope, vehicle_read

QUERY = "{ vehicles(first: 3) { nodes { vehicleId } } }"
YEAR = 365 * 86400.0


@pytest.fixture
def gateway(serve):
    """Starts gateways over one simulator and one clock, over sockets."""
    simulator, clock = Simulator(PLANS, Behaviours(rate_limit_requests=0)), Clock()
    clock.time = time.time()
    upstream = {"url": serve(simulator.app)}

    def started(**groups: dict) -> str:
        return serve(create_app(Settings(upstream=upstream, **groups), clock=clock))

    return started, simulator, clock


def ask(url: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
    return httpx.post(f"{url}/graphql", json={"query": QUERY}, headers=headers, verify=False)


@pytest.mark.parametrize("answers", [False, True])
def test_a_response_from_the_future_is_not_served(gateway, answers):
    """Data that was read before the clock was set back is read again, also with the response cache."""
    started, simulator, clock = gateway
    url = started(cache={"responses": answers})
    for _ in range(4):  # until all that can be cached is cached
        ask(url)
    assert simulator.requests.total == 1
    for calls, seconds in ((2, 0.5), (3, 3600), (4, YEAR)):
        clock.time -= seconds
        again = ask(url)
        assert simulator.requests.total == calls
        assert again.headers["Cache-Control"] == "private, max-age=30"
        ask(url)
        assert simulator.requests.total == calls  # data that was read since then is fresh


def test_an_entry_from_the_future_in_redis_is_read_again_by_each(gateway, redis):
    """A process whose clock is right ignores the Redis entries of one whose clock is ahead."""
    started, simulator, clock = gateway
    settings = {"redis": {"url": redis.url, "timeout": 2.0}}
    ask(started(**settings))
    clock.time -= YEAR
    other = started(**settings)
    for _ in range(3):
        ask(other)
    assert simulator.requests.total == 2


@pytest.mark.parametrize(("ahead", "taken"), [(-1.0, False), (-0.1, True), (0.9 * SKEW, True), (1.1 * SKEW, False)])
async def test_a_waiter_accepts_the_entry_of_another_process(ahead, taken):
    """Clocks of machines may differ a little; an entry that is further off is not accepted."""
    clock, fleet = Clock(), FakeFetcher()

    class Leases:
        async def acquire(self, key, seconds):
            return "token"

        async def release(self, key, token):
            pass

        async def shared(self, key, model):
            return Entry(Vehicle(vehicle_id="left"), clock() + ahead, 10)

    await Uncoalesced(LeaseCoalescing(Sending(), Leases(), 5.0, clock), fleet, Metrics()).fetch(vehicle_read())
    assert fleet.total == (0 if taken else 1)


@pytest.mark.parametrize("shared", [False, True])
async def test_the_rate_limiter_forgets_waits_of_more_than_an_hour(redis, shared):
    """A rate limit window or a 429 that ends more than an hour ahead is dropped: no upstream reported it."""
    settings, clock, fleet = RateLimitSettings(), Clock(), FakeFetcher()
    store = RedisStore(
        RedisSettings(url=redis.url, timeout=2.0),
        UpstreamSettings(),
        MemoryStore(BoundedMemoryCache(entries_max=9, bytes_max=999)),
    )
    limiter = RedisRateLimiter(settings, store) if shared else LocalRateLimiter(settings)
    calls = calls_over(fleet, clock, limiter=limiter)
    by = scope()
    by.deadline.at = time.monotonic() + 1
    for pending in (
        limiter.update(by.caller.client, Rate(10, 0, clock() + 60)), limiter.block(by.caller.client, clock() + 60)
    ):  # fmt: skip
        if pending is not None:
            await pending
    with pytest.raises(RateLimited):
        await calls.fetch(vehicle_read(by=by))
    clock.time -= 2 * 3600
    await calls.fetch(vehicle_read(by=by))
    assert fleet.total == 1
    await store.close()


async def test_the_circuit_does_not_stay_open_for_as_long_as_the_clock_is_behind():
    """After the clock is set back a probe is due, its success closes the circuit, and failures still open it."""
    clock, fleet = Clock(), FakeFetcher()
    resilience = Resilience(
        Circuit(BreakerSettings(failure_threshold=5)),
        RetryPolicy(RetrySettings(attempts=1)),
        LocalRateLimiter(RateLimitSettings()),
        clock,
        Metrics(),
    )
    circuit, calls = resilience.circuit, Uncoalesced(resilience, fleet, Metrics())

    async def fail(times: int) -> None:
        fleet.failure = UpstreamUnavailable()
        for _ in range(times):
            with pytest.raises(UpstreamUnavailable):
                await calls.fetch(vehicle_read())

    await fail(5)
    assert circuit.is_open
    clock.time -= YEAR
    fleet.failure = None
    await calls.fetch(vehicle_read())
    assert not circuit.is_open
    for _ in range(3):
        clock.time += 1
        await calls.fetch(vehicle_read())
    await fail(4)
    clock.time -= YEAR
    for _ in range(1000):
        circuit.ended(clock(), outage=False)
        clock.time += 0.1
    assert len(circuit._recent) <= 12
    await fail(4)
    assert not circuit.is_open  # the four failures before the clock was set back no longer count
    clock.time += 20
    await fail(5)
    assert circuit.is_open
