"""Fallbacks from compiled plans to the generic executor: they are correct, counted and logged."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import structlog
from graphql import GraphQLError, parse

from gateway.engine.documents import Document
from gateway.engine.fallbacks import (
    BUG,
    DEFERRED_FIELD,
    FIELD_ERROR,
    NOT_COMPILABLE,
    NOT_PLANNED,
    UNEXPECTED_VALUE,
    Fallback,
    NotCompilable,
    PlanFallbacks,
    UnexpectedValue,
)
from gateway.engine.plans import VARIANTS_MAX, Engine
from gateway.engine.projection import PLAIN
from gateway.errors import UpstreamForbidden
from gateway.schema.build import build_schema
from gateway.schema.execution import Execution
from gateway.telemetry.logs import frames_only
from gateway.upstream.models import StateProperty
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope
from tests.contexts import context_of

SCHEMA = build_schema()
PAGE = "{ vehicles { nodes { vehicleId tags } } }"


class Fleet:
    """A fleet of one page; reading a vehicle by its id is forbidden."""

    def __init__(self, *vehicles: dict[str, Any]) -> None:
        self._vehicles = vehicles

    async def vehicles(self, scope: RequestScope, *, mask: Any = None, **page: Any) -> VehiclePage:
        return VehiclePage.of_body(msgspec.json.encode({"items": self._vehicles}), mask)

    async def vehicles_by_id(self, scope: RequestScope, ids: list[str], *mask: Any) -> dict[str, Any]:
        return dict.fromkeys(ids, UpstreamForbidden())

    async def latest_states(self, scope: RequestScope, ids: list[str]) -> list[Any]:
        return [{"ignition": StateProperty("ON")} for _ in ids]


@pytest.fixture
def logged():
    """The log events."""
    configured, capture = structlog.get_config(), structlog.testing.LogCapture()
    structlog.configure(processors=[frames_only, capture])
    yield capture.entries
    structlog.configure(**configured)


async def execute(execution: Execution, text: str, *vehicles: dict[str, Any], **variables: Any) -> Any:
    document = Document(text, "", parse(text))
    context = context_of(Fleet(*vehicles))
    result = await execution.of(document, None, variables, context, execution.prepared(document, None, variables))
    return msgspec.json.decode(msgspec.json.encode(result.data)), result.errors


def broken(vehicle: Any) -> Any:
    raise ZeroDivisionError


async def test_a_bug_in_a_compiled_field_is_counted_and_logged_with_its_frames(monkeypatch, logged):
    """The generic executor returns the correct data; the counts and the log have the fields and the reason."""
    own = SCHEMA.core.type_map["Vehicle"].fields["id"].extensions["strawberry-definition"]
    monkeypatch.setattr(own, "metadata", {**own.metadata, PLAIN: broken})
    execution = Execution(SCHEMA)
    text = "{ vehicles { nodes { id } } }"
    data, errors = await execute(execution, text, {"id": "A"}, {"id": "B"}, {"id": "C"})
    assert (data, errors) == await execute(
        Execution(SCHEMA, projection=False), text, {"id": "A"}, {"id": "B"}, {"id": "C"}
    )
    assert len(data["vehicles"]["nodes"]) == 3
    assert execution.fallbacks.counts == {
        Fallback(BUG, "Query.vehicles"): 1,
        Fallback(BUG, "VehicleConnection.nodes"): 3,
    }
    first, counted, *others = logged
    assert (first["log_level"], first["event"], first["field"]) == ("error", "compiled plan failed", "Query.vehicles")
    assert first["kind"] == "ZeroDivisionError"
    assert first["frames"][-1].endswith(" broken")
    assert counted == {"event": "plan fallbacks", "log_level": "info", "bug: Query.vehicles": 1}
    assert [(event["field"], event["number"]) for event in others] == [
        ("VehicleConnection.nodes", 1),
        ("VehicleConnection.nodes", 2),
    ]
    await asyncio.sleep(1.1)
    assert logged[-1] == {"event": "plan fallbacks", "log_level": "info", "bug: VehicleConnection.nodes": 3}


async def test_a_bug_in_the_compiler_is_counted_and_logged(monkeypatch, logged):
    """If the compiler has a bug, the operation still succeeds; frames are logged once, and each run is counted."""
    execution = Execution(SCHEMA)

    def failing(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.engine.plans.compile_field", failing)
    document = Document(PAGE, "", parse(PAGE))
    for number in (1, 2):
        context = context_of(Fleet({"id": "A", "tags": []}))
        result = await execution.of(document, None, {}, context, execution.prepared(document, None, {}))
        assert result.data == {"vehicles": {"nodes": [{"vehicleId": "A", "tags": []}]}}
        assert execution.fallbacks.counts == {Fallback(BUG, "Query.vehicles"): number}
    assert [event["event"] for event in logged] == ["compiled plan failed", "plan fallbacks"]


async def test_a_successful_plan_counts_nothing(logged):
    """Running a plan is no fallback, nor is execution without projection."""
    for execution in (Execution(SCHEMA), Execution(SCHEMA, projection=False)):
        data, _ = await execute(execution, PAGE, {"id": "A", "tags": ["x"]})
        assert data == {"vehicles": {"nodes": [{"vehicleId": "A", "tags": ["x"]}]}}
        assert not execution.fallbacks.counts
    assert logged == []


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{ vehicle(id: "A") { tags } }', [(FIELD_ERROR, "Query.vehicle")]),
        ('{ node(id: "nonsense") { id } }', [(FIELD_ERROR, "Query.node")]),
        ("{ vehicles { nodes { createdAt } } }", [(FIELD_ERROR, "Query.vehicles"), (FIELD_ERROR, "VehicleConnection.nodes")]),
        ("{ vehicles { nodes { telematicsUnit { unitId } } } __typename }", []),
        ("{ __typename }", []),
        ('query($n: String! = "Query") { __type(name: $n) { name } }', [(NOT_COMPILABLE, "Query.__type")]),
        ("query($x: Int = 1) { vehicles(first: $x) { nodes { tags } } }", []),
        ('query($i: ID! = "A") { nodes(ids: [$i]) { id } }', [(UNEXPECTED_VALUE, "Query.nodes")]),
    ],
)  # fmt: skip
async def test_each_fallback_has_a_kind_and_a_field(text, kinds):
    """Errors of a caller or the fleet API have their own kinds, and are never bugs."""
    execution = Execution(SCHEMA)
    await execute(execution, text, {"id": "A", "created_at": "soon"})
    assert list(execution.fallbacks.counts) == kinds


async def test_an_object_with_a_deferred_field_is_counted():
    """The generic executor does not project an object that has a deferred field."""
    execution = Execution(SCHEMA)
    text = '{ a: vehicles { nodes { latestState { ignition { value } } } } b: vehicle(id: "B") { id } }'
    data, errors = await execute(execution, text, {"id": "A"})
    assert data["a"] == {"nodes": [{"latestState": {"ignition": {"value": "ON"}}}]}
    assert len(errors) == 1
    assert execution.fallbacks.counts == {
        Fallback(FIELD_ERROR, "Query.vehicle"): 1,
        Fallback(DEFERRED_FIELD, "VehicleConnection.nodes"): 1,
    }


async def test_an_object_that_is_not_compilable_is_counted_by_its_field(monkeypatch):
    """The generic executor counts the field that cannot be compiled."""
    execution = Execution(SCHEMA)
    own = SCHEMA.core.type_map["Vehicle"].fields["id"].extensions["strawberry-definition"]
    monkeypatch.setattr(own, "metadata", {})
    data, errors = await execute(execution, "{ vehicles { nodes { id } } }", {"id": "A"}, {"id": "B"})
    assert (len(data["vehicles"]["nodes"]), errors) == (2, None)
    assert execution.fallbacks.counts == {Fallback(NOT_COMPILABLE, "Vehicle.id"): 2}  # the plan, and the executor


async def test_the_number_of_variants_with_plans_is_limited():
    """An operation with many flags has plans for some variants; runs of the others are counted."""
    flags = [f"f{number}" for number in range(6)]
    head = ", ".join(f"${flag}: Boolean!" for flag in flags)
    text = f"query({head}) {{ vehicles {{ nodes {{ tags {' '.join(f'{flag}: tags @include(if: ${flag})' for flag in flags)} }} }} }}"
    execution, document = Execution(SCHEMA), Document(text, "", parse(text))
    for number in range(VARIANTS_MAX + 2):
        values = {flag: bool(number >> index & 1) for index, flag in enumerate(flags)}
        context = context_of(Fleet({"id": "A"}))
        await execution.of(document, None, values, context, execution.prepared(document, None, values))
    assert execution.fallbacks.counts == {Fallback(NOT_PLANNED, "Query"): 2}


@pytest.mark.parametrize(
    ("failure", "fallback"),
    [
        (NotCompilable(), (NOT_COMPILABLE, "Query.vehicles")),
        (NotCompilable("Vehicle.id"), (NOT_COMPILABLE, "Vehicle.id")),
        (UpstreamForbidden(), (FIELD_ERROR, "Query.vehicles")),
        (UnexpectedValue(), (UNEXPECTED_VALUE, "Query.vehicles")),
        (GraphQLError("not an Int"), (UNEXPECTED_VALUE, "Query.vehicles")),
        (TypeError("no"), (BUG, "Query.vehicles")),
        (None, (BUG, "Query.vehicles")),
    ],
)
def test_the_exception_decides_the_kind(failure, fallback, logged):
    """Only a bug is logged as an error."""
    assert PlanFallbacks().reason("Query.vehicles", failure) == fallback
    assert [event["log_level"] for event in logged] == ["error"] * (fallback[0] == BUG)


async def test_a_flood_of_one_bug_is_logged_a_few_times(logged):
    """Frames are logged for the first occurrence of a bug, and each time the count doubles."""
    fallbacks = PlanFallbacks()
    for _ in range(100):
        fallbacks.count(fallbacks.reason("Query.vehicles", ValueError()))
    assert fallbacks.counts == {Fallback(BUG, "Query.vehicles"): 100}
    assert [event["number"] for event in logged if event["log_level"] == "error"] == [1, 2, 4, 8, 16, 32, 64]


def test_an_operation_without_any_plan_is_not_planned():
    """The reason is 'not planned' if no plan was ever attempted."""
    engine: Engine = Execution(SCHEMA)._engine
    assert engine.unplanned(Document(PAGE, "", parse(PAGE)), None) == Fallback(NOT_PLANNED, "Query")
