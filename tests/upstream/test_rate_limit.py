"""The rate limiter: a limit is never exhausted, late calls are rejected, processes share one window."""

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
from gateway.settings import RateLimitSettings, RedisSettings, UpstreamSettings
from gateway.upstream.cache import MemoryStore
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.rate_limit import LocalRateLimiter, Window
from gateway.upstream.rate_limit_redis import RedisRateLimiter
from gateway.upstream.redis_store import RedisStore
from gateway.upstream.requests import Rate, RequestScope, RequestStats, UpstreamRequest, UpstreamResponse
from tests.upstream.fakes import Clock, calls_over, vehicle_read

SETTINGS = RateLimitSettings()


class Limited:
    """An upstream that states its limit with each response, and counts the calls above it."""

    sends_inline = False

    def __init__(self, clock: Clock, limit: int, seconds: float = 60) -> None:
        self.clock, self.limit, self.ends = clock, limit, clock() + seconds
        self.seconds, self.used, self.rejected = seconds, 0, 0

    async def fetch(self, request):
        if self.clock() >= self.ends:
            self.used, self.ends = 0, self.clock() + self.seconds
        self.used += 1
        rate = Rate(self.limit, max(0, self.limit - self.used), self.ends)
        if self.used > self.limit:
            self.rejected += 1
            failure = RateLimited(Problem(429), retry_after=self.ends - self.clock())
            failure.rate = rate
            raise failure
        return UpstreamResponse("answer", rate=rate)


def by(token: str, seconds: float = 0.001) -> RequestScope:
    return RequestScope(Caller(token), RequestStats(), deadline=Deadline.after(seconds))


async def fetched(calls: Uncoalesced, request: UpstreamRequest[Any]) -> UpstreamResponse[Any]:
    """The outcome of a call; only the rate limiter respects its deadline."""
    flight = calls.flight_of(request)
    if flight.outcome is None:
        await flight.completed()
    if isinstance(flight.outcome, BaseException):
        raise flight.outcome
    return flight.outcome


async def test_the_limit_is_never_exhausted():
    """Calls are rejected here, with the seconds to wait, before the upstream has to reject them."""
    clock = Clock()
    fleet = Limited(clock, 50)
    calls = calls_over(fleet, clock, limiter=LocalRateLimiter(SETTINGS))
    rejections = []
    for _ in range(200):
        try:
            await fetched(calls, vehicle_read(by=by("alice", 0.1)))
        except RateLimited as rejected:
            rejections.append(rejected.extensions()["retryAfter"])
    assert fleet.rejected == 0
    assert 40 <= fleet.used < 50
    assert [seconds for seconds in rejections if not 0 < seconds <= 61] == []


async def test_the_last_calls_are_spread_over_the_window():
    """A steady client is served until the window ends, and again in the next."""
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
    assert fleet.rejected == 0
    gaps = [later - earlier for earlier, later in itertools.pairwise(served)]
    assert max(gaps) < 12
    assert len(served) > 80


def test_calls_that_wait_are_spread_over_the_next_window():
    """They are not all made at its start."""
    window = Window()
    window.update(Rate(10, 10, 1060.0))
    waits = [window.take(1000.0, 150.0, SETTINGS) for _ in range(50)]
    starts = [1000.0 + wait for wait in waits if wait < 150.0]
    for begins in (1000.0, 1060.0, 1120.0):
        assert sum(begins <= start < begins + 60 for start in starts) <= 10
    assert 15 < len(starts) < 30


async def test_concurrent_calls_above_the_limit_are_never_rejected_upstream():
    """Some wait for the next window, some are rejected here."""

    class Ticking(Clock):
        def __call__(self) -> float:
            return asyncio.get_running_loop().time()

    clock = Ticking()
    fleet = Limited(clock, 20, seconds=0.5)
    calls = calls_over(fleet, clock, limiter=LocalRateLimiter(SETTINGS))

    async def fetch_one() -> str:
        try:
            await fetched(calls, vehicle_read(by=by("alice", 1.2)))
        except RateLimited:
            return "rejected"
        return "served"

    first = [await fetch_one() for _ in range(4)]
    results = first + await asyncio.gather(*(fetch_one() for _ in range(100)))
    assert fleet.rejected == 0
    assert results.count("served") > 25
    assert results.count("rejected") > 25


