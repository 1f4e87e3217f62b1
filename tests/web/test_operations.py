"""Operations: which document a request names, whether it may run, and what is cached for it."""

from __future__ import annotations

import json

import pytest

from gateway.engine.document_limits import ExecutionLimits
from gateway.engine.documents import digest_of
from gateway.identity import Caller
from gateway.overload.admission import Admission
from gateway.schema.build import build_schema
from gateway.schema.cost import CostModel
from gateway.schema.execution import Execution
from gateway.schema.pagination import Limits
from gateway.settings import Settings
from gateway.web.graphql_request import GraphQLParams, HTTPError
from gateway.web.operations import FLEETS_MAX, KEY_BYTES_MAX, InvalidOperation, Operations

SCHEMA = build_schema()
VEHICLE = "query($id: ID!) { vehicle(id: $id) { vehicleId } }"
LIST = "{ vehicles(first: 2) { nodes { vehicleId } } }"
INTROSPECTION = "{ __schema { queryType { name } } __typename }"
ALICE, BOB, UNTRUSTED = Caller("alice"), Caller("bob"), Caller("made up")


class World:
    """Operations over the gateway's schema; Alice and Bob are trusted."""

    def __init__(self, trusted: dict[str, str] | None = None, nodes_max: int = 100, **groups: dict) -> None:
        settings = Settings(**groups)
        self.admission = Admission(settings.limits)
        for caller in (ALICE, BOB):
            self.admission.trust(caller)
        self.limits = Limits()
        self.execution = Execution(SCHEMA, ExecutionLimits(settings.limits.nodes, settings.limits.response_bytes))
        cost = CostModel(SCHEMA.core, self.limits, settings.upstream.page_size, settings.limits)
        self.operations = Operations(
            SCHEMA, self.execution, cost, settings.graphql, settings.limits, self.admission,
            trusted=trusted, nodes_max=nodes_max,
        )  # fmt: skip

    def at_once(self, caller: Caller | None = ALICE, key: bytes = b"key", **params: object):
        return self.operations.prepared_at_once(GraphQLParams(**params), key, caller)

    async def prepared(self, caller: Caller | None = ALICE, *, is_get: bool = False, **params: object):
        return await self.operations.prepare(GraphQLParams(**params), caller, is_get=is_get)


def codes(invalid: pytest.ExceptionInfo[InvalidOperation]) -> list[str]:
    return [(error.extensions or {}).get("code") for error in invalid.value.errors]


def persisted(query: str) -> dict:
    return {"persistedQuery": {"version": 1, "sha256Hash": digest_of(query)}}


async def test_a_request_is_cached_once_its_document_is_planned():
    """Unknown documents go through `prepare`; a planned one is prepared at once, and later by its bytes alone."""
    world = World()
    given = {"query": VEHICLE, "variables": {"id": "A"}}
    assert world.operations.remembered(b"key", ALICE) is None
    assert world.at_once(**given) is None
    request = await world.prepared(**given)
    assert request.plan is not None
    assert (request.key, request.values, request.is_introspection) == (b"", None, False)
    request = world.at_once(**given)
    assert (request.key, request.variables) == (b"key", {"id": "A"})
    assert world.operations.remembered(b"key", BOB) is request
    assert world.operations.remembered(b"other", ALICE) is None


async def test_requests_of_untrusted_callers_are_not_cached():
    """Neither document, plan nor request is; a document that others have planned runs with its plan."""
    world = World()
    request = await world.prepared(UNTRUSTED, query=LIST)
    assert request.plan is None
    assert request.values is not None
    assert world.at_once(query=LIST) is None
    await world.prepared(query=LIST)
    assert world.at_once(UNTRUSTED, query=LIST).key == b""
    assert world.operations.remembered(b"key", ALICE) is None
    assert (await world.prepared(UNTRUSTED, query=LIST)).plan is not None


@pytest.mark.parametrize(("length", "is_remembered"), [(KEY_BYTES_MAX, True), (KEY_BYTES_MAX + 1, False)])
async def test_long_requests_are_not_cached(length, is_remembered):
    """Their documents are."""
    world, key = World(), b"x" * length
    await world.prepared(query=LIST)
    assert bool(world.at_once(key=key, query=LIST).key) is is_remembered
    assert (world.operations.remembered(key, ALICE) is not None) is is_remembered


