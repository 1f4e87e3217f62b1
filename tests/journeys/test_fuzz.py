"""Generated requests: each response has a code, none is a 500, and no bug is in the log."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.simulator import Behaviours, Simulator
from tests.effort import effort
from tests.gateway_process import GatewayProcess
from tests.gateways import PLANS, TOKENS, serving

RELAXED = settings(
    max_examples=effort(50, 150, 500),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
AUTHORIZED = {"Authorization": f"Bearer {TOKENS['alice']}"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
WITH_SURROGATES = st.text(max_size=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`gateway serve` over a simulator; after all tests its log has no error, and its memory is bounded."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as upstream:
        gateway = GatewayProcess(tmp_path_factory.mktemp("fuzz"), upstream_url=upstream, limits_tokens="4000")
        try:
            gateway.wait_until_ready()
            before = gateway.memory()
            with httpx.Client(base_url=gateway.url, timeout=30, verify=False) as http:
                yield http
            assert gateway.memory() < before + 150 * 2**20
            assert simulator.requests.by_method.keys() == {"GET"}  # writes are off
        finally:
            gateway.stop()
    assert '"event": "request"' in gateway.output
    assert '"level": "error"' not in gateway.output
    assert "Traceback" not in gateway.output


@pytest.fixture(scope="module")
def graphql_schema(served):
    return schemathesis.graphql.from_url(str(served.base_url.join("/graphql")), headers=AUTHORIZED)


def check(response: httpx.Response) -> None:
    """Checks that hold for every response."""
    assert response.status_code < 500, response.text
    answer = response.json()
    for error in answer.get("errors", ()):
        assert error["message"]
        assert error["extensions"]["code"] != "INTERNAL", error
    if response.status_code == 200:
        assert "data" in answer or answer["errors"]


@RELAXED
@given(data=st.data())
def test_generated_operations_get_responses(served, graphql_schema, data):
    """Every operation that schemathesis makes of the schema has a response whose errors have codes."""
    case = data.draw(graphql_schema.as_strategy())
    check(served.post("/graphql", json={"query": case.body}, headers=AUTHORIZED))


@RELAXED
@given(body=st.one_of(st.binary(max_size=300), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WITH_SURROGATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["query", "variables", "operationName", "extensions", "persistedQuery", "sha256Hash", "documentId", "doc_id"]) | WITH_SURROGATES, inner, max_size=5),
    max_leaves=12).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_any_body_gets_a_response(served, body):
    """Bytes, JSON of any kind, members of wrong types."""
    check(served.post("/graphql", content=body, headers={**AUTHORIZED, "Content-Type": "application/json"}))


@RELAXED
@given(headers=st.dictionaries(
    st.sampled_from(["Accept", "Content-Type", "X-Request-Id", "X-Gateway-Cost", "X-Gateway-Timeout", "traceparent", "Authorization", "Origin", "Accept-Encoding"]),
    st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60).map(lambda text: text.strip().encode("latin-1")), max_size=5))  # fmt: skip
def test_any_header_gets_a_response(served, headers):
    """Media types, ids, gateway headers, traces and tokens of any form."""
    sent = {**AUTHORIZED, "Content-Type": "application/json", **headers}
    response = served.post("/graphql", content=b'{"query":"{ vehicle(id: \\"JQ7RP\\") { id } }"}', headers=sent)
    check(response)


@RELAXED
@given(parameters=st.dictionaries(st.sampled_from(["query", "variables", "operationName", "extensions", "documentId", "doc_id"]), TEXT | st.just("{ __typename }")))  # fmt: skip
def test_any_query_string_gets_a_response(served, parameters):
    """GET parameters with any content."""
    check(served.get("/graphql", params=parameters, headers=AUTHORIZED))


IDS = st.one_of(TEXT, st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()))
HOSTILE = "query($id: ID!, $ids: [ID!]!, $c: String, $n: Int, $s: String, $r: [_Any!]!) { vehicle(id: $id) { id } nodes(ids: $ids) { id } vehicles(first: $n, after: $c, search: $s) { nodes { id } } _entities(representations: $r) { __typename } }"


@RELAXED
@given(
    vehicle_id=IDS,
    ids=st.lists(IDS, max_size=4),
    cursor=IDS | st.none(),
    n=st.integers(-(2**40), 2**40) | st.none() | st.integers(0, 600),
    search=TEXT,
    keys=st.lists(st.dictionaries(st.sampled_from(["__typename", "id", "vehicleId", "unitId", "brand"]), IDS | st.none() | st.integers(-5, 5) | st.sampled_from(["Vehicle", "TelematicsUnit"]), max_size=3), max_size=3),
)  # fmt: skip
def test_any_id_cursor_and_key_gets_a_response(served, vehicle_id, ids, cursor, n, search, keys):
    """Ids, cursors, sizes, searches and representations of any content."""
    variables = {"id": vehicle_id, "ids": ids, "c": cursor, "n": n, "s": search, "r": keys}
    check(served.post("/graphql", json={"query": HOSTILE, "variables": variables}, headers=AUTHORIZED))


CORPUS = {
    "deep": "{ a " * 900,
    "closed deep": "{ vehicles { nodes " + "{ telematicsUnit { vehicle " * 300 + "{ id }" + " } }" * 300 + " } }",
    "wide": "{" + " __typename" * 1900 + "}",
    "aliased": "{" + "".join(f" a{n}: vehicle(id: {n}) {{ id }}" for n in range(300)) + "}",
    "circular": "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
    "doubling": "{ ...f0 }" + "".join(f" fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(200)),
    "doubling below the root": "{ vehicles { nodes { ...f0 } } }"
    + "".join(f" fragment f{n} on Vehicle {{ ...f{n + 1} ...f{n + 1} }}" for n in range(100))
    + " fragment f100 on Vehicle { id }",
    "repeating": "{ vehicles { nodes { ...f0 } } }"
    + "".join(
        f" fragment f{n} on Vehicle {{" + f" telematicsUnit {{ vehicle {{ ...f{n + 1} }} }}" * 60 + " }"
        for n in range(6)
    )
    + " fragment f6 on Vehicle { id }",
    "repeated": "{ vehicles { nodes {" + " telematicsUnit { unitId }" * 700 + " } } }",
    "huge int": "{ vehicles(first: " + "9" * 5000 + ") { nodes { id } } }",
    "huge float": "{ vehicles(first: 1e999999) { nodes { id } } }",
    "negative zero": "{ vehicles(first: -0) { nodes { id } } }",
    "null byte": '{ vehicle(id: "a\x00b") { id } }',
    "escaped null": '{ vehicle(id: "a\\u0000b") { id } }',
    "surrogate": '{ vehicle(id: "\\ud800") { id } }',
    "surrogate pair": '{ vehicle(id: "\\ud83d\\ude00") { id } }',
    "braced escape": '{ vehicle(id: "\\u{110000}") { id } }',
    "byte order mark": "\ufeff{ __typename }",
    "line separators": '{ vehicle(id: "a\u2028b\u2029c\u0085") { id } }',
    "right to left": '{ vehicle(id: "\u202egpj.exe") { id } }',
    "path in an id": '{ vehicle(id: "../../__simulator/requests") { id } }',
    "header in an id": '{ vehicle(id: "a\\r\\nX-Evil: 1") { id } }',
    "deep list": "{ nodes(ids: " + "[" * 900 + "]" * 900 + ") { id } }",
    "deep object": "{ _entities(representations: " + "{a:" * 700 + "1" + "}" * 700 + ") { __typename } }",
    "block string": '{ vehicle(id: """' + "\\" * 999 + '""") { id } }',
    "directives": "{ __typename" + " @skip(if: false)" * 500 + "}",
    "unknown directives": "{ __typename" + " @nope" * 500 + "}",
    "variables": "query(" + " ".join(f"$v{n}: Int = {n}" for n in range(400)) + ") { __typename }",
    "self default": "query($a: [ID!]! = $a) { nodes(ids: $a) { id } }",
    "operations": "".join(f"query q{n} {{ __typename }} " for n in range(400)),
    "subscription": "subscription { vehicles { nodes { id } } }",
    "mutation": "mutation { unlock }",
    "schema": "type Query { a: Int }",
    "nothing": " \t\n,,,",
    "comment": "#" * 60_000,
}


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_documents_get_responses(served, name):
    """Each gets an error that says what is wrong, or data."""
    check(served.post("/graphql", json={"query": CORPUS[name]}, headers=AUTHORIZED))


@pytest.mark.parametrize("raw", [b'"\\ud800"', b'"a\\u0000b"', b"1e400", b"9" * 5000, b"[" * 5000, b'{"a":' * 3000])
def test_hostile_variables_get_responses(served, raw):
    """Lone surrogates, null bytes, huge numbers and deep nesting in the variables."""
    body = b'{"query":"query($id: ID!) { vehicle(id: $id) { id } }","variables":{"id":%s}}' % raw
    check(served.post("/graphql", content=body, headers={**AUTHORIZED, "Content-Type": "application/json"}))


@pytest.mark.parametrize("name", ["variables", "extensions"])
def test_deep_parameters_of_a_get_are_rejected(served, name):
    """JSON that is nested too deeply is a bad request, as it is by POST."""
    response = served.get("/graphql", params={"query": "{ __typename }", name: "[" * 1500}, headers=AUTHORIZED)
    assert response.status_code == 400
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
