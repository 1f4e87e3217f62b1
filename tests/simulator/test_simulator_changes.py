"""Changes of vehicles in the simulated API: bodies, versions, rights, and the alternatives that the vendor leaves open."""

from __future__ import annotations

import asyncio

import pytest

OTHER = {"Authorization": "Bearer fixed"}
CHANGE = {"master_data": {"remark": "clean"}}


async def vehicle(api, vehicle_id="JQ7RP", **headers):
    return (await api.get(f"/vehicles/{vehicle_id}", headers=headers)).json()


async def executions(api):
    return (await api.get("/__simulator/executions")).json()


async def test_a_change_sets_what_it_has_and_clears_what_is_null(api):
    """Absent members are unchanged; null clears; statuses are texts or objects and get the time of the change."""
    before = await vehicle(api)
    body = {
        "master_data": {"license_plate": "SI-IN 2026", "custom_name": None},
        "custom_fields": {"color": None, "towbar": True},
        "tags": ["clean", "clean"],
        "operation_status": "GARAGE",
        "rental_status": {"value": "NOT_IN_RENTAL"},
    }
    response = await api.patch("/vehicles/JQ7RP", json=body)
    after = response.json()
    assert response.status_code == 200
    assert after["master_data"] == before["master_data"] | body["master_data"]
    assert after["custom_fields"] == {"seats": "5", "towbar": True}
    assert after["tags"] == ["clean"]
    assert after["operation_status"] == {"value": "GARAGE", "modified_at": after["modified_at"]}
    assert after["rental_status"]["value"] == "NOT_IN_RENTAL"
    assert {name for name in before if before[name] != after[name]} == {*body, "modified_at"}
    assert await vehicle(api) == after
    assert (await api.get("/vehicles?limit=1")).json()["items"] == [after]
    assert (await api.get("/vehicles", params={"q": "SI-IN 2026"})).json()["items"] == [after]


async def test_null_clears_whole_members(api):
    """Master data becomes null throughout, custom fields and tags become empty."""
    cleared = (await api.patch("/vehicles/JQ7RP", json=dict.fromkeys(["master_data", "custom_fields", "tags"]))).json()
    assert set(cleared["master_data"].values()) == {None}
    assert (cleared["custom_fields"], cleared["tags"]) == ({}, [])


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"nope": 1}, 400, "/problems/validation-error"),
        ({"id": "OTHER"}, 400, "/problems/validation-error"),
        ({"latest_state": {}}, 400, "/problems/validation-error"),
        ({"master_data": {"gear_box": "MANUAL_SHIFT"}}, 400, "/problems/validation-error"),
        ({"master_data": {"license_plate": "X" * 31}}, 400, "/problems/validation-error"),
        ({"master_data": {"year_of_production": 2019}}, 400, "/problems/validation-error"),
        ({"master_data": []}, 400, "/problems/validation-error"),
        ({"custom_fields": {"seats": {}}}, 400, "/problems/validation-error"),
        ({"tags": "clean"}, 400, "/problems/validation-error"),
        ({"operation_status": "NOPE"}, 400, "/problems/validation-error"),
        ({"operation_status": None}, 400, "/problems/validation-error"),
        ({"operation_status": {"value": "GARAGE", "modified_at": "2026"}}, 400, "/problems/validation-error"),
        ([], 400, "/problems/validation-error"),
        ("text", 400, "/problems/validation-error"),
    ],
)
async def test_bodies_are_closed(api, body, status, kind):
    """An unknown property, a wrong type or a value that is too long is rejected, and changes nothing."""
    before = await vehicle(api)
    response = await api.patch("/vehicles/JQ7RP", json=body)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert await vehicle(api) == before
    assert (await executions(api))["total"] == 0


async def test_a_body_must_be_json(api, behave):
    """Other text is an invalid-json problem, another media type a 415 unless the behaviour permits it."""
    headers = {"Content-Type": "application/json"}
    broken = await api.patch("/vehicles/JQ7RP", content=b'{"tags": [', headers=headers)
    assert (broken.status_code, broken.json()["type"]) == (400, "/problems/invalid-json")
    untyped = {"content": b'{"tags": []}', "headers": {"Content-Type": "text/plain"}}
    assert (await api.patch("/vehicles/JQ7RP", **untyped)).status_code == 415
    await behave(media_type_required=False)
    assert (await api.patch("/vehicles/JQ7RP", **untyped)).status_code == 200


