"""CPU time of one upstream call through the whole stack: `uv run python benchmarks/upstream_calls_cpu.py`.

Microseconds of this process per call, by transport, concurrent calls and size of the response; rounds are interleaved,
and the result is their median. Cache off, every call another read. The fleet API is a stub, or the one that `--url`
names: a list of vehicles and each of them by its id.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.made_fleet import made_fleet
from gateway.concurrency.deadline import Deadline
from gateway.identity import Caller
from gateway.settings import Settings
from gateway.upstream.client import FleetClient
from gateway.upstream.requests import RequestScope, RequestStats
from gateway.upstream.stack import build_client

TOKEN = "fleet-token"
AT_A_TIME = {"vehicle": (1, 16, 240), "page": (1, 16)}
READS_OF_ONE_REQUEST = 15


async def spent(seconds: float, at_a_time: int, call: Callable[[RequestScope], Awaitable[object]]) -> float:
    """Microseconds of CPU time per call with this many concurrent calls."""
    calls, until = 0, time.perf_counter() + seconds

    async def keep_calling() -> None:
        nonlocal calls
        while time.perf_counter() < until:
            scope = RequestScope(Caller(TOKEN, principal="one"), RequestStats(), deadline=Deadline.after(30))
            for _ in range(READS_OF_ONE_REQUEST if at_a_time > 1 else 1):
                await call(scope)
                calls += 1
            scope.deadline.close()

    before = time.process_time()
    await asyncio.gather(*(keep_calling() for _ in range(at_a_time)))
    return (time.process_time() - before) / calls * 1e6


async def measure(url: str, transports: list[str], rounds: int, seconds: float, *, coalescing: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, FleetClient] = {}
        for transport in transports:
            upstream = {"url": url, "connections_max": 100} | ({"transport": transport} if transport != "-" else {})
            settings = Settings(upstream=upstream, cache={"enabled": False}, coalescing={"enabled": coalescing})
            clients[transport] = await stack.enter_async_context(build_client(settings))
        scope = RequestScope(Caller(TOKEN, principal="one"), RequestStats())
        ids = [vehicle.vehicle_id for vehicle in (await clients[transports[0]].vehicles(scope)).items]
        number = 0

        def vehicle(client: FleetClient) -> Callable[[RequestScope], Awaitable[object]]:
            def call(scope: RequestScope) -> Awaitable[object]:
                nonlocal number
                number += 1
                return client.vehicle(scope, ids[number % len(ids)])

            return call

        cases = [
            (name, size, at_a_time, vehicle(client) if size == "vehicle" else client.vehicles)
            for size, numbers in AT_A_TIME.items()
            for at_a_time in numbers
            for name, client in clients.items()
        ]
        seen: dict[tuple[str, str, int], list[float]] = {}
        for _ in range(rounds):
            for name, size, at_a_time, call in cases:
                seen.setdefault((name, size, at_a_time), []).append(await spent(seconds, at_a_time, call))
        for (name, size, at_a_time), times in seen.items():
            print(f"{name:8} {size:8} {at_a_time:4} at a time: {statistics.median(times):7.1f} us a call")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a fleet API that is already there; it has to take the token `fleet-token`")
    parser.add_argument("--transports", default="builtin,httpx")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--coalescing", action="store_true")
    chosen = parser.parse_args()
    os.environ.pop("GATEWAY_UPSTREAM_URL", None)
    with contextlib.ExitStack() as stack:
        url = chosen.url
        if url is None:
            url = stack.enter_context(made_fleet(1000, cpu=1)).url
            with contextlib.suppress(AttributeError, OSError):
                os.sched_setaffinity(0, {0})
        transports = chosen.transports.split(",")
        uvloop.run(measure(url, transports, chosen.rounds, chosen.seconds, coalescing=chosen.coalescing))


if __name__ == "__main__":
    main()
