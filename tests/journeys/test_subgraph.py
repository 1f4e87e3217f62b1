"""A federation router resolves entities by their keys."""

from __future__ import annotations

import re

import pytest
from graphql import (
    build_client_schema,
    get_introspection_query,
    is_introspection_type,
    is_specified_scalar_type,
    print_directive,
    print_type,
    specified_directives,
)
from strawberry.federation import schema_directives

from gateway.schema.build import print_sdl
from gateway.schema.global_ids import unit_global_id, vehicle_global_id
from gateway.schema.root_fields import ROOT_FIELDS
from gateway.schema.writes import MUTATIONS

ENTITIES = """query($r: [_Any!]!) { _entities(representations: $r) {
  __typename ... on Vehicle { vehicleId masterData { brand } } ... on TelematicsUnit { unitId vehicle { vehicleId } } } }"""
UNIT = {"manufacturer": "NIU", "brand": "NIU", "unitId": "NBSG4C7B40647G5M"}


async def test_entities_are_found_by_every_key(gateway):
    """Vehicles by global id or the fleet API's, units by global id or manufacturer, brand and unit id."""
    representations = [
        {"__typename": "Vehicle", "vehicleId": "JQ7RP"},
        {"__typename": "Vehicle", "id": vehicle_global_id("K3WX8")},
        {"__typename": "TelematicsUnit", **UNIT},
        {"__typename": "TelematicsUnit", "id": unit_global_id("SEGWAY", "SEGWAY", UNIT["unitId"])},
        {"__typename": "Vehicle", "vehicleId": "NONE1"},
    ]
    found = (await gateway.data(ENTITIES, r=representations))["_entities"]
    assert [entity and (entity.get("vehicleId") or entity["vehicle"]["vehicleId"]) for entity in found] == [
        "JQ7RP", "K3WX8", "K3WX8", "Z90BD", None,
    ]  # fmt: skip


async def test_an_invalid_representation_fails_alone(gateway):
    """Unknown types, missing and foreign keys, and values that are no objects are errors at their own index."""
    representations = [
        {"__typename": "Vehicle", "vehicleId": "JQ7RP"},
        {"__typename": "Trip", "id": "1"},
        {"__typename": "Vehicle"},
        {"vehicleId": "JQ7RP"},
        {
            "__typename": "Vehicle",
            "id": unit_global_id(**{k.replace("unitId", "unit_id"): v for k, v in UNIT.items()}),
        },
        {"__typename": "TelematicsUnit", "id": vehicle_global_id("JQ7RP")},
        7,
    ]
    answer = await gateway.ask(ENTITIES, r=representations)
    assert answer["data"]["_entities"][0]["vehicleId"] == "JQ7RP"
    assert answer["data"]["_entities"][1:] == [None] * 6
    assert sorted(error["path"][1] for error in answer["errors"]) == [1, 2, 3, 4, 5, 6]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"BAD_USER_INPUT"}


async def test_five_hundred_entities_take_a_scan(start):
    """All of a fleet's vehicles in one call: a scan of pages, not a read each, in the given order."""
    gateway = await start()
    ids = gateway.simulator.fleets["T7K2M"].ids[::-1] * 2
    before = gateway.simulator.requests.total
    representations = [{"__typename": "Vehicle", "vehicleId": vehicle_id} for vehicle_id in ids]
    found = (await gateway.data(ENTITIES, r=representations))["_entities"]
    assert [entity["vehicleId"] for entity in found] == ids
    assert gateway.simulator.requests.total - before == 3


