"""The pace of refusals: at once as long as there are few, then in turn, and each is sent."""

from __future__ import annotations

import asyncio

from gateway.web.refusals import Pace


async def test_few_go_at_once_and_more_follow_in_turn():
    """Of a burst the first tenth of a second's goes at once, the others in order and no faster than the pace."""
    loop, pace = asyncio.get_running_loop(), Pace(100)
    begin, done = loop.time(), []
    at_once = 0
    for number in range(30):
        if pace.at_once(begin):
            at_once += 1
        else:
            pace.in_turn(lambda number=number: done.append((number, loop.time())), loop)
    assert 10 <= at_once <= 11
    last = asyncio.Event()
    pace.in_turn(last.set, loop)
    await last.wait()
    assert [number for number, _ in done] == list(range(at_once, 30))
    assert done[-1][1] - begin >= 0.17


async def test_nobody_overtakes_who_waits():
    """While one waits nobody goes at once, however late it is."""
    loop, pace, done = asyncio.get_running_loop(), Pace(1000), asyncio.Event()
    begin = loop.time()
    while pace.at_once(begin):
        pass
    pace.in_turn(done.set, loop)
    assert not pace.at_once(begin + 60)
    await done.wait()
    assert pace.at_once(loop.time() + 60)
