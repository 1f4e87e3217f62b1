"""Upstream calls of an operation, the reported cost, and the age of responses."""

from __future__ import annotations

import asyncio

import pytest

from gateway.simulator import Behaviours, Client, Fault, FleetPlan, Simulator
from tests.journeys.test_queries import ALL_OF_A_VEHICLE

TOKENS = [f"token-{number}" for number in range(200)]
CLIENTS = tuple(Client(f"T7K2M#{number}", token=token) for number, token in enumerate(TOKENS))
LIST = f"{{ vehicles(first: 100) {{ edges {{ cursor node {{ {ALL_OF_A_VEHICLE} }} }} }} }}"
PAGE = "query($n: Int, $c: String) { vehicles(first: $n, after: $c) { nodes { vehicleId } pageInfo { hasNextPage endCursor } } }"


@pytest.fixture
async def gateway(start):
    """A gateway with its cache, over 1,000 vehicles in pages of 100."""
    simulator = Simulator([FleetPlan(vehicles=1000, clients=CLIENTS)], Behaviours(rate_limit_requests=0))
    return await start(simulator=simulator, cache__enabled=True)


async def test_cost_is_reported_on_request(gateway):
    """X-Gateway-Cost: report adds cost and freshness; without the header there is neither."""
    cold = (await gateway.post(LIST, None, TOKENS[0], **{"X-Gateway-Cost": "report"})).json()["extensions"]
    assert 100 * 100 < cold["cost"].pop("estimatedFields") < 250_000
    assert cold["cost"] == {
        "upstreamCalls": 1,
        "cacheHits": 0,
        "coalesced": 0,
        "estimatedUpstreamCalls": 1,
        "estimatedNodes": 200,
    }
    warm = (await gateway.post(LIST, None, TOKENS[0], **{"X-Gateway-Cost": "report"})).json()["extensions"]
    assert (warm["cost"]["upstreamCalls"], warm["cost"]["cacheHits"], warm["freshness"]["stale"]) == (0, 1, False)
    assert "extensions" not in (await gateway.post(LIST, None, TOKENS[0])).json()


@pytest.mark.parametrize(
    ("query", "estimate"),
    [
        ("{ __typename }", 0),
        ('{ a: vehicle(id: "A") { id } b: vehicle(id: "A") { id } c: vehicle(id: "B") { id } }', 2),
        ("{ vehicles(first: 100) { nodes { id } } }", 1),
        ("{ vehicles(first: 100) { pageInfo { hasNextPage } } }", 2),
        ("{ vehicles(first: 101) { ...F } } fragment F on VehicleConnection { nodes { id } }", 2),
        ("{ vehicles(first: 100) { nodes { id } } vehicles(first: 100) { pageInfo { hasNextPage } } }", 2),
        ("{ a: vehicles(first: 10) { nodes { id } } b: vehicles(first: 300) { nodes { id } } }", 3),
        ("{ vehicles(last: 100) { nodes { id } } }", 3),
        ("{ vehicles @skip(if: true) { nodes { id } } }", 0),
        ('{ telematicsUnit(id: "A") { id } }', 100),
        ('{ nodes(ids: ["VmVoaWNsZTpKUTdSUA==", "VmVoaWNsZTpKUTdSUA==", "x"]) { id } }', 1),
    ],
)
async def test_an_estimate_does_not_run_the_operation(gateway, query, estimate):
    """X-Gateway-Cost: validate gives the most upstream calls, makes none, and real runs stay within it."""
    answer = (await gateway.post(query, None, TOKENS[0], **{"X-Gateway-Cost": "validate"})).json()
    assert answer["data"] is None
    assert answer["extensions"]["cost"]["estimatedUpstreamCalls"] == estimate
    assert gateway.simulator.requests.total == 0
    await gateway.post(query, None, TOKENS[0])
    assert gateway.simulator.requests.total <= estimate