@pytest.mark.parametrize("form", ["strong", "weak"])
async def test_a_change_needs_the_present_version_if_it_names_one(api, behave, form):
    """If-Match with the vehicle's ETag changes it once; then it is a 412, with no change. `*` matches any version."""
    await behave(etag_form=form)
    tag = (await api.get("/vehicles/JQ7RP")).headers["ETag"]
    assert tag.startswith("W/") == (form == "weak")
    first = await api.patch("/vehicles/JQ7RP", json=CHANGE, headers={"If-Match": tag})
    assert first.headers["ETag"] == (await api.get("/vehicles/JQ7RP")).headers["ETag"] != tag
    second = await api.patch("/vehicles/JQ7RP", json={"tags": ["late"]}, headers={"If-Match": tag})
    assert (second.status_code, second.json()["type"]) == (412, "/problems/resource-modified")
    assert await vehicle(api) == first.json()
    assert (await api.patch("/vehicles/JQ7RP", json=CHANGE, headers={"If-Match": "*"})).status_code == 200
    assert (await executions(api))["by_kind"] == {"CHANGE": 2}


async def test_without_entity_tags_every_change_is_made(api, behave):
    """An API that supports no ETag sends none and ignores If-Match."""
    await behave(etags=False)
    response = await api.patch("/vehicles/JQ7RP", json=CHANGE, headers={"If-Match": '"other"'})
    assert (response.status_code, "ETag" in response.headers) == (200, False)


