"""Vehicles that are added, archived and shared in the simulated API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import Behaviours, Fleet, list_page
from tests.waiting import eventually

OTHER = {"Authorization": "Bearer fixed"}
READ_ONLY = {"Authorization": "Bearer read-only"}
CREDENTIALS = "01HX0000000000000000000000"


async def new_vehicle(api, brand="CLOUDBOXX", **members):
    """The body that adds a vehicle of the first model of a brand."""
    models = (await api.get(f"/telematics-brands/{brand}/available-vehicle-models")).json()["items"]
    body = {"telematics_brand": brand, "telematics_unit_id": "38429DA427AB7C99", "vehicle_model_id": models[0]["id"]}
    return body | members


async def listed(api, **headers):
    return [item["id"] for item in (await api.get("/vehicles", headers=headers)).json()["items"]]


async def kinds(api):
    return (await api.get("/__simulator/executions")).json()["by_kind"]


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def test_models_are_listed_by_telematics_brand(api):
    """Each has an id, what it is, and its capabilities; an unknown brand is a 404."""
    models = (await api.get("/telematics-brands/CLOUDBOXX/available-vehicle-models", headers=READ_ONLY)).json()["items"]
    assert len({model["id"] for model in models}) == len(models) > 3
    assert {len(model["id"]) for model in models} == {26}
    assert "INVERS" in {model["vehicle_brand"] for model in models}
    assert "UNLOCK_CENTRAL_LOCK" in models[0]["capabilities"]["commands"]
    assert (await api.get("/telematics-brands/NOPE/available-vehicle-models")).status_code == 404


async def test_a_new_vehicle_runs_through_its_setup(api, behave):
    """Until then it has no state and rejects commands; afterwards it takes them. It is listed from the start."""
    await behave(setup_seconds=0.2)
    body = await new_vehicle(api, master_data={"license_plate": "SI-IN 1"}, tags=["new"], custom_fields={"seats": 4})
    response = await api.post("/vehicles", json=body)
    vehicle = response.json()
    assert (response.status_code, response.headers["Location"]) == (201, f"/vehicles/{vehicle['id']}")
    assert (vehicle["master_data"], vehicle["tags"]) == ({"license_plate": "SI-IN 1"}, ["new"])
    assert vehicle["custom_fields"] == {"seats": 4}
    assert vehicle["operation_status"]["value"] == "OPERATING"
    assert vehicle["telematics_unit"]["id"] == body["telematics_unit_id"]
    assert vehicle["vehicle_model_id"] == body["vehicle_model_id"]
    assert (vehicle["setup_status"]["value"], vehicle["latest_state"]) == ("IN_PROGRESS", {})
    assert (await listed(api))[-1] == vehicle["id"]
    command = f"/vehicles/{vehicle['id']}/commands/enable-driving"
    rejected = await api.post(command)
    assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/vehicle/conflicting-setup-status")
    fleet = api.simulator.fleets["T7K2M"]

    def set_up() -> bool:
        fleet.advance(datetime.now(UTC).timestamp())
        return fleet.vehicle(vehicle["id"])["setup_status"]["value"] == "SUCCEEDED"

    await eventually(set_up)
    after = await api.get(f"/vehicles/{vehicle['id']}")
    assert after.json()["latest_state"]["position"]
    assert after.headers["ETag"] != response.headers["ETag"]
    assert (await api.post(command)).json()["driving_enabled"]["value"] is True
    assert await kinds(api) == {"ADD": 1, "ENABLE_DRIVING": 1}


async def test_a_setup_can_fail(api, behave):
    """Commands are then rejected for good."""
    await behave(setup_seconds=0, setup_result="FAILED")
    vehicle_id = (await api.post("/vehicles", json=await new_vehicle(api))).json()["id"]
    vehicle = (await api.get(f"/vehicles/{vehicle_id}")).json()
    assert (vehicle["setup_status"]["value"], vehicle["latest_state"]) == ("FAILED", {})
    assert (await api.post(f"/vehicles/{vehicle_id}/commands/enable-driving")).status_code == 409


@pytest.mark.parametrize(
    ("brand", "members", "status", "kind"),
    [
        ("CLOUDBOXX", {"nope": 1}, 400, "/problems/validation-error"),
        ("CLOUDBOXX", {"rental_status": "IN_RENTAL"}, 400, "/problems/validation-error"),
        ("CLOUDBOXX", {"telematics_unit_id": None}, 400, "/problems/validation-error"),
        ("CLOUDBOXX", {"operation_status": "NOPE"}, 400, "/problems/validation-error"),
        ("CLOUDBOXX", {"vehicle_model_id": CREDENTIALS}, 400, "/problems/referenced-resource-not-found"),
        ("CLOUDBOXX", {"telematics_brand": "NOPE"}, 400, "/problems/referenced-resource-not-found"),
        ("CLOUDBOXX", {"telematics_unit_id": "38429DA427AB7C25"}, 409, "/problems/conflicting-resource"),
        (
            "CLOUDBOXX",
            {"master_data": {"vin": "WAUZZZGY4NA012345"}},
            409,
            "/problems/unique-identifier-already-exists",
        ),
        ("TESLA", {}, 400, "/problems/validation-error"),
        ("TESLA", {"credentials_id": "unknown"}, 400, "/problems/referenced-resource-not-found"),
        ("TESLA", {"credentials_id": CREDENTIALS, "password": "1"}, 400, "/problems/validation-error"),
        (
            "TESLA",
            {"password": "1", "telematics_unit_id": "UNKNOWN1"},
            400,
            "/problems/referenced-resource-not-found",
        ),
        ("TESLA", {"password": "1"}, 201, None),
        ("TESLA", {"credentials_id": CREDENTIALS}, 201, None),
    ],
)
async def test_a_new_vehicle_is_checked(api, brand, members, status, kind):
    """Closed bodies, known models and units, unique VINs and units, and credentials for the makers' units."""
    size = len(await listed(api))
    response = await api.post("/vehicles", json=await new_vehicle(api, brand, **members))
    assert (response.status_code, response.json().get("type")) == (status, kind)
    assert len(await listed(api)) == size + (status == 201)
    assert "password" not in (await api.get("/__simulator/executions")).text


