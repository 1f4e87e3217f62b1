"""The gateway under overload: `uv run python benchmarks/overload.py [--seconds 8]
[--operations far,large,aliases,page,cached]`.

Gateway on one CPU; `wrk`, a stub fleet API and a prober on the other. First the peak: responses per second with sixteen
clients of two principals, each sending its next request on a response; with a distant fleet API, as many clients as
there are slots for operations. Then ten times that many requests a second arrive over 2,256 connections, whatever the
fate of earlier ones. Meanwhile the prober sends ten requests a second as a third principal, and twenty as a flooding
one; it has sent the former alone before. A probe's time counts from when it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import (
    CONNECTIONS,
    FORMS,
    LOADING,
    Body,
    cpu_seconds,
    gateway,
    heading,
    pin,
    prepare,
    table,
)
from benchmarks.made_fleet import made_fleet
from benchmarks.operations import FIELDS, OPERATIONS

FLOODS, QUIET = ("flood-0", "flood-1"), "quiet"
TIMES = 10
# Clients with a request in the queue, of 256 entries as shipped, send nothing meanwhile.
FLOODING_CONNECTIONS, QUEUEING_CONNECTIONS = 2000, 256
WARM_SECONDS = 2
# The flood yields to the fleet API and the prober on the same CPU.
YIELDING = ("nice", "-n", "15")
# More descriptors than either side needs; the gateway inherits the limit.
DESCRIPTORS = 10_000
LARGE = Body(f"{{ vehicles(first: 500) {{ nodes {{ {FIELDS} }} }} }}", {})


class Case(NamedTuple):
    """An operation, the gateway's form, the fleet API's latency, and the number of clients at the peak."""

    label: str
    body: Body
    form: str = "uncached"
    latency_ms: float = 0
    callers: int = CONNECTIONS


CASES = {
    "far": Case("50 vehicles, uncached, 200 ms away", OPERATIONS["page"].body, latency_ms=200, callers=64),
    "large": Case("500 vehicles, uncached", LARGE),
    "aliases": Case("20 by id, uncached", OPERATIONS["aliases"].body),
    "page": Case("50 vehicles, uncached", OPERATIONS["page"].body),
    "cached": Case("50 vehicles, cached", OPERATIONS["page"].body, "cached"),
}


@dataclass(frozen=True)
class Load:
    """The outcome of a load, per second: successes, rejections, other responses, CPU utilisation; and broken connections
    in total.
    """

    good: float
    rejected: float
    other: float
    cpu: float
    broken: int


@dataclass
class Latencies:
    """Latencies of successes and rejections, in milliseconds from when they were due."""

    good: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)


def at(values: Iterable[float], share: float) -> str:
    """A percentile, as text."""
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.1f}" if ordered else "-"


async def wrk(pid: int, url: str, body: bytes, seconds: int, connections: int, pause: float = 0) -> Load:
    """The load of this many connections; the first seconds, in which they are opened, and the last do not count."""
    variables = {
        "BODY": body.decode(),
        "TOKENS": " ".join(FLOODS),
        "PAUSE": str(pause * 1000),
        "CONNECTIONS": str(connections),
    }
    command = [
        *(YIELDING if pause else ()), "wrk", "-t1", f"-c{connections}", f"-d{seconds + WARM_SECONDS + 1}s", "--timeout", "60s",
        "-s", str(Path(__file__).with_name("overload.lua")), url,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | variables, stdout=subprocess.PIPE)
    pin(process.pid, LOADING)
    await asyncio.sleep(WARM_SECONDS)
    used = cpu_seconds(pid)
    await asyncio.sleep(seconds)
    used = cpu_seconds(pid) - used
    output, _ = await process.communicate()
    result = json.loads(output.decode().rpartition("result ")[2])
    counted = result["seconds"][WARM_SECONDS:-1][:seconds]
    statuses: Counter[str] = Counter()
    for second in counted:
        statuses.update(second)
    good, rejected = statuses.pop("200", 0), statuses.pop("503", 0)
    of = max(1, len(counted))
    return Load(good / of, rejected / of, statuses.total() / of, used / seconds, result["broken"])


class Probe:
    """A principal with a steady request rate over kept-alive connections, and its latencies."""

    def __init__(self, url: str, body: bytes, token: str, rate: float, connections: int = 8) -> None:
        host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
        self._address = host, int(port)
        head = f"POST /graphql HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n"
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = (head + kind).encode() + body
        self._every = connections / rate
        self._connections = connections
        self.latencies = Latencies()

    async def run(self, seconds: float, wait: float = 0) -> Latencies:
        """Sends requests for some seconds, after a wait."""
        opened = [await asyncio.open_connection(*self._address) for _ in range(self._connections)]
        start = time.perf_counter() + wait
        asking = (
            self._ask(*streams, start + number * self._every / self._connections, start + seconds)
            for number, streams in enumerate(opened)
        )
        await asyncio.gather(*asking)
        return self.latencies

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: float, until: float) -> None:
        while due < until:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            took = (time.perf_counter() - due) * 1000
            (self.latencies.good if head.startswith(b"http/1.1 200") else self.latencies.rejected).append(took)
            due += self._every
        writer.close()


async def measure(pid: int, url: str, body: bytes, seconds: int, callers: int) -> list[str]:
    """A row of the table."""
    for token in (*FLOODS, QUIET):
        await Probe(url, body, token, 10, 1).run(0.5)
    peak = await wrk(pid, url, body, seconds, callers)
    assert not peak.rejected, "there are no rejections at the peak"
    await asyncio.sleep(1)
    immediate = await Probe(url, body, QUIET, 10).run(seconds)
    pause = FLOODING_CONNECTIONS / (TIMES * peak.good)
    flood, beside, flooding = await asyncio.gather(
        wrk(pid, url, body, seconds, FLOODING_CONNECTIONS + QUEUEING_CONNECTIONS, pause),
        Probe(url, body, QUIET, 10).run(seconds, WARM_SECONDS),
        # On so many connections that none is still waiting for a response.
        Probe(url, body, FLOODS[0], 20, 100).run(seconds, WARM_SECONDS),
    )
    assert not flood.other, "a flood gets successes and rejections only"
    refusing = flood.cpu - flood.good * peak.cpu / peak.good
    arrived = flood.good + flood.rejected
    ratio = statistics.median(beside.good) / statistics.median(immediate.good) if beside.good and immediate.good else 0
    return [
        f"{peak.good:.0f}",
        f"{arrived / peak.good:.1f}",
        f"{flood.good / peak.good:.2f}",
        f"{peak.cpu:.0%}, {flood.cpu:.0%}",
        f"{refusing / flood.rejected * 1e6:.0f}" if flood.rejected else "-",
        f"{at(flooding.rejected, 0.5)}, {at(flooding.rejected, 0.99)}",
        f"{at(immediate.good, 0.5)}, {at(immediate.good, 0.99)}",
        f"{at(beside.good, 0.5)}, {at(beside.good, 0.99)}",
        f"{ratio:.1f}",
        f"{len(beside.rejected)} of {len(beside.good) + len(beside.rejected)}",
        f"{flood.broken}",
    ]


HEAD = [
    "", "peak, responses/s", "offered load, relative to the peak", "goodput, relative to the peak",
    "CPU at the peak, under overload", "cost of a rejection (µs)", "rejection p50, p99 (ms)",
    "quiet alone p50, p99 (ms)", "during the flood p50, p99 (ms)", "p50 during / alone", "quiet rejected", "broken",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--operations", default=",".join(CASES))
    chosen = parser.parse_args()
    prepare()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, most), most))
    rows = []
    for name in chosen.operations.split(","):
        case = CASES[name]
        with made_fleet(10_000, case.latency_ms, LOADING) as fleet, gateway(fleet.url, **FORMS[case.form]) as process:
            request, url = case.body.first_request(fleet.vehicles), f"{process.url}/graphql"
            row = asyncio.run(measure(process.process.pid, url, request, chosen.seconds, case.callers))
            rows.append([case.label, *row])
    print(f"{heading()}\n\n{table(HEAD, rows)}")


if __name__ == "__main__":
    main()
