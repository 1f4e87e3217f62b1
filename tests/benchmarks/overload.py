"""How the gateway bears more than it can carry: `uv run python tests/benchmarks/overload.py [--seconds 8]`.

Gateway on one processor, callers on another, simulator warmed up and out of the way. First the peak: as many answers a
second as sixteen callers of two principals get. Then ten times that many requests a second arrive, whatever becomes of
those before. Last, one well-behaved principal asks ten times a second, alone and beside a flood.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.simulator import Client, FleetPlan, Simulator, Switches
from tests.gateway_process import GatewayProcess
from tests.gateways import serving

QUERY = "{ vehicles(first: 50) { edges { cursor node { id vehicleId status masterData { vin brand model } latestState { mileageInKilometers { value } } } } } }"
FLOODS = [f"flood-{number}" for number in range(2)]
QUIET = "quiet"


@dataclass
class Seen:
    """Answers and refusals, with their seconds."""

    answers: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    broken: int = 0


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000 if values else float("nan")


async def ask(http: aiohttp.ClientSession, url: str, token: str, seen: Seen) -> None:
    began = time.perf_counter()
    try:
        async with http.post(
            f"{url}/graphql", json={"query": QUERY}, headers={"Authorization": f"Bearer {token}"}
        ) as answer:
            await answer.read()
            (seen.answers if answer.status == 200 else seen.refusals).append(time.perf_counter() - began)
    except aiohttp.ClientError:
        seen.broken += 1


async def keep_asking(http: aiohttp.ClientSession, url: str, token: str, until: float, seen: Seen) -> None:
    while time.perf_counter() < until:
        await ask(http, url, token, seen)


async def arriving(
    http: aiohttp.ClientSession, url: str, tokens: list[str], rate: float, seconds: float, seen: Seen
) -> None:
    """Requests that arrive at a rate, whatever becomes of those before."""
    began, sent, tasks = time.perf_counter(), 0, set()
    while (passed := time.perf_counter() - began) < seconds:
        while sent < passed * rate:
            task = asyncio.create_task(ask(http, url, tokens[sent % len(tokens)], seen))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.005)
    answered = len(seen.answers)
    await asyncio.gather(*tasks)
    del seen.answers[answered:]


async def measure(url: str, seconds: float) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        warm = Seen()
        for token in (*FLOODS, QUIET):
            await ask(http, url, token, warm)
        peak = Seen()
        until = time.perf_counter() + seconds
        await asyncio.gather(*(keep_asking(http, url, FLOODS[n % 2], until, peak) for n in range(16)))
        capacity = len(peak.answers) / seconds
        flood = Seen()
        await arriving(http, url, FLOODS, 10 * capacity, 2, warm)  # opens the connections
        await arriving(http, url, FLOODS, 10 * capacity, seconds, flood)
        print(f"peak: {capacity:.0f} answers a second")
        print(
            f"10 times as many arrive: goodput {len(flood.answers) / seconds / capacity:.2f} of the peak; "
            f"{len(flood.refusals)} refused, p50 {percentile(flood.refusals, 0.5):.1f} ms, p99 {percentile(flood.refusals, 0.99):.1f} ms; "
            f"{flood.broken} connections broken"
        )
        await asyncio.sleep(2)
        alone, beside, rest = Seen(), Seen(), Seen()
        await arriving(http, url, [QUIET], 10, seconds, alone)
        await asyncio.gather(
            arriving(http, url, FLOODS[:1], 10 * capacity, seconds, rest),
            arriving(http, url, [QUIET], 10, seconds, beside),
        )
        for name, seen in (("alone", alone), ("beside a flood", beside)):
            print(
                f"a well-behaved principal {name}: p50 {percentile(seen.answers, 0.5):.1f} ms, p95 {percentile(seen.answers, 0.95):.1f} ms, "
                f"{len(seen.refusals)} of {len(seen.answers) + len(seen.refusals)} refused"
            )
        if alone.answers and beside.answers:
            print(f"median beside / alone: {statistics.median(beside.answers) / statistics.median(alone.answers):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    seconds = parser.parse_args().seconds
    clients = tuple(Client(f"T7K2M#{token}", token=token) for token in (*FLOODS, QUIET))
    simulator = Simulator([FleetPlan("T7K2M", 1000, clients=clients)], Switches(rate_limit_requests=0))
    with tempfile.TemporaryDirectory() as folder, serving(simulator.app) as upstream:
        os.environ.pop("GATEWAY_UPSTREAM_URL", None)
        gateway = GatewayProcess(Path(folder), upstream_url=upstream, cache_vehicles_ttl="600")
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setaffinity(gateway.process.pid, {0})
            os.sched_setaffinity(0, {1})
        try:
            gateway.wait_until_ready()
            asyncio.run(measure(gateway.url, seconds))
        finally:
            gateway.stop()


if __name__ == "__main__":
    main()