async def test_the_unit_of_a_new_vehicle_can_be_nested(api, behave):
    """By the behaviour."""
    body = await new_vehicle(api)
    nested = {"vehicle_model_id": body["vehicle_model_id"], "telematics_unit": {"brand": "CLOUDBOXX", "id": "1"}}
    assert (await api.post("/vehicles", json=nested)).status_code == 400
    await behave(unit_form="nested", write_answers="empty")
    assert (await api.post("/vehicles", json=body)).status_code == 400
    response = await api.post("/vehicles", json=nested)
    assert (response.status_code, response.content) == (201, b"")
    assert (await api.get(response.headers["Location"])).json()["telematics_unit"]["id"] == "1"


async def test_adding_and_archiving_need_their_own_right(api, behave):
    """By default the one for the vehicle lifecycle; a behaviour makes it the one to change vehicles."""
    own, changer = api.simulator.fleets["EXFL29"].ids[3], {"Authorization": "Bearer no-commands"}
    body = await new_vehicle(api)
    assert (await api.post("/vehicles", json=body, headers=changer)).status_code == 403
    assert (await api.delete(f"/vehicles/{own}", headers=changer)).status_code == 403
    await behave(lifecycle_right="vehicles")
    assert (await api.post("/vehicles", json=body, headers=changer)).status_code == 201
    assert (await api.delete(f"/vehicles/{own}", headers=changer)).status_code == 204
    assert (await api.post("/vehicles", json=body, headers=READ_ONLY)).status_code == 403


async def test_an_archived_vehicle_is_gone(api, behave):
    """From lists and by id, unless a behaviour keeps it readable; it can't be changed any more."""
    tag = (await api.get("/vehicles/JQ7RP")).headers["ETag"]
    await api.patch("/vehicles/JQ7RP", json={"tags": []})
    assert (await api.delete("/vehicles/JQ7RP", headers={"If-Match": tag})).status_code == 412
    assert (await api.delete("/vehicles/JQ7RP")).status_code == 204
    assert (await api.delete("/vehicles/JQ7RP")).status_code == 404
    assert (await api.get("/vehicles/JQ7RP")).status_code == 404
    assert "JQ7RP" not in await listed(api)
    await behave(archived_vehicles="readable")
    assert (await api.get("/vehicles/JQ7RP")).json()["status"] == "ARCHIVED_VEHICLE"
    assert (await api.patch("/vehicles/JQ7RP", json={"tags": []})).status_code == 404
    assert await kinds(api) == {"CHANGE": 1, "ARCHIVE": 1}


async def test_the_path_of_archiving_is_a_behaviour(api, behave):
    """DELETE of the vehicle, or a POST."""
    assert (await api.post("/vehicles/JQ7RP/archive")).status_code == 405
    await behave(archive_path="post")
    assert (await api.delete("/vehicles/JQ7RP")).status_code == 405
    assert (await api.post("/vehicles/JQ7RP/archive")).status_code == 204


async def test_a_vehicle_is_shared_with_a_partner(api):
    """The partner's list has it until the sharing is ended; both see who shares it with whom and until when."""
    partners = (await api.get("/sharing-partners")).json()["items"]
    assert partners == [
        {"fleet_id": "EXFL29", "name": "Fleet EXFL29"},
        {"fleet_id": "PARTN", "name": "Fleet PARTN"},
    ]
    body = {"partner": {"fleet_id": "EXFL29"}, "ends_at": soon(3600)}
    response = await api.post("/vehicles/JQ7RP/sharing", json=body)
    sharing = response.json()["sharing"]
    assert response.status_code == 200
    assert (sharing["owner"]["fleet_id"], sharing["partner"]) == ("T7K2M", partners[0])
    assert (await api.get("/vehicles/JQ7RP", headers=OTHER)).json()["sharing"] == sharing
    assert (await listed(api, **OTHER))[-1] == "JQ7RP"
    for again in (api.post("/vehicles/JQ7RP/sharing", json=body), api.delete("/vehicles/JQ7RP")):
        rejected = await again
        assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/vehicle/shared-with-partner")
    assert (await api.delete("/vehicles/JQ7RP/sharing", headers=OTHER)).status_code == 403
    assert (await api.delete("/vehicles/JQ7RP", headers=OTHER)).status_code == 403
    assert (await api.delete("/vehicles/JQ7RP/sharing")).json()["sharing"] is None
    assert (await api.delete("/vehicles/JQ7RP/sharing")).status_code == 409
    assert "JQ7RP" not in await listed(api, **OTHER)
    assert await kinds(api) == {"SHARE": 1, "END_SHARING": 1}


