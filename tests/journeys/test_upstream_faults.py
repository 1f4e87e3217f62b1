"""Every fault of the fleet API, with every shape of query: the documented error, no hang, no leak.

Over real sockets to the simulator, with retries and breaker as shipped but for shorter times. The rate limiter is off:
after one 429 it would rightly delay other fields, too.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

import httpx
import pytest

from gateway.app import create_app
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Behaviours, Fault, Simulator
from gateway.simulator.faults import Kind
from gateway.simulator.problems import TITLES
from tests.effort import thorough_only
from tests.gateways import PLANS, TOKENS, served, serving

GLOBAL_IDS = {"JQ7RP": "VmVoaWNsZTpKUTdSUA==", "K3WX8": "VmVoaWNsZTpLM1dYOA=="}
ONE, PAGE = r"K3WX8$", r"/vehicles$"


@dataclass(frozen=True)
class Shape:
    """A query, the path that its fault affects, and the data that a fault must not affect."""

    name: str
    query: str
    struck: str
    stays: dict[str, Any]
    variables: dict[str, Any] = field(default_factory=dict)


GOOD = {"vehicleId": "JQ7RP"}
SHAPES = (
    Shape("vehicle", '{ __typename good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicle(id: "K3WX8") { vehicleId } }', ONE, {"__typename": "Query", "good": GOOD}),
    Shape("page 1", '{ __typename good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicles(first: 3) { nodes { vehicleId } } }', PAGE, {"__typename": "Query", "good": GOOD}),
    Shape("page n", 'query($after: String) { __typename good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicles(first: 3, after: $after) { nodes { vehicleId } } }', PAGE, {"__typename": "Query", "good": GOOD}),
    Shape("nodes", "query($ids: [ID!]!) { __typename bad: nodes(ids: $ids) { ... on Vehicle { vehicleId } } }", ONE, {"__typename": "Query"}, {"ids": list(GLOBAL_IDS.values())}),
    Shape("_entities", "query($r: [_Any!]!) { __typename bad: _entities(representations: $r) { ... on Vehicle { vehicleId } } }", ONE, {"__typename": "Query"}, {"r": [{"__typename": "Vehicle", "vehicleId": vehicle_id} for vehicle_id in GLOBAL_IDS]}),
)  # fmt: skip

# The code of each fault; None: the response is complete, "null": null without an error.
UNAVAILABLE, TIMEOUT, REJECTED = "UPSTREAM_UNAVAILABLE", "UPSTREAM_TIMEOUT", "UPSTREAM_REJECTED"
UNREADABLE, LIMITED = "UPSTREAM_INVALID_RESPONSE", "RATE_LIMITED"
FAULTS: dict[str, tuple[Fault, str | None]] = {
    "latency": (Fault("latency", seconds=0.01), None),
    "silence": (Fault("silence", seconds=30), TIMEOUT),
    "half-open": (Fault("latency", seconds=30), TIMEOUT),
    "stalled": (Fault("stall", seconds=30), TIMEOUT),
    "dropped": (Fault("drop"), UNAVAILABLE),
    "truncated": (Fault("truncate"), UNAVAILABLE),
    "slow body": (Fault("slow_body", seconds=0.05), TIMEOUT),
    "huge body": (Fault("huge_body", megabytes=2), UNREADABLE),
    "malformed": (Fault("malformed_json"), UNREADABLE),
    "not an object": (Fault("not_an_object"), UNREADABLE),
    "wrong types": (Fault("wrong_types"), None),
    "churn": (Fault("churn"), None),
    "sharing": (Fault("sharing"), None),
    "outage": (Fault("outage"), UNAVAILABLE),
    "429 with reset": (Fault("rate_limit", seconds=60), LIMITED),
    "429 with seconds": (Fault("rate_limit", seconds=60, form="retry_after"), LIMITED),
    "429 with a date": (Fault("rate_limit", seconds=60, form="retry_after_date"), LIMITED),
    "one unit busy": (Fault("telematics_unit_error"), UNAVAILABLE),
    "expired cursor": (Fault("expired_cursor"), None),
    **{
        f"status {status}": (Fault("status", status=status, body="<html>it's broken</html>"), code)
        for status, code in [(202, UNREADABLE), (204, UNREADABLE), (206, UNREADABLE), (301, UNREADABLE), (302, UNREADABLE), (304, UNREADABLE), (400, REJECTED), (401, "UNAUTHENTICATED"), (403, "FORBIDDEN"), (404, "null"), (405, REJECTED), (409, REJECTED), (410, REJECTED), (412, REJECTED), (415, REJECTED), (418, REJECTED), (422, REJECTED), (429, LIMITED), (500, UNAVAILABLE), (501, UNAVAILABLE), (502, UNAVAILABLE), (503, UNAVAILABLE), (504, UNAVAILABLE), (599, UNAVAILABLE)]
    },
    **{
        f"problem {kind}": (
            Fault("status", status=status, type=kind),
            {401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "null", 429: LIMITED, 500: UNAVAILABLE, 504: UNAVAILABLE}.get(status, REJECTED),
        )
        for kind, (status, _) in [*TITLES.items(), ("/problems/of-tomorrow", (400, "")), ("urn:no-path", (500, ""))]
    },
}  # fmt: skip


def expected(fault: str, shape: Shape) -> str | None:
    """The code of this fault in this shape: a rejected cursor has expired, an unknown list is a failure."""
    code = FAULTS[fault][1]
    if shape.name == "page n" and (fault == "expired cursor" or code in (REJECTED, "null")):
        return "CURSOR_EXPIRED"
    if shape.struck == PAGE and code == "null":
        return REJECTED
    return code


@pytest.fixture(scope="module")
def simulated():
    """A simulator that the module's gateways call over a real socket."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as url:
        yield simulator, url


