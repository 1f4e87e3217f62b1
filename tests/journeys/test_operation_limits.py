"""Operations that are too large are rejected with the limit's name, before they run."""

from __future__ import annotations

import time

import pytest

from gateway.simulator import Behaviours
from tests.gateways import TOKENS

DEEP = "{ vehicles { nodes { " + "telematicsUnit { vehicle { " * 8 + "id" + " } }" * 8 + " } } }"


@pytest.mark.parametrize(
    ("limit", "query"),
    [
        ("documentBytes", "{ __typename } #" + "x" * 70_000),
        ("documentBytes", "{ __typename } #" + "é" * 40_000),
        ("tokens", "{" + " __typename" * 3000 + " }"),
        ("depth", DEEP),
        ("depth", "{ vehicles { nodes { ...A } } } fragment A on Vehicle { " + "telematicsUnit { vehicle { " * 8 + "id" + " } }" * 8 + " }"),
        ("rootFields", "{" + " __typename" * 60 + " }"),
        ("rootFields", "{" + " ...A" * 20 + " } fragment A on Query { a: __typename b: __typename c: __typename }"),
        ("aliases", "{ vehicles { nodes {" + "".join(f" a{n}: vehicleId" for n in range(120)) + " } } }"),
        ("aliases", "{ vehicles { nodes { ...A } } } fragment A on Vehicle {" + " ...B" * 20 + " } fragment B on Vehicle {" + "".join(f" a{n}: vehicleId" for n in range(10)) + " }"),
        ("directives", "{ __typename" + " @skip(if: false)" * 60 + " }"),
        ("overlaps", "{ vehicles { nodes {" + " id" * 450 + " } } }"),
        ("overlaps", "{ vehicles { nodes {" + " a: masterData { brand }" * 90 + " b: masterData { brand }" * 9 + " ...A" * 110 + " } } } fragment A on Vehicle { id }"),
        ("overlaps", "{ vehicles { nodes {" + (" telematicsUnit { vehicle {" + " id" * 12 + " } }") * 12 + " } } }"),
        ("overlaps", "{ vehicles { nodes {" + (" ... { ... on Vehicle {" + " id" * 12 + " } }") * 12 + " } } }"),
        ("overlaps", "{ vehicles { nodes {" + " ...A ...B" + " } } }" + "".join(f" fragment A{n or ''} on Vehicle {{ ...A{n + 1} }} fragment B{n or ''} on Vehicle {{ ...B{n + 1} }}" for n in range(90)) + " fragment A90 on Vehicle { id } fragment B90 on Vehicle { id }"),
        ("overlaps", "{ __typename } fragment A on Vehicle {" + " id" * 450 + " }"),
        ("overlaps", "{ vehicles { nodes { ...A } } } fragment A on Vehicle {" + " id" * 450 + " } fragment A on Vehicle { id }"),
        ("overlaps", " ".join(f"query Q{n} {{ vehicles {{ nodes {{ ...A }} }} }}" for n in range(9)) + " fragment A on Vehicle {" + " id" * 50 + " }"),
        ("upstreamCalls", "{" + "".join(f' a{n}: vehicles(first: 500, search: "{n}") {{ nodes {{ id }} }}' for n in range(45)) + " }"),
        ("nodes", "{" + "".join(f" a{n}: vehicles(first: 500) {{ nodes {{ id telematicsUnit {{ id }} }} edges {{ node {{ id }} }} }}" for n in range(40)) + " }"),
        ("fields", "{ vehicles(first: 500) { nodes {" + "".join(f" a{n}: latestState {{ position {{ timestamp value {{ lat lon }} }} }}" for n in range(90)) + " } } }"),
        ("fields", "{ vehicles(first: 500) { nodes {" + "".join(f" a{n}: latestState {{ properties {{ name value }} }}" for n in range(9)) + " } } }"),
        ("fields", "{ vehicles(first: 500) { nodes { ...A } edges { node { ...A } } } } fragment A on Vehicle { latestState {" + "".join(f" a{n}: __typename" for n in range(40)) + " ...B } } fragment B on VehicleState {" + "".join(f" b{n}: ignition {{ value rawValue timestamp }}" for n in range(5)) + " properties { name value timestamp } p: properties { name value } }"),
        ("fields", "{ __schema {" + "".join(f" a{n}: types {{ fields {{ name args {{ name }} }} }}" for n in range(90)) + " } }"),
        ("fields", "{" + "".join(f" a{n}: __schema {{ types {{ fields {{ name type {{ name ofType {{ name }} }} args {{ name description type {{ name }} }} }} }} }}" for n in range(40)) + " }"),
        ("fields", "{" + "".join(f' a{n}: __type(name: "VehicleState") {{ fields {{ name type {{ name fields {{ name description args {{ name }} }} }} }} }}' for n in range(40)) + " }"),
    ],
)  # fmt: skip
async def test_each_limit_is_named(start, limit, query):
    """LIMIT_EXCEEDED names the limit, its maximum and, where it can be counted, the actual size; nothing is read."""
    gateway = await start(limits__upstream_calls=200)
    response = await gateway.post(query, Accept="application/graphql-response+json")
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    extensions = error["extensions"]
    assert (extensions["code"], extensions["limit"], extensions["retryable"]) == ("LIMIT_EXCEEDED", limit, False)
    assert extensions.get("actual", extensions["maximum"] + 1) > extensions["maximum"]
    assert str(extensions["maximum"]) in error["message"]
    assert gateway.simulator.requests.total == 0


