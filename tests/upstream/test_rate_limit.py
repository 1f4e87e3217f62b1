"""The rate limiter: a limit is never used up, calls that would be too late are refused, processes share one window."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.concurrency.deadline import Deadline
from gateway.errors import Problem, RateLimited
from gateway.identity import Caller
from gateway.settings import PacingSettings, RedisSettings, UpstreamSettings
from gateway.upstream.cache import MemoryStore
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.rate_limit import LocalRateLimiter, Window
from gateway.upstream.rate_limit_redis import RedisRateLimiter
from gateway.upstream.redis_store import RedisStore
from gateway.upstream.requests import Rate, RequestScope, RequestStats, UpstreamRequest, UpstreamResponse
from tests.upstream.fakes import Clock, calls_over, vehicle_read

SETTINGS = PacingSettings()


class Limited:
    """An upstream that states its limit with each answer, and counts the calls beyond it."""

    sends_inline = False

    def __init__(self, clock: Clock, limit: int, seconds: float = 60) -> None:
        self.clock, self.limit, self.ends = clock, limit, clock() + seconds
        self.seconds, self.used, self.refused = seconds, 0, 0

    async def fetch(self, request):
        if self.clock() >= self.ends:
            self.used, self.ends = 0, self.clock() + self.seconds
        self.used += 1
        rate = Rate(self.limit, max(0, self.limit - self.used), self.ends)
        if self.used > self.limit:
            self.refused += 1
            failure = RateLimited(Problem(429), retry_after=self.ends - self.clock())
            failure.rate = rate
            raise failure
        return UpstreamResponse("answer", rate=rate)


def by(token: str, seconds: float = 0.001) -> RequestScope:
    return RequestScope(Caller(token), RequestStats(), deadline=Deadline.after(seconds))


async def fetched(calls: Uncoalesced, request: UpstreamRequest[Any]) -> UpstreamResponse[Any]:
    """What comes of a call; only the rate limiter looks at its deadline."""
    flight = calls.flight_of(request)
    if flight.outcome is None:
        await flight.completed()
    if isinstance(flight.outcome, BaseException):
        raise flight.outcome
    return flight.outcome


async def test_the_limit_is_never_used_up():
    """A client that asks on and on is refused here, with the seconds to wait, before the upstream has to."""
    clock = Clock()
    fleet = Limited(clock, 50)
    calls = calls_over(fleet, clock, limiter=LocalRateLimiter(SETTINGS))
    refusals = []
    for _ in range(200):
        try:
            await fetched(calls, vehicle_read(by=by("alice")))
        except RateLimited as refused:
            refusals.append(refused.extensions()["retryAfter"])
    assert fleet.refused == 0
    assert 40 <= fleet.used < 50
    assert all(0 < seconds <= 61 for seconds in refusals)


async def test_the_last_calls_are_spread_over_the_window():
    """Who asks evenly keeps being served until the window ends, and again in the next."""
    clock = Clock()
    fleet = Limited(clock, 50)
    calls = calls_over(fleet, clock, limiter=LocalRateLimiter(SETTINGS))
    served = []
    for _ in range(240):
        clock.time += 0.5
        try:
            await fetched(calls, vehicle_read(by=by("alice")))
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
    window.update(Rate(10, 10, 1060.0))
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
    calls = calls_over(fleet, clock, limiter=LocalRateLimiter(SETTINGS))

    async def ask() -> str:
        try:
            await fetched(calls, vehicle_read(by=by("alice", 1.2)))
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
    limiter = LocalRateLimiter(SETTINGS)
    limiter.update(Caller("alice").client, Rate(50, 0, clock() + 60))
    assert limiter.take(Caller("alice").client, clock(), 1) > 50
    assert limiter.take(Caller("bob").client, clock(), 1) == 0


async def test_a_refusal_holds_the_client_back_until_its_time():
    """After a 429 with Retry-After nothing is sent for that client before."""
    clock = Clock()

    class Refusing:
        sends_inline = False
        calls = 0

        async def fetch(self, request):
            self.calls += 1
            raise RateLimited(Problem(429), retry_after=7)

    fleet = Refusing()
    calls = calls_over(fleet, clock, limiter=LocalRateLimiter(SETTINGS))
    for _ in range(3):
        with pytest.raises(RateLimited) as refused:
            await fetched(calls, vehicle_read(by=by("alice")))
    assert fleet.calls == 1
    assert refused.value.extensions()["retryAfter"] == 7
    clock.time += 7.1
    with pytest.raises(RateLimited):
        await fetched(calls, vehicle_read(by=by("alice")))
    assert fleet.calls == 2


async def test_a_short_wait_is_waited():
    """Where the wait fits the deadline, the call is made after it."""
    clock = Clock()
    fleet = Limited(clock, 50)
    limiter = LocalRateLimiter(SETTINGS)
    limiter.block(Caller("alice").client, clock() + 0.05)
    began = asyncio.get_running_loop().time()
    await fetched(calls_over(fleet, clock, limiter=limiter), vehicle_read(by=by("alice", 5)))
    assert asyncio.get_running_loop().time() - began >= 0.04


def test_answers_that_overtake_each_other_do_not_give_calls_back():
    """In one window the count only falls; an answer of an older window is not believed."""
    window = Window()
    window.update(Rate(10, 5, 100.0))
    window.update(Rate(10, 8, 100.0))
    assert window.remaining == 5
    window.update(Rate(10, 9, 40.0))
    assert (window.remaining, window.reset) == (5, 100.0)
    window.update(Rate(10, 9, 160.0))
    assert (window.remaining, window.reset) == (9, 160.0)


STEP = st.one_of(
    st.tuples(st.just("take"), st.floats(0, 40), st.floats(0.1, 100)),
    st.tuples(st.just("learn"), st.integers(1, 20), st.integers(0, 20), st.integers(0, 120)),
    st.tuples(st.just("block"), st.floats(0, 60)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=25))
@example(steps=[("learn", 1, 0, 2), ("take", 0.0, 1.0), ("take", 1.0, 2.0), ("take", 0.0, 1.0)])
async def test_redis_gives_the_same_waits_as_a_process_does(redis, steps):
    """Any history gives the same waits, in memory and in Redis' own script."""
    memory = MemoryStore(BoundedMemoryCache(entries_max=10, bytes_max=2**20))
    store = RedisStore(RedisSettings(url=redis.url, timeout=2.0), UpstreamSettings(), memory)
    redis.flush()
    shared, local = RedisRateLimiter(SETTINGS, store), LocalRateLimiter(SETTINGS)
    at = 1_000_000.0
    try:
        for kind, *numbers in steps:
            if kind == "take":
                at += numbers[0]
                wait = await shared.take("alice", at, numbers[1])
                assert wait == pytest.approx(local.take("alice", at, numbers[1]), abs=0.001)
            elif kind == "learn":
                told = Rate(numbers[0], min(numbers[:2]), at + numbers[2])
                await shared.update("alice", told)
                local.update("alice", told)
            else:
                await shared.block("alice", at + numbers[0])
                local.block("alice", at + numbers[0])
    finally:
        await store.close()


