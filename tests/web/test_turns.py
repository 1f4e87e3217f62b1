"""Turns of the event loop: who floods waits, who asks for little does not, and nobody is forgotten."""

from __future__ import annotations

import asyncio

from gateway.web.turns import IN_A_TURN, Turns


async def ask(turns: Turns, name: str, order: list[str]) -> None:
    if not turns.at_once(name):
        await turns.wait(name)
    order.append(name)


async def test_a_flood_waits_for_itself_alone():
    """Of a hundred at once a part goes in each turn; another principal's goes in the same turn as it comes."""
    turns, order = Turns(), []
    flood = [asyncio.create_task(ask(turns, "flood", order)) for _ in range(100)]
    await asyncio.sleep(0)
    assert order == ["flood"] * IN_A_TURN
    await ask(turns, "quiet", order)
    assert order[IN_A_TURN] == "quiet"
    await asyncio.gather(*flood)
    assert order.count("flood") == 100


async def test_floods_take_turns():
    """Those who wait go one of each in turn."""
    turns, order = Turns(), []
    await asyncio.gather(*(ask(turns, name, order) for name in ["one"] * 60 + ["two"] * 60))
    waited = order[2 * IN_A_TURN :]
    assert [waited[:10].count(name) for name in ("one", "two")] == [5, 5]


async def test_who_has_left_takes_nobody_s_turn():
    """A hundred who gave up cost those behind them nothing."""
    turns = Turns()
    while turns.at_once("flood"):
        pass
    left = [asyncio.create_task(turns.wait("flood")) for _ in range(50 * IN_A_TURN)]
    last = asyncio.create_task(turns.wait("flood"))
    await asyncio.sleep(0)
    for each in left:
        each.cancel()
    for _ in range(8):
        await asyncio.sleep(0)
    assert last.done()
    assert turns.at_once("flood")
