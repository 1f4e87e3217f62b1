"""How a request's cost and the memory scale: `uv run python benchmarks/growth.py
[--parts nodes,fleet,principals,entries,memory] [--seconds 2] [--rounds 3] [--mixed 180]`.

Microseconds of the gateway's CPU time per request: by the nodes of a response, each of which may cost the same; by the
vehicles of the fleet, the principals seen before and the entries of the cache, none of which may cost anything. Last,
the gateway's memory with 10,000 cached vehicles, over `--mixed` seconds of every operation by several principals.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import FORMS, LONG, Body, gateway, heading, measured, prepare, response_of, table, warm_up, wrk
from benchmarks.made_fleet import FleetProcess, made_fleet
from benchmarks.operations import FIELDS, OPERATIONS
from tests.gateway_process import GatewayProcess

NODES = (10, 50, 100, 200, 500)
FLEETS = (1_000, 10_000, 100_000, 1_000_000)
PRINCIPALS = (1, 1_000, 100_000)
MEMORY_VEHICLES = 10_000
MEMORY_MAX = 150  # MB
MIXED_PRINCIPALS = 4
# More vehicles than the cache's bounds allow, read twenty at a time, each once.
FILLING = 120_000
MISSES = 400
CACHED = {form: FORMS[form] for form in ("cached", "uncached")}
PAGE = f"query($n: Int) {{ vehicles(first: $n) {{ edges {{ cursor node {{ {FIELDS} }} }} }} }}"
LAST = f"{{ vehicles(last: 50) {{ edges {{ cursor node {{ {FIELDS} }} }} }} }}"
SCAN = f"""query($after: String) {{ vehicles(first: 100, after: $after) {{ nodes {{ {FIELDS} }}
  pageInfo {{ hasNextPage endCursor }} }} }}"""
BY_ID = OPERATIONS["nodes"].body
ONE = OPERATIONS["vehicle"].body
# Twenty ids that were never read before: of a fleet of a million, and of ten thousand.
ONCE_EACH = Body(BY_ID.query, {"ids": [f"@gid({number})" for number in range(1, 21)]}, distinct=50_000)
ONCE_EACH_OF_TEN_THOUSAND = replace(ONCE_EACH, distinct=MEMORY_VEHICLES // 20)


def nodes(seconds: int, rounds: int) -> None:
    """By the nodes of a response, without page info, which may need another page."""
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(made_fleet(10_000))
        gateways = {form: stack.enter_context(gateway(fleet.url, **more)) for form, more in CACHED.items()}
        cases = {
            (form, size): _case(one, fleet, Body(PAGE, {"n": size}), seconds)
            for form, one in gateways.items()
            for size in NODES
        }
        cost = _rounds(cases, rounds)
        rows = []
        for before, size in zip((None, *NODES), NODES, strict=False):
            row: list[object] = [size]
            for form in gateways:
                here = cost[form, size]
                more = "" if before is None else f"{(here - cost[form, before]) / (size - before):.1f}"
                row += [f"{here:.0f}", f"{here / size:.1f}", more]
            rows.append(row)
    head = [
        f"{form}, {what}" for form in gateways for what in ("µs per request", "µs per node", "µs per additional node")
    ]
    _print("Nodes returned", ["nodes", *head], rows)


def fleets(seconds: int, rounds: int) -> None:
    """By the vehicles of the fleet: its first page, its last, and twenty by id from anywhere."""
    bodies = {"first 50": Body(PAGE, {"n": 50}), "last 50": Body(LAST, {}), "20 by id": BY_ID}
    with contextlib.ExitStack() as stack:
        cases = {}
        for vehicles in FLEETS:
            fleet = stack.enter_context(made_fleet(vehicles))
            for form, more in CACHED.items():
                one = stack.enter_context(gateway(fleet.url, **more))
                for name, body in bodies.items():
                    cases[form, name, vehicles] = _case(one, fleet, body, seconds)
        cost = _rounds(cases, rounds)
    rows = [
        [form, name, *_against_first([cost[form, name, vehicles] for vehicles in FLEETS])]
        for form in CACHED
        for name in bodies
    ]
    _print("Vehicles in the fleet", ["form", "operation", *(f"{vehicles:,}" for vehicles in FLEETS)], rows)


def principals(seconds: int, rounds: int) -> None:
    """By the principals seen before, each of which has read a vehicle once."""
    bodies = {"page of 50": Body(PAGE, {"n": 50}), "20 by id": BY_ID}
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(made_fleet(10_000))
        cases, memories = {}, {}
        for form, more in CACHED.items():
            for number in PRINCIPALS:
                one = stack.enter_context(gateway(fleet.url, **more))
                url = f"{one.url}/graphql"
                wrk(url, ONE, seconds=LONG, fleet=fleet.vehicles, token="seen", tokens=number, limit=number)
                memories[form, number] = one.memory()
                for name, body in bodies.items():
                    cases[form, name, number] = _case(one, fleet, body, seconds)
        cost = _rounds(cases, rounds)
    rows = []
    for form in CACHED:
        rows += [[form, name, *_against_first([cost[form, name, seen] for seen in PRINCIPALS])] for name in bodies]
        rows.append([form, "memory, MB", *(f"{memories[form, seen] / 1e6:.0f}" for seen in PRINCIPALS)])
    _print("Principals seen before", ["form", "operation", *(f"{number:,}" for number in PRINCIPALS)], rows)


def entries(seconds: int, rounds: int) -> None:
    """By the entries of the cache: almost none, and as many as its bounds allow."""
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(made_fleet(1_000_000))
        few, full = (stack.enter_context(gateway(fleet.url, **FORMS["cached"])) for _ in range(2))
        wrk(f"{full.url}/graphql", ONCE_EACH, seconds=LONG, fleet=fleet.vehicles, token="full", limit=FILLING // 20)
        cases = {}
        for name, one in (("few", few), ("full", full)):
            cases["page of 50, cached", name] = _case(one, fleet, Body(PAGE, {"n": 50}), seconds)
            cases["20 by id, cached", name] = _case(one, fleet, BY_ID, seconds)
            # Each round has a token of its own, without cached entries.
            cases["20 by id, uncached", name] = _misses(one, fleet)
        cost = _rounds(cases, rounds)
        memories = [f"{one.memory() / 1e6:.0f}" for one in (few, full)]
    rows = [
        [case, *_against_first([cost[case, "few"], cost[case, "full"]])]
        for case in dict.fromkeys(case for case, _ in cases)
    ]
    _print("Entries in the cache", ["operation", "nearly empty", "full"], [*rows, ["memory, MB", *memories]])


def memory(mixed: int) -> None:
    """Memory in MB of the gateway as shipped, with 10,000 cached vehicles, during all operations."""
    with made_fleet(MEMORY_VEHICLES) as fleet:
        with gateway(fleet.url) as one:
            rows = [["started", "", f"{one.memory() / 1e6:.1f}"]]
            limit = MEMORY_VEHICLES // 20
            wrk(f"{one.url}/graphql", ONCE_EACH_OF_TEN_THOUSAND, seconds=LONG, fleet=fleet.vehicles, limit=limit)
            rows.append(["10,000 vehicles read by id", "", f"{one.memory() / 1e6:.1f}"])
        with gateway(fleet.url) as one:
            _scan(one.url, "token-0")
            rows.append(["10,000 vehicles read from lists", "", f"{one.memory() / 1e6:.1f}"])
            began, seen = time.monotonic(), []
            while (passed := time.monotonic() - began) < mixed:
                for operation in OPERATIONS.values():
                    # Only the principal of the scan reads by id: others would cache as many vehicles again.
                    who = {"tokens": MIXED_PRINCIPALS} if operation.floor == "/page" else {"token": "token-0"}
                    wrk(f"{one.url}/graphql", operation.body, seconds=1, fleet=fleet.vehicles, **who)
                _scan(one.url, "token-0")
                seen.append(one.memory() / 1e6)
                rows.append(["mixed run", f"{passed:.0f}", f"{seen[-1]:.1f}"])
    half = len(seen) // 2
    _print("Memory", ["", "seconds", "MB"], rows)
    print(
        f"Mixed run: at most {max(seen):.1f} MB, the target is {MEMORY_MAX}; mean of the first half {statistics.mean(seen[:half] or seen):.1f} MB, "
        f"of the second {statistics.mean(seen[half:]):.1f} MB\n"
    )


def _scan(url: str, token: str) -> None:
    """Reads the whole fleet."""
    found, after = 0, None
    while True:
        page = json.loads(response_of(url, Body(SCAN, {"after": after}), MEMORY_VEHICLES, token))["data"]["vehicles"]
        found += len(page["nodes"])
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    assert found == MEMORY_VEHICLES


Case = Callable[[int], float]


def _case(one: GatewayProcess, fleet: FleetProcess, body: Body, seconds: int) -> Case:
    """CPU time of a request in microseconds, after a warm-up."""
    url = f"{one.url}/graphql"
    response_of(one.url, body, fleet.vehicles)
    warm_up(url, body, fleet)
    return lambda _: measured(one.process.pid, url, body, fleet, seconds=seconds).cpu


def _misses(one: GatewayProcess, fleet: FleetProcess) -> Case:
    url = f"{one.url}/graphql"
    return lambda round_number: (
        measured(one.process.pid, url, ONCE_EACH, fleet, seconds=LONG, token=f"round-{round_number}", limit=MISSES).cpu
    )


def _rounds(cases: Mapping[tuple, Case], rounds: int) -> dict[tuple, float]:
    """The median of each case; the cases alternate in every round."""
    seen: dict[tuple, list[float]] = {}
    for round_number in range(rounds):
        for name, case in cases.items():
            seen.setdefault(name, []).append(case(round_number))
    return {name: statistics.median(costs) for name, costs in seen.items()}


def _against_first(costs: Iterable[float]) -> list[str]:
    first, *others = costs
    return [f"{first:.0f}", *(f"{cost:.0f} ({cost / first:.2f})" for cost in others)]


def _print(title: str, head: list[str], rows: list[list[object]]) -> None:
    print(f"### {title}\n\n{table(head, rows)}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="nodes,fleet,principals,entries,memory")
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed", type=int, default=180, help="seconds of the run whose memory is watched")
    chosen = parser.parse_args()
    prepare()
    parts = {"nodes": nodes, "fleet": fleets, "principals": principals, "entries": entries}
    print(heading(), end="\n\n")
    for name in chosen.parts.split(","):
        if name == "memory":
            memory(chosen.mixed)
        else:
            parts[name](chosen.seconds, chosen.rounds)


if __name__ == "__main__":
    main()
