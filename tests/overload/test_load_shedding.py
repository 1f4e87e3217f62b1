"""Load shedding: which requests are rejected at once; and the throttle: a few rejections at once, then in turn."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from gateway.concurrency.deadline import Deadline
from gateway.identity import Caller
from gateway.overload.admission import Admission
from gateway.overload.load_shedding import REQUEST_BYTES_MAX, REQUESTS_MAX, LoadShedder, RejectionThrottle
from gateway.settings import LimitSettings

THRESHOLD = 0.9


def throttle_of(number: float) -> RejectionThrottle:
    """A throttle of this many a second."""
    return RejectionThrottle(RejectionThrottle.COST * RejectionThrottle.WHOLE * number, THRESHOLD)


async def test_a_few_are_sent_at_once_and_more_in_turn():
    """Of a burst the first tenth of a second's are sent at once, the others in order and no faster than the rate."""
    loop, throttle = asyncio.get_running_loop(), throttle_of(100)
    begin, done = loop.time(), []
    at_once = 0
    for number in range(30):
        if throttle.try_acquire(begin):
            at_once += 1
        else:
            throttle.schedule(lambda number=number: done.append((number, loop.time())), loop)
    assert 10 <= at_once <= 11
    last = asyncio.Event()
    throttle.schedule(last.set, loop)
    await last.wait()
    assert [number for number, _ in done] == list(range(at_once, 30))
    assert done[-1][1] - begin >= 0.17


async def test_no_rejection_overtakes_a_waiting_one():
    """While one waits none is sent at once, however late it is."""
    loop, throttle, done = asyncio.get_running_loop(), throttle_of(1000), asyncio.Event()
    begin = loop.time()
    while throttle.try_acquire(begin):
        pass
    throttle.schedule(done.set, loop)
    assert not throttle.try_acquire(begin + 60)
    await done.wait()
    assert throttle.try_acquire(loop.time() + 60)


def sent_in(throttle: RejectionThrottle, seconds: float, now: float) -> int:
    """How many are sent at once in that time under a constant flood."""
    sent, end = 0, now + seconds
    while now < end:
        now += 0.0001
        sent += sum(throttle.try_acquire(now) for _ in range(3))
    return sent


def test_the_rate_follows_the_cpu_share():
    """On a CPU half as fast half as many are sent; a few slow ones change nothing."""
    throttle = throttle_of(1000)
    assert 95 <= sent_in(throttle, 0.1, 100) - 100 <= 105  # less a burst
    for _ in range(RejectionThrottle.MEASURED_MIN - 1):
        throttle.record_cost(1)
    throttle.adapt(1)
    assert 95 <= sent_in(throttle, 0.1, 100.1) <= 105
    for _ in range(12):
        for _ in range(1000):
            throttle.record_cost(2 * RejectionThrottle.COST)
        throttle.adapt(1)
    assert 45 <= sent_in(throttle, 0.1, 100.2) <= 55


def test_rejections_do_not_wait_at_low_utilisation():
    """At low utilisation the rate grows until all are sent at once; at high utilisation it is at once as before."""
    throttle = throttle_of(1000)
    for _ in range(40):
        throttle.adapt(THRESHOLD - 0.2)
    throttle.adapt(THRESHOLD - 0.05)
    assert sent_in(throttle, 0.1, 100) == 3 * 1000
    throttle.adapt(THRESHOLD + 0.05)
    assert sent_in(throttle, 0.1, 100.1) <= 205


async def test_waiting_rejections_follow_a_higher_rate():
    """A backlog of a minute is sent at once when the CPU has time for it."""
    loop, throttle, done = asyncio.get_running_loop(), throttle_of(10), asyncio.Event()
    while throttle.try_acquire(loop.time()):
        pass
    for _ in range(600):
        throttle.schedule(lambda: None, loop)
    throttle.schedule(done.set, loop)
    for _ in range(100):
        throttle.adapt(0)
    async with asyncio.timeout(2):
        await done.wait()


HEADERS = [(b"host", b"x"), (b"authorization", b"Bearer flood"), (b"accept", b"*/*")]
TINY = LimitSettings(concurrency=1, queue=8, principal_concurrency=1, principal_queue=1)


@pytest.fixture
async def world():
    """A load shedder; the queue of the caller `flood` is full."""
    admission = Admission(TINY)
    flood = Caller("flood", principal="flood")
    admission.trust(flood)
    admission.remember_credentials(b"Bearer flood", flood)
    await admission.acquire("flood", Deadline.after(5))
    waiting = asyncio.create_task(admission.acquire("flood", Deadline.after(5)))
    await asyncio.sleep(0)
    reports = []
    shedder = LoadShedder(admission, TINY, b"", lambda: reports.append(1))
    yield SimpleNamespace(shedder=shedder, admission=admission, reports=reports)
    waiting.cancel()


async def test_requests_of_a_caller_with_a_full_queue_are_rejected(world):
    """By its credentials; those of others, or without any, are not."""
    assert not world.shedder.is_active
    assert world.shedder.should_reject(HEADERS[:1]) is None
    assert world.shedder.should_reject([(b"authorization", b"Bearer other"), *HEADERS]) is None
    assert world.shedder.should_reject(HEADERS) == "flood"
    assert world.shedder.is_active
    world.admission.release("flood")
    assert world.shedder.should_reject(HEADERS) is None
    assert not world.shedder.is_active


async def test_a_caller_whose_queue_has_room_is_served(world):
    """While others wait, too."""
    quiet = Caller("quiet", principal="quiet")
    world.admission.remember_credentials(b"Bearer quiet", quiet)
    assert world.shedder.should_reject([(b"authorization", b"Bearer quiet")]) is None


async def test_a_repeated_request_is_recognised(world):
    """While its caller is rejected; of large requests, and of too many, none is remembered."""
    request, large = b"GET /", b"x" * REQUEST_BYTES_MAX
    for each in (request, large, large + b"x"):
        world.shedder.remember(each, "flood")
    assert not world.shedder.should_reject_again(request)
    assert world.shedder.should_reject(HEADERS)
    assert world.shedder.should_reject_again(request)
    assert world.shedder.should_reject_again(large)
    assert not world.shedder.should_reject_again(large + b"x")
    assert not world.shedder.should_reject_again(b"GET /other")
    for number in range(REQUESTS_MAX):
        world.shedder.remember(b"%d" % number, "flood")
    assert not world.shedder.should_reject_again(request)
    assert world.shedder.should_reject_again(b"0")
    world.admission.release("flood")
    assert not world.shedder.should_reject_again(b"0")


async def test_rejections_are_counted_and_reported(world):
    """Each one."""
    for _ in range(3):
        world.shedder.count()
    assert [value for _, _, value in world.shedder.samples()] == [3]
    assert len(world.reports) == 3


def test_the_rate_is_adapted_only_outside_the_band_of_full_load():
    """From the low-water mark to the threshold it stays; above the threshold it is the first again."""
    throttle, sent, now = throttle_of(1000), [], 0
    for utilisation in (0.5, THRESHOLD, THRESHOLD * 0.85, 0.91, 0.5):
        throttle.adapt(utilisation)
        now += 1000
        sent.append(sum(throttle.try_acquire(now) for _ in range(500)))
    assert sent == pytest.approx([125, 125, 125, 100, 125], abs=1)


def test_a_pause_allows_no_more_than_a_burst():
    """However long it was, and the burst is used up at once."""
    throttle = throttle_of(100)
    assert sum(throttle.try_acquire(10_000) for _ in range(50)) in (10, 11)
    assert not throttle.try_acquire(10_000)
    assert throttle.try_acquire(10_000.02)
