"""Upstream failures and caller errors: each has its code, and other fields keep their data."""

from __future__ import annotations

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Fault, Simulator
from tests.gateways import PLANS, TOKENS

VEHICLE = '{ vehicle(id: "JQ7RP") { vehicleId } }'
LIST = "{ vehicles(first: 5) { nodes { vehicleId } } }"


def code_of(answer: dict) -> str:
    return answer["errors"][0]["extensions"]["code"]


async def test_a_token_rejected_upstream_makes_the_response_a_401(gateway):
    """One rejected read makes the response a 401 with a challenge and no data."""
    response = await gateway.post("{ __typename " + VEHICLE[1:], by="unknown-token")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="fleet", error="invalid_token"'
    body = response.json()
    assert "data" not in body
    assert code_of(body) == "UNAUTHENTICATED"
    assert body["errors"][0]["extensions"]["upstream"]["type"] == "/problems/invalid-credentials"


@pytest.mark.parametrize(
    ("who", "problem"),
    [("no-permission", "/problems/missing-permissions"), ("no-scope", "/problems/forbidden-resource")],
)
async def test_a_forbidden_field_is_null_and_the_rest_stays(gateway, who, problem):
    """403 is an error at its field with the problem's type and flow id."""
    response = await gateway.post('{ __typename vehicle(id: "JQ7RP") { vehicleId } }', by=who)
    assert response.status_code == 294
    body = response.json()
    assert body["data"] == {"__typename": "Query", "vehicle": None}
    assert code_of(body) == "FORBIDDEN"
    upstream = body["errors"][0]["extensions"]["upstream"]
    assert (upstream["status"], upstream["type"]) == (403, problem)
    assert len(upstream["flowId"]) == 36


@pytest.mark.parametrize(
    ("kind", "rule", "code"),
    [
        ("status", {"status": 500, "type": "/problems/internal-server-error"}, "UPSTREAM_UNAVAILABLE"),
        ("status", {"status": 502, "body": "<html>bad gateway</html>"}, "UPSTREAM_UNAVAILABLE"),
        ("status", {"status": 400, "type": "/problems/validation-error"}, "UPSTREAM_REJECTED"),
        ("status", {"status": 409, "type": "/problems/conflicting-resource"}, "UPSTREAM_REJECTED"),
        ("status", {"status": 301, "body": ""}, "UPSTREAM_INVALID_RESPONSE"),
        ("telematics_unit_error", {}, "UPSTREAM_UNAVAILABLE"),
        ("outage", {}, "UPSTREAM_UNAVAILABLE"),
        ("rate_limit", {"seconds": 9}, "RATE_LIMITED"),
        ("rate_limit", {"seconds": 9, "form": "retry_after"}, "RATE_LIMITED"),
        ("malformed_json", {}, "UPSTREAM_INVALID_RESPONSE"),
        ("not_an_object", {}, "UPSTREAM_INVALID_RESPONSE"),
        ("huge_body", {"megabytes": 34}, "UPSTREAM_INVALID_RESPONSE"),
    ],
    ids=str,
)
async def test_a_failed_read_is_an_error_at_its_field_and_the_rest_stays(gateway, kind, rule, code):
    """Every kind of upstream failure has a code; other fields of the operation keep their data."""
    gateway.fault(kind, path="K3WX8$", **rule)
    answer = await gateway.ask('{ good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicle(id: "K3WX8") { vehicleId } }')
    assert answer["data"] == {"good": {"vehicleId": "JQ7RP"}, "bad": None}
    assert [error["path"] for error in answer["errors"]] == [["bad"]]
    assert code_of(answer) == code
    if code == "RATE_LIMITED":
        assert 7 <= answer["errors"][0]["extensions"]["retryAfter"] <= 9
    assert answer["errors"][0]["extensions"]["retryable"] is (code in ("RATE_LIMITED", "UPSTREAM_UNAVAILABLE"))


@pytest.mark.parametrize("fields", ["__typename", "mileageInKilometers { value }"])
async def test_an_invalid_state_is_an_error_for_any_selection(start, fields):
    """Even where only its type is selected."""
    gateway = await start(behaviours=Behaviours(latest_state_in_list="missing", rate_limit_requests=0))
    gateway.fault("status", path="/latest-state$", times=None, status=403, type="/problems/missing-permissions")
    answer = await gateway.ask(f"{{ vehicles(first: 2) {{ nodes {{ vehicleId latestState {{ {fields} }} }} }} }}")
    assert [node["latestState"] for node in answer["data"]["vehicles"]["nodes"]] == [None, None]
    assert [error["path"] for error in answer["errors"]] == [["vehicles", "nodes", n, "latestState"] for n in (0, 1)]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"FORBIDDEN"}