async def test_a_hash_is_registered_per_principal():
    """Alone it is unknown until the same principal has sent it with its document, cached or not."""
    world, named = World(), persisted(LIST)
    with pytest.raises(InvalidOperation) as unknown:
        world.at_once(extensions=named)
    assert codes(unknown) == ["PERSISTED_QUERY_NOT_FOUND"]
    await world.prepared(query=LIST, extensions=named)
    request = world.at_once(key=b"alone", extensions=named)
    assert request.is_hash_alone
    assert world.operations.remembered(b"alone", ALICE) is request
    for ask in (lambda: world.operations.remembered(b"alone", BOB), lambda: world.at_once(BOB, extensions=named)):
        with pytest.raises(InvalidOperation) as unknown:
            ask()
        assert codes(unknown) == ["PERSISTED_QUERY_NOT_FOUND"]
    with_text = world.at_once(BOB, key=b"both", query=LIST, extensions=named)
    assert not with_text.is_hash_alone
    assert world.operations.remembered(b"alone", BOB) is request
    with pytest.raises(InvalidOperation):
        world.operations.remembered(b"alone", None)


async def test_a_cached_request_registers_its_hash_for_each_principal():
    """A second principal that sends the same bytes, document included, may send the hash alone, too."""
    world, named = World(), persisted(LIST)
    await world.prepared(query=LIST, extensions=named)
    world.at_once(key=b"both", query=LIST, extensions=named)
    world.operations.remembered(b"both", BOB)
    assert world.at_once(BOB, key=b"alone", extensions=named) is not None


async def test_a_hash_has_to_be_that_of_the_document():
    """No document is registered under another's hash; a request with neither is rejected."""
    with pytest.raises(HTTPError) as mismatch:
        await World().prepared(query=LIST, extensions=persisted(VEHICLE))
    assert (mismatch.value.status, mismatch.value.code) == (422, "PERSISTED_QUERY_MISMATCH")
    with pytest.raises(HTTPError) as nothing:
        await World().prepared()
    assert (nothing.value.status, nothing.value.code) == (422, "BAD_REQUEST")


async def test_only_trusted_documents_run():
    """By their names or by their text, for trusted and untrusted callers alike; hashes register nothing."""
    world = World(trusted={"list": LIST})
    for params in ({"document_id": "list"}, {"doc_id": "list"}, {"query": LIST}):
        request = await world.prepared(UNTRUSTED, **params)
        assert (request.document.text, request.digest) == (LIST, None)
        assert request.plan is not None
        assert world.at_once(**params) is not None
    for params in ({"query": VEHICLE}, {"document_id": "other"}, {}):
        with pytest.raises(InvalidOperation) as untrusted:
            await world.prepared(**params)
        assert codes(untrusted) == ["OPERATION_NOT_TRUSTED"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"query": "{"}, None),
        ({"query": "{ nothing }"}, None),
        ({"query": "query A { __typename } query B { __typename }"}, "OPERATION_RESOLUTION_FAILURE"),
        ({"query": LIST, "operation_name": "A"}, "OPERATION_RESOLUTION_FAILURE"),
        ({"query": VEHICLE}, None),
        ({"query": "query($n: Int) { vehicles(first: $n) { nodes { id } } }", "variables": {"n": "x"}}, None),
    ],
)
async def test_invalid_operations_do_not_run(params, code):
    """Syntax, validation, operation name and variables; none of them is prepared at once."""
    world = World()
    with pytest.raises(InvalidOperation) as invalid:
        await world.prepared(**params)
    assert codes(invalid) == [code]
    assert world.at_once(**params) is None


async def test_a_get_can_only_send_queries():
    """There are no mutations yet, so any other operation fails validation first; a query passes."""
    assert (await World().prepared(is_get=True, query=LIST)).plan is not None


async def test_introspection_follows_its_setting():
    """Without a token it runs where it is public; where it is off it never runs."""
    world = World(graphql={"introspection": "public"})
    request = await world.prepared(None, query=INTROSPECTION)
    assert request.is_introspection
    await world.prepared(query=INTROSPECTION)
    assert world.at_once(key=b"schema", query=INTROSPECTION).is_introspection
    assert world.operations.remembered(b"schema", None) is not None
    await world.prepared(query=LIST)
    world.at_once(key=b"list", query=LIST)
    for ask in (lambda: world.operations.remembered(b"list", None), lambda: world.at_once(None, query=LIST)):
        with pytest.raises(HTTPError) as refused:
            ask()
        assert refused.value.status == 401
    for query in (LIST, "{ __typename }", INTROSPECTION.replace("__typename", "vehicle(id: 1) { id }")):
        with pytest.raises(HTTPError) as refused:
            await world.prepared(None, query=query)
        assert refused.value.status == 401
    with pytest.raises(HTTPError) as off:
        await World(graphql={"introspection": "off"}).prepared(query=INTROSPECTION)
    assert (off.value.status, off.value.code) == (422, "INTROSPECTION_DISABLED")