async def test_a_field_may_be_repeated_within_reason(gateway):
    """The selections of twenty components, through nested fragments, are merged and executed."""
    parts = "".join(
        f" fragment P{n} on Vehicle {{ id masterData {{ brand model }} ...P telematicsUnit {{ id vehicle {{ ...P }} }} }}"
        for n in range(20)
    )
    spreads = "".join(f" ...P{n}" for n in range(20))
    query = f"{{ vehicles(first: 1) {{ nodes {{{spreads} }} }} }}{parts} fragment P on Vehicle {{ vehicleId }}"
    (vehicle,) = (await gateway.data(query))["vehicles"]["nodes"]
    assert sorted(vehicle) == ["id", "masterData", "telematicsUnit", "vehicleId"]
    assert vehicle["telematicsUnit"]["vehicle"] == {"vehicleId": vehicle["vehicleId"]}


async def test_the_number_of_validation_errors_is_limited(gateway):
    """A document of a thousand misspelt names gets a few errors, and a note that there are more."""
    response = await gateway.post("{ vehicles { nodes {" + "".join(f" vehicleIds{n}" for n in range(1000)) + " } } }")
    errors = response.json()["errors"]
    assert len(errors) == 21
    assert "vehicleIds0" in errors[0]["message"]
    assert "Validation aborted" in errors[-1]["message"]
    assert {error["extensions"]["code"] for error in errors} == {"GRAPHQL_VALIDATION_FAILED"}


@pytest.mark.parametrize(("introspection", "suggested"), [("authenticated", True), ("off", False)])
async def test_errors_suggest_no_names_without_introspection(start, introspection, suggested):
    """Errors suggest names of the schema, unless introspection is off."""
    gateway = await start(graphql__introspection=introspection)
    query = "{ vehicles(frist: 1) { nodes { vehicleIt ... on Vehicel { id } } } }"
    errors = (await gateway.ask(query))["errors"]
    assert len(errors) == 3
    assert ("Did you mean" in str(errors)) == suggested


async def test_variables_have_a_limit(gateway):
    """Variables that are too large are rejected with LIMIT_EXCEEDED."""
    response = await gateway.post("query($i: [ID!]!) { nodes(ids: $i) { id } }", {"i": ["x" * 1000] * 300})
    assert response.status_code == 422
    assert response.json()["errors"][0]["extensions"]["limit"] == "variablesBytes"


async def test_lists_in_variables_have_a_limit(gateway):
    """Lists are rejected by their length, before any item is coerced."""
    query = "query($i: [ID!]!, $j: [ID!]!) { a: nodes(ids: $i) { id } b: nodes(ids: $j) { id } }"
    for variables in ({"i": [{}] * 20_001, "j": []}, {"i": [1] * 10_001, "j": ["x"] * 10_000}):
        response = await gateway.post(query, variables, Accept="application/graphql-response+json")
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        expected = {"code": "LIMIT_EXCEEDED", "retryable": False, "limit": "listItems", "maximum": 20_000}
        assert error["extensions"] == expected


