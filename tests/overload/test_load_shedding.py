"""The pace of refusals: at once as long as there are few, then in turn, and each is sent."""

from __future__ import annotations

import asyncio

from gateway.overload.load_shedding import RejectionThrottle

BUSY = 0.9


def a_second(number: float) -> RejectionThrottle:
    """A pace of so many a second."""
    return RejectionThrottle(RejectionThrottle.COST * RejectionThrottle.WHOLE * number, BUSY)


async def test_few_go_at_once_and_more_follow_in_turn():
    """Of a burst the first tenth of a second's goes at once, the others in order and no faster than the pace."""
    loop, pace = asyncio.get_running_loop(), a_second(100)
    begin, done = loop.time(), []
    at_once = 0
    for number in range(30):
        if pace.try_acquire(begin):
            at_once += 1
        else:
            pace.schedule(lambda number=number: done.append((number, loop.time())), loop)
    assert 10 <= at_once <= 11
    last = asyncio.Event()
    pace.schedule(last.set, loop)
    await last.wait()
    assert [number for number, _ in done] == list(range(at_once, 30))
    assert done[-1][1] - begin >= 0.17


async def test_nobody_overtakes_who_waits():
    """While one waits nobody goes at once, however late it is."""
    loop, pace, done = asyncio.get_running_loop(), a_second(1000), asyncio.Event()
    begin = loop.time()
    while pace.try_acquire(begin):
        pass
    pace.schedule(done.set, loop)
    assert not pace.try_acquire(begin + 60)
    await done.wait()
    assert pace.try_acquire(loop.time() + 60)


def sent_in(pace: RejectionThrottle, seconds: float, now: float) -> int:
    """How many go at once in that time when a flood of them arrives all the time."""
    sent, end = 0, now + seconds
    while now < end:
        now += 0.0001
        sent += sum(pace.try_acquire(now) for _ in range(3))
    return sent


def test_the_pace_is_what_a_share_of_the_processor_pays_for():
    """On a processor half as fast half as many are sent; a few that took long change nothing."""
    pace = a_second(1000)
    assert 95 <= sent_in(pace, 0.1, 100) - 100 <= 105  # less a burst
    for _ in range(RejectionThrottle.MEASURED_MIN - 1):
        pace.record_cost(1)
    pace.adapt(1)
    assert 95 <= sent_in(pace, 0.1, 100.1) <= 105
    for _ in range(12):
        for _ in range(1000):
            pace.record_cost(2 * RejectionThrottle.COST)
        pace.adapt(1)
    assert 45 <= sent_in(pace, 0.1, 100.2) <= 55


def test_while_the_processor_has_time_left_refusals_need_not_wait():
    """Idle, the pace quickens until all go at once; busy, it is at once what it was."""
    pace = a_second(1000)
    for _ in range(40):
        pace.adapt(BUSY - 0.2)
    pace.adapt(BUSY - 0.05)
    assert sent_in(pace, 0.1, 100) == 3 * 1000
    pace.adapt(BUSY + 0.05)
    assert sent_in(pace, 0.1, 100.1) <= 205


async def test_who_waits_is_not_kept_waiting_when_the_pace_quickens():
    """A backlog of a minute is worked off at once when the processor has time for it."""
    loop, pace, done = asyncio.get_running_loop(), a_second(10), asyncio.Event()
    while pace.try_acquire(loop.time()):
        pass
    for _ in range(600):
        pace.schedule(lambda: None, loop)
    pace.schedule(done.set, loop)
    for _ in range(100):
        pace.adapt(0)
    async with asyncio.timeout(2):
        await done.wait()
