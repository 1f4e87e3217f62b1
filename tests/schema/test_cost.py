"""The cost model: the exact cost for given variables, and the worst case of all variables."""

from __future__ import annotations

import random
from typing import Any

import pytest
from graphql import (
    OperationDefinitionNode,
    execute_sync,
    get_introspection_query,
    get_variable_values,
    parse,
)  # fmt: skip
from graphql import (
    build_schema as schema_of,
)
from graphql.execution.values import VariableValues
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.schema.build import build_schema
from gateway.schema.cost import INTROSPECTION_WEIGHT, CostModel, OperationCost
from gateway.schema.global_ids import unit_global_id, vehicle_global_id
from gateway.schema.pagination import Limits
from gateway.settings import LimitSettings
from tests.effort import effort
from tests.engine.documents_at_random import VARIABLES, Documents

SCHEMA = build_schema().core
MODEL = CostModel(SCHEMA, Limits(), 100, LimitSettings())
VEHICLES = [vehicle_global_id(vehicle_id) for vehicle_id in "ABC"]
UNIT = unit_global_id("INVERS", "CLOUDBOXX", "1")
SCAN = Limits().scan_pages_max


def operation_of(query: str) -> tuple[Any, OperationDefinitionNode]:
    document = parse(query)
    (operation,) = (node for node in document.definitions if isinstance(node, OperationDefinitionNode))
    return document, operation


def cost(query: str, model: CostModel = MODEL, **variables: Any) -> OperationCost:
    return model.exact(*operation_of(query), VariableValues({}, variables))


def worst(query: str, length: int = 10) -> OperationCost | None:
    return MODEL.worst_case(*operation_of(query), length)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("{ __typename }", 1),
        ("{ vehicle(id: 1) { id } }", 2),
        ("{ a: vehicle(id: 1) { id } b: vehicle(id: 2) { id } }", 4),
        ("{ vehicles(first: 10) { nodes { id vehicleId } } }", 2 + 10 * 2),
        ("{ vehicles(first: 10) { edges { cursor node { id } } pageInfo { endCursor } } }", 2 + 10 * 3 + 2),
        ("{ vehicles { nodes { telematicsUnit { unitId __typename } } } }", 2 + 50 * 3),
        ("{ vehicles(first: 10) { nodes { latestState { properties { name value } } } } }", 2 + 10 * (2 + 50 * 2)),
        ("{ vehicles(first: 10) { nodes { customFields { key } tags } } }", 2 + 10 * (2 + 10)),
        ("{ vehicles(first: -1) { nodes { id } } }", 2),
        ("{ vehicles(first: 100000) { nodes { id } } }", 2 + 500),
        ("{ vehicles(first: 10, last: 20) { nodes { id } } }", 2 + 20),
        ("query($i: [ID!]!) { nodes(ids: $i) { id ... on Vehicle { vehicleId } } }", 1 + 7 * 2),
    ],
)
def test_fields_are_counted_for_each_object(query, fields):
    """Each field of each object counts once; list lengths come from arguments and `@listSize`."""
    assert cost(query, i=["x"] * 7).fields == fields


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        ("{ vehicle(id: 1) { masterData { brand } } }", 1),
        ("{ vehicle(id: 1) { telematicsUnit { vehicle { id } } } }", 3),
        ("{ vehicles(first: 10) { nodes { id } edges { node { id telematicsUnit { id } } } } }", 30),
        ("{ vehicles(first: 10) { pageInfo { endCursor } } }", 0),
        ('{ node(id: "x") { id } nodes(ids: ["x", "y"]) { id } }', 3),
        ("{ _entities(representations: [{}, {}]) { ... on Vehicle { id } } }", 2),
    ],
)  # fmt: skip
def test_nodes_are_the_objects_with_a_global_id(query, nodes):
    """Vehicles and units count at every level; other objects do not."""
    assert cost(query).nodes == nodes