@pytest.mark.parametrize(
    ("setting", "who", "status"),
    [
        ("public", None, 200), ("public", "alice", 200), ("authenticated", None, 401), ("authenticated", "alice", 200),
        ("off", "alice", 422),
    ],
)  # fmt: skip
async def test_access_to_the_schema_is_a_setting(start, setting, who, status):
    """Introspection and _service are for anyone, for callers with a token, or for no one; data is never for anyone."""
    gateway = await start(graphql__introspection=setting)
    for query in (
        "{ _service { sdl } }",
        "{ __schema { queryType { name } } }",
        '{ ...F } fragment F on Query { __type(name: "Vehicle") { name } }',
    ):
        response = await gateway.post(query, by=who)
        assert response.status_code == status
    mixed = await gateway.post('{ __schema { queryType { name } } vehicle(id: "JQ7RP") { id } }', by=None)
    assert mixed.status_code == 401
    assert (await gateway.post("{ __typename }", by=None)).status_code == 401
    assert gateway.simulator.requests.total == 0


def is_importable(candidate) -> bool:
    return isinstance(candidate, type) and hasattr(candidate, "imported_from") and hasattr(candidate, "minimum_version")


async def test_the_service_field_gives_the_federation_sdl(gateway):
    """_service is the schema with its federation directives, in the lowest version that has all of them."""
    sdl = (await gateway.data("{ _service { sdl } }"))["_service"]["sdl"]
    version, imported = re.search(r'"https://specs.apollo.dev/federation/v([\d.]+)", import: \[(.*?)\]', sdl).groups()
    named = {
        directive.imported_from.name: directive
        for directive in vars(schema_directives).values()
        if is_importable(directive)
    }
    needed = max(named[name].minimum_version for name in re.findall(r'"@(\w+)"', imported))
    assert version == ".".join(map(str, needed))
    assert 'type Vehicle implements Node @key(fields: "id") @key(fields: "vehicleId")' in sdl
    assert '@key(fields: "manufacturer brand unitId")' in sdl
    assert "type PageInfo @shareable" in sdl
    assert '@listSize(assumedSize: 50, slicingArguments: ["first", "last"]' in sdl


INTROSPECTION = get_introspection_query(
    specified_by_url=True, input_value_deprecation=True, directive_is_repeatable=True, one_of=True
)
SCHEMA, _, FRAGMENTS = INTROSPECTION.partition("{")[2].partition("}\n\nfragment FullType")
ONE = '{__typename: "Vehicle", vehicleId: "JQ7RP"}'


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize(
    "query",
    [
        f"{{ {SCHEMA} }}",
        f'{{ {SCHEMA} vehicle(id: "JQ7RP") {{ vehicleId }} }}',
        f"{{ {SCHEMA} _service {{ sdl }} _entities(representations: [{ONE}]) {{ __typename }} }}",
        f"query($yes: Boolean! = true) {{ {SCHEMA.replace('types', 'types @include(if: $yes)')} }}",
        f"{{ ...Root }} fragment Root on Query {{ {SCHEMA} }}",
    ],
)
async def test_introspection_shows_the_schema_for_clients(start, query, projection):
    """It is schema.graphql, also beside data and federation fields, which code generators can't name."""
    gateway = await start(graphql__projection=projection)
    shown = build_client_schema(await gateway.data(f"{query} fragment FullType{FRAGMENTS}"))
    own = (named for _, named in sorted(shown.type_map.items()) if not is_introspection_type(named))
    printed = [print_type(named) for named in own if not is_specified_scalar_type(named)]
    assert "\n\n".join(printed) + "\n" == print_sdl()
    assert list(map(print_directive, shown.directives)) == list(map(print_directive, specified_directives))


async def test_types_of_federation_are_not_shown_by_name(gateway):
    """Neither if the name is in the document nor if it is a variable; `Query` has no such field."""
    for name in ("_Any", "_Entity", "_Service", "_FieldSet", "link__Import", "Vehicle"):
        found = {"__type": {"name": name} if name == "Vehicle" else None}
        assert await gateway.data(f'{{ __type(name: "{name}") {{ name }} }}') == found
        assert await gateway.data("query($n: String!) { __type(name: $n) { name } }", n=name) == found
    fields = (await gateway.data('{ __type(name: "Query") { fields { name } } }'))["__type"]["fields"]
    assert {field["name"] for field in fields} == ROOT_FIELDS.keys() - MUTATIONS.keys() - {"_entities"}
