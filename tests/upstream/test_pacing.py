"""Pacing: the upstream's limit is never used up, what does not fit the deadline is refused, processes share one pace."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.errors import RateLimited
from gateway.identity import Caller
from gateway.settings import PacingSettings, RedisSettings, UpstreamSettings
from gateway.upstream.bounded_memory import BoundedMemoryCache
from gateway.upstream.cache import MemoryStore
from gateway.upstream.fetching import Errand, Patience, Rate, Reply, Tally
from gateway.upstream.pacing import LocalPaces, Pacing, Window
from gateway.upstream.redis_store import RedisStore
from gateway.upstream.shared_pacing import SharedPaces
from tests.upstream.fakes import Clock, vehicle_read

SETTINGS = PacingSettings()


class Limited:
    """An upstream that tells its limit with each answer, and counts what is beyond it."""

    def __init__(self, clock: Clock, limit: int, seconds: float = 60) -> None:
        self.clock, self.limit, self.ends = clock, limit, clock() + seconds
        self.seconds, self.used, self.refused = seconds, 0, 0

    async def fetch(self, read):
        if self.clock() >= self.ends:
            self.used, self.ends = 0, self.clock() + self.seconds
        self.used += 1
        rate = Rate(self.limit, max(0, self.limit - self.used), self.ends)
        if self.used > self.limit:
            self.refused += 1
            failure = RateLimited(retry_after=self.ends - self.clock())
            failure.rate = rate
            raise failure
        return Reply("answer", rate=rate)


def by(token: str, seconds: float = 0.001) -> Errand:
    return Errand(Caller(token), Tally(), patience=Patience.of(seconds))


async def test_the_limit_is_never_used_up():
    """A client that asks on and on is refused here, with the seconds to wait, before the upstream has to."""
    clock = Clock()
    fleet = Limited(clock, 50)
    pacing = Pacing(fleet, LocalPaces(SETTINGS), clock)
    refusals = []
    for _ in range(200):
        try:
            await pacing.fetch(vehicle_read(by=by("alice")))
        except RateLimited as refused:
            refusals.append(refused.extensions()["retryAfter"])
    assert fleet.refused == 0
    assert 40 <= fleet.used < 50
    assert all(0 < seconds <= 61 for seconds in refusals)


async def test_the_last_calls_are_spread_over_the_window():
    """Who asks evenly keeps being served until the window ends, and again in the next."""
    clock = Clock()
    fleet = Limited(clock, 50)
    pacing = Pacing(fleet, LocalPaces(SETTINGS), clock)
    served = []
    for _ in range(240):
        clock.time += 0.5
        try:
            await pacing.fetch(vehicle_read(by=by("alice")))
            served.append(clock.time)
        except RateLimited:
            pass
    assert fleet.refused == 0
    gaps = [later - earlier for earlier, later in itertools.pairwise(served)]
    assert max(gaps) < 12
    assert len(served) > 80


def test_who_waits_for_the_next_window_is_spread_over_it():
    """Calls that wait for a limit's end come one after another in the next window, not all as it begins."""
    window = Window()
    window.learn(Rate(10, 10, 1060.0))
    waits = [window.take(1000.0, 150.0, SETTINGS) for _ in range(50)]
    starts = [1000.0 + wait for wait in waits if wait < 150.0]
    for begins in (1000.0, 1060.0, 1120.0):
        assert sum(begins <= start < begins + 60 for start in starts) <= 10
    assert 15 < len(starts) < 30


async def test_a_herd_that_waits_meets_no_refusal_of_the_fleet_api():
    """Many at a time beyond the limit: some wait for the next window, some are refused here, none is refused there."""

    class Ticking(Clock):
        def __call__(self) -> float:
            return asyncio.get_running_loop().time()

    clock = Ticking()
    fleet = Limited(clock, 20, seconds=0.5)
    pacing = Pacing(fleet, LocalPaces(SETTINGS), clock)

    async def ask() -> str:
        try:
            await pacing.fetch(vehicle_read(by=by("alice", 1.2)))
        except RateLimited:
            return "refused"
        return "served"

    first = [await ask() for _ in range(4)]
    came = first + await asyncio.gather(*(ask() for _ in range(100)))
    assert fleet.refused == 0
    assert came.count("served") > 25
    assert came.count("refused") > 25