def test_keys_are_counted_in_bytes():
    """A response has each field name or alias once for each object."""
    assert cost("{ long: vehicles(first: 3) { nodes { id v: vehicleId } } }").key_bytes == 4 + 5 + 3 * (2 + 1)


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("{ __typename __schema { queryType { name } } _service { sdl } }", 0),
        ('{ a: vehicle(id: "A") { id } b: vehicle(id: "A") { id } c: vehicle(id: "B") { id } }', 2),
        (f'{{ vehicle(id: "A") {{ id }} node(id: "{VEHICLES[0]}") {{ id }} }}', 1),
        (f'{{ nodes(ids: ["{VEHICLES[0]}", "{VEHICLES[1]}", "nonsense"]) {{ id }} }}', 2),
        (f'{{ nodes(ids: ["{UNIT}", "{VEHICLES[1]}"]) {{ id }} }}', SCAN + 1),
        (f'{{ node(id: "{UNIT}") {{ id }} telematicsUnit(id: 1) {{ id }} vehicles {{ nodes {{ id }} }} }}', SCAN),
        ('{ _entities(representations: [{vehicleId: "A"}, {vehicleId: "B"}, {vehicleId: 1}, 7]) { __typename } }', 2),
        ('{ _entities(representations: [{__typename: "TelematicsUnit", unitId: "A"}]) { __typename } }', SCAN),
        (f'{{ _entities(representations: [{{id: "{VEHICLES[0]}"}}, {{id: "nonsense"}}]) {{ __typename }} }}', 1),
        ("{ vehicles(first: 0) { nodes { id } } }", 1),
        ("{ vehicles(first: 100) { nodes { id } } }", 1),
        ("{ vehicles(first: 101) { nodes { id } } }", 2),
        ("{ vehicles(first: 99) { pageInfo { hasNextPage } } }", 1),
        ("{ vehicles(first: 100) { pageInfo { hasNextPage } } }", 2),
        ("{ vehicles(first: 100) { pageInfo { hasPreviousPage } } }", 1),
        ("{ vehicles(first: 100) { pageInfo { endCursor } ... { pageInfo { hasNextPage } } } }", 2),
        ('{ vehicles(first: 100, after: "") { nodes { id } } }', 1),
        ('{ vehicles(first: 100, after: "x") { nodes { id } } }', 2),
        ('{ vehicles(first: 100, before: "x") { nodes { id } } }', 2),
        ('{ vehicles(last: 100, before: "x") { nodes { id } } }', 2),
        ('{ vehicles(before: "x") { nodes { id } } }', 2),
        ('{ vehicles(after: "x", before: "y") { nodes { id } } }', 2),
        ('{ vehicles(first: 9, last: 9, after: "x", before: "y") { nodes { id } } }', 2),
        ('{ vehicles(last: 9, after: "x", before: "y") { nodes { id } } }', SCAN),
        ("{ vehicles(last: 100) { nodes { id } } }", 3),
        ("{ a: vehicles { nodes { id } } b: telematicsUnits(first: 300) { nodes { id } } }", 3),
        ("{ a: vehicles { nodes { id } } b: vehicles(last: 50) { nodes { id } } }", 1 + 3),
        ('{ a: vehicles { nodes { id } } b: vehicles(search: "x") { nodes { id } } }', 2),
        ('{ a: vehicles(after: "x") { nodes { id } } b: vehicles(after: "y") { nodes { id } } }', 4),
        ('{ a: vehicles(before: "x") { nodes { id } } b: vehicles(before: "y") { nodes { id } } }', 4),
        ('{ a: vehicles(first: 1, before: "x") { nodes { id } } b: vehicles(last: 1, before: "x") { nodes { id } } }', 4),
    ],
)  # fmt: skip
def test_equal_reads_are_counted_once(query, calls):
    """Upstream calls are counted for an empty cache; introspection needs none."""
    assert cost(query).upstream_calls == calls
    assert worst(query) == cost(query)  # without variables there is only one case


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("query($i: ID!) { a: vehicle(id: $i) { id } b: vehicle(id: $i) { id } }", 1),
        ("query($i: ID!, $j: ID!) { a: vehicle(id: $i) { id } b: vehicle(id: $j) { id } }", 2),
        ("query($i: ID!) { node(id: $i) { id } vehicle(id: $i) { id } }", SCAN + 1),
        ("query($i: [ID!]!) { nodes(ids: $i) { id } }", SCAN + 10),
        ('query($i: ID!) { nodes(ids: [$i, "nonsense"]) { id } }', SCAN + 1),
        ("query($r: [_Any!]!) { _entities(representations: $r) { __typename } }", SCAN + 10),
        ("query($r: _Any!) { _entities(representations: [$r, 7]) { __typename } }", SCAN + 1),
        ("query($i: ID!) { _entities(representations: [{vehicleId: $i}]) { __typename } }", SCAN + 1),
        ("query($n: Int) { vehicles(first: $n) { nodes { id } } }", 5),
        ("query($n: Int) { vehicles(first: $n) { pageInfo { hasNextPage } } }", 6),
        ("query($n: Int, $c: String) { vehicles(first: $n, after: $c) { pageInfo { hasNextPage } } }", 6),
        ("query($n: Int) { vehicles(last: $n) { nodes { id } } }", 7),
        ("query($m: Int, $n: Int) { a: vehicles(last: $m) { nodes { id } } b: vehicles(last: $n) { nodes { id } } }", 14),
        ("query($n: Int) { a: vehicles(last: $n) { nodes { id } } b: telematicsUnits(last: $n) { nodes { id } } }", 7),
        ("query($m: Int, $n: Int) { a: vehicles(first: $m) { nodes { id } } b: vehicles(first: $n) { nodes { id } } }", 5),
        ("query($s: String) { a: vehicles(search: $s) { nodes { id } } b: vehicles(search: $s) { nodes { id } } }", 1),
        ("query($s: String) { a: vehicles(search: $s) { nodes { id } } b: vehicles { nodes { id } } }", 2),
        ("query($n: Int, $c: String, $d: String) { vehicles(last: $n, after: $c, before: $d) { nodes { id } } }", SCAN),
        ("query($n: Int!, $c: String, $d: String) { vehicles(first: 1, last: $n, after: $c, before: $d) { nodes { id } } }", 6),
        ("query($b: Boolean!) { vehicles @include(if: $b) { nodes { id } } }", 1),
        ("query($b: Boolean!) { vehicles @skip(if: $b) { nodes { id } } }", 1),
    ],
)  # fmt: skip
def test_the_worst_case_has_the_costliest_value_of_each_variable(query, calls):
    """A variable may be null, empty or of any allowed size, and is equal only to itself."""
    assert worst(query).upstream_calls == calls


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        ("query($n: Int) { vehicles(first: $n) { nodes { id } } }", 500),
        ("query($n: Int) { vehicles(first: 3, last: $n) { nodes { id } } }", 500),
        ("query($i: [ID!]!) { nodes(ids: $i) { id } }", 10),
        ("query($i: ID!) { nodes(ids: [$i, $i]) { id } }", 2),
        ("query($b: Boolean!) { vehicles(first: 3) { nodes @skip(if: $b) { id } edges @include(if: $b) { node { id } } } }", 6),
    ],
)  # fmt: skip
def test_the_worst_case_has_the_longest_lists(query, nodes):
    """Pages have the maximum size and lists the given length, and no selection is skipped."""
    assert worst(query).nodes == nodes


