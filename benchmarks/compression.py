"""The price of compressed responses: `uv run python benchmarks/compression.py [--seconds 2] [--rounds 5]`.

For each operation and each form of the gateway, its CPU time per response without compression, with it for a client that
accepts none, and for clients that accept gzip or zstd; all in turn in each round, the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import Cost, gateway, heading, measured, prepare, response_of, table, warm_up
from benchmarks.made_fleet import made_fleet
from benchmarks.operations import OPERATIONS, ROWS

# Operation and form.
CASES = [
    ("page", "cached"),
    ("page", "uncached"),
    ("page", "uncached, changing"),
    ("whole", "cached"),
    ("whole", "uncached, changing"),
    ("nodes", "cached"),
    ("vehicle", "cached"),
]
# The gateway's codings, and the client's `Accept-Encoding`.
CLIENTS = {
    "off": ("", "gzip, zstd"),
    "not accepted": ("zstd,gzip", ""),
    "gzip": ("zstd,gzip", "gzip"),
    "zstd": ("zstd,gzip", "gzip, zstd"),
}


def compare(seconds: int, rounds: int) -> None:
    """Prints the costs, relative to those without compression."""
    rows: list[list[object]] = []
    with made_fleet(10_000) as fleet:
        for short, form in CASES:
            operation, (at, settings) = OPERATIONS[short], ROWS[form]
            with contextlib.ExitStack() as stack:
                gateways = {
                    codings: stack.enter_context(gateway(fleet.url + at, http_compression=codings, **settings))
                    for codings in ("", "zstd,gzip")
                }
                clients = {name: (gateways[codings], accept) for name, (codings, accept) in CLIENTS.items()}
                seen: dict[str, list[Cost]] = {name: [] for name in clients}
                sizes = {}
                for name, (one, accept) in clients.items():
                    sizes[name] = len(response_of(one.url, operation.body, fleet.vehicles, accept=accept))
                    warm_up(f"{one.url}/graphql", operation.body, fleet, accept=accept)
                for _ in range(rounds):
                    for name, (one, accept) in clients.items():
                        url = f"{one.url}/graphql"
                        cost = measured(one.process.pid, url, operation.body, fleet, seconds=seconds, accept=accept)
                        seen[name].append(cost)
            costs = {name: Cost.median_of(each) for name, each in seen.items()}
            for name, cost in costs.items():
                label = f"{operation.name}, {form}" if name == "off" else ""
                off = costs["off"]
                rows.append([
                    label, name, f"{sizes[name] / 1000:.1f}", f"{cost.cpu / off.cpu:.2f}", f"{cost.cpu:.0f}",
                    f"{cost.responses_per_second:.0f}",
                ])  # fmt: skip
            print(f"# {short}, {form} done", file=sys.stderr, flush=True)
    print(heading(), end="\n\n")
    print(
        table(
            ["operation, form", "coding", "kB", "CPU time, relative to off", "CPU, µs per response", "responses/s"],
            rows,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    prepare()
    compare(chosen.seconds, chosen.rounds)


if __name__ == "__main__":
    main()