async def test_clients_do_not_delay_each_other():
    """Each client has a window of its own."""
    clock = Clock()
    limiter = LocalRateLimiter(SETTINGS)
    limiter.update(Caller("alice").client, Rate(50, 0, clock() + 60))
    assert limiter.take(Caller("alice").client, clock(), 1) > 50
    assert limiter.take(Caller("bob").client, clock(), 1) == 0


async def test_a_429_blocks_the_client_until_its_time():
    """No call of that client is sent before its Retry-After."""
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
        with pytest.raises(RateLimited) as rejected:
            await fetched(calls, vehicle_read(by=by("alice")))
    assert fleet.calls == 1
    assert rejected.value.extensions()["retryAfter"] == 7
    clock.time += 7.1
    with pytest.raises(RateLimited):
        await fetched(calls, vehicle_read(by=by("alice")))
    assert fleet.calls == 2


async def test_a_call_waits_within_its_deadline():
    """It is made after the wait."""
    clock = Clock()
    fleet = Limited(clock, 50)
    limiter = LocalRateLimiter(SETTINGS)
    limiter.block(Caller("alice").client, clock() + 0.05)
    began = asyncio.get_running_loop().time()
    await fetched(calls_over(fleet, clock, limiter=limiter), vehicle_read(by=by("alice", 5)))
    assert asyncio.get_running_loop().time() - began >= 0.04


def test_responses_out_of_order_do_not_raise_the_count():
    """In one window the count only falls; a response of an older window is ignored."""
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
async def test_redis_and_memory_give_the_same_waits(redis, steps):
    """For any history."""
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
                rate = Rate(numbers[0], min(numbers[:2]), at + numbers[2])
                await shared.update("alice", rate)
                local.update("alice", rate)
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
    assert fleet.rejected == 0
    assert 40 <= fleet.used < 50
    for store in stores:
        await store.close()


def window(limit: int, remaining: int, reset: float = 160.0, **more: float) -> Window:
    """A window of ten calls at the time 100."""
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
    """At the time 100, without a wait limit, with a reserve of one call and a last share of a fifth."""
    assert before.take(100.0, 1e9, SETTINGS) == wait
    assert before == after


@pytest.mark.parametrize(("wait_max", "remaining", "next_call"), [(20, 4, 120), (20.1, 3, 130)])
def test_a_call_that_would_wait_too_long_is_not_counted(wait_max, remaining, next_call):
    """It is not made, so it uses no call."""
    one = window(20, 4, next=120)
    assert one.take(100.0, wait_max, SETTINGS) == 20
    assert one.remaining == remaining
    assert one.next == pytest.approx(120 if next_call == 120 else 120 + 40 / 3)


def test_a_response_of_the_same_window_only_lowers_the_count():
    """The first one sets it."""
    one = Window(reset=160.0)
    one.update(Rate(10, 7, 160.0))
    assert one == window(10, 7)
    one.update(Rate(12, 6, 160.0))
    assert one == window(12, 6)


def test_the_later_of_two_blocks_counts():
    """A block never lets calls start earlier."""
    one = Window()
    one.block(120.0)
    one.block(110.0)
    assert one.next == 120.0


def test_unknown_clients_do_not_wait():
    """A client is known after its first response or block."""
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
    """The number of clients is bounded by the settings."""
    limiter = LocalRateLimiter(RateLimitSettings(clients_max=2))
    for client in ("alice", "bob", "alice", "carol"):
        limiter.update(client, Rate(10, 5, 160.0))
    assert [limiter.knows(client) for client in ("alice", "bob", "carol")] == [True, False, True]


def test_a_disabled_limiter_stores_nothing():
    """No call ever waits."""
    limiter = LocalRateLimiter(RateLimitSettings(enabled=False))
    limiter.update("alice", Rate(10, 0, 160.0))
    limiter.block("alice", 130.0)
    assert not limiter.knows("alice")


def test_the_smallest_share_of_calls_that_is_left():
    """Of all clients whose window has not ended; without any it is 1."""
    limiter = LocalRateLimiter(SETTINGS)
    assert limiter.remaining(100.0) == 1
    for client, rate in (("a", Rate(10, 5, 160.0)), ("b", Rate(100, 20, 160.0)), ("c", Rate(10, 1, 120.0))):
        limiter.update(client, rate)
    limiter.block("d", 150.0)
    assert [limiter.remaining(at) for at in (100.0, 119.9, 120.0, 159.9, 160.0)] == [0.1, 0.1, 0.2, 0.2, 1]
