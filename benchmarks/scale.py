"""What workers and Redis cost and save: `uv run python benchmarks/scale.py [--seconds 2] [--rounds 3]`.

One and two workers behind one port, each with memory only and with Redis. Cached: all entries are in memory. Cold: a
principal's first thousand requests, in which each of two hundred sets of vehicles is requested five times. The workers
may use both CPUs; `wrk`, the fleet API and Redis are on the second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import FORMS, LOADING, LONG, Body, cpu_seconds, gateway, heading, pin, prepare, settled, table, wrk
from benchmarks.made_fleet import FleetProcess, made_fleet
from benchmarks.operations import OPERATIONS
from tests.gateway_process import GatewayProcess
from tests.redis_server import RedisServer

VEHICLES = 10_000
WORKERS = (1, 2)
COLD = 1000
CACHED = {"page of 50, cached": OPERATIONS["page"].body, "20 by id, cached": OPERATIONS["nodes"].body}
COLD_CASE = "20 by id, cold"


class Setup(NamedTuple):
    """Workers, and with what."""

    workers: int
    redis: RedisServer | None

    @property
    def name(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers > 1)}, {'Redis' if self.redis else 'memory'}"


class Cost(NamedTuple):
    """Responses a second; CPU time of all gateway processes and of Redis in microseconds, and upstream calls, each."""

    responses: float
    cpu: float
    redis: float
    calls: float


def main(seconds: int, rounds: int) -> None:
    prepare()
    print(heading(), "\n")
    costs: dict[tuple[str, str], list[Cost]] = {}
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(made_fleet(VEHICLES))
        redis = stack.enter_context(_redis())
        setups = [Setup(workers, store) for workers in WORKERS for store in (None, redis)]
        running = {setup: stack.enter_context(_gateway(fleet, setup)) for setup in setups}
        for number in range(rounds):
            for setup, one in running.items():
                for case, body in CACHED.items():
                    wrk(f"{one.url}/graphql", body, seconds=1, fleet=VEHICLES)
                    costs.setdefault((case, setup.name), []).append(_measured(one, setup, body, fleet, seconds))
                token = f"{setup.name}-{number}".replace(" ", "").replace(",", "-")
                cold = _measured(one, setup, CACHED["20 by id, cached"], fleet, LONG, token, COLD)
                costs.setdefault((COLD_CASE, setup.name), []).append(cold)
        memory = [f"{setup.name}: {one.memory() / 1e6:.0f} MB" for setup, one in running.items()]
    rows = []
    for case in (*CACHED, COLD_CASE):
        base = _median(costs[case, setups[0].name])
        for setup in setups:
            cost = _median(costs[case, setup.name])
            rows.append(
                [
                    case if setup is setups[0] else "",
                    setup.name,
                    f"{cost.responses / base.responses:.2f}",
                    f"{cost.cpu / base.cpu:.2f}",
                    f"{cost.cpu:.0f}",
                    f"{cost.redis:.0f}",
                    f"{cost.calls:.2f}",
                ]
            )
    head = [
        "",
        "",
        "responses/s, relative",
        "CPU time, relative",
        "CPU, µs per response",
        "Redis, µs",
        "upstream calls",
    ]
    print(table(head, rows), "\n")
    print("Memory of the largest worker:", "; ".join(memory))


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


@contextlib.contextmanager
def _redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        pin(server.pid, LOADING)
        try:
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def _gateway(fleet: FleetProcess, setup: Setup) -> Iterator[GatewayProcess]:
    more = {} if setup.redis is None else {"redis_url": setup.redis.url, "redis_namespace": f"of{setup.workers}"}
    with gateway(fleet.url, workers=str(setup.workers), **FORMS["cached"], **more) as one:
        one.wait_for_workers(0 if setup.workers == 1 else setup.workers)
        for pid in _pids(one):
            os.sched_setaffinity(pid, os.sched_getaffinity(1))
        yield one


def _pids(one: GatewayProcess) -> list[int]:
    return [one.process.pid, *one.workers()]


def _measured(
    one: GatewayProcess, setup: Setup, body: Body, fleet: FleetProcess, seconds: int, token: str = "token",
    limit: int | None = None,
) -> Cost:  # fmt: skip
    redis = setup.redis
    calls, used = settled(fleet), sum(map(cpu_seconds, _pids(one)))
    used_by_redis = cpu_seconds(redis.pid) if redis else 0
    result = wrk(f"{one.url}/graphql", body, seconds=seconds, fleet=VEHICLES, token=token, limit=limit)
    answers = result["answers"]
    return Cost(
        answers / result["microseconds"] * 1e6,
        (sum(map(cpu_seconds, _pids(one))) - used) / answers * 1e6,
        ((cpu_seconds(redis.pid) if redis else 0) - used_by_redis) / answers * 1e6,
        (fleet.calls() - calls) / answers,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    main(chosen.seconds, chosen.rounds)
