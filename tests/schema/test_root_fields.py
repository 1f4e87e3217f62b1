"""The table of root fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import strawberry
from graphql import build_schema as schema_of
from graphql import parse
from graphql.execution.values import VariableValues

from gateway.engine.documents import INTROSPECTION, Document
from gateway.engine.plans import RootFieldCall
from gateway.schema import queries
from gateway.schema.build import Schema, build_schema
from gateway.schema.context import Context, Info
from gateway.schema.cost import CostModel
from gateway.schema.execution import Execution
from gateway.schema.global_ids import unit_global_id, vehicle_global_id
from gateway.schema.mutations import Mutation
from gateway.schema.pagination import Limits
from gateway.schema.queries import Query, load
from gateway.schema.root_fields import ROOT_FIELDS, RootField, _one_by_one, check_root_fields, nodes_needed
from gateway.schema.scalars import CONFIG
from gateway.schema.types import TelematicsUnit, Vehicle
from gateway.schema.upstream_calls import UpstreamCalls
from gateway.settings import LimitSettings
from gateway.upstream import models
from gateway.upstream.field_masks import decode_masked, vehicle_mask
from gateway.upstream.models import decoded
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope
from tests.contexts import context_of


def test_the_table_has_each_root_field():
    """The table has the root fields of the schema, no more and no fewer."""
    core = build_schema().core
    check_root_fields(core, ROOT_FIELDS)
    assert ROOT_FIELDS.keys() == (core.query_type.fields.keys() | core.mutation_type.fields.keys()) - INTROSPECTION


def test_a_root_field_that_is_missing_from_the_table_fails_at_start():
    """The cost model raises an error that names the missing fields of all root types."""
    schema = schema_of("type Query { vehicles: Int trips: Int } type Mutation { undo: Int }")
    with pytest.raises(LookupError, match=r"gateway\.schema\.root_fields\.ROOT_FIELDS: trips, undo\."):
        CostModel(schema, Limits(), 100, LimitSettings())


class OnePage:
    """A fleet of one page."""

    async def vehicles(self, scope: RequestScope, *, mask: Any = None, **page: Any) -> VehiclePage:
        return VehiclePage.of_body(b'{"items": [{"id": "A", "tags": ["x"]}, {"id": "B"}]}', mask)

    async def latest_states(self, scope: RequestScope, ids: list[str]) -> list[Any]:
        return [None] * len(ids)


async def load_first(context: Context, calls: list[RootFieldCall]) -> list[Any]:
    page = await context.loaders.page(None, mask=calls[0].field_mask)
    return [page.items_as(calls[0].field_mask)[0]] * len(calls)


@strawberry.type(name="Query")
class MoreQuery(Query):
    @strawberry.field
    async def first_vehicle(self, info: Info) -> Vehicle | None:
        (found,) = await load_first(info.context, [RootFieldCall({}, None)])
        return found


async def test_a_new_root_field_needs_a_declaration_and_an_entry():
    """A field that is declared in the query type and in the table has a cost and a compiled plan."""
    schema = Schema(query=MoreQuery, types=[Vehicle, TelematicsUnit], config=CONFIG)
    with pytest.raises(LookupError, match="firstVehicle"):
        CostModel(schema.core, Limits(), 100, LimitSettings())
    entry = RootField(load_first, vehicle_mask, cost=lambda calls, *_: calls.add_connection({}, ()))
    table = {**ROOT_FIELDS, "firstVehicle": entry}
    text = "{ firstVehicle { vehicleId tags } }"
    document = Document(text, "", parse(text))
    model = CostModel(schema.core, Limits(), 100, LimitSettings(), table)
    assert model.exact(document.ast, document.operation(None), VariableValues({}, {})) == (1, 1, 3, 12 + 9 + 4)
    for compiled in (True, False):
        execution = Execution(schema, projection=compiled, root_fields=table)
        plan = execution.prepared(document, None, {})
        assert (plan is not None) == compiled
        result = await execution.of(document, None, {}, context_of(OnePage()), plan)
        assert msgspec.json.encode(result.data) == b'{"firstVehicle":{"vehicleId":"A","tags":["x"]}}'
        assert result.errors is None


async def _open_doors(context: Context, given: dict[str, Any]) -> str:
    return f"opened {given['door']}"


@strawberry.input
class OpenDoorsInput:
    door: str


@strawberry.type(name="Mutation")
class MoreMutation(Mutation):
    @strawberry.field
    async def open_doors(self, info: Info, input: OpenDoorsInput) -> str:  # noqa: A002 - Relay's name
        return await load(info)


async def test_a_new_mutation_needs_a_declaration_and_an_entry(monkeypatch):
    """A mutation that is declared and in the table has a cost, and runs; one without an entry fails at start."""
    schema = Schema(query=Query, mutation=MoreMutation, types=[Vehicle, TelematicsUnit], config=CONFIG)
    with pytest.raises(LookupError, match="openDoors"):
        CostModel(schema.core, Limits(), 100, LimitSettings())
    table = {**ROOT_FIELDS, "openDoors": RootField(_one_by_one(_open_doors), cost=UpstreamCalls.add_write)}
    monkeypatch.setattr(queries, "ROOT_FIELDS", table)
    text = 'mutation { openDoors(input: { door: "left" }) }'
    document = Document(text, "", parse(text))
    cost = CostModel(schema.core, Limits(), 100, LimitSettings(), table).exact(
        document.ast, document.operation(None), VariableValues({}, {})
    )
    assert cost.upstream_calls > 0
    result = await Execution(schema, root_fields=table).of(document, None, {}, context_of(OnePage()), None)
    assert (result.data, result.errors) == ({"openDoors": "opened left"}, None)


def test_the_documentation_says_where_a_new_root_field_is_declared(pytestconfig):
    """It names the two files."""
    text = Path(pytestconfig.rootpath / "docs/architecture.md").read_text()
    (sentence,) = (part for part in text.split("\n\n") if part.startswith("A new root field:"))
    assert "`schema/queries.py`" in sentence
    assert "`schema/root_fields.py`" in sentence


@pytest.mark.parametrize(
    ("needs", "nodes"),
    [
        (None, None),
        ({}, {}),
        ({"page_info": None}, {}),
        ({"nodes": None}, None),
        ({"edges": None}, None),
        ({"edges": {"node": None}}, None),
        ({"edges": {"cursor": None}}, {}),
        ({"nodes": {"tags": None}, "edges": {"node": {"id": None}}}, {"tags": None, "id": None}),
        ({"nodes": {"unit": {"id": None}}, "edges": {"node": {"unit": {"model": None}}}}, {"unit": {"id": None, "model": None}}),
        ({"nodes": {"unit": {"id": None}}, "edges": {"node": {"unit": None}}}, {"unit": None}),
        ({"nodes": {"unit": None}, "edges": {"node": {"unit": {"id": None}}}}, {"unit": None}),
    ],
)  # fmt: skip
def test_the_mask_of_nodes_merges_both_selections(needs, nodes):
    """A mask has the members that are selected in `edges` and in `nodes`; None stands for all."""
    assert nodes_needed(needs) == nodes


def test_both_connections_read_the_same_pages():
    """Their cost is counted by one method, so equal slices of both count once."""
    assert ROOT_FIELDS["vehicles"].cost is ROOT_FIELDS["telematicsUnits"].cost is UpstreamCalls.add_connection


UNIT = {"id": "1", "manufacturer": "INVERS", "brand": "CLOUDBOXX"}
FLEET = [{"id": "A", "tags": ["x"], "telematics_unit": UNIT}, {"id": "B"}]


class SmallFleet:
    """A fleet of two vehicles that records each read, and whether it has no mask."""

    def __init__(self) -> None:
        self.reads: list[tuple[Any, ...]] = []

    async def vehicles(
        self, scope: RequestScope, *, cursor: str | None, bypass_cache: bool, search: str | None = None, mask: Any = None,
        revalidate: bool = False,
    ) -> VehiclePage:  # fmt: skip
        self.reads.append(("page", search, mask is None))
        return VehiclePage.of_body(msgspec.json.encode({"items": FLEET}), mask)

    async def vehicles_by_id(self, scope: RequestScope, ids: list[str], mask: Any = None) -> dict[str, Any]:
        self.reads.append((*ids, mask is None))
        known = {vehicle["id"]: msgspec.json.encode(vehicle) for vehicle in FLEET}
        decode = (
            (lambda body: decoded(body, models.Vehicle)) if mask is None else (lambda body: decode_masked(body, mask))
        )
        return {one: decode(known[one]) if one in known else None for one in ids}

    async def latest_states(self, scope: RequestScope, ids: list[str]) -> list[Any]:
        return [None] * len(ids)


async def execute(text: str, *, compiled: bool = True, **context: Any) -> tuple[Any, list[str], Any]:
    execution, document, fleet = Execution(SCHEMA, projection=compiled), Document(text, "", parse(text)), SmallFleet()
    result = await execution.of(
        document, None, {}, context_of(fleet, **context), execution.prepared(document, None, {})
    )
    codes = [error.original_error.code for error in result.errors or ()]
    return msgspec.json.decode(msgspec.json.encode(result.data)), codes, fleet.reads


SCHEMA = build_schema()
ID_A, ID_B = vehicle_global_id("A"), vehicle_global_id("B")
ID_UNIT = unit_global_id("INVERS", "CLOUDBOXX", "1")
TAGS = {"tags": ["x"]}
UNIT_ID = {"unitId": "1"}


@pytest.mark.parametrize(
    ("field", "value", "reads"),
    [
        ('vehicle(id: "A") { tags }', TAGS, [("A", False)]),
        ('vehicle(id: "C") { tags }', None, [("C", False)]),
        (f'node(id: "{ID_A}") {{ ... on Vehicle {{ tags }} }}', TAGS, [("A", False)]),
        (f'node(id: "{ID_UNIT}") {{ ... on TelematicsUnit {{ unitId }} }}', UNIT_ID, [("page", None, True)]),
        (f'nodes(ids: ["{ID_A}", "{ID_B}"]) {{ ... on Vehicle {{ tags }} }}', [TAGS, {"tags": None}], [("A", "B", False)]),
        ("vehicles { nodes { tags } }", {"nodes": [TAGS, {"tags": None}]}, [("page", None, False)]),
        ("vehicles(first: 1) { edges { node { tags } } }", {"edges": [{"node": TAGS}]}, [("page", None, False)]),
        ('vehicles(first: 1, search: "x") { nodes { tags } }', {"nodes": [TAGS]}, [("page", "x", False)]),
        ('vehicles(first: 1, search: "", after: "") { nodes { tags } }', {"nodes": [TAGS]}, [("page", None, False)]),
        ("telematicsUnits { nodes { unitId } }", {"nodes": [UNIT_ID]}, [("page", None, False)]),
        ('telematicsUnit(manufacturer: "INVERS", brand: "CLOUDBOXX", id: "1") { unitId }', UNIT_ID, [("page", None, True)]),
        ('telematicsUnit(manufacturer: "", brand: "", id: "1") { unitId }', None, [("page", None, True)]),
        ('_entities(representations: [{__typename: "Vehicle", vehicleId: "A"}]) { ... on Vehicle { tags } }', [TAGS], [("A", False)]),
    ],
)  # fmt: skip
async def test_a_plan_and_a_resolver_return_the_same(field, value, reads):
    """A plan decodes only the selected members; the resolver returns the same data from whole vehicles."""
    assert await execute(f"{{ it: {field} }}") == ({"it": value}, [], reads)
    data, codes, whole = await execute(f"{{ it: {field} }}", compiled=False)
    assert (data, codes, whole) == ({"it": value}, [], [(*read[:-1], True) for read in reads])
    twice, _, read = await execute(f"{{ it: {field} again: {field} }}")
    assert twice == {"it": value, "again": value}
    assert len(read) == 1


async def test_a_failed_field_does_not_affect_others():
    """Each occurrence of a field has its own error at its own path."""
    text = (
        f'{{ a: node(id: "nonsense") {{ id }} b: node(id: "{ID_A}") {{ id }} c: nodes(ids: ["x", "{ID_B}"]) {{ id }} }}'
    )
    for compiled in (True, False):
        data, codes, _ = await execute(text, compiled=compiled)
        assert data == {"a": None, "b": {"id": ID_A}, "c": [None, {"id": ID_B}]}
        assert codes == ["GLOBAL_ID_INVALID"] * 2


async def test_too_many_ids_are_rejected():
    """A number of ids equal to the limit is allowed."""
    text = f'{{ nodes(ids: ["{ID_A}", "{ID_B}"]) {{ id }} }}'
    assert (await execute(text, nodes_max=2))[1] == []
    assert (await execute(text, nodes_max=1))[1:] == (["BAD_USER_INPUT"], [])


@pytest.mark.parametrize(
    ("text", "first_page"),
    [
        ("{ vehicles { nodes { id } } }", (None, None)),
        ('{ vehicles(search: "x") { nodes { id } } }', (None, "x")),
        ('{ vehicles(search: "") { nodes { id } } }', (None, None)),
        ("{ telematicsUnits(first: 2) { nodes { id } } }", (None, None)),
        ('{ vehicles(after: "broken") { nodes { id } } }', None),
        ('{ vehicle(id: "A") { id } }', None),
        ("{ vehicles { nodes { id } } __typename }", None),
    ],
)
def test_only_a_connection_has_a_fragment_key(text, first_page):
    """The key has the first page of the connection, and differs by selection."""
    execution = Execution(SCHEMA)
    document = Document(text, "", parse(text))
    found = execution.fragment_key_of(execution.prepared(document, None, {}), Limits(), None)
    assert (None if found is None else found[:2]) == first_page
    if found is not None:
        other = Document(text.replace("id", "id more: id"), "", parse(text.replace("id", "id more: id")))
        assert execution.fragment_key_of(execution.prepared(other, None, {}), Limits(), None).key != found.key