async def test_a_sharing_begins_and_ends_at_its_times(api):
    """Before and after it the partner has no access, and the owner can send commands."""
    starts_at, ends_at = soon(0.3), soon(0.8)
    body = {"partner_fleet_id": "EXFL29", "starts_at": starts_at, "ends_at": ends_at}
    assert (await api.post("/vehicles/JQ7RP/sharing", json=body)).status_code == 200
    fleets, unlock = api.simulator.fleets, "/vehicles/JQ7RP/commands/unlock-central-lock"

    def shared() -> bool:
        fleets["T7K2M"].advance(datetime.now(UTC).timestamp())
        return "JQ7RP" in fleets["EXFL29"]

    if soon(0) < starts_at:
        assert (await api.post(unlock)).status_code == 200
    await eventually(shared)
    if soon(0) < ends_at:
        assert (await api.post(unlock)).status_code == 409
    await eventually(lambda: not shared())
    assert (await api.post(unlock)).status_code == 200
    assert (await api.get("/vehicles/JQ7RP")).json()["sharing"] is None


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({}, 400, "/problems/validation-error"),
        ({"partner_fleet_id": "NOPE"}, 400, "/problems/referenced-resource-not-found"),
        ({"partner_fleet_id": "T7K2M"}, 400, "/problems/referenced-resource-not-found"),
        ({"partner_fleet_id": "EXFL29", "nope": 1}, 400, "/problems/validation-error"),
        ({"partner_fleet_id": "EXFL29", "ends_at": "2020-01-01T00:00:00Z"}, 400, "/problems/validation-error"),
        ({"partner_fleet_id": "EXFL29", "ends_at": "tomorrow"}, 400, "/problems/validation-error"),
        ({"partner_fleet_id": "EXFL29", "ends_at": "2090-01-01T00:00:00"}, 400, "/problems/validation-error"),
        ({"partner_fleet_id": "EXFL29", "starts_at": 5}, 400, "/problems/validation-error"),
        ({"partner_fleet_id": "PARTN"}, 200, None),
    ],
)
async def test_a_sharing_is_checked(api, body, status, kind):
    """Closed bodies, known partners, and times in UTC that make sense."""
    response = await api.post("/vehicles/JQ7RP/sharing", json=body)
    assert (response.status_code, response.json().get("type")) == (status, kind)


async def test_the_forms_of_sharing_are_behaviours(api, behave):
    """How the partner is named, and how a sharing is ended."""
    nested, flat = {"partner": {"fleet_id": "PARTN"}}, {"partner_fleet_id": "PARTN"}
    await behave(partner_form="nested", end_sharing_path="post")
    assert (await api.post("/vehicles/JQ7RP/sharing", json=flat)).status_code == 400
    assert (await api.post("/vehicles/JQ7RP/sharing", json=nested)).status_code == 200
    assert (await api.delete("/vehicles/JQ7RP/sharing")).status_code == 405
    assert (await api.post("/vehicles/JQ7RP/sharing/end")).status_code == 200
    await behave(partner_form="flat", end_sharing_path="none")
    assert (await api.post("/vehicles/JQ7RP/sharing", json=nested)).status_code == 400
    assert (await api.post("/vehicles/JQ7RP/sharing", json=flat)).status_code == 200
    assert (await api.post("/vehicles/JQ7RP/sharing/end")).status_code == 405


@given(
    st.integers(5, 40),
    st.integers(1, 7),
    st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=20),
    st.sampled_from(["stable", "fresh"]),
)
def test_pages_have_every_vehicle_that_stays_once(size, limit, changes, tokens):
    """While vehicles are added and archived between the pages, in the order of their creation."""
    fleet, behaviours = Fleet("T7K2M", size), Behaviours(cursor_tokens=tokens)
    before, seen, cursor = list(fleet.ids), [], None
    while True:
        ids, members = list_page(fleet, behaviours, limit=limit, cursor=cursor)
        seen += ids
        cursor = members["cursors"]["next"]
        if cursor is None:
            break
        if changes:
            adds, at = changes.pop()
            if adds or not len(fleet):
                fleet.add({}, at % 11, 0.0, "SUCCEEDED")
            else:
                fleet.archive(fleet.ids[at % len(fleet)])
    assert len(seen) == len(set(seen))
    stayed = [vehicle_id for vehicle_id in before if vehicle_id in fleet]
    assert [vehicle_id for vehicle_id in seen if vehicle_id in stayed] == stayed
