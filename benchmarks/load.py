"""A gateway on one CPU under the load of `wrk` from another, and its costs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.made_fleet import FleetProcess, vehicle_id
from gateway.schema.global_ids import vehicle_global_id
from tests.gateway_process import GatewayProcess

SERVED, LOADING = 0, 1  # CPUs
CONNECTIONS = 16
# Seconds of a run that ends by its number of responses.
LONG = 600
DISTINCT = 200
TICKS = os.sysconf("SC_CLK_TCK")
LIFETIMES = {"cache_vehicles_ttl": "600", "cache_vehicle_ttl": "600", "cache_latest_state_ttl": "600"}
FORMS: dict[str, dict[str, str]] = {
    "cached": LIFETIMES,
    "cache 0 s": dict.fromkeys(LIFETIMES, "0"),
    "uncached": {"cache_enabled": "false", "coalescing_enabled": "false"},
}
"""Settings of the gateway: entries last the whole run; as shipped, but without lifetimes; no cache or coalescing."""


@dataclass(frozen=True)
class Body:
    """A GraphQL request in which `@id(7)` and `@gid(7)` name another vehicle in each of `distinct` requests."""

    query: str
    variables: dict[str, Any]
    distinct: int = DISTINCT

    @property
    def text(self) -> str:
        return json.dumps({"query": self.query, "variables": self.variables})

    def first_request(self, fleet: int) -> bytes:
        """The first of its requests to a fleet of this size."""

        def id_of(found: re.Match[str]) -> str:
            return vehicle_id((int(found[1]) - 1) % fleet + 1)

        text = re.sub(r"@id\((\d+)\)", id_of, self.text)
        return re.sub(r"@gid\((\d+)\)", lambda found: vehicle_global_id(id_of(found)), text).encode()


@dataclass(frozen=True)
class Cost:
    """The cost of a request; the median latency in milliseconds, CPU time in microseconds."""

    responses_per_second: float
    median: float
    cpu: float
    calls: float

    @classmethod
    def median_of(cls, rounds: Sequence[Cost]) -> Cost:
        return cls(
            statistics.median(one.responses_per_second for one in rounds),
            statistics.median(one.median for one in rounds),
            statistics.median(one.cpu for one in rounds),
            statistics.median(one.calls for one in rounds),
        )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wrk(
    url: str, body: Body, *, seconds: int, fleet: int, token: str = "token", tokens: int = 1, limit: int | None = None,
    connections: int = CONNECTIONS, accept: str = "", traced: bool = False,
) -> dict[str, float]:  # fmt: skip
    """`answers`, `microseconds` and `median` latency in microseconds; every response has to be a success."""
    environment = {
        "BODY": body.text,
        "FLEET": str(fleet),
        "DISTINCT": str(body.distinct),
        "TOKEN": token,
        "TOKENS": str(tokens),
        "ACCEPT_ENCODING": accept,
        "TRACED": "1" if traced else "",
    }
    environment |= {} if limit is None else {"LIMIT": str(limit)}
    script = Path(__file__).with_name("rotating_bodies.lua")
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command = ["wrk", *options, "-s", script, url]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    pin(process.pid, LOADING)
    if limit is not None:
        # wrk runs for its full time, even after its connections stopped; on this signal it ends as usual.
        assert process.stdout is not None
        while process.stdout.readline() not in ("enough\n", ""):
            pass
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    result = json.loads(output.rpartition("result ")[2])
    assert process.returncode == 0, output
    assert result["failed"] == 0, output
    assert result["answers"] > 0, output
    return result


def measured(
    pid: int,
    url: str,
    body: Body,
    fleet: FleetProcess,
    *,
    seconds: int,
    token: str = "token",
    limit: int | None = None,
    accept: str = "",
    traced: bool = False,
) -> Cost:
    """Throughput and costs of the server process under that load."""
    calls, used = settled(fleet), cpu_seconds(pid)
    result = wrk(
        url, body, seconds=seconds, fleet=fleet.vehicles, token=token, limit=limit, accept=accept, traced=traced
    )
    used, answers = cpu_seconds(pid) - used, result["answers"]
    return Cost(
        answers / result["microseconds"] * 1e6,
        result["median"] / 1e3,
        used / answers * 1e6,
        (fleet.calls() - calls) / answers,
    )


def settled(fleet: FleetProcess) -> int:
    """The upstream calls so far, once no cancelled operation makes more."""
    calls = fleet.calls()
    while True:
        time.sleep(0.1)
        before, calls = calls, fleet.calls()
        if calls == before:
            return calls


def warm_up(url: str, body: Body, fleet: FleetProcess, token: str = "token", accept: str = "") -> None:
    """Sends each of these requests twice."""
    wrk(url, body, seconds=LONG, fleet=fleet.vehicles, token=token, limit=2 * body.distinct, accept=accept)


def response_of(url: str, body: Body, fleet: int, token: str = "token", accept: str = "") -> bytes:
    """The body of the gateway's response to the first of these requests, as it is sent, without errors."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", "Accept-Encoding": accept}
    request = urllib.request.Request(f"{url}/graphql", body.first_request(fleet), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = answer.read()
    assert b'"errors"' not in said, said[:1000]
    return said


def pin(pid: int, cpu: int) -> None:
    """Keeps a process on a CPU, where the system can."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(pid, {cpu})


@contextlib.contextmanager
def gateway(fleet_url: str, **settings: str) -> Iterator[GatewayProcess]:
    """A gateway over a fleet, on the measured CPU, as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        process = GatewayProcess(Path(folder), upstream_url=fleet_url, **settings)
        pin(process.process.pid, SERVED)
        try:
            process.wait_until_ready()
            yield process
        finally:
            process.stop()


def prepare() -> None:
    """Moves this process to the other CPU, and removes the gateway's variables from the environment."""
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk: `apt install wrk` on Debian and Ubuntu, `brew install wrk` on macOS.")
    if not Path("/proc/self/stat").exists():
        sys.exit("CPU time is read from /proc: this needs Linux.")
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        del os.environ[name]
    pin(0, LOADING)


def heading() -> str:
    """Date and versions of the measurement, in a line."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "starlette", "msgspec"))
    return f"{time.strftime('%d %B %Y').lstrip('0')}, Python {platform.python_version()}, {libraries}."


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
