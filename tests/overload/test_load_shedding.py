"""The rejection throttle: a few rejections at once, then in turn, and each is sent."""

from __future__ import annotations

import asyncio

from gateway.overload.load_shedding import RejectionThrottle

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
