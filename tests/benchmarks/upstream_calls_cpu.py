"""CPU time of one upstream call through the whole stack: `uv run python tests/benchmarks/upstream_calls_cpu.py`.

Microseconds of this process for each call, by transport, calls at a time and size of the answer, in interleaved rounds;
the median of the rounds is told. Cache off, every call another read. A process of its own plays the fleet API, or
`--url` names one: a list of vehicles and each of them by its id.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httptools
import httpx
import msgspec
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.identity import Caller
from gateway.settings import Settings
from gateway.simulator import Client, FleetPlan, Simulator, Switches
from gateway.upstream.client import FleetClient
from gateway.upstream.connect import connect
from gateway.upstream.fetching import Errand, Patience, Tally

TOKEN = "fleet-token"
AT_A_TIME = {"vehicle": (1, 16, 240), "page": (1, 16)}
READS_OF_ONE_REQUEST = 15


class CannedAnswers(asyncio.Protocol):
    """Answers every request with the page or with the vehicle, whatever its id."""

    page = b""
    vehicle = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._answer = self.page if url.startswith(b"/vehicles?") else self.vehicle

    def on_message_complete(self) -> None:
        self._transport.write(self._answer)


async def serve() -> None:
    """Plays the fleet API until it is ended; writes its URL."""
    fleet = FleetPlan(vehicles=1000, clients=(Client("T7K2M#one", token=TOKEN),))
    simulator = Simulator([fleet], Switches(rate_limit_requests=0))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    wire = httpx.ASGITransport(simulator.app)
    async with httpx.AsyncClient(transport=wire, base_url="http://fleet.test", headers=headers) as http:
        page = (await http.get("/vehicles?limit=100")).json()
    CannedAnswers.page, CannedAnswers.vehicle = map(canned, (page, page["items"][0]))
    server = await asyncio.get_running_loop().create_server(CannedAnswers, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def canned(answer: object) -> bytes:
    body = msgspec.json.encode(answer)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    more = "Date: Wed, 25 Nov 2026 09:00:00 GMT\r\nX-INVERS-Flow-ID: 0d7e3a1c-5b4f-4c39-9d53-3d9f1ab0f7aa\r\n\r\n"
    return (head + more).encode() + body


async def spent(seconds: float, at_a_time: int, call: Callable[[Errand], Awaitable[object]]) -> float:
    """Microseconds of CPU time for each call while so many are under way."""
    calls, until = 0, time.perf_counter() + seconds

    async def keep_calling() -> None:
        nonlocal calls
        while time.perf_counter() < until:
            errand = Errand(Caller(TOKEN, principal="one"), Tally(), patience=Patience.of(30))
            for _ in range(READS_OF_ONE_REQUEST if at_a_time > 1 else 1):
                await call(errand)
                calls += 1
            errand.patience.close()

    before = time.process_time()
    await asyncio.gather(*(keep_calling() for _ in range(at_a_time)))
    return (time.process_time() - before) / calls * 1e6


async def measure(url: str, transports: list[str], rounds: int, seconds: float, *, coalescing: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, FleetClient] = {}
        for transport in transports:
            upstream = {"url": url, "connections_max": 100} | ({"transport": transport} if transport != "-" else {})
            settings = Settings(upstream=upstream, cache={"enabled": False}, coalescing={"enabled": coalescing})
            clients[transport] = await stack.enter_async_context(connect(settings))
        errand = Errand(Caller(TOKEN, principal="one"), Tally())
        ids = [vehicle.vehicle_id for vehicle in (await clients[transports[0]].vehicles(errand)).items]
        turn = 0

        def vehicle(client: FleetClient) -> Callable[[Errand], Awaitable[object]]:
            def call(errand: Errand) -> Awaitable[object]:
                nonlocal turn
                turn += 1
                return client.vehicle(errand, ids[turn % len(ids)])

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
    parser.add_argument("--transports", default="wire,aiohttp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--coalescing", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        uvloop.run(serve())
        return
    os.environ.pop("GATEWAY_UPSTREAM_URL", None)
    with contextlib.ExitStack() as stack:
        url = chosen.url
        if url is None:
            process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
            stack.callback(process.kill)
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with contextlib.suppress(AttributeError, OSError):
                os.sched_setaffinity(process.pid, {1})
                os.sched_setaffinity(0, {0})
        transports = chosen.transports.split(",")
        uvloop.run(measure(url, transports, chosen.rounds, chosen.seconds, coalescing=chosen.coalescing))


if __name__ == "__main__":
    main()