def test_a_default_page_may_be_the_largest():
    """If the size is missing or may be null, the default size counts, even above the maximum."""
    model = CostModel(SCHEMA, Limits(page_default=40, page_max=30), 10, LimitSettings())
    for query in ("{ vehicles { nodes { id } } }", "query($n: Int) { vehicles(first: $n) { nodes { id } } }"):
        most = model.worst_case(*operation_of(query), 1)
        assert (most.nodes, most.upstream_calls) == (40, 4)


def test_a_variable_of_another_type_has_no_worst_case():
    """The worst case is None for types whose values are unbounded."""
    assert worst("query($t: VehicleStatus) { vehicles { nodes { id } } }") is None
    assert worst("query($t: [[ID!]!]!) { vehicles { nodes { id } } }") is None
    assert worst("query($b: [Boolean!]) { vehicles { nodes { id } } }") is not None


def test_skipped_selections_cost_nothing():
    """`@skip` and `@include` use the caller's variables; with null the selection counts."""
    query = "query($b: Boolean) { vehicle(id: 1) @skip(if: $b) { id } vehicles @include(if: $b) { nodes { id } } }"
    assert cost(query, b=True) == cost("{ vehicles { nodes { id } } }")
    assert cost(query, b=False) == cost("{ vehicle(id: 1) { id } }")
    assert cost(query, b=None).upstream_calls == 2


