"""The synthetic fleet responds to the benchmarks' operations as the fleet API would."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.made_fleet import made_fleet, vehicle_id
from benchmarks.operations import OPERATIONS
from gateway.app import create_app
from gateway.settings import Settings
from tests.gateways import Gateway

FORWARD = """query($c: String) { vehicles(first: 60, after: $c) {
  nodes { vehicleId } pageInfo { hasNextPage endCursor } } }"""
BACKWARD = """query($c: String) { vehicles(last: 60, before: $c) {
  nodes { vehicleId } pageInfo { hasPreviousPage startCursor } } }"""
VEHICLE = """query($id: ID!) { vehicle(id: $id) {
  vehicleId masterData { vin } telematicsUnit { unitId } latestState { position { value { lat } } } } }"""


@pytest.fixture
async def gateway_and_fleet():
    """A gateway over a synthetic fleet of 250 vehicles, and that fleet."""
    with made_fleet(250) as fleet:
        app = create_app(Settings(upstream={"url": fleet.url}, cache={"enabled": False}))
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test")
        async with app.lifespan(), http:
            yield Gateway(http, None, None), fleet


@pytest.mark.parametrize(
    ("query", "more", "cursor", "pages"),
    [
        (FORWARD, "hasNextPage", "endCursor", lambda before, page: before + page),
        (BACKWARD, "hasPreviousPage", "startCursor", lambda before, page: page + before),
    ],
    ids=["forward", "backward"],
)
async def test_the_synthetic_fleet_can_be_paged_through(gateway_and_fleet, query, more, cursor, pages):
    """Every vehicle comes once and in order, from either end."""
    gateway, _ = gateway_and_fleet
    found, at = [], None
    while True:
        page = (await gateway.data(query, by="any-token", c=at))["vehicles"]
        found = pages(found, [node["vehicleId"] for node in page["nodes"]])
        if not page["pageInfo"][more]:
            break
        at = page["pageInfo"][cursor]
    assert found == [vehicle_id(number) for number in range(1, 251)]


async def test_a_synthetic_vehicle_is_read_by_its_id(gateway_and_fleet):
    """Each id gives its vehicle, an id beyond the last gives none, and each read is counted."""
    gateway, fleet = gateway_and_fleet
    vehicles = [(await gateway.data(VEHICLE, by="any-token", id=vehicle_id(n)))["vehicle"] for n in (1, 250, 251)]
    assert [one and one["vehicleId"] for one in vehicles] == ["V0000001", "V0000250", None]
    assert vehicles[0]["masterData"]["vin"] != vehicles[1]["masterData"]["vin"]
    assert vehicles[0]["latestState"]["position"] is not None
    assert fleet.calls() == 3


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_canonical_operation_takes_known_calls(gateway_and_fleet, name):
    """Each benchmark operation has a complete response, and makes the upstream calls that its floor makes."""
    gateway, fleet = gateway_and_fleet
    headers = {"Content-Type": "application/json", "Authorization": "Bearer any-token"}
    body = OPERATIONS[name].body.first_request(250)
    answer = (await gateway.http.post("/graphql", content=body, headers=headers)).json()
    assert "errors" not in answer
    assert None not in answer["data"].values()
    assert None not in (answer["data"].get("nodes") or answer["data"].get("_entities") or [])
    # For a hundred vehicles a fleet as small as this is scanned, in three pages.
    assert fleet.calls() == {"page": 1, "whole": 1, "nodes": 15, "aliases": 15, "entities": 3, "vehicle": 1}[name]