def test_no_fault_of_the_simulator_is_left_out():
    """Each kind of fault, each form of 429 and each problem type is in the matrix."""
    rules = [rule for rule, _ in FAULTS.values()]
    assert {rule.kind for rule in rules} == set(get_args(Kind))
    forms = get_args(get_type_hints(Fault)["form"])
    assert {rule.form for rule in rules if rule.kind == "rate_limit"} == set(forms)
    assert {rule.type for rule in rules} >= TITLES.keys()


@pytest.mark.parametrize("transport", ["builtin", pytest.param("httpx", marks=thorough_only)])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_has_its_documented_code_in_every_shape(simulated, fault, transport):
    """Its code at its field, other fields complete, in bounded time, with no secret and nothing left under way."""
    simulator, url = simulated
    simulator.faults.rules.clear()
    # Where the fault is not about time, a slow machine gets more of it.
    allowed = 0.3 if FAULTS[fault][1] == TIMEOUT else 3.0
    settings = Settings(
        upstream={
            "url": url,
            "transport": transport,
            "read_timeout": allowed,
            "total_timeout": 2 * allowed,
            "response_bytes_max": 2**20,
        },
        cache={"enabled": False},
        retry={"attempts": 2, "backoff": 0.01},
        rate_limit={"enabled": False},
        limits={"deadline": 5},
    )
    headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
    async with (
        served(ServerConfig(create_app(settings), settings)) as gateway,
        httpx.AsyncClient(base_url=gateway, headers=headers, timeout=20, verify=False) as http,
    ):

        async def ask(query: str, variables: dict[str, Any]) -> httpx.Response:
            return await http.post("/graphql", json={"query": query, "variables": variables})

        reached = (await ask("{ vehicles(first: 150) { pageInfo { endCursor } } }", {})).json()
        after = reached["data"]["vehicles"]["pageInfo"]["endCursor"]
        for shape in SHAPES:
            rule, _ = FAULTS[fault]
            simulator.faults.rules[:] = [
                Fault(**{name: getattr(rule, name) for name in rule.__struct_fields__} | {"path": shape.struck})
            ]
            began = time.monotonic()
            response = await ask(shape.query, {"after": after, **shape.variables})
            assert time.monotonic() - began < 4
            check(response, shape, expected(fault, shape), rule)
            for secret in (TOKENS["alice"], url, url.removeprefix("http://"), "Traceback", "broken", "Bearer "):
                assert secret not in response.text
        simulator.faults.rules.clear()
        load = (await http.get("/health/ready")).json()
        assert load == {"status": "ready", "operations": 0, "queued": 0, "reads": 0, "upstream": "up"}
    await asyncio.sleep(0)  # cancelled tasks end in the next iteration
    assert asyncio.all_tasks() == {asyncio.current_task()}


