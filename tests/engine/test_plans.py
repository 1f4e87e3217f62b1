"""Plans: which operations have one, what it loads, and what it returns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from graphql import OperationDefinitionNode, build_schema, parse
from graphql.execution.values import VariableValues

from gateway.engine.arguments import arguments_of
from gateway.engine.document_limits import ExecutionLimits, LimitExceeded
from gateway.engine.documents import Document
from gateway.engine.fallbacks import NOT_COMPILABLE, Fallback, PlanFallbacks, UnexpectedValue
from gateway.engine.plans import VARIANTS_MAX, Engine, NotMade, PlanFailed, RootFieldLoader
from gateway.engine.projection import ON, Types
from gateway.engine.variables import VariablesInvalid
from gateway.schema.build import build_schema as gateway_schema
from gateway.schema.execution import BASE_CLASSES
from gateway.upstream.models import Vehicle

SCHEMA = gateway_schema().core
A, B = Vehicle("A", tags=["x"]), Vehicle("B", tags=["y"])


class Loads:
    """Loaders of vehicles that record each call."""

    def __init__(self, *errors: Exception) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self._errors = errors

    def of(self, name: str, found: Any) -> Any:
        async def load(context: Any, calls: list[Any]) -> list[Any]:
            self.calls.append((name, list(calls)))
            return [*self._errors, *([found] * len(calls))][: len(calls)]

        return load


def engine_of(loads: Loads, **limits: int) -> Engine:
    table = {
        "vehicle": RootFieldLoader(loads.of("vehicle", A), tuple, by_id=True),
        "node": RootFieldLoader(loads.of("node", B), tuple, by_id=True),
        "nodes": RootFieldLoader(loads.of("nodes", [A, B])),
    }
    return Engine(Types(SCHEMA, BASE_CLASSES), table, ExecutionLimits(**limits), PlanFallbacks())


def document_of(text: str) -> Document:
    return Document(text, "", parse(text))


async def run(engine: Engine, text: str, **variables: Any) -> Any:
    plan = engine.prepare(document_of(text), None, variables)
    assert plan is not None
    return msgspec.json.decode(msgspec.json.encode(await plan.run(None)))


async def test_data_has_the_order_of_the_operation():
    """Constants and fields are in the order of selection, by their aliases."""
    text = '{ b: __typename v: vehicle(id: "A") { vehicleId } s: __schema { queryType { name } } n: nodes(ids: []) { id } }'
    data = await run(engine_of(Loads()), text)
    assert list(data) == ["b", "v", "s", "n"]
    assert (data["b"], data["v"], data["s"]) == ("Query", {"vehicleId": "A"}, {"queryType": {"name": "Query"}})
    assert len(data["n"]) == 2
    assert await run(engine_of(Loads()), "{ __typename }") == {"__typename": "Query"}
    assert await run(engine_of(Loads()), '{ vehicle(id: "A") @skip(if: true) { id } }') == {}


async def test_fragments_are_part_of_a_plan():
    """A selection in a fragment is planned like the same selection without the fragment."""
    text = '{ ...F } fragment F on Query { vehicle(id: "A") { ...G } } fragment G on Vehicle { tags }'
    assert await run(engine_of(Loads()), text) == {"vehicle": {"tags": ["x"]}}


async def test_occurrences_of_a_field_are_loaded_together():
    """One call has the arguments of all occurrences; it is immediate if there are no fields of another name."""
    loads = Loads()
    await run(engine_of(loads), '{ a: vehicle(id: "1") { tags } b: vehicle(id: "2") { tags } }')
    ((name, calls),) = loads.calls
    assert name == "vehicle"
    assert [call.arguments["id"] for call in calls] == ["1", "2"]
    assert all(call.immediate for call in calls)
    loads.calls.clear()
    await run(engine_of(loads), '{ a: vehicle(id: "1") { tags } b: node(id: "2") { id } }')
    assert [(name, call.immediate) for name, calls in loads.calls for call in calls] == [
        ("vehicle", False),
        ("node", False),
    ]


@pytest.mark.parametrize(
    ("text", "masks"),
    [
        ('{ vehicle(id: "1") { tags } }', [("tags",)]),
        ('{ node(id: "1") { ... on Vehicle { tags } } }', [(f"{ON}Vehicle", f"{ON}TelematicsUnit")]),
        ('{ a: vehicle(id: "1") { tags } b: vehicle(id: "2") { status } }', [None, None]),
        ('{ a: vehicle(id: "1") { tags } b: nodes(ids: []) { id } }', [None, None]),
    ],
)
async def test_fields_that_read_the_same_objects_share_a_mask_or_have_none(text, masks):
    """Otherwise a vehicle would be read once for each mask."""
    loads = Loads()
    await run(engine_of(loads), text)
    found = [call.field_mask for _, calls in loads.calls for call in calls]
    assert [sorted(mask) if mask else mask for mask in found] == [sorted(mask) if mask else mask for mask in masks]


async def test_equal_masks_are_shared():
    """Occurrences with the same mask keep it."""
    loads, mask = Loads(), object()
    table = {"vehicle": RootFieldLoader(loads.of("vehicle", A), lambda needs: mask, by_id=True)}
    engine = Engine(Types(SCHEMA, BASE_CLASSES), table, ExecutionLimits(), PlanFallbacks())
    await run(engine, '{ a: vehicle(id: "1") { tags } b: vehicle(id: "2") { tags } }')
    ((_, calls),) = loads.calls
    assert [call.field_mask for call in calls] == [mask, mask]


@pytest.mark.parametrize(
    "text",
    [
        '{ vehicle(id: "A") { vehicleId } }',
        '{ a: vehicle(id: "A") { vehicleId } n: nodes(ids: []) { id } }',
        '{ a: vehicle(id: "A") { vehicleId } b: vehicle(id: "B") { vehicleId } }',
    ],
)
async def test_an_error_of_a_loader_fails_the_plan_at_its_field(text):
    """The failure has the field, and the error as its cause."""
    failure = ValueError()
    plan = engine_of(Loads(failure)).prepare(document_of(text), None, {})
    with pytest.raises(PlanFailed) as failed:
        await plan.run(None)
    assert failed.value.field == "Query.vehicle"
    assert failed.value.__cause__ is failure


async def test_a_response_that_is_too_long_is_no_plan_failure():
    """LimitExceeded is raised directly, because the generic executor would exceed the limit, too."""
    with pytest.raises(LimitExceeded):
        await (
            engine_of(Loads(LimitExceeded("responseBytes", 1)))
            .prepare(document_of('{ vehicle(id: "A") { tags } }'), None, {})
            .run(None)
        )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{ v: vehicle(id: "A") { tags } }', "v"),
        ('{ v: vehicle(id: "A") { tags } w: vehicle(id: "B") { tags } }', None),
        ('{ v: vehicle(id: "A") { tags } n: nodes(ids: []) { id } }', None),
        ('{ v: vehicle(id: "A") { tags } __typename }', None),
        ("{ __typename }", None),
        ("{ __schema { queryType { name } } }", None),
    ],
)
def test_only_is_the_single_field_of_a_response(text, key):
    """`only` is None for a response with several fields, or with none that is loaded."""
    only = engine_of(Loads()).prepare(document_of(text), None, {}).plan.only
    assert (None if only is None else only.key) == key


class Page:
    """A connection that caches its fragments."""

    def __init__(self) -> None:
        self.nodes = [A, B]
        self.rendered: dict[int, bytes] = {}
        self.completed = 0

    async def cached_fragment(self, projection: int) -> bytes | None:
        return self.rendered.get(projection)

    async def ready(self) -> Page:
        self.completed += 1
        return self

    def cache_fragment(self, projection: int, rendered: bytes) -> None:
        self.rendered[projection] = rendered


class States:
    """The loaders of a request, without vehicle states."""

    def __init__(self) -> None:
        self.loaders = self.latest_states = self

    async def load_many(self, ids: list[str]) -> list[None]:
        return [None] * len(ids)


async def test_a_fragment_is_cached():
    """A fragment is encoded once, and its size counted each time; one with loaded fields is not cached."""
    page = Page()
    table = {"vehicles": RootFieldLoader(Loads().of("vehicles", page))}
    engine = Engine(Types(SCHEMA, BASE_CLASSES), table, ExecutionLimits(response_bytes=100), PlanFallbacks())
    text = "{ v: vehicles { nodes { vehicleId } } }"
    plan = engine.prepare(document_of(text), None, {})
    expected = {"v": msgspec.Raw(b'{"nodes":[{"vehicleId":"A"},{"vehicleId":"B"}]}')}
    assert await plan.run(None) == await plan.run(None) == expected
    assert page.completed == 1
    assert list(page.rendered.values()) == [bytes(expected["v"])]
    page.rendered = dict.fromkeys(page.rendered, b" " * 101)
    with pytest.raises(LimitExceeded):
        await plan.run(None)
    page.rendered.clear()
    more = engine.prepare(document_of("{ v: vehicles { nodes { latestState { ignition { value } } } } }"), None, {})
    assert await more.run(States()) == {"v": {"nodes": [{"latestState": None}, {"latestState": None}]}}
    assert page.rendered == {}


def test_a_plan_is_made_once_for_each_variant():
    """Plans are independent of variables, except flags; each variant has its own plan, up to a maximum."""
    flags = [f"f{number}" for number in range(5)]
    head = ", ".join(f"${flag}: Boolean!" for flag in flags)
    body = " ".join(f"{flag}: tags @include(if: ${flag})" for flag in flags)
    document = document_of(f"query($i: ID!, {head}) {{ vehicle(id: $i) {{ tags {body} }} }}")
    engine, size = engine_of(Loads()), document.size
    with pytest.raises(NotMade):
        engine.prepare(document, None, {"i": "A", **dict.fromkeys(flags, True)}, make=False)
    first = engine.prepare(document, None, {"i": "A", **dict.fromkeys(flags, True)})
    assert engine.prepare(document, None, {"i": "B", **dict.fromkeys(flags, True)}, make=False).plan is first.plan
    grown = document.size
    assert grown > size
    with pytest.raises(NotMade):
        engine.prepare(document, None, {"i": "B", **dict.fromkeys(flags, False)}, make=False)
    assert document.size == grown
    for number in range(2**5):
        variant = {flag: bool(number >> index & 1) for index, flag in enumerate(flags)}
        prepared = engine.prepare(document, None, {"i": "A", **variant})
        assert prepared is None or prepared.plan is not first.plan or all(variant.values())
    assert len(document.plans[None].made) == VARIANTS_MAX
    assert document.size > grown


def test_invalid_variables_are_reported_before_planning():
    """The errors of coercion are raised."""
    engine = engine_of(Loads(), list_items=2)
    with pytest.raises(VariablesInvalid):
        engine.prepare(document_of("query($i: ID!) { vehicle(id: $i) { id } }"), None, {})
    with pytest.raises(LimitExceeded):
        engine.prepare(document_of("query($i: [ID!]!) { nodes(ids: $i) { id } }"), None, {"i": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{ vehicles { nodes { id } } }", "Query.vehicles"),
        ("query($n: String!) { a: __typename __type(name: $n) { name } }", "Query.__type"),
        ("{ __type(name: 7) { name } }", "Query.__type"),
        ("{ vehicle(id: 1) { " + " ".join(f"a{n}: tags" for n in range(2001)) + " } }", "Query.vehicle"),
    ],
)
def test_an_operation_that_is_not_compilable_has_no_plan(text, field):
    """The fallback has the field that cannot be compiled, each time."""
    engine, document = engine_of(Loads()), document_of(text)
    for make in (True, False):
        assert engine.prepare(document, None, {"n": "Query", "i": "A"}, make=make) is None
        assert engine.unplanned(document, None) == Fallback(NOT_COMPILABLE, field)
    # No other variables, on which the result could depend, so there is a plan.
    assert engine.prepare(
        document_of('query($b: Boolean!) { __type(name: "Query") { name @skip(if: $b) } }'), None, {"b": True}
    )


@pytest.mark.parametrize(
    "text", ["mutation { a }", "subscription { a }", "query A { __typename } query B { __typename }"]
)
def test_only_a_query_has_a_plan(text):
    """There is no plan for other operations, or if the operation is ambiguous."""
    document = document_of(text)
    assert engine_of(Loads()).prepare(document, None, {}) is None
    assert document.plans == {}


ARGUMENTS = build_schema(
    "input In { n: Int } type Query { f(id: ID!, n: Int, d: Int = 7, of: [Int], in: In, r: Int! = 3): Int }"
).query_type.fields["f"]


def arguments_for(query: str, **variables: Any) -> dict[str, Any]:
    (operation,) = parse(query).definitions
    assert isinstance(operation, OperationDefinitionNode)
    (node,) = operation.selection_set.selections
    coerced = VariableValues({}, {"i": "first", "n": 1, "r": 5, **variables})
    return arguments_of(ARGUMENTS, node, coerced)({**variables})


def test_arguments_have_constants_and_variables():
    """Arguments have the variables of each run, not of the first; defaults of arguments are constants."""
    assert arguments_for('{ f(id: "a", of: [1]) }') == {"id": "a", "d": 7, "of": [1], "r": 3}
    assert arguments_for("query($i: ID!) { f(id: $i) }", i="b") == {"id": "b", "d": 7, "r": 3}
    assert arguments_for("query($n: Int) { f(id: 1, n: $n, d: 2) }", n=None) == {"id": "1", "n": None, "d": 2, "r": 3}
    assert arguments_for("query($n: Int) { f(id: 1, n: $n, d: 2) }") == {"id": "1", "d": 2, "r": 3}


@pytest.mark.parametrize(
    ("query", "value"),
    [("query($n: Int) { f(id: 1, of: [$n]) }", [4]), ("query($n: Int) { f(id: 1, in: {n: $n}) }", {"n": 4})],
)
def test_a_variable_may_be_inside_a_value(query, value):
    """The arguments are then computed for each run."""
    assert value in arguments_for(query, n=4).values()
    assert arguments_for(query, n=4)["d"] == 7


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("query($i: ID) { f(id: $i) }", {"i": None}),
        ("query($i: ID!) { f(id: $i) }", {}),
        ("query($n: Int) { f(id: 1, d: $n) }", {}),
        ("query($r: Int) { f(id: 1, r: $r) }", {}),
    ],
)  # fmt: skip
def test_an_error_or_a_default_is_left_to_the_generic_executor(query, variables):
    """Null or no value for a required argument, or no value for one with a default, raises UnexpectedValue."""
    (operation,) = parse(query).definitions
    (node,) = operation.selection_set.selections
    arguments = arguments_of(ARGUMENTS, node, VariableValues({}, {"i": "x", "n": 1, "r": 5}))
    with pytest.raises(UnexpectedValue):
        arguments(variables)