async def test_cost_is_exact_only_above_the_worst_case():
    """A list that the limit allows runs although a longer one would not, and is checked each time."""
    world = World(limits={"upstream_calls": 8, "nodes": 1000})
    query = "query($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    few = [f"VmVoaWNsZTo{number}" for number in range(2)]
    request = await world.prepared(query=query, variables={"ids": few})
    assert request.values is not None
    assert world.at_once(query=query, variables={"ids": few}) is None
    assert world.operations.cost_of(request).nodes == 2
    cheap = await world.prepared(query=LIST)
    assert cheap.values is None
    assert world.operations.cost_of(cheap).upstream_calls >= 1
    twice = "{ a: vehicles(first: 40) { nodes { id } } b: vehicles(first: 40) { nodes { id } } }"
    with pytest.raises(InvalidOperation) as exceeded:
        await World(limits={"nodes": 50}).prepared(query=twice)
    assert exceeded.value.errors[0].extensions["limit"] == "nodes"


async def test_more_ids_than_a_list_may_hold_are_never_prepared_at_once():
    """They are for `prepare`, which counts them."""
    world = World(nodes_max=3)
    query = "query($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    await world.prepared(query=query, variables={"ids": []})
    assert world.at_once(query=query, variables={"ids": ["a", "b", "c"]}) is not None
    assert world.at_once(query=query, variables={"ids": ["a", "b", "c", "d"]}) is None


@pytest.mark.parametrize(("size", "rejected_by_size"), [(90, False), (91, True)])
def test_variables_are_limited_by_their_own_bytes(size, rejected_by_size):
    """They count as JSON without spaces, whatever else is in the request."""
    variables = {"id": "x" * (size - len('{"id":""}'))}
    operations = World(limits={"variables_bytes": 90}).operations
    length = len(json.dumps(variables)) + 1000
    if rejected_by_size:
        with pytest.raises(HTTPError) as exceeded:
            operations.check_variables(GraphQLParams(variables=variables), length)
        assert (exceeded.value.status, exceeded.value.extensions["limit"]) == (422, "variablesBytes")
        operations.check_variables(GraphQLParams(variables=variables), 1)  # a request of a byte can't hold them
    else:
        operations.check_variables(GraphQLParams(variables=variables), length)
    operations.check_variables(GraphQLParams(), length)


async def test_fragment_keys_are_cached_for_each_fleet_within_bounds():
    """A request whose response is one connection has a key, which counts in the memory of the document."""
    world = World()
    await world.prepared(query=LIST)
    request = world.at_once(query=LIST)
    size = request.document.size
    key = request.fragment_key(None, world.execution, world.limits)
    assert key is request.fragment_key(None, world.execution, world.limits) is not None
    grown = request.document.size - size
    assert grown > 0
    for number in range(FLEETS_MAX):
        request.fragment_key(f"F{number}", world.execution, world.limits)
    assert len(request.fragment_keys) <= FLEETS_MAX
    assert request.document.size - size == grown * len(request.fragment_keys)
    unremembered = world.at_once(key=b"x" * (KEY_BYTES_MAX + 1), query=LIST)
    assert unremembered.fragment_key(None, world.execution, world.limits) == key
    await world.prepared(query=VEHICLE, variables={"id": "A"})
    vehicle = world.at_once(key=b"vehicle", query=VEHICLE, variables={"id": "A"})
    assert vehicle.fragment_key(None, world.execution, world.limits) is None
    unplanned = await world.prepared(UNTRUSTED, query="{ __typename }")
    assert unplanned.fragment_key(None, world.execution, world.limits) is None


@pytest.mark.parametrize(("number", "at_once"), [(1, True), (16, True), (17, False), (32, False)])
async def test_the_worst_case_has_lists_of_the_next_power_of_two(number, at_once):
    """So few worst cases are computed; a list above the limit of its power is checked exactly."""
    world = World(limits={"nodes": 31, "upstream_calls": 1000})
    query = "query($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    ids = [f"VmVoaWNsZTo{each}" for each in range(number)]
    await world.prepared(query=query, variables={"ids": []})
    assert (world.at_once(query=query, variables={"ids": ids}) is not None) is at_once


async def test_an_invalid_operation_by_get_has_its_own_error():
    """Rather than one about the method."""
    for query, code in (("{", None), ("query A { __typename } query B { __typename }", "OPERATION_RESOLUTION_FAILURE")):
        with pytest.raises(InvalidOperation) as invalid:
            await World().prepared(is_get=True, query=query)
        assert codes(invalid) == [code]
