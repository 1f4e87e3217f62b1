"""A gateway on one processor under the load of `wrk` from another, and what that costs it."""

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

SERVED, LOADING = 0, 1  # processors
CONNECTIONS = 16
# Seconds of a run that ends by its number of answers.
LONG = 600
TURNS = 200
TICKS = os.sysconf("SC_CLK_TCK")
KEPT = {"cache_vehicles_ttl": "600", "cache_vehicle_ttl": "600", "cache_latest_state_ttl": "600"}
FORMS: dict[str, dict[str, str]] = {
    "cached": KEPT,
    "cache 0 s": dict.fromkeys(KEPT, "0"),
    "uncached": {"cache_enabled": "false", "coalescing_enabled": "false"},
}
"""The gateway as it is asked: what is kept lasts the run; all as shipped, but nothing is kept; nothing shared at all."""


@dataclass(frozen=True)
class Body:
    """What is asked: a GraphQL request in which `@id(7)` and `@gid(7)` are another vehicle's in each of `turns` requests."""

    query: str
    variables: dict[str, Any]
    turns: int = TURNS

    @property
    def text(self) -> str:
        return json.dumps({"query": self.query, "variables": self.variables})

    def turned(self, fleet: int) -> bytes:
        """The first of its requests to a fleet of so many vehicles."""

        def id_of(found: re.Match[str]) -> str:
            return vehicle_id((int(found[1]) - 1) % fleet + 1)

        text = re.sub(r"@id\((\d+)\)", id_of, self.text)
        return re.sub(r"@gid\((\d+)\)", lambda found: vehicle_global_id(id_of(found)), text).encode()


@dataclass(frozen=True)
class Cost:
    """What a request got and cost; the median latency in milliseconds, processor time in microseconds."""

    answers_a_second: float
    median: float
    processor: float
    calls: float

    @classmethod
    def median_of(cls, rounds: Sequence[Cost]) -> Cost:
        return cls(
            statistics.median(one.answers_a_second for one in rounds),
            statistics.median(one.median for one in rounds),
            statistics.median(one.processor for one in rounds),
            statistics.median(one.calls for one in rounds),
        )


def processor_seconds(pid: int) -> float:
    """What a process has used of a processor, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wrk(
    url: str, body: Body, *, seconds: int, fleet: int, token: str = "token", tokens: int = 1, limit: int | None = None,
    connections: int = CONNECTIONS,
) -> dict[str, float]:  # fmt: skip
    """`answers`, `microseconds` and `median` latency in microseconds; every answer has to be a good one."""
    told = {"BODY": body.text, "FLEET": str(fleet), "TURNS": str(body.turns), "TOKEN": token, "TOKENS": str(tokens)}
    told |= {} if limit is None else {"LIMIT": str(limit)}
    script = Path(__file__).with_name("turning.lua")
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command = ["wrk", *options, "-s", script, url]
    process = subprocess.Popen(command, env=os.environ | told, stdout=subprocess.PIPE, text=True)
    pin(process.pid, LOADING)
    if limit is not None:
        # wrk waits for the end of its time, whether or not its connections have; on this signal it ends as usual.
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
    pid: int, url: str, body: Body, fleet: FleetProcess, *, seconds: int, token: str = "token", limit: int | None = None
) -> Cost:
    """What the server of this process is paid and pays under that load."""
    calls, used = settled(fleet), processor_seconds(pid)
    result = wrk(url, body, seconds=seconds, fleet=fleet.vehicles, token=token, limit=limit)
    used, answers = processor_seconds(pid) - used, result["answers"]
    return Cost(
        answers / result["microseconds"] * 1e6,
        result["median"] / 1e3,
        used / answers * 1e6,
        (fleet.calls() - calls) / answers,
    )


def settled(fleet: FleetProcess) -> int:
    """The calls so far, once nobody goes on reading for callers who have left."""
    calls = fleet.calls()
    while True:
        time.sleep(0.1)
        before, calls = calls, fleet.calls()
        if calls == before:
            return calls


def warm_up(url: str, body: Body, fleet: FleetProcess, token: str = "token") -> None:
    """Asks each of these requests twice."""
    wrk(url, body, seconds=LONG, fleet=fleet.vehicles, token=token, limit=2 * body.turns)


def answer_of(url: str, body: Body, fleet: int, token: str = "token") -> bytes:
    """What a gateway answers to the first of these requests; there are no errors in it."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{url}/graphql", body.turned(fleet), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = answer.read()
    assert b'"errors"' not in said, said[:1000]
    return said


def pin(pid: int, processor: int) -> None:
    """Keeps a process on a processor, where the system can."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(pid, {processor})


@contextlib.contextmanager
def gateway(fleet_url: str, **environment: str) -> Iterator[GatewayProcess]:
    """A gateway over a fleet, on the processor that is measured, as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        process = GatewayProcess(Path(folder), upstream_url=fleet_url, **environment)
        pin(process.process.pid, SERVED)
        try:
            process.wait_until_ready()
            yield process
        finally:
            process.stop()


def prepare() -> None:
    """Takes the other processor, and leaves what the environment says of the gateway behind."""
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk: `apt install wrk` on Debian and Ubuntu, `brew install wrk` on macOS.")
    if not Path("/proc/self/stat").exists():
        sys.exit("Processor time is read from /proc: this needs Linux.")
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        del os.environ[name]
    pin(0, LOADING)


def heading() -> str:
    """When and with what it was measured, in a line."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "starlette", "msgspec"))
    return f"{time.strftime('%d %B %Y').lstrip('0')}, Python {platform.python_version()}, {libraries}."


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
