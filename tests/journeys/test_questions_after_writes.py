"""Filters and totals after writes: the vehicle that was changed is read again, and no other."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import create_app
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Behaviours, Fault, Simulator
from tests.gateways import PLANS, Gateway, served

CLEAN = """{ fleet { vehicleCount } vehicles(where: { tags: { any: ["just cleaned"] } }) {
  totalCount nodes { vehicleId tags } } }"""
UPDATE = """mutation($input: UpdateVehicleInput!) {
  updateVehicle(input: $input) { outcome vehicle { vehicleId tags } userErrors { code } } }"""
ADD = "mutation($input: AddVehicleInput!) { addVehicle(input: $input) { outcome vehicle { vehicleId } userErrors { code } } }"
ARCHIVE = "mutation($input: ArchiveVehicleInput!) { archiveVehicle(input: $input) { outcome userErrors { code } } }"


@pytest.fixture
async def gateways(redis):
    """Two gateways over one fleet API and one Redis, both with a fresh index of alice's fleet."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    async with AsyncExitStack() as stack:
        fleet = uvicorn.Config(simulator.app, log_level="critical", access_log=False)
        upstream = await stack.enter_async_context(served(fleet))
        settings = Settings(upstream={"url": upstream}, redis={"url": redis.url, "timeout": 2.0}, writes="all")
        made = []
        for _ in range(2):
            app = create_app(settings)
            url = await stack.enter_async_context(served(ServerConfig(app, settings)))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
            made.append(Gateway(http, simulator, app))
        for gateway in made:
            assert (await gateway.data(CLEAN))["vehicles"]["totalCount"] == 0
        yield made


async def asked(gateway: Gateway) -> tuple[Any, int]:
    """The answer of a gateway, and the upstream calls for it."""
    before = gateway.simulator.requests.total
    return await gateway.data(CLEAN), gateway.simulator.requests.total - before


async def test_a_change_is_in_the_next_answer_of_each_process(gateways):
    """For one read of the vehicle; the rest of the index stays."""
    payload = await gateways[0].data(
        UPDATE, input={"vehicleId": "JQ7RP", "idempotencyKey": "k", "tags": ["just cleaned"]}
    )
    assert payload["updateVehicle"]["outcome"] == "EXECUTED"
    for gateway in reversed(gateways):
        answer, calls = await asked(gateway)
        assert answer["vehicles"] == {"totalCount": 1, "nodes": [{"vehicleId": "JQ7RP", "tags": ["just cleaned"]}]}
        assert calls <= 1
        assert (await asked(gateway))[1] == 0


async def test_added_and_archived_vehicles_are_counted(gateways):
    """In both processes, without a scan once the id is known."""
    brands = '{ availableVehicleModels(telematicsBrand: "CLOUDBOXX") { modelId } }'
    model = (await gateways[0].data(brands))["availableVehicleModels"][0]["modelId"]
    given = {
        "telematicsBrand": "CLOUDBOXX",
        "telematicsUnitId": "38429DA427AB0001",
        "vehicleModelId": model,
        "idempotencyKey": "a",
    }
    added = (await gateways[0].data(ADD, input=given))["addVehicle"]
    assert (added["outcome"], added["userErrors"]) == ("EXECUTED", [])
    for gateway in reversed(gateways):
        assert (await asked(gateway))[0]["fleet"]["vehicleCount"] == 251
    vehicle_id = added["vehicle"]["vehicleId"]
    archived = await gateways[1].data(ARCHIVE, input={"vehicleId": vehicle_id, "idempotencyKey": "b"})
    assert archived["archiveVehicle"]["outcome"] == "EXECUTED"
    for gateway in gateways:
        answer, calls = await asked(gateway)
        assert answer["fleet"]["vehicleCount"] == 250
        assert calls <= 1


async def test_an_unknown_outcome_is_read_again(gateways):
    """The fleet API carries a change out, but its answer is lost: the next answers have the change."""
    simulator = gateways[0].simulator
    simulator.faults.rules.append(Fault("drop", path="/vehicles/JQ7RP", times=1, executed=True))
    payload = await gateways[0].data(
        UPDATE, input={"vehicleId": "JQ7RP", "idempotencyKey": "k", "tags": ["just cleaned"]}
    )
    assert payload["updateVehicle"]["outcome"] == "UNKNOWN"
    for gateway in gateways:
        assert (await asked(gateway))[0]["vehicles"]["totalCount"] == 1
