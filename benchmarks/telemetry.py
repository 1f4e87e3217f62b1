"""The price of telemetry: `uv run python benchmarks/telemetry.py [--seconds 2] [--rounds 5]`.

For each operation and each form of the gateway, plain and with `traceparent`, its throughput and CPU time per response:
without telemetry, with metrics, and with metrics and traces of 1 % of the requests, which a receiver takes. Also with
metrics in the files that several workers share. All in turn in each round, the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import Cost, gateway, heading, measured, prepare, table, warm_up
from benchmarks.made_fleet import made_fleet
from benchmarks.operations import OPERATIONS, ROWS
from gateway.telemetry.metrics import FOLDER
from tests.telemetry.otlp_receiver import OtlpReceiver

CASES = [("page", "cached"), ("page", "uncached"), ("vehicle", "cached"), ("vehicle", "uncached")]
METRICS = {"metrics_port": "0"}
SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def compare(seconds: int, rounds: int, only: str | None) -> None:
    """Prints throughput and costs, relative to those without telemetry."""
    rows: list[list[object]] = []
    receiver, shared = OtlpReceiver(), tempfile.mkdtemp(dir="/dev/shm")
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **SAMPLED}
    forms: dict[str, tuple[dict[str, str], dict[str, str]]] = {
        "off": ({}, {}),
        "metrics": (METRICS, {}),
        "metrics, shared files": (METRICS, {FOLDER: shared}),
        "metrics, traces": (METRICS, traced),
    }
    with made_fleet(10_000) as fleet:
        for short, form in [case for case in CASES if only in (None, case[0], ", ".join(case))]:
            operation, (at, settings) = OPERATIONS[short], ROWS[form]
            with contextlib.ExitStack() as stack:
                gateways = {}
                for name, (more, variables) in forms.items():
                    with environment(**variables):
                        gateways[name] = stack.enter_context(gateway(fleet.url + at, **settings, **more))
                seen: dict[tuple[str, bool], list[Cost]] = {}
                for one in gateways.values():
                    warm_up(f"{one.url}/graphql", operation.body, fleet)
                for number in range(rounds):
                    for with_context in (False, True):
                        # Each form is the first one in some rounds.
                        order = list(gateways.items())
                        for name, one in order[number % len(order) :] + order[: number % len(order)]:
                            url = f"{one.url}/graphql"
                            cost = measured(
                                one.process.pid, url, operation.body, fleet, seconds=seconds, traced=with_context
                            )
                            seen.setdefault((name, with_context), []).append(cost)
            costs = {key: Cost.median_of(each) for key, each in seen.items()}
            for (name, with_context), cost in sorted(costs.items(), key=lambda item: item[0][1]):
                off = costs["off", with_context]
                label = f"{operation.name}, {form}{', traceparent' if with_context else ''}" if name == "off" else ""
                ratio = cost.responses_per_second / off.responses_per_second
                rows.append([label, name, f"{ratio:.2f}", f"{cost.cpu / off.cpu:.2f}", f"{cost.cpu:.0f}"])
            print(f"# {short}, {form} done", file=sys.stderr, flush=True)
    print(heading(), end="\n\n")
    head = ["operation, form", "telemetry", "responses/s, relative", "CPU time, relative", "CPU, µs per response"]
    print(table(head, rows))
    print(f"\nSpans received: {len(receiver.spans)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help='operation, with or without its form, such as page or "page, cached"')
    chosen = parser.parse_args()
    prepare()
    compare(chosen.seconds, chosen.rounds, chosen.only)


if __name__ == "__main__":
    main()