async def test_an_invalid_operation_has_no_estimate(gateway):
    """Validation errors are as usual, and an unknown value of the header is rejected."""
    answer = await gateway.post("{ nope }", None, TOKENS[0], **{"X-Gateway-Cost": "validate"})
    assert answer.json()["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert (await gateway.post("{ __typename }", None, TOKENS[0], **{"X-Gateway-Cost": "guess"})).status_code == 400


async def test_cache_headers_follow_the_oldest_part(start):
    """Cache-Control and Age follow the oldest part; responses with errors are not to be stored."""
    time = [1_000_000.0]
    simulator = Simulator([FleetPlan(vehicles=300, clients=CLIENTS[:1])], Behaviours(rate_limit_requests=0))
    gateway = await start(simulator=simulator, cache__enabled=True, clock=lambda: time[0])

    async def headers(query: str) -> tuple[str, str | None]:
        answer = await gateway.post(query, None, TOKENS[0])
        return answer.headers["Cache-Control"], answer.headers.get("Age")

    one, two = (
        "{ vehicles(first: 5) { nodes { id } } }",
        '{ vehicles(first: 5) { nodes { id } } new: vehicles(first: 1, search: "tesla") { nodes { id } } }',
    )
    assert await headers(one) == ("private, max-age=30", "0")
    time[0] += 12
    assert await headers(one) == ("private, max-age=30", "12")
    assert await headers(two) == ("private, max-age=30", "12")
    assert await headers('{ vehicle(id: "x") { id } bad: node(id: "x") { id } }') == ("no-store", None)
    time[0] += 25
    stale = await gateway.post(one, None, TOKENS[0])
    assert (stale.headers["Cache-Control"], stale.headers["Age"]) == ("private, max-age=0", "37")
    assert stale.json()["extensions"]["freshness"] == {"oldestAge": 37.0, "stale": True}


async def test_stale_data_covers_an_outage(start):
    """While the fleet API is down, cached data is served, marked stale, until its bound."""
    time = [1_000_000.0]
    simulator = Simulator([FleetPlan(vehicles=30, clients=CLIENTS[:1])], Behaviours(rate_limit_requests=0))
    gateway = await start(simulator=simulator, cache__enabled=True, clock=lambda: time[0])
    query = "{ vehicles(first: 5) { nodes { id } } }"
    known = await gateway.data(query, by=TOKENS[0])
    simulator.faults.rules = [Fault("outage")]
    time[0] += 200
    answer = await gateway.ask(query, by=TOKENS[0])
    assert answer["data"] == known
    assert answer["extensions"]["freshness"]["stale"] is True
    time[0] += 200
    answer = await gateway.ask(query, by=TOKENS[0])
    assert answer["errors"][0]["extensions"]["code"] == "UPSTREAM_UNAVAILABLE"


async def test_prefetch_reads_the_next_page(start):
    """With prefetch on, the next page is cached before it is requested."""
    simulator = Simulator([FleetPlan(vehicles=300, clients=CLIENTS[:1])], Behaviours(rate_limit_requests=0))
    gateway = await start(simulator=simulator, cache__enabled=True, cache__prefetch=True)
    page = (await gateway.data(PAGE, by=TOKENS[0], n=99, c=None))["vehicles"]["pageInfo"]
    for _ in range(100):
        if simulator.requests.total == 2:
            break
        await asyncio.sleep(0.01)
    simulator.faults.rules = [Fault("outage")]
    assert len((await gateway.data(PAGE, by=TOKENS[0], n=50, c=page["endCursor"]))["vehicles"]["nodes"]) == 50


async def test_unchanged_vehicles_are_revalidated(start):
    """A stale vehicle with an ETag is requested conditionally: the fleet API responds with 304."""
    time = [1_000_000.0]
    simulator = Simulator([FleetPlan(vehicles=30, clients=CLIENTS[:1])], Behaviours(rate_limit_requests=0))
    gateway = await start(simulator=simulator, cache__enabled=True, clock=lambda: time[0])
    query = '{ vehicle(id: "JQ7RP") { masterData { remark customName } } }'
    known = await gateway.data(query, by=TOKENS[0])
    time[0] += 100
    assert await gateway.data(query, by=TOKENS[0]) == known
    assert simulator.requests.by_status["304"] == 1
    simulator.fleets["T7K2M"].edit("JQ7RP", remark="new")
    time[0] += 100
    assert (await gateway.data(query, by=TOKENS[0]))["vehicle"]["masterData"]["remark"] == "new"


@pytest.mark.parametrize(("cache", "coalescing", "calls"), [(False, True, 1), (False, False, 20), (True, False, 20)])
async def test_cache_and_coalescing_can_be_switched_off(start, cache, coalescing, calls):
    """Each is a setting of its own."""
    simulator = Simulator([FleetPlan(vehicles=30, clients=CLIENTS[:1])], Behaviours(rate_limit_requests=0))
    simulator.faults.rules = [Fault("latency", seconds=0.5)]
    gateway = await start(simulator=simulator, cache__enabled=cache, coalescing__enabled=coalescing)
    await asyncio.gather(*(gateway.data("{ vehicles(first: 5) { nodes { id } } }", by=TOKENS[0]) for _ in range(20)))
    assert simulator.requests.total == calls
    await gateway.data("{ vehicles(first: 5) { nodes { id } } }", by=TOKENS[0])
    assert simulator.requests.total == calls + (0 if cache else 1)
