"""Over a long run memory stays within its bound, and Redis may stop and restart."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import httpx

from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.upstream.requests import RequestScope, RequestStats
from gateway.upstream.stack import build_client
from tests.effort import thorough_only
from tests.upstream.fakes import scope

MEGABYTE = 2**20


@thorough_only
async def test_memory_stays_within_its_bound_and_is_steady():
    """When far more is read than fits, allocated memory stays within the bound and does not grow."""
    simulator = Simulator(
        [FleetPlan(vehicles=200, clients=(Client("T7K2M#one", token="x"),))], Behaviours(rate_limit_requests=0)
    )
    for number in range(300):
        simulator.accept(f"principal-{number}", "T7K2M#one")
    settings = Settings(upstream={"url": "http://fleet.test"}, cache={"bytes_max": 8 * MEGABYTE})
    async with build_client(settings, httpx.ASGITransport(simulator.app)) as client:

        async def read(principals: range) -> int:
            """Reads two pages and one vehicle for each principal; returns the allocated bytes."""
            for number in principals:
                by = RequestScope(scope(f"principal-{number}").caller, RequestStats())
                page = await client.vehicles(by)
                await client.vehicles(by, cursor=page.cursors.next)
                await client.vehicle(by, page.items[7].vehicle_id)
            simulator.requests.log.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        await read(range(3))  # fills caches that are filled once: the simulator's texts, decoders, code
        await client._cache._store._cache.clear()
        tracemalloc.start()
        try:
            empty = tracemalloc.get_traced_memory()[0]
            full = await read(range(60)) - empty
            later = await read(range(60, 120)) - empty
        finally:
            tracemalloc.stop()
    assert 4 * MEGABYTE < full < 8 * MEGABYTE
    assert later < full + MEGABYTE / 2


async def test_redis_is_killed_and_restarted_under_load(start, redis):
    """With Redis stopped and restarted under load, no request fails."""
    gateway = await start(cache__enabled=True, cache__vehicles_ttl=0.01, redis__url=redis.url, redis__cooldown=0.1)
    ended, answers = asyncio.Event(), []

    async def load(size: int) -> None:
        while not ended.is_set():
            answers.append(await gateway.ask(f"{{ vehicles(first: {size}) {{ nodes {{ vehicleId }} }} }}"))
            await asyncio.sleep(0)  # without a socket in between, nothing else yields to the others

    loads = [asyncio.create_task(load(size)) for size in (3, 50, 120)]
    await asyncio.sleep(0.3)
    redis.kill()
    await asyncio.sleep(0.5)
    await asyncio.to_thread(redis.start)
    await asyncio.sleep(0.5)
    ended.set()
    await asyncio.gather(*loads)
    assert len(answers) > 20
    assert [answer for answer in answers if "errors" in answer] == []
