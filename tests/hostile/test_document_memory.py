"""Documents that take much CPU time or memory: sent at once, one after the other, and in every form."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice, product

import pytest

from benchmarks.hostile_documents import SHAPES
from gateway.engine.documents import Documents, digest_of
from gateway.schema.build import build_schema
from gateway.schema.execution import Execution
from gateway.schema.pagination import Limits
from gateway.upstream.pages import Fragment, VehiclePage
from tests.gateways import serving
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, VALID_TOKEN_CPU_MAX, AttackedGateway, code_of
from tests.journeys.test_queries import ALL_OF_A_VEHICLE

SCHEMA = build_schema()
WHOLE = f"{{ vehicles(first: 100) {{ edges {{ cursor node {{ {ALL_OF_A_VEHICLE} }} }} }} }}"
FORMS = "query($a: Boolean!, $b: Boolean!, $c: Boolean!, $d: Boolean!) {{ {skipped} {roots} }} fragment f on Vehicle {{ {all} }}"
# Valid documents, each as large as the limits allow, and the names of their operations.
DEAR = {
    "whole": (WHOLE, None),
    "values": (SHAPES["values"](1900), None),
    "variables": (SHAPES["variables"](250), None),
    "operations": (SHAPES["operations"](390), "q0"),
    "repeated": (SHAPES["a field repeated"](134), None),
    "wide": (SHAPES["with a wide selection"](56), None),
    "fragments": (SHAPES["fragments of selections"](68), None),
    "aliases": (
        "{%s} fragment f on Vehicle { id masterData { vin brand model } lastContactAt }"
        % " ".join(f"a{n}: vehicles(first: {n}) {{ nodes {{ ...f }} }}" for n in range(50)),
        None,
    ),
    "long": ('{ vehicle(id: "\U0001f600%s") { id } }' % ("a" * 60_000), None),
}  # fmt: skip


def body_of(query: str, **variables: object) -> bytes:
    return json.dumps({"query": query, "variables": variables}).encode()


def each_form(roots: int, distinct: int) -> Iterator[bytes]:
    """A document with four flags in its sixteen forms, each with a plan of its own."""
    query = FORMS.format(
        skipped=" ".join(f"s{flag}: __typename @skip(if: ${flag})" for flag in "abcd"),
        roots=" ".join(f"a{n}: vehicles(first: 1) {{ nodes {{ ...f }} }}" for n in range(roots)),
        all=ALL_OF_A_VEHICLE,
    )
    for on in product((False, True), repeat=4):
        yield body_of(f"{query} #{distinct}", **dict(zip("abcd", on, strict=True)))


@pytest.mark.parametrize("shape", ["misspelt fields", "fragments of selections", "operations"])
def test_documents_of_invalid_tokens_delay_no_one_and_are_not_cached(attacked, shape):
    """The slowest documents to validate, from many callers at once, do not block the event loop."""
    text = SHAPES[shape]({"misspelt fields": 1900, "fragments of selections": 68, "operations": 390}[shape])
    bodies = [body_of(f"{text} #{number}") for number in range(16)]
    with attacked.measured() as harm, ThreadPoolExecutor(len(bodies)) as senders:
        codes = {
            code_of(answer) for _, answer in senders.map(attacked.post, bodies, [f"x{n}" for n in range(len(bodies))])
        }
    assert codes <= {"GRAPHQL_VALIDATION_FAILED", "UNAUTHENTICATED", "OPERATION_RESOLUTION_FAILURE"}
    assert harm.cpu <= INVALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX


def test_new_documents_of_a_valid_token_block_only_briefly(attacked):
    """Documents that each need a plan arrive at once: they are parsed and compiled one at a time."""
    attacked.post(body_of(WHOLE), "alice")
    bodies = [next(each_form(8, number)) for number in range(16)]
    with attacked.measured() as harm, ThreadPoolExecutor(len(bodies)) as senders:
        assert all(b'"errors"' not in answer for _, answer in senders.map(attacked.post, bodies, ["alice"] * 16))
    assert harm.cpu <= VALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX


def test_cached_documents_of_a_valid_token_are_bounded(tmp_path):
    """Documents with a plan for every form take no more memory than the setting says."""
    bytes_max = 2 * 2**20
    with ExitStack() as stack:
        attacked = AttackedGateway(
            tmp_path, lambda app: stack.enter_context(serving(app)), graphql_documents_bytes_max=str(bytes_max)
        )
        stack.callback(attacked.stop)
        attacked.post(body_of(WHOLE), "alice")
        for body in islice(each_form(8, 0), 4):
            attacked.post(body, "alice")
        with attacked.measured() as harm:  # four times the limit
            for body in islice(each_form(8, 1), 10):
                assert b'"errors"' not in attacked.post(body, "alice")[1]
    assert harm.cpu <= VALID_TOKEN_CPU_MAX
    assert harm.memory <= bytes_max


@pytest.mark.parametrize("name", DEAR)
def test_the_accounted_size_of_a_document_is_its_memory(name):
    """A parsed document and its plan take no more memory than the accounted size, and not much less."""
    execution, documents = Execution(SCHEMA), Documents(SCHEMA.core, 2**40)
    text, operation = DEAR[name]
    variables = {f"v{number}": "x" for number in range(250)}
    execution.prepared(documents.read(f"{text} #warm"), operation, variables)
    before = documents.bytes_used
    texts = [f"{text} #{number}" for number in range(2)]
    gc.collect()
    tracemalloc.start()
    try:
        for one in texts:
            execution.prepared(documents.read(one), operation, variables)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] + sum(map(len, texts))
    finally:
        tracemalloc.stop()
    assert len(documents) == 1 + len(texts)
    assert 0.5 * (documents.bytes_used - before) <= taken <= 1.05 * (documents.bytes_used - before)


def test_response_fragments_count_with_their_cursors():
    """Cached fragments with long cursors and little content stay within the bound for pages."""
    page = VehiclePage([])
    for number in range(200):
        page.add_fragment(number, Fragment(b"[]", (), 900))
    assert page.bytes_taken <= len(page.body) + page.room_in_all
    assert [page.fragment(number) is not None for number in (0, 198, 199)] == [False, False, True]


def test_an_evicted_plan_is_freed_at_once():
    """It is in no reference cycle, and a fragment that it rendered does not refer to it."""
    execution, documents = Execution(SCHEMA), Documents(SCHEMA.core)
    document, page = documents.read("{ vehicles { nodes { id } } }"), VehiclePage([])
    prepared = execution.prepared(document, None, {})
    fragment_key = execution.fragment_key_of(prepared, Limits(), None)
    page.add_fragment(fragment_key.key, Fragment(b"[]", ()))
    names = weakref.ref(prepared.plan.only.projection.complete)
    gc.disable()
    try:
        document.grow(2**40)
        assert len(documents) == 0
        del prepared, document
        assert names() is None
    finally:
        gc.enable()
    assert page.fragment(fragment_key.key) is not None


def test_a_hash_does_not_reveal_the_documents_of_others(attacked):
    """A hash that one principal registered is unknown for another."""
    text = "{ vehicles(first: 1) { nodes { vehicleId } } }"
    named = {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": digest_of(text)}}}
    assert b'"errors"' not in attacked.post({"query": text, **named}, "alice")[1]
    assert b'"errors"' not in attacked.post(named, "alice")[1]
    for other in ("bob", "x"):
        assert code_of(attacked.post(named, other)[1]) == "PERSISTED_QUERY_NOT_FOUND"
    assert b'"errors"' not in attacked.post({"query": text, **named}, "bob")[1]
    assert b'"errors"' not in attacked.post(named, "bob")[1]