async def test_two_processes_share_one_window(redis):
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
    workers = [calls_over(fleet, clock, limiter=RedisRateLimiter(SETTINGS, store)) for store in stores]
    for number in range(120):
        with contextlib.suppress(RateLimited):
            await fetched(workers[number % 2], vehicle_read(by=by("alice")))
    assert fleet.refused == 0
    assert 40 <= fleet.used < 50
    for store in stores:
        await store.close()


def window(limit: int, remaining: int, reset: float = 160.0, **more: float) -> Window:
    """A window of ten calls or so, of which the time is 100."""
    return Window(limit, remaining, reset, **more)


@pytest.mark.parametrize(
    ("before", "wait", "after"),
    [
        # More than the last share is left: at once, with nothing between.
        (window(10, 9), 0, window(10, 8, span=60)),
        (window(10, 3), 0, window(10, 2, span=60)),
        # The last share: spread over the rest of the window, but for the reserve.
        (window(20, 4), 0, window(20, 3, next=120, span=60)),
        (window(20, 4, next=130), 30, window(20, 3, next=140, span=60)),
        # Only the reserve is left: the next window, whose calls are spread.
        (window(13, 1), 60, window(13, 0, next=165, span=60)),
        (window(13, 0), 60, window(13, 0, next=165, span=60)),
        # The next window is there and nothing is known of it, but its length.
        (window(13, 0, reset=99, span=60), 0, window(13, 12, reset=99, span=60)),
        (window(13, 0, reset=100, span=60), 0, window(13, 12, reset=100, span=60)),
        (window(13, 5, reset=99, span=60, next=102), 2, window(13, 12, reset=99, span=60, next=107)),
        # What was observed of its length is its greatest.
        (window(13, 9, span=90), 0, window(13, 8, span=90)),
        (window(13, 9, reset=3700.0), 0, window(13, 8, reset=3700.0, span=3600)),
        (window(13, 9, reset=3760.0), 0, window(13, 8, reset=3760.0, span=3600)),
        # What ends more than an hour from now was written before the clock was set back.
        (window(13, 0, reset=3761.0, next=200), 0, window(13, 12, reset=0)),
        (window(13, 0, reset=99, next=3761.0), 0, window(13, 12, reset=0)),
    ],
)
def test_when_the_next_call_may_be_made(before, wait, after):
    """At the time 100, with all patience, a reserve of one call and a last share of a fifth."""
    assert before.take(100.0, 1e9, SETTINGS) == wait
    assert before == after


