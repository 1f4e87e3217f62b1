"""Filters, orders and totals over the whole fleet, as clients ask them."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import create_app
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from gateway.upstream.requests import now
from tests.effort import effort
from tests.gateways import PLANS, Gateway, Start, served

SAMPLE = """
{ vehicles(first: 20, orderBy: [{ distanceFrom: { lat: 50.9, lon: 8.0 } }, { field: LICENSE_PLATE, direction: ASC }],
    where: { and: [
      { operationStatus: { in: [OPERATING] } }, { not: { tags: { any: ["in_maintenance"] } } },
      { state: { property: "state_of_charge_or_fuel_level_in_percent", gte: 60 } },
      { lastContactAt: { ageAtMost: "P10000D" } }, { masterData: { brand: { in: ["Audi", "NIU"] } } },
      { position: { circle: { lat: 50.9, lon: 8.0, radiusInMeters: 500000 } } } ] }) {
    totalCount edges { cursor node { vehicleId } } pageInfo { hasNextPage endCursor } } }
"""
BRANDS = "{ fleet { vehicleCount counts(by: [LIFE_STATUS, BRAND]) { key count } } }"
WALK = """
query($first: Int, $after: String, $last: Int, $before: String, $where: VehicleFilter, $order: [VehicleOrder!]) {
  vehicles(first: $first, after: $after, last: $last, before: $before, where: $where, orderBy: $order) {
    totalCount edges { cursor node { vehicleId masterData { brand } } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }
"""
AUDIS = {"masterData": {"brand": {"eq": "audi"}}}
BY_PLATE = [{"field": "LICENSE_PLATE", "direction": "DESC"}]


async def walk(
    gateway: Gateway, size: int, *, backward: bool = False, by: str = "alice", **arguments: Any
) -> list[str]:
    """The ids of a connection, page by page."""
    ids: list[str] = []
    cursor = None
    while True:
        page = {"last": size, "before": cursor} if backward else {"first": size, "after": cursor}
        connection = (await gateway.data(WALK, by, **page, **arguments))["vehicles"]
        found = [edge["node"]["vehicleId"] for edge in connection["edges"]]
        ids = found + ids if backward else ids + found
        info = connection["pageInfo"]
        cursors = [edge["cursor"] for edge in connection["edges"]]
        assert (info["startCursor"], info["endCursor"]) == ((cursors[0], cursors[-1]) if cursors else (None, None))
        if not info["hasPreviousPage" if backward else "hasNextPage"]:
            assert connection["totalCount"] == len(ids)
            return ids
        cursor = info["startCursor" if backward else "endCursor"]


def fleet_of(gateway: Gateway, fleet_id: str = "T7K2M") -> list[dict[str, Any]]:
    """The raw vehicles of a simulated fleet."""
    fleet = gateway.simulator.fleets[fleet_id]
    return [fleet.vehicle(vehicle_id) for vehicle_id in fleet.ids]


def is_audi(vehicle: dict[str, Any]) -> bool:
    return ((vehicle.get("master_data") or {}).get("brand") or "").casefold() == "audi"


@pytest.fixture
async def cached(start: Start) -> Gateway:
    """A gateway with a cache."""
    return await start(cache__enabled=True)


async def test_the_example_of_the_page_is_answered(cached):
    """Conditions of every kind, two orders, the total and the first page."""
    connection = (await cached.data(SAMPLE))["vehicles"]
    assert connection["totalCount"] == len(connection["edges"]) > 0
    assert connection["pageInfo"]["hasNextPage"] is False


async def test_totals_and_groups_count_every_vehicle_once(cached):
    """The groups add up to the number of vehicles."""
    fleet = (await cached.data(BRANDS))["fleet"]
    assert fleet["vehicleCount"] == 250
    assert sum(group["count"] for group in fleet["counts"]) == 250
    audis = sum(group["count"] for group in fleet["counts"] if group["key"][1] == "Audi")
    assert audis == sum(map(is_audi, fleet_of(cached)))


async def test_walks_in_both_directions_give_the_same_vehicles(cached):
    """With any page size; the cursor of an edge does not depend on it."""
    expected = await walk(cached, 500, where=AUDIS, order=BY_PLATE)
    assert sorted(expected) == sorted(vehicle["id"] for vehicle in fleet_of(cached) if is_audi(vehicle))
    for size in (1, 7):
        assert await walk(cached, size, where=AUDIS, order=BY_PLATE) == expected
        assert await walk(cached, size, where=AUDIS, order=BY_PLATE, backward=True) == expected


async def test_a_scan_is_made_once_and_a_fresh_index_costs_nothing(cached):
    """Three pages for any number of concurrent callers, then none."""
    assert await cached.calls(BRANDS) == 3
    assert await cached.calls(SAMPLE) == 0
    before = cached.simulator.requests.total
    await asyncio.gather(*(cached.data(SAMPLE, "bob") for _ in range(10)))
    assert cached.simulator.requests.total - before == 3


async def test_a_filter_by_ids_reads_only_these(cached):
    """And applies the other conditions to them."""
    ids = [vehicle["id"] for vehicle in fleet_of(cached)][:4]
    where = {"vehicleId": {"in": ids}, **AUDIS}
    before = cached.simulator.requests.total
    found = await walk(cached, 10, where=where)
    assert found == sorted(vehicle["id"] for vehicle in fleet_of(cached)[:4] if is_audi(vehicle))
    assert cached.simulator.requests.total - before == 4


async def test_a_filter_by_license_plate_searches(cached):
    """One call in place of a scan; the plate has to be equal."""
    plates = [(vehicle.get("master_data") or {}).get("license_plate") for vehicle in fleet_of(cached)]
    plate = next(plate for plate in plates if plate)
    before = cached.simulator.requests.total
    found = await walk(cached, 10, where={"masterData": {"licensePlate": {"eq": plate.lower()}}})
    assert len(found) == plates.count(plate)
    assert cached.simulator.requests.total - before == 1


async def test_a_total_counts_all_slices(cached):
    """Of the fleet, of a search and of the units; the first page is read as ever."""
    query = """{ vehicles(first: 1) { totalCount nodes { vehicleId } }
      search: vehicles(first: 1, search: "Audi") { totalCount }
      telematicsUnits(first: 1, where: { brand: { eq: "CLOUDBOXX" } }) { totalCount nodes { brand } } }"""
    data = await cached.data(query)
    assert data["vehicles"] == {"totalCount": 250, "nodes": [{"vehicleId": "JQ7RP"}]}
    found = await walk(cached, 500, where=None)
    assert len(found) == 250
    units = [vehicle.get("telematics_unit") or {} for vehicle in fleet_of(cached)]
    expected = sum(unit.get("brand") == "CLOUDBOXX" and bool(unit.get("id")) for unit in units)
    assert data["telematicsUnits"] == {"totalCount": expected, "nodes": [{"brand": "CLOUDBOXX"}]}
    assert data["search"]["totalCount"] >= sum(map(is_audi, fleet_of(cached)))


async def test_the_cost_of_a_scan_is_estimated_and_counted(cached):
    """The estimate is the limit of a scan's pages; an index that is fresh costs nothing."""
    costs = []
    for _ in range(2):
        response = await cached.post(BRANDS, **{"X-Gateway-Cost": "report"})
        costs.append(response.json()["extensions"]["cost"])
    assert [cost["estimatedUpstreamCalls"] for cost in costs] == [100, 100]
    assert [cost["upstreamCalls"] for cost in costs] == [3, 0]
    estimate = (await cached.post(WALK, {"where": AUDIS}, **{"X-Gateway-Cost": "validate"})).json()
    assert estimate["extensions"]["cost"]["estimatedUpstreamCalls"] == 100


async def test_an_answer_tells_its_age(cached):
    """The header `Age` is that of the oldest page, as for any other answer."""
    await cached.data(BRANDS)
    await asyncio.sleep(1.1)
    response = await cached.post(BRANDS)
    assert int(response.headers["Age"]) >= 1
    as_of = (await cached.data("{ fleet { completeAsOf } }"))["fleet"]["completeAsOf"]
    assert as_of.endswith("Z")


async def test_a_fault_in_mid_scan_gives_no_partial_total(start):
    """The error names how far the scan came; the fields beside it are answered."""
    gateway = await start(cache__enabled=True)
    await gateway.data("{ vehicles(first: 1) { nodes { vehicleId } } }")  # caches the first page
    gateway.fault("status", status=503)
    body = await gateway.ask("{ fleet { vehicleCount } }")
    assert body["data"] is None
    (error,) = body["errors"]
    extensions = error["extensions"]
    assert (extensions["code"], extensions["cause"]) == ("FLEET_INCOMPLETE", "UPSTREAM_UNAVAILABLE")
    assert (extensions["pagesRead"], extensions["vehiclesRead"]) == (1, 100)
    body = await gateway.ask("{ vehicles(first: 1) { nodes { vehicleId } } total: vehicles { totalCount } }")
    assert body["data"] == {"vehicles": {"nodes": [{"vehicleId": "JQ7RP"}]}, "total": None}
    gateway.simulator.faults.rules.clear()
    assert (await gateway.data("{ fleet { vehicleCount } }"))["fleet"] == {"vehicleCount": 250}


async def test_a_cursor_belongs_to_its_filter_and_order(cached):
    """A cursor of another filter, order or kind of connection is foreign; a damaged one is invalid."""
    page = (await cached.data(WALK, first=1, where=AUDIS, order=BY_PLATE))["vehicles"]
    cursor = page["edges"][0]["cursor"]
    plain = (await cached.data(WALK, first=1))["vehicles"]["edges"][0]["cursor"]

    async def code(**arguments: Any) -> str:
        return (await cached.ask(WALK, **arguments))["errors"][0]["extensions"]["code"]

    assert await code(first=1, after=cursor, where=AUDIS) == "CURSOR_FOREIGN"
    assert await code(first=1, after=cursor, where=AUDIS, order=[{"field": "LICENSE_PLATE"}]) == "CURSOR_FOREIGN"
    assert await code(first=1, after=cursor) == "CURSOR_FOREIGN"
    assert await code(first=1, after=plain, where=AUDIS) == "CURSOR_FOREIGN"
    assert await code(first=1, after=cursor[:-2], where=AUDIS, order=BY_PLATE) == "CURSOR_INVALID"
    same = {"masterData": {"brand": {"eq": "audi", "in": None}}}
    assert await code(first=1, after=cursor, where=same, order=BY_PLATE) == "CURSOR_FOREIGN"


async def test_no_principal_is_answered_from_anothers_fleet(cached):
    """Totals, filters and cursors are those of the caller."""
    for by, size in (("alice", 250), ("eve", 120), ("bob", 250), ("eve", 120)):
        assert (await cached.data("{ fleet { vehicleCount } }", by))["fleet"]["vehicleCount"] == size
    alices, eves = await walk(cached, 500, where=AUDIS), await walk(cached, 500, by="eve", where=AUDIS)
    assert not set(alices) & set(eves)
    body = await cached.ask("{ fleet { vehicleCount } }", "no-permission")
    assert body["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    response = await cached.post("{ fleet { vehicleCount } }", by="nobody")
    assert response.status_code == 401


async def test_an_invalid_filter_names_its_place(cached):
    """In bounded time, before anything is read."""
    where = {"and": [{"position": {"circle": {"lat": 91, "lon": 0, "radiusInMeters": 5}}}]}
    before = cached.simulator.requests.total
    (error,) = (await cached.ask(WALK, where=where))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "position.circle.lat" in error["message"]
    assert cached.simulator.requests.total == before


async def test_units_are_found_by_their_key_without_a_walk_of_their_own(cached):
    """One scan for the unit, for the total, and for entities."""
    unit = next(vehicle["telematics_unit"] for vehicle in fleet_of(cached) if vehicle.get("telematics_unit"))
    key = {"id": unit["id"], "manufacturer": unit["manufacturer"], "brand": unit["brand"]}
    query = """query($id: ID!, $manufacturer: String, $brand: String) {
      telematicsUnit(id: $id, manufacturer: $manufacturer, brand: $brand) { unitId vehicle { vehicleId } } }"""
    assert await cached.calls(query, **key) == 3
    assert await cached.calls(query, **key) == 0
    data = await cached.data(query, **{**key, "manufacturer": "NOBODY"})
    assert data["telematicsUnit"] is None


async def test_a_list_without_states_can_not_be_filtered_by_them(start):
    """A filter by state is an error rather than an answer without vehicles."""
    gateway = await start(
        cache__enabled=True, behaviours=Behaviours(rate_limit_requests=0, latest_state_in_list="missing")
    )
    where = {"state": {"property": "ignition", "eq": "ON"}}
    (error,) = (await gateway.ask(WALK, where=where))["errors"]
    assert error["extensions"]["code"] == "FILTER_UNSUPPORTED"
    assert len(await walk(gateway, 500, where=AUDIS)) > 0


class Clock:
    """A clock that runs ahead of the real one."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return now() + self.ahead


@pytest.mark.parametrize("backward", [False, True])
async def test_a_walk_under_edits_gives_each_vehicle_that_matches_throughout_once(start, backward):
    """Vehicles come, go, move in the fleet and change between the pages, and each page sees a new index."""
    clock = Clock()
    gateway = await start(cache__enabled=True, clock=clock)
    fleet, rng = gateway.simulator.fleets["T7K2M"], random.Random(7)
    always = {vehicle["id"] for vehicle in fleet_of(gateway) if is_audi(vehicle)}
    found: list[str] = []
    cursor = None
    while True:
        page = {"last": 4, "before": cursor} if backward else {"first": 4, "after": cursor}
        connection = (await gateway.data(WALK, **page, where=AUDIS, order=BY_PLATE))["vehicles"]
        found += [edge["node"]["vehicleId"] for edge in connection["edges"]]
        if not connection["pageInfo"]["hasPreviousPage" if backward else "hasNextPage"]:
            break
        cursor = connection["pageInfo"]["startCursor" if backward else "endCursor"]
        for _ in range(3):
            gone = rng.choice(fleet.ids)
            always.discard(gone)
            fleet.delete(gone)
            fleet.edit(rng.choice(fleet.ids), remark="edited")
        for vehicle_id in rng.sample(fleet.ids, 3):
            fleet.edit(fleet.insert(rng.randrange(len(fleet.ids))), brand="Audi", license_plate=f"X {vehicle_id}")
        clock.ahead += 400
    assert len(found) == len(set(found))
    assert always <= set(found)


async def test_a_fleet_that_changes_during_a_scan_is_answered_from_what_was_read(start):
    """Nothing is lost or counted twice while pages shift; what changed later is seen after the next refresh."""
    clock = Clock()
    gateway = await start(cache__enabled=True, clock=clock)
    fleet = gateway.simulator.fleets["T7K2M"]
    gateway.fault("latency", seconds=0.05)
    counting = asyncio.create_task(gateway.data("{ fleet { vehicleCount } }"))
    before = set(fleet.ids)
    while not counting.done():
        fleet.insert(0)
        fleet.delete(fleet.ids[-1])
        await asyncio.sleep(0.01)
    gateway.simulator.faults.rules.clear()
    stayed = before & set(fleet.ids)
    assert (await counting)["fleet"]["vehicleCount"] >= len(stayed)
    clock.ahead += 400
    assert set(await walk(gateway, 500, where={"not": {"tags": {"any": ["no such tag"]}}})) == set(fleet.ids)


async def test_a_page_that_hangs_is_an_error_at_the_deadline(start):
    """The error says how far the scan came; when the page arrives, the next question is answered."""
    gateway = await start(cache__enabled=True)
    await gateway.data("{ vehicles(first: 1) { nodes { vehicleId } } }")  # caches the first page
    gateway.fault("latency", seconds=1.0, times=1)
    response = await gateway.post("{ fleet { vehicleCount } }", **{"X-Gateway-Timeout": "0.3"})
    (error,) = response.json()["errors"]
    extensions = error["extensions"]
    assert (extensions["code"], extensions["cause"]) == ("FLEET_INCOMPLETE", "DEADLINE_EXCEEDED")
    assert extensions["pagesRead"] == 1
    assert (await gateway.data("{ fleet { vehicleCount } }"))["fleet"]["vehicleCount"] == 250


async def test_concurrent_callers_of_two_fleets_never_see_each_others_vehicles(cached):
    """Random filters, orders, totals and foreign cursors, also while vehicles are shared and no longer shared."""
    rng, simulator = random.Random(11), cached.simulator
    ours, theirs = simulator.fleets["T7K2M"], simulator.fleets["EXFL29"]
    shared = set(ours.ids[:20])
    for vehicle_id in shared:
        ours.share(vehicle_id, theirs)
    allowed = {"alice": set(ours.ids), "bob": set(ours.ids), "eve": set(theirs.ids)}
    assert shared <= allowed["eve"]
    cursors: list[str] = []

    async def ask(by: str) -> None:
        where = rng.choice(
            [
                AUDIS,
                {"not": AUDIS},
                {"state": {"property": "state_of_charge_or_fuel_level_in_percent", "gte": rng.randrange(100)}},
                {"vehicleId": {"in": rng.sample([*ours.ids, *theirs.ids], 5)}},
                {"masterData": {"licensePlate": {"eq": "SI-IN 2026"}}},
                {"position": {"circle": {"lat": 50.0, "lon": 9.0, "radiusInMeters": rng.randrange(1, 900_000)}}},
            ]
        )
        after = rng.choice([None, *cursors[-20:]])
        body = await cached.ask(WALK, by, first=50, where=where, order=rng.choice([BY_PLATE, []]), after=after)
        if "errors" in body:
            assert {error["extensions"]["code"] for error in body["errors"]} <= {"CURSOR_FOREIGN"}
            return
        connection = body["data"]["vehicles"]
        seen = {edge["node"]["vehicleId"] for edge in connection["edges"]}
        assert seen <= allowed[by]
        assert connection["totalCount"] <= len(allowed[by])
        cursors.extend(edge["cursor"] for edge in connection["edges"][:2])

    for _ in range(effort(10, 40, 200)):
        await asyncio.gather(*(ask(rng.choice(["alice", "bob", "eve"])) for _ in range(20)))


async def test_two_gateways_that_share_redis_scan_a_fleet_once(redis):
    """All who ask at both get their answer for the calls of one scan."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    async with AsyncExitStack() as stack:
        fleet = uvicorn.Config(simulator.app, log_level="critical", access_log=False)
        upstream = await stack.enter_async_context(served(fleet))
        settings = Settings(upstream={"url": upstream}, redis={"url": redis.url, "timeout": 2.0})
        gateways = []
        for _ in range(2):
            app = create_app(settings)
            url = await stack.enter_async_context(served(ServerConfig(app, settings)))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
            gateways.append(Gateway(http, simulator, app))
        answers = await asyncio.gather(*(gateway.data(BRANDS) for gateway in gateways for _ in range(10)))
    assert {answer["fleet"]["vehicleCount"] for answer in answers} == {250}
    assert simulator.requests.total == 3