async def test_one_client_does_not_hold_up_another():
    """Each client has a window of its own."""
    clock = Clock()
    paces = LocalPaces(SETTINGS)
    await paces.learn(Caller("alice").client, Rate(50, 0, clock() + 60))
    assert await paces.take(Caller("alice").client, clock(), 1) > 50
    assert await paces.take(Caller("bob").client, clock(), 1) == 0


async def test_a_refusal_holds_the_client_back_until_its_time():
    """After a 429 with Retry-After nothing is sent for that client before."""
    clock = Clock()

    class Refusing:
        calls = 0

        async def fetch(self, read):
            self.calls += 1
            raise RateLimited(retry_after=7)

    fleet = Refusing()
    pacing = Pacing(fleet, LocalPaces(SETTINGS), clock)
    for _ in range(3):
        with pytest.raises(RateLimited) as refused:
            await pacing.fetch(vehicle_read(by=by("alice")))
    assert fleet.calls == 1
    assert refused.value.extensions()["retryAfter"] == 7
    clock.time += 7.1
    with pytest.raises(RateLimited):
        await pacing.fetch(vehicle_read(by=by("alice")))
    assert fleet.calls == 2


async def test_a_short_wait_is_waited():
    """Where the wait fits the deadline, the call is made after it."""
    clock = Clock()
    fleet = Limited(clock, 50)
    paces = LocalPaces(SETTINGS)
    await paces.block(Caller("alice").client, clock() + 0.05)
    began = asyncio.get_running_loop().time()
    await Pacing(fleet, paces, clock).fetch(vehicle_read(by=by("alice", 5)))
    assert asyncio.get_running_loop().time() - began >= 0.04


def test_answers_that_overtake_each_other_do_not_give_calls_back():
    """In one window the count only falls; an answer of an older window is not believed."""
    window = Window()
    window.learn(Rate(10, 5, 100.0))
    window.learn(Rate(10, 8, 100.0))
    assert window.remaining == 5
    window.learn(Rate(10, 9, 40.0))
    assert (window.remaining, window.reset) == (5, 100.0)
    window.learn(Rate(10, 9, 160.0))
    assert (window.remaining, window.reset) == (9, 160.0)


STEP = st.one_of(
    st.tuples(st.just("take"), st.floats(0, 40), st.floats(0.1, 100)),
    st.tuples(st.just("learn"), st.integers(1, 20), st.integers(0, 20), st.integers(0, 120)),
    st.tuples(st.just("block"), st.floats(0, 60)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=25))
@example(steps=[("learn", 1, 0, 2), ("take", 0.0, 1.0), ("take", 1.0, 2.0), ("take", 0.0, 1.0)])
async def test_redis_keeps_the_same_pace_as_a_process_does(redis, steps):
    """Any history gives the same waits, in memory and in Redis' own script."""
    memory = MemoryStore(BoundedMemoryCache(entries_max=10, bytes_max=2**20))
    store = RedisStore(RedisSettings(url=redis.url, timeout=2.0), UpstreamSettings(), memory)
    redis.flush()
    shared, local = SharedPaces(SETTINGS, store), LocalPaces(SETTINGS)
    at = 1_000_000.0
    try:
        for kind, *numbers in steps:
            if kind == "take":
                at += numbers[0]
                waits = [await paces.take("alice", at, numbers[1]) for paces in (shared, local)]
                assert waits[0] == pytest.approx(waits[1], abs=0.001)
            elif kind == "learn":
                told = Rate(numbers[0], min(numbers[:2]), at + numbers[2])
                for paces in (shared, local):
                    await paces.learn("alice", told)
            else:
                for paces in (shared, local):
                    await paces.block("alice", at + numbers[0])
    finally:
        await store.close()


async def test_two_processes_share_one_pace(redis):
    """Calls of two workers together stay within the client's limit."""
    clock = Clock()
    fleet = Limited(clock, 50)
    stores = [
        RedisStore(
            RedisSettings(url=redis.url, timeout=2.0),
            UpstreamSettings(),
            MemoryStore(BoundedMemoryCache(entries_max=10, bytes_max=2**20)),
        )
        for _ in range(2)
    ]
    workers = [Pacing(fleet, SharedPaces(SETTINGS, store), clock) for store in stores]
    for number in range(120):
        with contextlib.suppress(RateLimited):
            await workers[number % 2].fetch(vehicle_read(by=by("alice")))
    assert fleet.refused == 0
    assert 40 <= fleet.used < 50
    for store in stores:
        await store.close()
