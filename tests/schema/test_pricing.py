"""What an operation is taken to cost."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import build_schema as schema_of
from graphql import execute_sync, get_introspection_query, parse
from graphql.execution.values import VariableValues

from gateway.schema.build import build_schema
from gateway.schema.pagination import Limits
from gateway.schema.pricing import INTROSPECTION_WEIGHT, Price, Prices, bound_of, check_priced, price_of

SCHEMA = build_schema().core
PRICES = Prices(Limits(), 100)


def price(query: str, **variables: Any) -> Price:
    document = parse(query)
    (operation,) = (node for node in document.definitions if node.kind == "operation_definition")
    values = VariableValues({}, variables)
    exact = price_of(SCHEMA, document, operation, values, PRICES)
    most = bound_of(SCHEMA, document, operation, PRICES, 1000)
    if most is not None:
        assert all(one <= other for one, other in zip(exact, most, strict=True))
    return exact


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
        ("query($i: [ID!]!) { nodes(ids: $i) { id ... on Vehicle { vehicleId } } }", 1 + 7 * 2),
    ],
)
def test_fields_are_counted_times_the_objects_that_have_them(query, fields):
    """Each field of each object counts once, with lists as long as the schema says."""
    assert price(query, i=["x"] * 7).fields == fields


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
        '{ __type(name: "VehicleState") { fields { name args { name } } } }',
    ],
)
def test_introspection_is_counted_about_as_it_answers(query):
    """The price is neither half nor four times the number of fields of the answer."""
    answered = fields_of(execute_sync(SCHEMA, parse(query)).data)
    counted = price(query).fields / INTROSPECTION_WEIGHT
    assert answered * 0.5 <= counted <= answered * 4


def test_what_every_client_asks_of_a_schema_is_within_the_limit():
    """The introspection query of common tools takes a fourth of the default limit at most."""
    assert price(get_introspection_query(input_value_deprecation=True)).fields < 250_000 / 4


def test_a_root_field_without_a_price_is_found_at_the_start():
    """A new root field is not free of cost by being forgotten."""
    check_priced(SCHEMA)
    with pytest.raises(LookupError, match="trips, undo"):
        check_priced(schema_of("type Query { vehicles: Int trips: Int } type Mutation { undo: Int }"))