async def test_of_concurrent_changes_to_one_version_only_one_is_made(api):
    """The others are 412s; every version has its own ETag, however fast the changes are."""
    tags = set()
    for n in range(20):
        tag = (await api.get("/vehicles/JQ7RP")).headers["ETag"]
        tags.add(tag)
        answers = await asyncio.gather(
            *(api.patch("/vehicles/JQ7RP", json={"tags": [f"{n}{m}"]}, headers={"If-Match": tag}) for m in range(3))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
    assert len(tags) == 20


async def test_a_vin_is_unique_in_the_fleet(api):
    """Another vehicle's VIN is a conflict, one's own is not, and another fleet's is not."""
    theirs, own = [(await vehicle(api, each))["master_data"]["vin"] for each in ("K3WX8", "JQ7RP")]
    taken = await api.patch("/vehicles/JQ7RP", json={"master_data": {"vin": theirs}})
    assert (taken.status_code, taken.json()["type"]) == (409, "/problems/unique-identifier-already-exists")
    assert (await api.patch("/vehicles/JQ7RP", json={"master_data": {"vin": own}})).status_code == 200
    other = api.simulator.fleets["EXFL29"].ids[3]
    answer = await api.patch(f"/vehicles/{other}", json={"master_data": {"vin": own}}, headers=OTHER)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("token", "status", "kind"),
    [
        ("read-only", 403, "/problems/missing-permissions"),
        ("no-commands", 200, None),
        ("unknown", 401, "/problems/invalid-credentials"),
    ],
)
async def test_a_change_needs_the_right_to_write(api, token, status, kind):
    """A permission to read is not enough; a scope for commands is not needed."""
    own = api.simulator.fleets["EXFL29"].ids[3]
    response = await api.patch(f"/vehicles/{own}", json=CHANGE, headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, response.json().get("type")) == (status, kind)
    if status != 401:
        assert (await api.get(f"/vehicles/{own}", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_another_fleets_vehicle_can_not_be_changed(api):
    """It does not exist for the caller."""
    assert (await api.patch("/vehicles/JQ7RP", json=CHANGE, headers=OTHER)).status_code == 404


async def test_a_partner_reads_a_shared_vehicle_and_can_not_change_it(api):
    """Its owner can."""
    await api.post("/__simulator/fleets/T7K2M/vehicles/JQ7RP/sharing", json={"partner": "EXFL29"})
    response = await api.patch("/vehicles/JQ7RP", json=CHANGE, headers=OTHER)
    assert (response.status_code, response.json()["type"]) == (403, "/problems/forbidden-resource")
    assert (await api.patch("/vehicles/JQ7RP", json=CHANGE)).status_code == 200
    assert (await vehicle(api, **OTHER))["master_data"]["remark"] == "clean"


async def test_the_method_is_a_behaviour(api, behave):
    """Either PATCH or PUT exists."""
    assert (await api.put("/vehicles/JQ7RP", json=CHANGE)).status_code == 405
    await behave(edit_method="PUT")
    assert (await api.patch("/vehicles/JQ7RP", json=CHANGE)).status_code == 405
    assert (await api.put("/vehicles/JQ7RP", json=CHANGE)).json()["master_data"]["remark"] == "clean"


async def test_statuses_can_have_paths_of_their_own(api, behave):
    """They are then unknown in the vehicle's own body; without the behaviour there is no such path."""
    path, body = "/vehicles/JQ7RP/operation-status", {"value": "GARAGE"}
    assert (await api.patch(path, json=body)).status_code == 404
    await behave(sub_resources=["operation_status", "master_data"])
    tag = (await api.get("/vehicles/JQ7RP")).headers["ETag"]
    assert (await api.patch(path, json=body, headers={"If-Match": tag})).json()["operation_status"]["value"] == "GARAGE"
    assert (await api.patch(path, json=body, headers={"If-Match": tag})).status_code == 412
    assert (await api.patch("/vehicles/JQ7RP", json={"operation_status": "GARAGE"})).status_code == 400
    data = await api.patch("/vehicles/JQ7RP/master-data", json={"remark": "clean"})
    assert data.json()["master_data"]["remark"] == "clean"
    assert (await executions(api))["by_kind"] == {"CHANGE": 2}


@pytest.mark.parametrize(
    ("behaviours", "rejected", "accepted"),
    [
        ({"body_wrapper": True}, CHANGE, {"vehicle": CHANGE}),
        ({"status_form": "text"}, {"rental_status": {"value": "IN_RENTAL"}}, {"rental_status": "IN_RENTAL"}),
        ({"status_form": "object"}, {"rental_status": "IN_RENTAL"}, {"rental_status": {"value": "IN_RENTAL"}}),
        (
            {"early_names": True},
            {"master_data": {"transmission": "MANUAL"}},
            {"master_data": {"gear_box": "MANUAL_SHIFT"}},
        ),
    ],
    ids=lambda value: "",
)
async def test_the_form_of_a_body_is_a_behaviour(api, behave, behaviours, rejected, accepted):
    """One form is accepted, the other is a validation error."""
    await behave(**behaviours)
    assert (await api.patch("/vehicles/JQ7RP", json=rejected)).status_code == 400
    response = await api.patch("/vehicles/JQ7RP", json=accepted)
    assert response.status_code == 200
    if "early_names" in behaviours:
        assert response.json()["master_data"]["gear_box"] == "MANUAL_SHIFT"


async def test_a_change_can_be_answered_without_a_body(api, behave):
    """A 204 with the new ETag."""
    await behave(write_answers="empty")
    response = await api.patch("/vehicles/JQ7RP", json=CHANGE)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["ETag"] == (await api.get("/vehicles/JQ7RP")).headers["ETag"]


async def test_executed_changes_are_counted_by_vehicle_kind_and_key(api):
    """The key is that of the Idempotency-Key, or the request id; counts are reset over HTTP."""
    for headers in ({"Idempotency-Key": "k1"}, {"Idempotency-Key": "k1"}, {"X-Request-Id": "r1"}, {}):
        await api.patch("/vehicles/JQ7RP", json=CHANGE, headers=headers)
    counted = await executions(api)
    assert (counted["total"], counted["by_vehicle"]) == (4, {"JQ7RP": 4})
    assert counted["by_vehicle_and_kind"] == {"JQ7RP CHANGE": 4}
    assert counted["by_key"] == {"k1": 2, "r1": 1}
    assert counted["log"][0] == {
        "kind": "CHANGE",
        "vehicle": "JQ7RP",
        "key": "k1",
        "client": "T7K2M#cl1",
        "body": CHANGE,
    }
    requests = (await api.get("/__simulator/requests")).json()
    assert (requests["by_method"], requests["by_path"]) == ({"PATCH": 4}, {"PATCH /vehicles/{id}": 4})
    await api.delete("/__simulator/executions")
    assert (await executions(api))["total"] == 0