async def test_the_number_of_coercion_errors_is_limited(gateway):
    """Coercion stops after twenty errors, says so, and the operation does not run."""
    query = "query($i: [ID!]!) { nodes(ids: $i) { id } }"
    response = await gateway.post(query, {"i": [{}] * 900}, Accept="application/graphql-response+json")
    assert response.status_code == 422
    answer = response.json()
    assert "data" not in answer
    assert len(answer["errors"]) == 21
    assert "Too many errors" in answer["errors"][-1]["message"]


LONG = "{ vehicles(first: 100) { %s { %s } } }"


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize(
    "query",
    [
        LONG % ("nodes", "id vehicleId licensePlate: masterData { brand model licensePlate vin }"),
        LONG % ("edges", "node { id a: latestState { properties { name value timestamp } } }"),
        "{ a: vehicles(first: 60) { nodes { id latestState { properties { name } } } } b: vehicles { nodes { id } } }",
        "{ __schema { types { name description fields { name description } } } }",
        "{ vehicles(first: 1) { nodes { %s } } }" % " ".join(f"a{n}: latestState {{ properties {{ name }} }}" for n in range(60)),
    ],
    ids=["nodes", "edges", "two fields", "schema", "one vehicle"],
)  # fmt: skip
async def test_a_response_has_a_maximum_length(start, query, projection):
    """A longer response is an error with a code in place of all data."""
    gateway = await start(limits__response_bytes=5_000, graphql__projection=projection)
    for _ in range(2):
        response = await gateway.post(query, Accept="application/graphql-response+json")
        assert response.status_code == 422
        assert "data" not in response.json()
        (error,) = response.json()["errors"]
        expected = {"code": "LIMIT_EXCEEDED", "retryable": False, "limit": "responseBytes", "maximum": 5_000}
        assert error["extensions"].items() >= expected.items()
        assert response.headers["Cache-Control"] == "no-store"
    roomy = await start(limits__response_bytes=len((await (await start()).post(query)).content))
    assert "errors" not in (await roomy.post(query)).json()


async def test_the_number_of_errors_in_a_response_is_limited(gateway):
    """A response has two thousand errors, and one that gives their number."""
    query = "query($i: [ID!]!) {%s }" % "".join(f" a{n}: nodes(ids: $i) {{ id }}" for n in range(9))
    answer = await gateway.ask(query, i=["x"] * 300)
    assert len(answer["errors"]) == 2001
    assert answer["errors"][0]["extensions"]["code"] == "GLOBAL_ID_INVALID"
    assert answer["errors"][-1]["extensions"] == {
        "code": "LIMIT_EXCEEDED", "retryable": False, "limit": "errors", "maximum": 2_000, "actual": 2_700,
    }  # fmt: skip
    assert answer["data"]["a8"] == [None] * 300


async def test_no_name_of_an_operation_avoids_the_limits(gateway):
    """An empty operation name counts as none: the limits of the only operation hold."""
    query = (
        "{ vehicles(first: 500) { nodes {" + "".join(f" a{n}: telematicsUnit {{ id }}" for n in range(90)) + " } } }"
    )
    for name in ("", None):
        body = {"query": query, "operationName": name}
        headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
        answer = (await gateway.http.post("/graphql", json=body, headers=headers)).json()
        assert answer["errors"][0]["extensions"]["limit"] == "nodes"
        body["query"] = "{ __typename }"
        assert (await gateway.http.post("/graphql", json=body, headers=headers)).json() == {
            "data": {"__typename": "Query"}
        }


@pytest.mark.parametrize("directive", ["include", "skip"])
@pytest.mark.parametrize(
    "query",
    [
        "query($x: Boolean = true) { __typename @%s(if: $x) }",
        "query($x: Boolean = true) { ... @%s(if: $x) { __typename } }",
        "query($x: Boolean = true) { ...A @%s(if: $x) } fragment A on Query { __typename }",
        "query($x: Boolean = true) { a: __typename vehicles { nodes { id @%s(if: $x) } } }",
        "query($x: Boolean = true) { a: __typename vehicles { nodes { ... on Vehicle @%s(if: $x) { id } } } }",
        "query($x: Boolean = true) { __schema { queryType { name @%s(if: $x) } } }",
    ],
)
async def test_a_null_for_a_condition_is_the_callers_error(gateway, query, directive):
    """It is an error with a code and the location of the selection, and never an internal error."""
    response = await gateway.post(query % directive, {"x": None})
    assert response.status_code in (294, 422)
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] in ("GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT")
    assert "variable '$x' provided to non-null type 'Boolean!'" in error["message"]


