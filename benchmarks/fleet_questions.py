"""Filtered pages beside cached ones: `uv run python benchmarks/fleet_questions.py [--vehicles 10000] [--rounds 3]`.

The first question, with its upstream calls and its time, for 20 callers of one principal at once; the memory of the
index; then latencies of filtered and ordered pages of 50, some a second, while wrk asks for a cached page, and wrk's
answers a second without and with them, in turn. The gateway is on one CPU, its clients on another.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import LIFETIMES, Body, gateway, heading, prepare, table, wrk
from benchmarks.made_fleet import made_fleet

PLAIN = Body("{ vehicles(first: 50) { nodes { vehicleId masterData { licensePlate } } } }", {}, 1)
FILTERED = """
query($digit: String!) { vehicles(
  first: 50
  where: {
    masterData: { licensePlate: { contains: $digit } }
    not: { tags: { any: ["station_b"] } }
    state: { property: "remaining_range_in_kilometers", gte: 1 }
  }
  orderBy: [{ field: LICENSE_PLATE, direction: DESC }]
) { edges { cursor node { vehicleId masterData { licensePlate } } } pageInfo { hasNextPage endCursor } } }
"""
COUNTED = "{ fleet { vehicleCount } }"
HEADERS = {"Authorization": "Bearer token"}
CALLERS = 20
PER_SECOND = 20
NODES = 50


def memory(pid: int) -> float:
    """Resident memory in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def asked_at_once(url: str) -> float:
    """The seconds until all callers know how many vehicles there are."""
    async with httpx.AsyncClient(verify=False, timeout=300, headers=HEADERS) as client:
        started = time.perf_counter()
        answers = await asyncio.gather(*(client.post(url, json={"query": COUNTED}) for _ in range(CALLERS)))
        for answer in answers:
            answer.raise_for_status()
            assert "errors" not in answer.json(), answer.text
        return time.perf_counter() - started


class Asking:
    """Asks for filtered pages in a thread, at a steady rate."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.milliseconds: list[float] = []

    def _ask(self) -> None:
        parts = urlsplit(self._url)
        # httpx takes a millisecond of the clients' CPU, which counts as latency.
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        headers = {**HEADERS, "Content-Type": "application/json"}
        number = 0
        due = time.perf_counter()
        while not self._ended.is_set():
            number += 1
            body = json.dumps({"query": FILTERED, "variables": {"digit": str(number % 100)}})
            started = time.perf_counter()
            connection.request("POST", parts.path, body, headers)
            answer = connection.getresponse().read()
            self.milliseconds.append((time.perf_counter() - started) * 1000)
            assert b'"errors"' not in answer, answer
            assert answer.count(b'"node"') == NODES, answer
            due = max(due + 1 / PER_SECOND, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
        connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def measure(vehicles: int, seconds: int, rounds: int, connections: int) -> list[list[object]]:
    """The figures of one size of fleet."""
    pages = -(-vehicles // 100)
    settings = {
        **LIFETIMES,
        "fleet_index_ttl": "600",
        "fleet_index_bytes_max": str(2**31),
        "cache_bytes_max": str(2**30),
        "pagination_scan_pages_max": str(pages),
        "limits_upstream_calls": str(max(1000, pages)),
        "limits_deadline": "300",
    }
    with made_fleet(vehicles) as fleet, gateway(fleet.url, **settings) as process:
        url, pid = f"{process.url}/graphql", process.process.pid
        wrk(url, PLAIN, seconds=1, fleet=vehicles)
        before, resident = fleet.calls(), memory(pid)
        cold = asyncio.run(asked_at_once(url))
        calls, taken = fleet.calls() - before, memory(pid) - resident
        before = fleet.calls()
        alone, beside = [], []
        milliseconds: list[float] = []
        for _ in range(rounds):
            alone.append(wrk(url, PLAIN, seconds=seconds, fleet=vehicles, connections=connections)["answers"])
            with Asking(url) as asking:
                time.sleep(0.2)
                beside.append(wrk(url, PLAIN, seconds=seconds, fleet=vehicles, connections=connections)["answers"])
            milliseconds += asking.milliseconds
        warm = fleet.calls() - before
    milliseconds.sort()
    ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    p99 = milliseconds[int(len(milliseconds) * 0.99)]
    rows: list[list[object]] = [
        [f"first question of {CALLERS} callers at once, upstream calls", calls],
        ["the same, seconds", f"{cold:.1f}"],
        ["memory of pages and index, MB", f"{taken:.0f}"],
        [f"filtered pages, upstream calls of {len(milliseconds)}", warm],
        ["filtered page, median in ms", f"{statistics.median(milliseconds):.1f}"],
        ["filtered page, 99th percentile in ms", f"{p99:.1f}"],
        [f"answers a second of wrk beside {PER_SECOND} filtered pages a second, relative to without", f"{ratio:.3f}"],
    ]
    return [[f"{vehicles:,}", *row] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vehicles", type=int, nargs="*", default=[10_000])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=4, help="those of wrk")
    options = parser.parse_args()
    prepare()
    rows = [
        row
        for vehicles in options.vehicles
        for row in measure(vehicles, options.seconds, options.rounds, options.connections)
    ]
    print(heading(), end="\n\n")
    print(table(["vehicles", "", ""], rows))


if __name__ == "__main__":
    main()
