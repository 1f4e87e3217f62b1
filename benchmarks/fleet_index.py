"""Time and memory of the fleet index over simulated vehicles:
`uv run python benchmarks/fleet_index.py [--vehicles 10000 100000]`. Times are CPU times of the querying thread.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time, thread_time, time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.fleet_index.vehicle_index import VehicleIndex
from gateway.schema.filters import KNOWN_WORDS
from gateway.simulator import Behaviours
from gateway.simulator.fleet import Fleet
from gateway.upstream.pages import VehiclePage

PAGE = 100
ROUNDS = 100
STATION = {"lat": 50.9, "lon": 8.0}
NEAR = {"position": {"circle": {**STATION, "radiusInMeters": 50_000}}}
CHARGED = {"state": {"property": "state_of_charge_or_fuel_level_in_percent", "gte": 60}}
ISSUE = {
    "and": [
        {"operationStatus": {"in": ["OPERATING"]}},
        {"not": {"tags": {"any": ["in_maintenance"]}}},
        CHARGED,
        {"lastContactAt": {"ageAtMost": "P3650D"}},
        {"masterData": {"brand": {"in": ["Audi", "NIU"]}}},
        NEAR,
    ]
}
BY_DISTANCE = [{"distanceFrom": STATION}, {"field": "LICENSE_PLATE"}]
QUERIES: dict[str, tuple[Any, Any]] = {
    "six conditions by distance": (ISSUE, BY_DISTANCE),
    "charged, by plate": (CHARGED, [{"field": "LICENSE_PLATE"}]),
    "brand, by last contact": (
        {"masterData": {"brand": {"eq": "audi"}}},
        [{"field": "LAST_CONTACT_AT", "direction": "DESC"}],
    ),
    "name contains, by id": ({"masterData": {"customName": {"contains": "station 1"}}}, None),
    "all by id": (None, None),
    "all by distance": (None, BY_DISTANCE),
}


def percentiles(run: Callable[[], object]) -> str:
    """Median and 99th percentile in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        started = thread_time()
        run()
        times.append((thread_time() - started) * 1000)
    return f"{median(times):7.2f} {sorted(times)[int(ROUNDS * 0.99) - 1]:7.2f}"


def measure(vehicles: int) -> None:
    """Prints the figures of a fleet."""
    fleet = Fleet("EXFL29", vehicles)
    items = [fleet.text(vehicle_id, Behaviours()) for vehicle_id in fleet.ids]
    bodies = [b'{"items":[' + b",".join(items[n : n + PAGE]) + b"]}" for n in range(0, vehicles, PAGE)]
    pages, again = ([VehiclePage.of_body(bytes(body)) for body in bodies] for _ in range(2))
    size = sum(map(len, bodies))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = VehicleIndex(KNOWN_WORDS)
    started = process_time()
    changed = sum(map(index.put, pages))
    print(f"{vehicles} vehicles, {size / vehicles:.0f} bytes each")
    print(f"indexed {changed} in {process_time() - started:.2f} s")
    started = process_time()
    changed = sum(map(index.put, again))
    print(f"equal pages: indexed {changed} in {process_time() - started:.2f} s")
    started = process_time()
    changed = sum(map(index.put, again))
    print(f"the same pages: indexed {changed} in {(process_time() - started) * 1000:.2f} ms")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"per 10,000 vehicles: {(index.bytes - size) / vehicles / 100:.1f} MB counted beside the pages, ", end="")
    print(f"{grown / vehicles / 100:.1f} MB measured")
    now = time()
    print(f"{'ms: median, p99':30} {'page of 50':>15} {'count':>15}")
    for name, (where, order_by) in QUERIES.items():
        page = percentiles(lambda where=where, by=order_by: index.select(where, by, now=now, limit=51))  # type: ignore[misc]
        count = percentiles(lambda where=where: index.count(where, now=now))  # type: ignore[misc]
        print(f"{name:30} {page} {count}")
    rows = [_columns(page.vehicle(n)) for page in pages for n in range(len(page))]
    print(f"{'charged, by plate, in Python':30} {percentiles(lambda: _charged_by_plate(rows))}")


def _columns(vehicle: Any) -> tuple[Any, ...]:
    """What plain Python would keep for one query."""
    charge = (vehicle.latest_state or {}).get("state_of_charge_or_fuel_level_in_percent")
    plate = vehicle.master_data and vehicle.master_data.license_plate
    return charge and charge.value, (plate is None, (plate or "").casefold(), vehicle.vehicle_id)


def _charged_by_plate(rows: list[tuple[Any, ...]]) -> list[Any]:
    return sorted(key for charge, key in rows if charge.__class__ in (int, float) and charge >= 60)[:51]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vehicles", type=int, nargs="+", default=[10_000, 100_000])
    for number in parser.parse_args().vehicles:
        measure(number)