@pytest.mark.parametrize("arguments", ["(first: 100000)", "(last: 100000)", "(first: -1)"])
async def test_the_page_size_has_a_limit(gateway, arguments):
    """A page that is too large is rejected by name, without a call."""
    answer = await gateway.ask(f"{{ vehicles{arguments} {{ nodes {{ id }} }} }}")
    assert answer["errors"][0]["extensions"]["code"] in ("PAGE_SIZE_INVALID", "LIMIT_EXCEEDED")
    assert gateway.simulator.requests.total == 0


@pytest.mark.parametrize(
    "bomb",
    [
        "{ ...f0 }" + "".join(f" fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(100)) + " fragment f100 on Query { __typename }",
        "{ vehicles { nodes { ...f0 } } }" + "".join(f" fragment f{n} on Vehicle {{ ...f{n + 1} ...f{n + 1} }}" for n in range(100)) + " fragment f100 on Vehicle { id }",
        "{ vehicles { nodes { ...f0 } } }" + "".join(f" fragment f{n} on Vehicle {{" + f" telematicsUnit {{ vehicle {{ ...f{n + 1} }} }}" * 30 + " }" for n in range(6)) + " fragment f6 on Vehicle { id }",
        "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
        "{ ...a } fragment a on Query { ...a __typename }",
        "{ vehicles { nodes { ...a } } } fragment a on Vehicle { telematicsUnit { vehicle { ...a ...b } } } fragment b on Vehicle { telematicsUnit { vehicle { ...b ...a } } }",
        "{ vehicles { nodes { ...f0 } } }" + "".join(f" fragment f{n} on Vehicle {{" + "".join(f" ...f{m}" for m in range(n + 1, 36)) + " id }" for n in range(36)),
        "{ vehicles { nodes { ...f0 } } }" + "".join(f" fragment f{n} on Vehicle {{ telematicsUnit {{ a: vehicle {{ ...f{n + 1} }} b: vehicle {{ ...f{n + 1} }} }} }}" for n in range(6)) + " fragment f6 on Vehicle { id }",
        "{ " + "[" * 1000,
        "query(" + "$a: " + "[" * 900 + "Int" + "]" * 900 + ") { __typename }",
    ],
    ids=["doubling", "doubling below the root", "repeating", "circle", "self", "circle below", "each in each", "both ways", "brackets", "types"],
)  # fmt: skip
async def test_document_bombs_are_harmless(gateway, bomb):
    """Fragments that double, repeat or refer to each other, and nested brackets, get a quick response, never a 500."""
    began = time.process_time()
    response = await gateway.post(bomb)
    assert response.status_code in (200, 294, 400, 422)
    for error in response.json().get("errors", ()):
        assert error["extensions"]["code"] != "INTERNAL"
    assert time.process_time() - began < 5


async def test_ordinary_operations_are_far_from_any_limit(gateway, pytestconfig):
    """Every query of docs/queries, and GraphiQL's introspection, run within the limits."""
    from graphql import get_introspection_query  # noqa: PLC0415 - of this test alone

    for path in sorted((pytestconfig.rootpath / "docs/queries").glob("*.graphql")):
        answer = (await gateway.post(path.read_text(), {"id": "x", "ids": []})).json()
        assert "LIMIT_EXCEEDED" not in str(answer), path
    assert "errors" not in (await gateway.post(get_introspection_query(input_value_deprecation=True))).json()


@pytest.mark.parametrize(("wish", "status"), [("0.05", 294), ("600", 294), ("0", 400), ("-1", 400), ("soon", 400), ("1e9", 400)])  # fmt: skip
async def test_a_caller_may_lower_the_deadline(start, wish, status):
    """X-Gateway-Timeout ends the wait: data read by then stays, other fields are DEADLINE_EXCEEDED, the call ends."""
    gateway = await start(limits__deadline=0.5)
    gateway.fault("latency", path="K3WX8$", seconds=5)
    query = '{ good: vehicle(id: "JQ7RP") { vehicleId } slow: vehicle(id: "K3WX8") { vehicleId } }'
    began = time.monotonic()
    response = await gateway.post(query, **{"X-Gateway-Timeout": wish})
    assert response.status_code == status
    if status == 294:
        assert time.monotonic() - began < 3
        answer = response.json()
        assert answer["data"] == {"good": {"vehicleId": "JQ7RP"}, "slow": None}
        assert answer["errors"][0]["extensions"]["code"] == "DEADLINE_EXCEEDED"
        assert answer["errors"][0]["path"] == ["slow"]
        assert (await gateway.http.get("/health/ready")).json()["reads"] == 0


async def test_stale_data_is_served_while_the_fleet_api_is_slow(start):
    """Past the deadline cached data is served, marked stale, instead of an error."""
    now = [1_000_000.0]
    gateway = await start(cache__enabled=True, limits__deadline=0.2, clock=lambda: now[0])
    await gateway.data('{ vehicle(id: "K3WX8") { vehicleId } }')
    now[0] += 100
    gateway.fault("latency", seconds=5)
    answer = await gateway.ask('{ vehicle(id: "K3WX8") { vehicleId } }')
    assert answer["data"] == {"vehicle": {"vehicleId": "K3WX8"}}
    assert answer["extensions"]["freshness"]["stale"] is True


async def test_an_outage_opens_the_circuit_until_it_ends(start):
    """After enough failures no call is made; when the fleet API is back a probe closes the circuit."""
    now = [1_000_000.0]
    gateway = await start(clock=lambda: now[0], breaker__failure_threshold=5)
    gateway.fault("outage")
    for number in range(20):
        answer = await gateway.ask(f'{{ vehicle(id: "V{number}") {{ vehicleId }} }}')
        assert answer["errors"][0]["extensions"]["code"] == "UPSTREAM_UNAVAILABLE"
    assert gateway.simulator.requests.total == 5
    assert answer["errors"][0]["extensions"]["retryAfter"] == 1
    gateway.simulator.faults.rules.clear()
    now[0] += 1.5
    assert await gateway.data('{ vehicle(id: "JQ7RP") { vehicleId } }') == {"vehicle": {"vehicleId": "JQ7RP"}}
    assert TOKENS["alice"] not in str(answer)


async def test_stale_data_is_served_while_the_circuit_is_open(start):
    """An open circuit serves cached data as stale, and makes no upstream call."""
    now = [1_000_000.0]
    gateway = await start(
        cache__enabled=True, clock=lambda: now[0], breaker__failure_threshold=5, breaker__open_seconds=60
    )
    await gateway.data('{ vehicle(id: "K3WX8") { vehicleId } }')
    now[0] += 100
    gateway.fault("outage")
    for number in range(5):
        await gateway.ask(f'{{ vehicle(id: "V{number}") {{ vehicleId }} }}')
    before = gateway.simulator.requests.total
    answer = await gateway.ask('{ vehicle(id: "K3WX8") { vehicleId } }')
    assert gateway.simulator.requests.total == before
    assert answer["data"] == {"vehicle": {"vehicleId": "K3WX8"}}
    assert answer["extensions"]["freshness"]["stale"] is True


@pytest.mark.parametrize("projection", [True, False])
async def test_states_that_lists_lack_stay_within_the_limit_of_calls(start, projection):
    """Beyond it they are errors at their fields; cached states take no call, so repetitions complete the response."""
    gateway = await start(
        behaviours=Behaviours(latest_state_in_list="missing", rate_limit_requests=0),
        limits__upstream_calls=20,
        cache__enabled=True,
        cache__latest_state_ttl=600,
        cache__vehicles_ttl=600,
        graphql__projection=projection,
    )
    states = "{ nodes { vehicleId latestState { mileageInKilometers { value } } } }"
    query = f"{{ a: vehicles(first: 30) {states} b: vehicles(first: 30) {states} }}"
    complete = 0
    for round_number in range(1, 3):
        answer = await gateway.ask(query)
        assert gateway.simulator.requests.total <= 20 * round_number
        states = [node["latestState"] for name in "ab" for node in answer["data"][name]["nodes"]]
        errors = answer.get("errors", [])
        assert states.count(None) == len(errors) == 60 - 2 * min(30, gateway.simulator.requests.total - 1)
        assert states.count(None) < 60 - complete
        complete = 60 - states.count(None)
        for error in errors:
            assert error["path"][3] == "latestState"
            assert error["extensions"] == {
                "code": "LIMIT_EXCEEDED", "retryable": False, "limit": "upstreamCalls", "maximum": 20,
            }  # fmt: skip
    assert complete == 60
