"""Vehicles by id that are decoded with a field mask: each reader gets its fields, and nothing is read twice."""

from __future__ import annotations

import asyncio

import pytest

from gateway.schema.global_ids import vehicle_global_id

BRAND = "{ vehicleId masterData { brand } }"
PLATE = "{ vehicleId masterData { licensePlate } telematicsUnit { unitId } }"
BY_ID = {
    "vehicle": lambda one, fields: f'vehicle(id: "{one}") {fields}',
    "node": lambda one, fields: f'node(id: "{vehicle_global_id(one)}") {{ ... on Vehicle {fields} }}',
    "nodes": lambda one, fields: f'nodes(ids: ["{vehicle_global_id(one)}"]) {{ ... on Vehicle {fields} }}',
    "entities": lambda one, fields: (
        f'_entities(representations: [{{__typename: "Vehicle", vehicleId: "{one}"}}]) {{ ... on Vehicle {fields} }}'
    ),
}


def only(value):
    return value[0] if isinstance(value, list) else value


@pytest.mark.parametrize("way", BY_ID)
async def test_an_error_under_a_field_mask_takes_no_other_call(gateway, way):
    """An invalid time is an error at its field, by the generic executor, from the response that was already read."""
    fleet = gateway.simulator.fleets["T7K2M"]
    one = fleet.ids[0]
    brand = fleet.vehicle(one)["master_data"]["brand"]
    fleet.vehicle(one)["last_contact_at"] = "yesterday"
    answer = await gateway.ask(f"{{ it: {BY_ID[way](one, '{ vehicleId lastContactAt masterData { brand } }')} }}")
    assert only(answer["data"]["it"]) == {
        "vehicleId": one, "lastContactAt": None, "masterData": {"brand": brand},
    }  # fmt: skip
    assert len(answer["errors"]) == 1
    assert gateway.simulator.requests.total == 1


@pytest.mark.parametrize("way", BY_ID)
async def test_a_member_of_a_wrong_type_is_left_out_alone(gateway, way):
    """A number where a text should be drops that member, not the vehicle."""
    fleet = gateway.simulator.fleets["T7K2M"]
    one = fleet.ids[0]
    plate = fleet.vehicle(one)["master_data"]["license_plate"]
    fleet.edit(one, brand=7)
    data = await gateway.data(f"{{ it: {BY_ID[way](one, '{ masterData { brand licensePlate } }')} }}")
    assert only(data["it"]) == {"masterData": {"brand": None, "licensePlate": plate}}


@pytest.mark.parametrize("way", BY_ID)
async def test_one_vehicle_with_two_selections_is_read_once(start, way):
    """Different selections of one vehicle in one operation, by two root fields or by one, are one call."""
    gateway = await start(coalescing__enabled=False)
    one = gateway.simulator.fleets["T7K2M"].ids[0]
    asked = f"{{ a: {BY_ID[way](one, BRAND)} b: {BY_ID['vehicle'](one, PLATE)} c: {BY_ID[way](one, PLATE)} }}"
    data = await gateway.data(asked)
    assert only(data["c"]) == data["b"]
    assert only(data["a"])["vehicleId"] == one
    assert gateway.simulator.requests.total == 1


async def test_callers_that_share_a_call_each_get_their_selection(gateway):
    """One call, three selections: each caller gets the fields that it selected."""
    gateway.fault("latency", seconds=0.2)
    one = gateway.simulator.fleets["T7K2M"].ids[0]
    whole = "{ vehicleId masterData { brand licensePlate } telematicsUnit { unitId } }"
    brand, plate, all_of_it = await asyncio.gather(
        *(gateway.data(f"{{ {BY_ID['vehicle'](one, fields)} }}") for fields in (BRAND, PLATE, whole))
    )
    assert gateway.simulator.requests.total == 1
    vehicle = all_of_it["vehicle"]
    assert brand["vehicle"] == {"vehicleId": one, "masterData": {"brand": vehicle["masterData"]["brand"]}}
    assert plate["vehicle"] == {
        "vehicleId": one,
        "masterData": {"licensePlate": vehicle["masterData"]["licensePlate"]},
        "telematicsUnit": vehicle["telematicsUnit"],
    }
