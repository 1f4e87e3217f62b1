"""The index answers random filters and orders as a brute-force search over the raw JSON does."""

from __future__ import annotations

import json
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fleet_index.vehicle_index import VehicleIndex
from gateway.schema.filters import KNOWN_WORDS
from gateway.simulator import Behaviours
from gateway.simulator.fleet import Fleet
from gateway.upstream.pages import VehiclePage
from tests.effort import effort
from tests.fleet_index.at_random import Filters, vehicle
from tests.fleet_index.oracle import Reader, matches, ordered, unit_matches

NOW = 1796032800.0  # 2026-11-30T10:00:00Z
QUERIES = 12


def page_of(vehicles):
    return VehiclePage.of_body(json.dumps({"items": vehicles}).encode())


def walked(index, where, order_by, size, *, backward=False, units=False):
    """All pages of a connection; each cursor is encoded and decoded, as clients send it."""
    found, key = [], None
    while True:
        bound = {"before": key} if backward else {"after": key}
        page = index.select(where, order_by, now=NOW, limit=size, backward=backward, units=units, **bound)
        assert len(found) <= len(index), "the walk has no end"
        if not page:
            return found
        found = page + found if backward else found + page
        key = tuple(msgspec.msgpack.decode(msgspec.msgpack.encode(page[0 if backward else -1][1])))


def check(index, readers, rng):
    filters = Filters(rng)
    units = rng.random() < 0.2
    where = filters.units() if units else filters.vehicle()
    order_by = filters.order()
    fits = unit_matches if units else matches
    expected = [reader.id for reader in ordered([r for r in readers if fits(r, where, KNOWN_WORDS, NOW)], order_by)]
    question = (where, order_by, units)
    found = index.select(where, order_by, now=NOW, limit=len(readers) + 1, units=units)
    assert [vehicle_id for vehicle_id, _ in found] == expected, question
    assert index.count(where, now=NOW, units=units) == len(expected), question
    size = max(1, len(expected) // rng.randint(1, 4))
    assert walked(index, where, order_by, size, units=units) == found, question
    assert walked(index, where, order_by, size, backward=True, units=units) == found, question
    return len(expected)


@given(st.integers(0, 2**63))
@settings(max_examples=effort(25, 40, 300))
def test_a_random_fleet_is_answered_as_by_brute_force(seed):
    """Ids, order, totals and walks in both directions, before and after vehicles change and leave."""
    rng = Random(seed)
    ids = [f"V{n}" if n > 5 else ["JQ7RP", "K3WX8", "a", "B", "", "\x00"][n] for n in range(rng.randint(1, 60))]
    vehicles = {vehicle_id: vehicle(rng, vehicle_id) for vehicle_id in ids}
    index = VehicleIndex(KNOWN_WORDS)
    assert index.put(page_of([*vehicles.values()])) == len(index) == len(vehicles)
    for _ in range(QUERIES // 2):
        check(index, [Reader(raw) for raw in vehicles.values()], rng)
    changed = {vehicle_id: vehicle(rng, vehicle_id) for vehicle_id in ids if rng.random() < 0.4}
    gone = {vehicle_id for vehicle_id in ids if rng.random() < 0.2}
    vehicles = {vehicle_id: raw for vehicle_id, raw in (vehicles | changed).items() if vehicle_id not in gone}
    index.put(page_of([*vehicles.values()]))
    assert index.retain({*vehicles}) == len(gone)
    for _ in range(QUERIES // 2):
        check(index, [Reader(raw) for raw in vehicles.values()], rng)
    index.close()


@pytest.mark.parametrize("seed", range(effort(1, 1, 10)))
def test_a_simulated_fleet_is_answered_as_by_brute_force(seed):
    """The same over the simulator's vehicles, with all special cases of the contract."""
    fleet = Fleet("EXFL29", effort(500, 1_000, 20_000))
    shown = [fleet.shown(vehicle_id, Behaviours()) for vehicle_id in fleet.ids]
    index = VehicleIndex(KNOWN_WORDS)
    for start in range(0, len(shown), 100):
        index.put(page_of(shown[start : start + 100]))
    readers, rng = [Reader(raw) for raw in shown], Random(seed)
    found = [check(index, readers, rng) for _ in range(effort(40, 100, 200))]
    assert sum(0 < number < len(shown) for number in found) > len(found) / 5