@pytest.mark.parametrize(("wait_max", "remaining", "next_call"), [(20, 4, 120), (20.1, 3, 130)])
def test_a_call_that_would_wait_too_long_is_not_counted(wait_max, remaining, next_call):
    """It is not made, so it takes nothing from those that are."""
    one = window(20, 4, next=120)
    assert one.take(100.0, wait_max, SETTINGS) == 20
    assert one.remaining == remaining
    assert one.next == pytest.approx(120 if next_call == 120 else 120 + 40 / 3)


def test_an_answer_of_the_same_window_lowers_the_count_only():
    """The first one is believed as it is."""
    one = Window(reset=160.0)
    one.update(Rate(10, 7, 160.0))
    assert one == window(10, 7)
    one.update(Rate(12, 6, 160.0))
    assert one == window(12, 6)


def test_of_two_refusals_the_later_time_counts():
    """A refusal never lets calls start earlier."""
    one = Window()
    one.block(120.0)
    one.block(110.0)
    assert one.next == 120.0


def test_unknown_clients_do_not_wait():
    """A client is known from its first answer, or its first refusal, on."""
    limiter = LocalRateLimiter(SETTINGS)
    assert not limiter.knows("alice")
    assert limiter.take("alice", 100.0, 1) == 0
    assert not limiter.knows("alice")
    limiter.block("alice", 130.0)
    limiter.update("bob", Rate(10, 0, 160.0))
    assert limiter.knows("alice")
    assert limiter.knows("bob")
    assert (limiter.take("alice", 100.0, 99), limiter.take("bob", 100.0, 99)) == (30, 60)


def test_the_client_that_was_updated_least_recently_is_dropped():
    """No more clients are remembered than the settings say."""
    limiter = LocalRateLimiter(PacingSettings(clients_max=2))
    for client in ("alice", "bob", "alice", "carol"):
        limiter.update(client, Rate(10, 5, 160.0))
    assert [limiter.knows(client) for client in ("alice", "bob", "carol")] == [True, False, True]


def test_a_disabled_limiter_remembers_nothing():
    """Then no call ever waits."""
    limiter = LocalRateLimiter(PacingSettings(enabled=False))
    limiter.update("alice", Rate(10, 0, 160.0))
    limiter.block("alice", 130.0)
    assert not limiter.knows("alice")
