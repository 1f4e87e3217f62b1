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
from gateway.identity import Caller
from gateway.schema.build import Schema, build_schema
from gateway.schema.context import Context, Info
from gateway.schema.cost import CostModel
from gateway.schema.execution import Execution
from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.schema.queries import Query
from gateway.schema.root_fields import ROOT_FIELDS, RootField, check_root_fields, nodes_needed
from gateway.schema.scalars import CONFIG
from gateway.schema.types import TelematicsUnit, Vehicle
from gateway.schema.upstream_calls import UpstreamCalls
from gateway.settings import LimitSettings
from gateway.upstream.fetching import Errand, Tally
from gateway.upstream.pages import VehiclePage
from gateway.upstream.views import vehicle_view


def test_the_table_has_each_root_field():
    """The table has the root fields of the schema, no more and no fewer."""
    check_root_fields(build_schema().core, ROOT_FIELDS)
    assert ROOT_FIELDS.keys() == build_schema().core.query_type.fields.keys() - INTROSPECTION


def test_a_root_field_that_is_missing_from_the_table_fails_at_start():
    """The error names the fields, of each root type; a cost model is not made."""
    schema = schema_of("type Query { vehicles: Int trips: Int } type Mutation { undo: Int }")
    with pytest.raises(LookupError, match=r"gateway\.schema\.root_fields\.ROOT_FIELDS: trips, undo\."):
        CostModel(schema, Limits(), 100, LimitSettings())


class OnePage:
    """A fleet of one page."""

    async def vehicles(self, errand: Errand, *, view: Any = None, **page: Any) -> VehiclePage:
        return VehiclePage.of_body(b'{"items": [{"id": "A", "tags": ["x"]}, {"id": "B"}]}', view)

    async def latest_states(self, errand: Errand, ids: list[str]) -> list[Any]:
        return [None] * len(ids)


async def load_first(context: Context, calls: list[RootFieldCall]) -> list[Any]:
    page = await context.loaders.page(None, view=calls[0].field_mask)
    return [page.items_as(calls[0].field_mask)[0]] * len(calls)


@strawberry.type(name="Query")
class MoreQuery(Query):
    @strawberry.field
    async def first_vehicle(self, info: Info) -> Vehicle | None:
        (found,) = await load_first(info.context, [RootFieldCall({}, None)])
        return found


async def test_a_new_root_field_takes_a_declaration_and_an_entry():
    """With its declaration in the query type and its entry in the table a field has a cost and a compiled plan."""
    schema = Schema(query=MoreQuery, types=[Vehicle, TelematicsUnit], config=CONFIG)
    with pytest.raises(LookupError, match="firstVehicle"):
        CostModel(schema.core, Limits(), 100, LimitSettings())
    entry = RootField(load_first, vehicle_view, cost=lambda calls, *_: calls.add_connection({}, ()))
    table = {**ROOT_FIELDS, "firstVehicle": entry}
    text = "{ firstVehicle { vehicleId tags } }"
    document = Document(text, "", parse(text))
    model = CostModel(schema.core, Limits(), 100, LimitSettings(), table)
    assert model.exact(document.ast, document.operation(None), VariableValues({}, {})) == (1, 1, 3, 12 + 9 + 4)
    for compiled in (True, False):
        execution = Execution(schema, projection=compiled, root_fields=table)
        plan = execution.prepared(document, None, {})
        assert (plan is not None) == compiled
        errand = Errand(Caller("token"), Tally())
        context = Context(errand, Loaders(OnePage(), errand), Limits(), "id")
        result = await execution.of(document, None, {}, context, plan)
        assert msgspec.json.encode(result.data) == b'{"firstVehicle":{"vehicleId":"A","tags":["x"]}}'
        assert result.errors is None


def test_the_documentation_says_what_a_new_root_field_takes(pytestconfig):
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
def test_what_is_needed_of_nodes_is_needed_by_either_way(needs, nodes):
    """A mask has the members that are selected in `edges` and those in `nodes`; None stands for all."""
    assert nodes_needed(needs) == nodes


def test_both_connections_read_the_same_pages():
    """Their cost is counted by one method, so equal slices of both count once."""
    assert ROOT_FIELDS["vehicles"].cost is ROOT_FIELDS["telematicsUnits"].cost is UpstreamCalls.add_connection
