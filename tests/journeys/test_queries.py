"""A front end reads a fleet: vehicles, units, state, by list and by id."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from graphql import GraphQLList, GraphQLNonNull, GraphQLObjectType, get_named_type

from gateway.schema.build import build_schema, without_federation
from gateway.schema.global_ids import vehicle_global_id
from gateway.simulator import Behaviours
from tests.effort import thorough_only

README = Path("README.md")
QUERIES = sorted(Path("docs/queries").glob("*.graphql"))


def everything(named: str, without: frozenset[str] = frozenset()) -> str:
    """A selection of every field of a type, down to the leaves, without recursion."""
    fields = []
    for name, field in build_schema().core.get_type(named).fields.items():
        inner = get_named_type(field.type)
        if isinstance(inner, GraphQLObjectType):
            if inner.name not in without:
                fields.append(f"{name} {{ {everything(inner.name, without | {named})} }}")
        else:
            fields.append(name)
    return " ".join(fields)


# Without the version, which takes an upstream call for each vehicle of a list.
ALL_OF_A_VEHICLE = everything("Vehicle").replace(" version ", " ", 1)
ALL_OF_A_UNIT = everything("TelematicsUnit")


@pytest.mark.parametrize(
    "behaviours",
    [
        {"extended_state": True},
        {"latest_state_in_list": "missing"},
        pytest.param({}, marks=thorough_only),
        pytest.param({"early_names": True}, marks=thorough_only),
        pytest.param({"latest_state_in_list": "empty"}, marks=thorough_only),
    ],
    ids=str,
)
async def test_every_field_of_every_vehicle_resolves_without_an_error(start, behaviours):
    """All fields of the schema, over all odd vehicles of the simulator, under each behaviour."""
    gateway = await start(behaviours=Behaviours(rate_limit_requests=0, **behaviours))
    query = f"{{ vehicles(first: 300) {{ edges {{ cursor node {{ {everything('Vehicle')} }} }} nodes {{ id }} pageInfo {{ {everything('PageInfo')} }} }} }}"
    vehicles = (await gateway.data(query))["vehicles"]
    assert [edge["node"]["vehicleId"] for edge in vehicles["edges"]] == gateway.simulator.fleets["T7K2M"].ids
    query = f"{{ telematicsUnits(first: 300) {{ nodes {{ {ALL_OF_A_UNIT} }} pageInfo {{ hasNextPage }} }} }}"
    units = (await gateway.data(query))["telematicsUnits"]["nodes"]
    assert 200 < len(units) < 250
    assert all(unit["vehicle"]["vehicleId"] for unit in units)


async def test_a_vehicle_mirrors_the_fleet_api(gateway):
    """The documented example vehicle, member by member."""
    (said,) = [gateway.simulator.fleets["T7K2M"].vehicle("JQ7RP")]
    vehicle = (await gateway.data(f'{{ vehicle(id: "JQ7RP") {{ {ALL_OF_A_VEHICLE} }} }}'))["vehicle"]
    assert vehicle["status"] == vehicle["statusRaw"] == said["status"]
    assert vehicle["lastContactAt"] == said["last_contact_at"]
    assert {k: v for k, v in vehicle["masterData"].items() if not k.endswith("Raw")} == {
        re.sub("_(.)", lambda m: m[1].upper(), name): value for name, value in said["master_data"].items()
    }
    assert vehicle["customFields"] == [{"key": k, "value": v} for k, v in said["custom_fields"].items()]
    assert vehicle["tags"] == said["tags"]
    assert vehicle["capabilities"] == {
        "commands": said["capabilities"]["commands"],
        "vehicleState": said["capabilities"]["vehicle_state"],
    }
    unit = vehicle["telematicsUnit"]
    assert (unit["unitId"], unit["manufacturer"], unit["type"]) == ("38429DA427AB7C25", "INVERS", "RETROFIT")
    state = vehicle["latestState"]
    assert state["position"] == {"value": {"lat": 50.8748, "lon": 8.0243}, "timestamp": "2024-05-14T08:41:12Z"}
    assert state["ignition"] == {"value": "ON", "rawValue": "ON", "timestamp": "2024-05-14T08:12:03Z"}
    assert state["mileageInKilometers"]["value"] == 41873
    assert state["drivingEnabled"]["value"] is True
    assert {p["name"]: p["value"] for p in state["properties"]} == {
        k: v["value"] for k, v in said["latest_state"].items()
    }


async def test_unknown_values_are_available_raw(gateway):
    """Unknown enum values read UNKNOWN beside the raw word, and unknown state properties are listed."""
    fleet = gateway.simulator.fleets["T7K2M"]
    odd = (await gateway.data(f'{{ vehicle(id: "{fleet.ids[20]}") {{ {ALL_OF_A_VEHICLE} }} }}'))["vehicle"]
    assert (odd["status"], odd["statusRaw"]) == ("UNKNOWN", "VEHICLE_ON_THE_MOON")
    assert (odd["masterData"]["fuelType"], odd["masterData"]["fuelTypeRaw"]) == ("UNKNOWN", "URANIUM")
    assert odd["lifeStatus"] | {"modifiedAt": ""} == {"value": "UNKNOWN", "rawValue": "SOMETHING_NEW", "modifiedAt": ""}
    assert (odd["latestState"]["ignition"]["value"], odd["latestState"]["ignition"]["rawValue"]) == (
        "UNKNOWN",
        "SOMETHING_NEW",
    )
    strange = (await gateway.data(f'{{ vehicle(id: "{fleet.ids[24]}") {{ {ALL_OF_A_VEHICLE} }} }}'))["vehicle"]
    values = {p["name"]: p["value"] for p in strange["latestState"]["properties"]}
    assert [values[f"new_property_{n}"] for n in range(7)] == ["text", 7, 1.25, False, {"a": [1, None]}, [1, 2], None]
    fields = (await gateway.data(f'{{ vehicle(id: "{fleet.ids[23]}") {{ customFields {{ key value }} }} }}'))[
        "vehicle"
    ]["customFields"]
    assert [f["value"] for f in fields] == ["4", "true", "1.5", None, "Ünïcödé 🚗"]


async def test_early_names_read_as_current_ones(start):
    """gear_box is the transmission and fuel_level_in_percent the state of charge or fuel level."""
    gateway = await start(behaviours=Behaviours(early_names=True, rate_limit_requests=0))
    vehicle = (await gateway.data(f'{{ vehicle(id: "JQ7RP") {{ {ALL_OF_A_VEHICLE} }} }}'))["vehicle"]
    assert vehicle["masterData"]["transmission"] == "AUTOMATIC"
    assert vehicle["latestState"]["stateOfChargeOrFuelLevelInPercent"]["value"] == 71


async def test_objects_are_found_again_by_their_global_ids(gateway):
    """Node and nodes find vehicles and units; an unknown object is null, and an invalid id fails alone."""
    found = (await gateway.data('{ vehicle(id: "K3WX8") { id telematicsUnit { id } } }'))["vehicle"]
    unit_id = found["telematicsUnit"]["id"]
    assert (await gateway.data("query($id: ID!) { node(id: $id) { __typename id ... on Vehicle { vehicleId } } }", id=found["id"]))["node"] == {
        "__typename": "Vehicle", "id": found["id"], "vehicleId": "K3WX8",
    }  # fmt: skip
    query = "query($ids: [ID!]!) { nodes(ids: $ids) { __typename id ... on TelematicsUnit { unitId vehicle { vehicleId } } } }"
    answer = await gateway.ask(query, ids=[unit_id, "nonsense", "VmVoaWNsZTpOT05F", found["id"]])
    unit, nonsense, missing, vehicle = answer["data"]["nodes"]
    assert unit == {
        "__typename": "TelematicsUnit",
        "id": unit_id,
        "unitId": "NBSG4C7B40647G5M",
        "vehicle": {"vehicleId": "K3WX8"},
    }
    assert (nonsense, missing, vehicle["id"]) == (None, None, found["id"])
    assert [(e["path"], e["extensions"]["code"]) for e in answer["errors"]] == [(["nodes", 1], "GLOBAL_ID_INVALID")]


async def test_an_object_selected_twice_is_read_once(gateway):
    """It is complete in both places."""
    ids = {each: vehicle_global_id(each) for each in ("JQ7RP", "K3WX8", "NONE")}
    order = ["K3WX8", "NONE", "JQ7RP", "K3WX8", "NONE"]
    query = (
        "query($ids: [ID!]!) { nodes(ids: $ids) { ... on Vehicle { vehicleId telematicsUnit { vehicle { id } } } } }"
    )
    answer = await gateway.ask(query, ids=[ids[each] for each in order])
    known = {each: {"vehicleId": each, "telematicsUnit": {"vehicle": {"id": ids[each]}}} for each in ("JQ7RP", "K3WX8")}
    assert answer["data"]["nodes"] == [known.get(each) for each in order]
    assert "errors" not in answer
    assert await gateway.calls(query, ids=[ids[each] for each in order]) == 3


async def test_two_units_with_one_id_differ_by_their_makers(gateway):
    """A unit is found by manufacturer, brand and id together, never by id alone."""
    query = 'query($m: String, $b: String) { telematicsUnit(manufacturer: $m, brand: $b, id: "NBSG4C7B40647G5M") { vehicle { vehicleId } } }'
    assert (await gateway.data(query, m="NIU", b="NIU"))["telematicsUnit"]["vehicle"]["vehicleId"] == "K3WX8"
    assert (await gateway.data(query, m="SEGWAY", b="SEGWAY"))["telematicsUnit"]["vehicle"]["vehicleId"] == "Z90BD"
    assert (await gateway.data(query, m="INVERS", b="CLOUDBOXX"))["telematicsUnit"] is None


async def test_the_scan_for_a_unit_is_bounded(start):
    """The scan stops after the configured number of pages, and the error says so."""
    gateway = await start(pagination__scan_pages_max=2)
    answer = await gateway.ask('{ telematicsUnit(id: "none") { id } vehicle(id: "JQ7RP") { vehicleId } }')
    assert answer["data"] == {"telematicsUnit": None, "vehicle": {"vehicleId": "JQ7RP"}}
    assert answer["errors"][0]["extensions"] == {
        "code": "FLEET_INCOMPLETE",
        "cause": "WALK_LIMIT_EXCEEDED",
        "maximumPages": 2,
        "pagesRead": 2,
        "vehiclesRead": 200,
        "retryable": False,
    }


async def test_a_unit_is_found_by_upstream_search(start):
    """With unit search on, one filtered read finds a unit."""
    gateway = await start(
        behaviours=Behaviours(q_searches_units=True, rate_limit_requests=0), upstream__unit_search=True
    )
    query = (
        '{ telematicsUnit(manufacturer: "SEGWAY", brand: "SEGWAY", id: "NBSG4C7B40647G5M") { vehicle { vehicleId } } }'
    )
    assert await gateway.calls(query) == 1


async def test_search_goes_upstream(gateway):
    """Search is the fleet API's own; its cursors are not valid for another search."""
    query = "query($q: String, $after: String) { vehicles(first: 2, search: $q, after: $after) { nodes { masterData { brand } } pageInfo { endCursor hasNextPage } } }"
    page = (await gateway.data(query, q="tesla"))["vehicles"]
    assert [node["masterData"]["brand"] for node in page["nodes"]] == ["Tesla", "Tesla"]
    after = page["pageInfo"]["endCursor"]
    assert len((await gateway.data(query, q="tesla", after=after))["vehicles"]["nodes"]) == 2
    for other in ("audi", None):
        answer = await gateway.ask(query, q=other, after=after)
        assert answer["errors"][0]["extensions"]["code"] == "CURSOR_FOREIGN"