def test_a_field_with_invalid_arguments_reads_nothing():
    """The field is not resolved, so the response has only its key."""
    assert cost("query($i: ID) { vehicle(id: $i) { id } }", i=None) == OperationCost(0, 0, 1, len("vehicle"))


def test_a_scan_is_bounded():
    """The cost of a slice is at most the page limit of a scan."""
    model = CostModel(SCHEMA, Limits(scan_pages_max=4), 10, LimitSettings())
    assert cost("{ vehicles(first: 500) { nodes { id } } }", model).upstream_calls == 4
    assert cost("{ telematicsUnit(id: 1) { id } }", model).upstream_calls == 4


@pytest.mark.parametrize(
    ("over", "limit"),
    [
        (OperationCost(1001, 0, 0, 0), "upstreamCalls"),
        (OperationCost(0, 20_001, 0, 0), "nodes"),
        (OperationCost(0, 0, 250_001, 0), "fields"),
        (OperationCost(0, 0, 0, 2**24 + 1), "responseBytes"),
    ],
)
def test_the_error_names_the_exceeded_limit(over, limit):
    """The first exceeded limit is reported; a cost equal to the limit is allowed."""
    exceeded = MODEL.exceeded(over)
    assert exceeded.extensions["limit"] == limit
    assert exceeded.extensions["actual"] == max(over) == exceeded.extensions["maximum"] + 1
    assert MODEL.exceeded(OperationCost(1000, 20_000, 250_000, 2**24)) is None


def fields_of(value: Any) -> int:
    if isinstance(value, dict):
        return sum(1 + fields_of(member) for member in value.values())
    return sum(map(fields_of, value)) if isinstance(value, list) else 0


@pytest.mark.parametrize(
    "query",
    [
        get_introspection_query(),
        get_introspection_query(descriptions=False, input_value_deprecation=True),
        "{ __schema { types { name fields { name args { name type { name } } type { name } } } } }",
        "{ __schema { directives { name args { name } locations } } }",
        '{ __type(name: "Query") { fields { name args { name } } } }',
    ],
)
def test_the_cost_of_introspection_is_about_right(query):
    """The estimate is between half and eight times the number of fields in the response."""
    returned = fields_of(execute_sync(SCHEMA, parse(query)).data)
    counted = cost(query).fields / INTROSPECTION_WEIGHT
    assert returned * 0.5 <= counted <= returned * 8


SMALL = """
directive @a(x: Int y: Int z: Int) on FIELD
interface I { vehicles: Int vehicle(x: Int y: Int): Int }
type Query implements I { vehicles: Int vehicle(x: Int y: Int): Int node: Int }
union U = Query
enum E { A B C D E F G }
input N { a: Int }
"""


@pytest.mark.parametrize(
    ("query", "each"),
    [
        ("{ __schema { types { name } } }", "types"),
        ("{ __schema { types { fields { name } } } }", "fields"),
        ("{ __schema { types { possibleTypes { name } } } }", "possible"),
        ("{ __schema { types { interfaces { name } } } }", "interfaces"),
        ("{ __schema { types { enumValues { name } } } }", "values"),
    ],
)
def test_lists_of_all_types_count_by_their_average(query, each):
    """The counts for all types add up to the number in the schema."""
    schema = schema_of(SMALL)
    types = schema.type_map.values()
    have = {
        "types": 0,
        "fields": sum(len(getattr(one, "fields", ())) for one in types),
        "possible": 2,
        "interfaces": 1,
        "values": sum(len(getattr(one, "values", ())) for one in types),
    }
    model = CostModel(schema, Limits(), 100, LimitSettings())
    expected = 1 + INTROSPECTION_WEIGHT * (1 + len(types) + have[each])
    assert cost(query, model).fields == expected


def test_a_single_type_counts_by_the_maximum():
    """A type selected by name may be the one with the longest lists."""
    model = CostModel(schema_of(SMALL), Limits(), 100, LimitSettings())
    of_type = '{ __type(name: "E") { %s } }'
    assert cost(of_type % "possibleTypes { name }", model).fields == 1 + INTROSPECTION_WEIGHT * (1 + 1)
    assert cost(of_type % "ofType { name }", model).fields == 1 + INTROSPECTION_WEIGHT * (1 + 0.5)
    most = max(len(getattr(one, "fields", ())) for one in schema_of(SMALL).type_map.values())
    assert cost(of_type % "fields { args { name } }", model).fields == 1 + INTROSPECTION_WEIGHT * (1 + most * (1 + 2))
    named = "{ __schema { queryType { fields { name } } } }"
    assert cost(named, model).fields == 1 + INTROSPECTION_WEIGHT * (1 + 1 + most)


