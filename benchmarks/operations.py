"""The canonical operations, and their costs relative to a floor: `uv run python benchmarks/operations.py
[--operations page,nodes] [--seconds 3] [--rounds 3]`, or, for a profile,
`uv run python benchmarks/operations.py --profile page [--form uncached] [--flame page.svg]`.

One CPU for the measured server, the other for the clients (`wrk`, sixteen connections, one token) and a stub fleet. In
each round every form of the gateway and both floors are measured; the result is the median of the rounds. A profile is
py-spy's: it needs the right to trace another process, as root or with the capability SYS_PTRACE.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.floors import floor
from benchmarks.load import FORMS, Body, Cost, gateway, heading, measured, prepare, response_of, table, warm_up, wrk
from benchmarks.made_fleet import MOVING, VIN, FleetProcess, made_fleet
from tests.journeys.test_queries import ALL_OF_A_VEHICLE

ROOT = Path(__file__).resolve().parents[1]
LOOP = "the event loop itself"
FIELDS = """id vehicleId status lastContactAt masterData { vin brand model licensePlate }
  latestState { mileageInKilometers { value } position { value { lat lon } timestamp } }"""
# Twenty ids, fifteen of them distinct, all over the fleet.
TWENTY = [number % 15 * 617 + 1 for number in range(20)]

HUNDRED = [number * 97 + 1 for number in range(100)]


@dataclass(frozen=True)
class Operation:
    """An operation and its upstream calls, as the path of the floor that makes only those."""

    name: str
    body: Body
    floor: str


OPERATIONS = {
    "page": Operation(
        "50 vehicles as a connection with cursors",
        Body(
            f"query($n: Int) {{ vehicles(first: $n) {{ edges {{ cursor node {{ {FIELDS} }} }} "
            "pageInfo { hasNextPage endCursor } } }",
            {"n": 50},
        ),
        "/page",
    ),
    "whole": Operation(
        "100 vehicles with every field",
        Body(f"{{ vehicles(first: 100) {{ edges {{ cursor node {{ {ALL_OF_A_VEHICLE} }} }} }} }}", {}),
        "/page",
    ),
    "nodes": Operation(
        "`nodes` of 20 ids, 15 distinct",
        Body(
            f"query($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on Vehicle {{ {FIELDS} }} }} }}",
            {"ids": [f"@gid({number})" for number in TWENTY]},
        ),
        "/vehicles/15",
    ),
    "aliases": Operation(
        "20 aliases of `vehicle(id:)`, 15 distinct",
        Body(
            f"query({' '.join(f'$i{n}: ID!' for n in range(20))}) {{ "
            f"{' '.join(f'v{n}: vehicle(id: $i{n}) {{ ...of }}' for n in range(20))} }} "
            f"fragment of on Vehicle {{ {FIELDS} }}",
            {f"i{n}": f"@id({number})" for n, number in enumerate(TWENTY)},
        ),
        "/vehicles/15",
    ),
    "entities": Operation(
        "`_entities` of 100 vehicles",
        Body(
            f"query($r: [_Any!]!) {{ _entities(representations: $r) {{ ... on Vehicle {{ {FIELDS} }} }} }}",
            {"r": [{"__typename": "Vehicle", "vehicleId": f"@id({number})"} for number in HUNDRED]},
            distinct=60,
        ),
        "/vehicles/100",
    ),
    "vehicle": Operation(
        "one vehicle",
        Body((ROOT / "docs/queries/vehicle.graphql").read_text(), {"id": "@id(1)"}),
        "/vehicles/1",
    ),
}


# The forms, each with the base path of its fleet.
ROWS = {
    "cached": ("", FORMS["cached"]),
    "cache 0 s": ("", FORMS["cache 0 s"]),
    "uncached": ("", FORMS["uncached"]),
    "uncached, changing": (MOVING, FORMS["uncached"]),
}
MOVED = re.compile(rb"WAUZ\d{6}")


class Server(NamedTuple):
    """A measured server: its process id and URL."""

    pid: int
    url: str


def compare(names: list[str], rounds: int, seconds: int, fleet: FleetProcess) -> None:
    """Prints the costs of the operations in each form, relative to the floor."""
    with contextlib.ExitStack() as stack:
        gateways = {
            name: stack.enter_context(gateway(fleet.url + at, **settings)) for name, (at, settings) in ROWS.items()
        }
        floors = {name: stack.enter_context(floor(name, fleet.url, fleet.vehicles)) for name in ("ready", "passed")}
        rows: list[list[object]] = []
        for short in names:
            operation = OPERATIONS[short]
            # A token for each operation, so that none hits the entries of another.
            answers = [response_of(one.url, operation.body, fleet.vehicles, short) for one in gateways.values()]
            assert len({MOVED.sub(VIN, answer) for answer in answers}) == 1, (
                f"{short}: the forms have different responses"
            )
            size = len(answers[0])
            servers = {name: Server(one.process.pid, f"{one.url}/graphql") for name, one in gateways.items()}
            servers["ready"] = Server(floors["ready"].process.pid, f"{floors['ready'].url}/ready/{size}")
            servers["passed"] = Server(floors["passed"].process.pid, f"{floors['passed'].url}{operation.floor}")
            seen: dict[str, list[Cost]] = {name: [] for name in servers}
            for server in servers.values():
                warm_up(server.url, operation.body, fleet, short)
            for _ in range(rounds):
                for name, server in servers.items():
                    cost = measured(server.pid, server.url, operation.body, fleet, seconds=seconds, token=short)
                    seen[name].append(cost)
            costs = {name: Cost.median_of(each) for name, each in seen.items()}
            rows += [_row(operation, size, form, costs) for form in ROWS]
            rows += [_row(operation, size, form, costs) for form in floors]
            print(f"# {short} done", file=sys.stderr, flush=True)
    head = ["operation", "form", "responses/s, relative to floor", "CPU time, relative to floor"]
    print(heading(), end="\n\n")
    print(table([*head, "responses/s", "p50, ms", "CPU, ms per request", "upstream calls per request"], rows))


def _row(operation: Operation, size: int, form: str, costs: dict[str, Cost]) -> list[object]:
    cost, least = costs[form], costs["ready" if form in ("cached", "ready") else "passed"]
    label = f"{operation.name}, {size / 1000:.1f} kB" if form == next(iter(ROWS)) else ""
    floors = {"ready": "floor: static bytes", "passed": "floor: pass-through"}
    return [
        label, floors.get(form, form), f"{cost.responses_per_second / least.responses_per_second:.2f}",
        f"{cost.cpu / least.cpu:.2f}", f"{cost.responses_per_second:.0f}", f"{cost.median:.2f}",
        f"{cost.cpu / 1000:.3f}", f"{cost.calls:.2f}",
    ]  # fmt: skip


def profile(short: str, form: str, seconds: int, flame: Path | None, fleet: FleetProcess) -> None:
    """Prints the functions with the most own and total time, and draws a flame graph."""
    if shutil.which("uvx") is None:
        sys.exit("The profile is py-spy's, which is started by uvx: `pip install uv`.")
    operation = OPERATIONS[short]
    at, settings = ROWS[form]
    with gateway(fleet.url + at, **settings) as served, tempfile.TemporaryDirectory() as folder:
        url, pid, stacks = f"{served.url}/graphql", served.process.pid, Path(folder) / "stacks"
        response_of(served.url, operation.body, fleet.vehicles, short)
        warm_up(url, operation.body, fleet, short)
        with _under_load(url, operation.body, 2 * seconds + 5, fleet.vehicles, short):
            _record(pid, seconds, "raw", stacks)
            if flame is not None:
                _record(pid, seconds, "flamegraph", flame)
        print(f"{operation.name}, {form}. {heading()}\n")
        _print_functions(stacks.read_text())


@contextlib.contextmanager
def _under_load(url: str, body: Body, seconds: int, vehicles: int, token: str):
    load = threading.Thread(
        target=wrk, args=(url, body), kwargs={"seconds": seconds, "fleet": vehicles, "token": token}
    )
    load.start()
    yield
    load.join()


def _record(pid: int, seconds: int, form: str, file: Path) -> None:
    options = ["--pid", str(pid), "--duration", str(seconds), "--rate", "500", "--function"]
    command = ["uvx", "py-spy", "record", *options, "--format", form, "--output", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not file.exists():
        sys.exit(f"py-spy: {done.stderr}\nIt needs to be root, or to have the capability SYS_PTRACE.")


def _print_functions(stacks: str) -> None:
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, number = line.rpartition(" ")
        # The frames that start the event loop are in all of them.
        names = [_short(frame) for frame in frames.rpartition("asyncio/runners.py")[2].split(";")[1:]] or [LOOP]
        own[names[-1]] += int(number)
        total.update(dict.fromkeys(names, int(number)))
    samples = own.total()
    # The functions with the most total time are the layers of every request.
    for kind, counted, most in (("own time", own, 20), ("total time", total, 45)):
        rows = [[f"{number / samples:.1%}", f"`{name}`"] for name, number in counted.most_common(most)]
        print(table([kind, f"function, of {samples} samples"], rows), end="\n\n")


def _short(frame: str) -> str:
    """A frame with its file from the package on."""
    name, _, file = frame.partition(" (")
    return f"{name} ({file.rpartition('site-packages/')[2].replace(f'{ROOT}/', '')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", default=",".join(OPERATIONS), help=f"of {', '.join(OPERATIONS)}")
    parser.add_argument("--vehicles", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", choices=OPERATIONS, metavar="OPERATION")
    parser.add_argument("--form", choices=ROWS, default="uncached", help="what is profiled")
    parser.add_argument("--flame", type=Path, metavar="FILE.svg")
    chosen = parser.parse_args()
    prepare()
    with made_fleet(chosen.vehicles) as fleet:
        if chosen.profile:
            profile(chosen.profile, chosen.form, chosen.seconds, chosen.flame, fleet)
        else:
            compare(chosen.operations.split(","), chosen.rounds, chosen.seconds, fleet)


if __name__ == "__main__":
    main()