@pytest.mark.parametrize("file", QUERIES, ids=lambda file: file.stem)
async def test_every_documented_query_runs(start, file):
    """Each file in docs/queries gives data without an error, and each write is carried out."""
    gateway = await start(writes="all")
    text = file.read_text()
    variables = re.search(r"Variables: (\{.*\})", text)
    answer = await gateway.post(text, json.loads(variables[1]) if variables else None)
    body = answer.json()
    assert "errors" not in body
    assert all(body["data"].values())
    assert [each["outcome"] for each in body["data"].values() if "outcome" in each] in ([], ["EXECUTED"])


async def test_the_readmes_response_is_real(gateway):
    """The README's query gives the README's response."""
    readme = README.read_text()
    query = re.search(r"```graphql\n(.*?)```", readme, re.DOTALL)[1]
    shown = json.loads(re.search(r"```json\n(.*?)```", readme, re.DOTALL)[1])
    assert await gateway.ask(query) == shown


def test_every_type_and_field_is_described():
    """Every type, field, argument and enum value has a description."""
    bare = []
    for name, named in without_federation(build_schema().core).type_map.items():
        if name.startswith("__"):
            continue
        bare += [name] if not named.description else []
        for field, definition in getattr(named, "fields", {}).items():
            bare += [f"{name}.{field}"] if not definition.description else []
            bare += [f"{name}.{field}({a})" for a, d in getattr(definition, "args", {}).items() if not d.description]
        bare += [f"{name}.{v}" for v, d in getattr(named, "values", {}).items() if not d.description]
    assert bare == []


def test_fields_that_may_be_missing_are_nullable():
    """Only ids, connection parts and the gateway's own fields are non-null."""
    nullable = {"Vehicle": {"id", "vehicleId"}, "TelematicsUnit": {"id", "unitId"}, "VehicleState": {"properties"}}
    for name, required in nullable.items():
        fields = build_schema().core.get_type(name).fields
        assert {f for f, d in fields.items() if isinstance(d.type, GraphQLNonNull)} == required
        assert not any(isinstance(d.type, GraphQLList) and not d.type for d in fields.values())
