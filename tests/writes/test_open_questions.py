"""Mutations over the answers that the fleet API may give where its documents are silent."""

from __future__ import annotations

import pytest

from gateway.simulator import Behaviours
from tests.writes.mutations import document, mutation

UPDATE = {"vehicleId": "JQ7RP", "tags": ["new"], "masterData": {"remark": "new"}}
STATE = "latestState { centralLock { value } position { value { lat } } mileageInKilometers { value } }"


@pytest.fixture
async def gateway(start):
    """A gateway with all writes and a cache."""
    return await start(writes="all", cache__enabled=True, cache__vehicle_ttl=60, cache__latest_state_ttl=60)


def behave(gateway, **behaviours):
    gateway.simulator.behaviours = Behaviours(rate_limit_requests=0, **behaviours)


async def write(gateway, name, **members):
    return (await gateway.data(document(mutation(name, **members))))[name]


@pytest.mark.parametrize(
    "behaviours",
    [{}, {"write_answers": "empty"}, {"etags": False}, {"etag_form": "weak"}, {"media_type_required": True}],
    ids=str,
)
async def test_a_change_returns_the_vehicle_as_it_is(gateway, behaviours):
    """Also if the response has no body, no ETag or a weak one; with an ETag the next change can be based on it."""
    behave(gateway, **behaviours)
    before = (await gateway.data('{ vehicle(id: "JQ7RP") { version tags } }'))["vehicle"]
    assert (before["version"] is None) == (behaviours.get("etags") is False)
    payload = await write(gateway, "updateVehicle", **UPDATE)
    assert (payload["outcome"], payload["userErrors"]) == ("EXECUTED", [])
    assert payload["vehicle"]["tags"] == ["new"]
    if before["version"] is None:
        return
    stale = await write(gateway, "updateVehicle", vehicleId="JQ7RP", tags=["stale"], ifVersion=before["version"])
    assert [error["code"] for error in stale["userErrors"]] == ["CONFLICT"]
    assert stale["vehicle"] == payload["vehicle"]
    version = payload["vehicle"]["version"]
    fresh = await write(gateway, "updateVehicle", vehicleId="JQ7RP", tags=["fresh"], ifVersion=version)
    assert fresh["vehicle"]["tags"] == ["fresh"]


@pytest.mark.parametrize("state", ["full", "changed", "empty"])
async def test_a_command_returns_the_whole_state(gateway, state):
    """Also if the response has only the changed values, or none: no value is lost in what clients keep."""
    behave(gateway, command_state=state)
    query = f'{{ vehicle(id: "JQ7RP") {{ {STATE} }} }}'
    before = (await gateway.data(query))["vehicle"]["latestState"]
    text = document(mutation("sendVehicleCommand", vehicleId="JQ7RP", command="LOCK_CENTRAL_LOCK"))
    text = text.replace("latestState { centralLock { value } }", STATE)
    payload = (await gateway.data(text))["sendVehicleCommand"]
    assert payload["outcome"] == "EXECUTED"
    assert payload["vehicle"]["latestState"] == before | {"centralLock": {"value": "LOCKED"}}
    assert (await gateway.data(query))["vehicle"]["latestState"] == payload["vehicle"]["latestState"]


@pytest.mark.parametrize("answers", ["vehicle", "empty"])
async def test_vehicles_that_come_and_go(gateway, answers):
    """Adding, sharing and archiving are executed, whether or not the responses have bodies."""
    behave(gateway, write_answers=answers, setup_seconds=0)
    models = await gateway.data('{ availableVehicleModels(telematicsBrand: "CLOUDBOXX") { modelId } }')
    model = models["availableVehicleModels"][0]["modelId"]
    unit = {"telematicsBrand": "CLOUDBOXX", "telematicsUnitId": "UNIT1", "vehicleModelId": model}
    added = await write(gateway, "addVehicle", **unit)
    assert (added["outcome"], added["userErrors"]) == ("EXECUTED", [])
    if answers == "vehicle":
        assert added["vehicle"]["vehicleId"] == gateway.simulator.fleets["T7K2M"].ids[-1]
    partners = (await gateway.data("{ sharingPartners { fleetId } }"))["sharingPartners"]
    assert [partner["fleetId"] for partner in partners] == ["EXFL29", "PARTN"]
    shared = await write(gateway, "shareVehicle", vehicleId="JQ7RP", partnerFleetId="EXFL29")
    assert (shared["outcome"], shared["userErrors"]) == ("EXECUTED", [])
    assert shared["vehicle"]["sharing"] == {"partner": {"fleetId": "EXFL29"}}
    archived = await write(gateway, "archiveVehicle", vehicleId="K3WX8")
    assert (archived["outcome"], archived["vehicleId"]) == ("EXECUTED", "K3WX8")
    assert (await gateway.data('{ vehicle(id: "K3WX8") { vehicleId } }'))["vehicle"] is None