def check(response: httpx.Response, shape: Shape, code: str | None, rule: Fault) -> None:
    answer = response.json()
    if code == "UNAUTHENTICATED":
        assert (response.status_code, "data" in answer) == (401, False)
        assert answer["errors"][0]["extensions"]["code"] == code
        return
    assert response.status_code == (294 if "errors" in answer else 200)
    data = answer["data"]
    assert {**data, **shape.stays} == data
    if shape.name in ("nodes", "_entities"):
        assert data["bad"][0] == GOOD
        data = {"bad": data["bad"][1]}
    if code in (None, "null"):
        assert "errors" not in answer
        assert (data["bad"] is None) == (code == "null")
        return
    assert data["bad"] is None
    (error,) = answer["errors"]
    assert (error["extensions"]["code"], error["path"][0]) == (code, "bad")
    extensions = error["extensions"]
    assert extensions["retryable"] is (code in (UNAVAILABLE, TIMEOUT, LIMITED))
    if rule.kind == "rate_limit":
        assert 50 < extensions["retryAfter"] <= 60
    if rule.kind == "status" and code != "CURSOR_EXPIRED":
        known = rule.type if (rule.type or "").startswith("/problems/") else None
        assert (extensions["upstream"]["status"], extensions["upstream"]["type"]) == (rule.status, known)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (Fault("outage", path=PAGE), None),
        (Fault("malformed_json", path=PAGE), None),
        (Fault("status", path=PAGE, status=404), None),
        (Fault("rate_limit", path=PAGE, seconds=60), LIMITED),
        (Fault("status", path=PAGE, status=403), "FORBIDDEN"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_many_ids_are_read_without_pages(start, rule, code):
    """Where the pages of a scan can't be read, each vehicle is read on its own, unless that is rejected, too."""
    gateway = await start(rate_limit__enabled=False)
    gateway.simulator.faults.rules[:] = [rule]
    ids = gateway.simulator.fleets["T7K2M"].ids[:60]
    keys = [{"__typename": "Vehicle", "vehicleId": vehicle_id} for vehicle_id in ids]
    answer = await gateway.ask(SHAPES[-1].query, r=keys)
    found = [entity and entity["vehicleId"] for entity in answer["data"]["bad"]]
    assert found == (ids if code is None else [None] * 60)
    assert {error["extensions"]["code"] for error in answer.get("errors", ())} == ({code} if code else set())


async def test_a_fleet_api_that_accepts_no_connection_is_unavailable():
    """The code is that of an outage, and fields without upstream calls stay."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = Settings(upstream={"url": url}, retry={"backoff": 0.01})
    headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
    async with (
        served(ServerConfig(create_app(settings), settings)) as gateway,
        httpx.AsyncClient(base_url=gateway, headers=headers, verify=False) as http,
    ):
        answer = (await http.post("/graphql", json={"query": SHAPES[0].query})).json()
    assert answer["data"] == {"__typename": "Query", "good": None, "bad": None}
    assert {error["extensions"]["code"] for error in answer["errors"]} == {UNAVAILABLE}
    assert url.removeprefix("http://") not in str(answer)


async def test_when_the_outage_ends_so_do_its_errors(simulated):
    """After an outage that opened the breaker the next responses are complete again."""
    simulator, url = simulated
    simulator.faults.rules[:] = [Fault("outage")]
    settings = Settings(
        upstream={"url": url},
        cache={"enabled": False},
        retry={"attempts": 1},
        breaker={"failure_threshold": 3, "open_seconds": 0.1},
    )
    headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
    async with (
        served(ServerConfig(create_app(settings), settings)) as gateway,
        httpx.AsyncClient(base_url=gateway, headers=headers, verify=False) as http,
    ):
        for _ in range(10):
            answer = (await http.post("/graphql", json={"query": SHAPES[0].query})).json()
            assert answer["data"]["bad"] is None
        simulator.faults.rules.clear()
        deadline = time.monotonic() + 10
        while "errors" in answer and time.monotonic() < deadline:
            answer = (await http.post("/graphql", json={"query": SHAPES[0].query})).json()
        assert "errors" not in answer
