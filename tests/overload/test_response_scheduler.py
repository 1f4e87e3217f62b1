"""The response scheduler: a flood waits, a principal with few responses does not, and none is forgotten."""

from __future__ import annotations

import asyncio

from gateway.overload.response_scheduler import RESPONSES_PER_TICK, ResponseScheduler


async def ask(scheduler: ResponseScheduler, name: str, order: list[str]) -> None:
    if not scheduler.try_acquire(name):
        await scheduler.acquire(name)
    order.append(name)


async def test_a_flood_delays_only_itself():
    """Of a hundred at once some are sent in each iteration; another principal's is sent in its first iteration."""
    scheduler, order = ResponseScheduler(), []
    flood = [asyncio.create_task(ask(scheduler, "flood", order)) for _ in range(100)]
    await asyncio.sleep(0)
    assert order == ["flood"] * RESPONSES_PER_TICK
    await ask(scheduler, "quiet", order)
    assert order[RESPONSES_PER_TICK] == "quiet"
    await asyncio.gather(*flood)
    assert order.count("flood") == 100


async def test_floods_alternate():
    """Waiting responses are sent round-robin, one of each principal."""
    scheduler, order = ResponseScheduler(), []
    await asyncio.gather(*(ask(scheduler, name, order) for name in ["one"] * 60 + ["two"] * 60))
    waited = order[2 * RESPONSES_PER_TICK :]
    assert [waited[:10].count(name) for name in ("one", "two")] == [5, 5]


async def test_cancelled_responses_delay_no_other():
    """A hundred cancelled responses cost those behind them nothing."""
    scheduler = ResponseScheduler()
    while scheduler.try_acquire("flood"):
        pass
    left = [asyncio.create_task(scheduler.acquire("flood")) for _ in range(50 * RESPONSES_PER_TICK)]
    last = asyncio.create_task(scheduler.acquire("flood"))
    await asyncio.sleep(0)
    for each in left:
        each.cancel()
    for _ in range(8):
        await asyncio.sleep(0)
    assert last.done()
    assert scheduler.try_acquire("flood")


async def test_a_principal_that_has_waited_is_served_at_once_later():
    """Its last responses count only in their own iteration."""
    scheduler = ResponseScheduler()
    assert all(scheduler.try_acquire("flood") for _ in range(RESPONSES_PER_TICK))
    assert not scheduler.try_acquire("flood")
    waiting = [asyncio.create_task(scheduler.acquire("flood")) for _ in range(RESPONSES_PER_TICK)]
    await asyncio.gather(*waiting)
    for _ in range(3):
        await asyncio.sleep(0)
    assert scheduler.try_acquire("flood")