async def test_members_of_wrong_types_are_dropped_alone(gateway):
    """A page with wrong types in it is still a page."""
    gateway.fault("wrong_types")
    answer = await gateway.ask(
        "{ vehicles(first: 250) { nodes { vehicleId status tags masterData { vin brand } lifeStatus { value } } } }"
    )
    assert "errors" not in answer
    assert [node["vehicleId"] for node in answer["data"]["vehicles"]["nodes"]] == gateway.simulator.fleets["T7K2M"].ids


def socketed(serve, **upstream):
    """A gateway and its simulator over real sockets."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    settings = Settings(
        upstream={"url": serve(simulator.app), **upstream}, retry={"attempts": 1}, log={"level": "error"}
    )
    headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
    return simulator, httpx.AsyncClient(base_url=serve(create_app(settings)), headers=headers, verify=False)


@pytest.mark.parametrize("kind", ["drop", "truncate"])
async def test_a_broken_connection_is_an_outage(serve, kind):
    """No response, or half of one, over a real socket is UPSTREAM_UNAVAILABLE; the next read works."""
    simulator, http = socketed(serve)
    simulator.faults.rules = [Fault(kind, times=1)]
    async with http:
        assert code_of((await http.post("/graphql", json={"query": VEHICLE})).json()) == "UPSTREAM_UNAVAILABLE"
        assert (await http.post("/graphql", json={"query": VEHICLE})).json() == {
            "data": {"vehicle": {"vehicleId": "JQ7RP"}}
        }


async def test_a_dripping_response_times_out(serve):
    """A response over a real socket that takes too long in total is UPSTREAM_TIMEOUT."""
    simulator, http = socketed(serve, total_timeout=0.2)
    simulator.faults.rules = [Fault("slow_body", seconds=0.02)]
    async with http:
        answer = (await http.post("/graphql", json={"query": LIST})).json()
    assert code_of(answer) == "UPSTREAM_TIMEOUT"
    assert answer["data"] == {"vehicles": None}


async def test_the_upstreams_own_rate_limit_is_reported(start):
    """When the simulated limit is used up the code is RATE_LIMITED with the seconds to wait."""
    gateway = await start(
        behaviours=Behaviours(rate_limit_requests=2, rate_limit_seconds=60), rate_limit__enabled=False
    )
    for _ in range(2):
        await gateway.data(VEHICLE)
    answer = await gateway.ask(VEHICLE)
    assert code_of(answer) == "RATE_LIMITED"
    assert 50 < answer["errors"][0]["extensions"]["retryAfter"] <= 61


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("{ vehicles(", {}, "GRAPHQL_PARSE_FAILED"),
        ("", {}, None),
        ("{ nope }", {}, "GRAPHQL_VALIDATION_FAILED"),
        ("query($n: Int) { vehicles(first: $n) { nodes { id } } }", {"n": "many"}, None),
        ("query($n: Int) { vehicles(first: $n) { nodes { id } } }", {"n": 2**40}, None),
        ('{ vehicle(id: "%s") { id } }' % ("x" * 300), {}, None),
    ],
)
async def test_a_callers_mistake_has_a_code(gateway, query, variables, code):
    """Syntax, validation and variables: an error with a code, never a 500."""
    response = await gateway.post(query, variables)
    assert response.status_code in (200, 294, 400, 422)
    answer = response.json()
    if "errors" in answer:
        assert code in (None, code_of(answer))
        assert code_of(answer) != "INTERNAL"


DEEP = "{ vehicles { nodes { telematicsUnit { vehicle " * 400


@pytest.mark.parametrize(
    "query",
    [
        "{" * 20_000,
        "{ vehicles(search: " + "[" * 20_000,
        DEEP + "{ id }" + "}" * 1600,
        "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
        '{ vehicle(id: "\\ud800") { id } }',
        '{ vehicle(id: "\x00") { id } }',
        "{ vehicles(first: 99999999999999999999) { nodes { id } } }",
    ],
    ids=["braces", "brackets", "deep", "circular", "surrogate", "null byte", "huge"],
)
async def test_hostile_documents_are_rejected_or_executed(gateway, query):
    """Endless nesting, cycles, odd characters and huge numbers: an error with a code or data, never a 500."""
    response = await gateway.post(query)
    assert response.status_code in (200, 294, 400, 422)
    for error in response.json().get("errors", []):
        assert error["extensions"]["code"] != "INTERNAL"


async def test_a_bug_is_reported_as_internal(gateway, monkeypatch, capsys):
    """An unforeseen exception reads INTERNAL with the request's id; its message is only logged."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("gateway.upstream.client.FleetClient.vehicles_by_id", broken)
    response = await gateway.post(VEHICLE, None, "alice", **{"X-Request-Id": "request-7"})
    assert response.json()["errors"] == [
        {"message": "Internal error.", "locations": [{"line": 1, "column": 3}], "path": ["vehicle"],
         "extensions": {"code": "INTERNAL", "retryable": False, "requestId": "request-7"}}
    ]  # fmt: skip
    assert "secret" not in response.text