def test_the_usual_introspection_query_is_within_the_limit():
    """The introspection query of common tools costs at most two thirds of the default limit."""
    assert cost(get_introspection_query(input_value_deprecation=True)).fields < 250_000 * 2 / 3


def either(rng: random.Random, **values: list[str]) -> str:
    """Arguments of a field; each is omitted or has one of its values."""
    drawn = {name: rng.choice([None, *some]) for name, some in values.items()}
    given = ", ".join(f"{name}: {value}" for name, value in drawn.items() if value is not None)
    return f"({given})" if given else ""


def arguments_of(rng: random.Random) -> dict[str, list[str]]:
    sizes, cursors = ["$n", "$m", "$m", "0", "1", "99", "100", "500", "9999"], ["$c", "$d", "$d", '"x"', '""']
    ids = ["$id", "$id", *(f'"{one}"' for one in (*VEHICLES, UNIT, "x"))]
    slices = [
        either(rng, first=sizes, last=sizes, after=cursors, before=cursors, search=["$s", '"x"']) for _ in range(9)
    ]
    keys = [f"{{vehicleId: {rng.choice(ids)}}}", f"{{id: {rng.choice(ids)}, vehicleId: $s}}", "$any", "7"]
    keys += [f"{{__typename: {kind}, unitId: $id, id: {rng.choice(ids)}}}" for kind in ('"TelematicsUnit"', "$s")]
    return {
        "node": [f"(id: {one})" for one in ids],
        "vehicle": [f"(id: {one})" for one in ids],
        "nodes": ["(ids: $ids)", *(f"(ids: [{', '.join(rng.choices(ids, k=3))}])" for _ in range(3))],
        "vehicles": slices,
        "telematicsUnits": [one for one in slices if "search" not in one] or [""],
        "telematicsUnit": ["(id: $id)"],
        "_entities": ["(representations: $all)", f"(representations: [{', '.join(rng.choices(keys, k=3))}])"],
    }


KEYS = st.sampled_from([*VEHICLES, UNIT, "A", "x", "y"])
ANY = st.one_of(
    st.just(7),
    st.dictionaries(st.sampled_from(["vehicleId", "id", "unitId"]), KEYS),
    st.builds(lambda key: {"__typename": "TelematicsUnit", "unitId": key}, KEYS),
)
SIZES = st.one_of(st.integers(-5, 600), st.just(2**31 - 1))
CURSORS = st.sampled_from(["", "x", "y"])
VALUES = st.fixed_dictionaries(
    {"m": SIZES, "d": CURSORS, "id": KEYS, "ids": st.lists(KEYS, max_size=12), "any": ANY, "all": st.lists(ANY)},
    optional={
        "n": st.none() | SIZES,
        "c": st.none() | CURSORS,
        "s": st.none() | CURSORS,
        "on": st.booleans(),
        "off": st.booleans(),
    },
)
MORE = "$m: Int!, $c: String, $d: String!, $s: String, $any: _Any!, $all: [_Any!]!"


@settings(max_examples=effort(60, 400, 5_000), deadline=None)
@given(
    st.randoms(use_true_random=False),
    VALUES,
    st.builds(Limits, page_default=st.integers(1, 500), page_max=st.integers(1, 500), scan_pages_max=st.integers(1, 9)),
    st.integers(1, 200),
)
def test_no_variables_cost_more_than_the_worst_case(rng, values, limits, page_size):
    """For any operation and variables, no part of the exact cost exceeds the worst case."""
    document, operation = operation_of(Documents(SCHEMA, rng, arguments_of(rng), f"{VARIABLES}, {MORE}").draw())
    coerced = get_variable_values(SCHEMA, operation.variable_definitions, values)
    assert isinstance(coerced, VariableValues)
    model = CostModel(SCHEMA, limits, page_size, LimitSettings())
    exact = model.exact(document, operation, coerced)
    most = model.worst_case(document, operation, max(len(values["ids"]), len(values["all"]), 1))
    assert all(one <= other for one, other in zip(exact, most, strict=True)), (exact, most)
