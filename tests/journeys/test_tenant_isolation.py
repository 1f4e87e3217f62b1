"""Many callers of several fleets at once: no response holds another caller's data.

The simulated fleet API stamps every vehicle with the client that requested it, so each response shows for whom it was
read. A deliberate bug, a cache key without the principal, shows that these tests would find a leak.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator import Behaviours, Client, Fault, FleetPlan, Simulator
from gateway.upstream.requests import UpstreamRequest
from tests.effort import effort, thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import joined

CLIENTS = [f"{fleet}#{name}" for fleet in ("T7K2M", "EXFL29", "ZZTOP") for name in ("one", "two", "three")]
STAMPED = "vehicleId vehicleModelId"
FAULTS = [
    Fault("outage", probability=0.05),
    Fault("rate_limit", probability=0.03, seconds=1),
    Fault("malformed_json", probability=0.02),
    Fault("latency", probability=0.3, seconds=0.001, jitter=0.01),
    Fault("churn", probability=0.02),
]


def simulated(faults: list[Fault]) -> Simulator:
    plans = [
        FleetPlan(fleet, 130, clients=tuple(Client(c) for c in CLIENTS if c.startswith(fleet)))
        for fleet in ("T7K2M", "EXFL29", "ZZTOP")
    ]
    simulator = Simulator(plans, Behaviours(rate_limit_requests=0, stamp_callers=True))
    simulator.faults.rules = faults
    return simulator


def random_operation(dice: random.Random, ids: list[str]) -> str:
    """One of many operations; ids are of any fleet, the caller's own or not."""
    some = dice.sample(ids, 5)
    return dice.choice(
        [
            f"{{ vehicles(first: {dice.choice((1, 50, 100, 130))}) {{ nodes {{ {STAMPED} }} pageInfo {{ hasNextPage }} }} }}",
            f"{{ vehicles(last: {dice.choice((1, 50))}) {{ edges {{ cursor node {{ {STAMPED} }} }} }} }}",
            f'{{ vehicles(first: 5, search: "tesla") {{ nodes {{ {STAMPED} }} }} }}',
            f"{{ telematicsUnits(first: 20) {{ nodes {{ unitId vehicle {{ {STAMPED} }} }} }} }}",
            "{ %s }"
            % " ".join(
                f'v{n}: vehicle(id: "{i}") {{ {STAMPED} latestState {{ ignition {{ value }} }} }}'
                for n, i in enumerate(some)
            ),
        ]
    )


def stamps_of(value: Any) -> set[str]:
    """Every stamp in a response."""
    if isinstance(value, list):
        return set().union(*map(stamps_of, value))
    if isinstance(value, dict):
        own = {value["vehicleModelId"]} if "vehicleModelId" in value else set()
        return own.union(*map(stamps_of, value.values()))
    return set()


async def crowd(post: Any, tokens: dict[str, list[str]], ids: list[str], rounds: int, seed: int) -> int:
    """Every client sends requests repeatedly, with one token or another; returns the number of vehicles seen."""
    seen = 0

    async def one(client_id: str, number: int) -> None:
        nonlocal seen
        dice = random.Random(f"{seed} {client_id} {number}")
        for _ in range(rounds):
            answer = await post(random_operation(dice, ids), dice.choice(tokens[client_id]))
            stamps = stamps_of(answer.get("data"))
            assert stamps <= {client_id}, f"{client_id} got the data of {stamps - {client_id}}"
            seen += len(stamps)

    everyone = (one(client_id, number) for client_id in CLIENTS for number in range(3))
    for failure in await asyncio.gather(*everyone, return_exceptions=True):
        if failure is not None:
            raise failure
    return seen


async def soak(simulator: Simulator, rounds: int, seed: int, **groups: Any) -> int:
    """A crowd over a gateway whose cache is so small that it always evicts."""
    groups.setdefault("cache", {"bytes_max": 2**20, "entries_max": 300, "vehicles_ttl": 0.05})
    tokens = {client_id: [simulator.token_for(client_id) for _ in range(2)] for client_id in CLIENTS}
    ids = [vehicle_id for fleet in simulator.fleets.values() for vehicle_id in fleet.ids[:40]]
    async with (
        joined(simulator, **groups) as (url, _),
        httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http,
    ):

        async def post(query: str, token: str) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {token}"}
            return (await http.post("/graphql", json={"query": query}, headers=headers)).json()

        return await crowd(post, tokens, ids, rounds, seed)


def without_principal(read: UpstreamRequest[Any]) -> str:
    """The deliberate bug: the key is the same for all callers."""
    return "\0".join((read.path, *(text for pair in read.parameters for text in pair)))


async def test_a_crowd_over_memory():
    """Mixed operations, two tokens each, faults, churn and evictions."""
    rounds = effort(3, 8, 20)
    assert await soak(simulated(list(FAULTS)), rounds, seed=1) > 8 * rounds


async def test_a_crowd_over_redis(redis):
    """The same with entries in Redis."""
    rounds = effort(2, 5, 10)
    assert await soak(simulated(list(FAULTS)), rounds, seed=2, redis={"url": redis.url}) > 8 * rounds


@pytest.mark.parametrize("groups", [{}, {"cache": {"enabled": False}}], ids=["cache", "single flight alone"])
async def test_a_key_without_the_principal_is_detected(monkeypatch, groups):
    """With the bug the crowd sees other callers' data, through the cache and through shared calls."""
    monkeypatch.setattr(UpstreamRequest, "key", property(without_principal))
    with pytest.raises(AssertionError, match="got the data of"):
        await soak(simulated([Fault("latency", seconds=0.01)]), rounds=3, seed=3, **groups)


async def test_a_key_without_the_principal_is_detected_in_redis(monkeypatch, redis):
    """The same bug, seen through Redis by a gateway whose own memory is empty."""
    monkeypatch.setattr(UpstreamRequest, "key", property(without_principal))
    with pytest.raises(AssertionError, match="got the data of"):
        await soak(simulated([]), rounds=3, seed=4, redis={"url": redis.url})


steps = st.lists(
    st.tuples(st.sampled_from(CLIENTS), st.integers(0, 1), st.integers(0, 10**6), st.booleans()), max_size=12
)


@given(steps)
@settings(max_examples=effort(10, 40, 100))
def test_any_order_of_callers_is_safe(order):
    """In any order of requests, at once or one after another, each caller gets its own data."""

    async def run() -> None:
        simulator = simulated([])
        tokens = {client_id: [simulator.token_for(client_id) for _ in range(2)] for client_id in CLIENTS}
        ids = [vehicle_id for fleet in simulator.fleets.values() for vehicle_id in fleet.ids[:5]]
        async with joined(simulator) as (url, _), httpx.AsyncClient(base_url=url, verify=False) as http:

            async def ask(client_id: str, which: int, seed: int) -> None:
                headers = {"Authorization": f"Bearer {tokens[client_id][which]}"}
                query = random_operation(random.Random(seed), ids)
                answer = (await http.post("/graphql", json={"query": query}, headers=headers)).json()
                assert stamps_of(answer["data"]) <= {client_id}

            waiting = []
            for client_id, which, seed, at_once in order:
                waiting.append(asyncio.create_task(ask(client_id, which, seed)))
                if not at_once:
                    await asyncio.gather(*waiting)
            await asyncio.gather(*waiting)

    asyncio.run(run())


@thorough_only
async def test_a_crowd_over_several_worker_processes(serve, redis, tmp_path):
    """Two worker processes over one Redis, over real sockets."""
    simulator = simulated(
        [Fault("latency", probability=0.3, seconds=0.001, jitter=0.01), Fault("outage", probability=0.03)]
    )
    tokens = {client_id: [simulator.token_for(client_id) for _ in range(2)] for client_id in CLIENTS}
    ids = [vehicle_id for fleet in simulator.fleets.values() for vehicle_id in fleet.ids[:40]]
    gateway = GatewayProcess(
        tmp_path,
        workers="2",
        redis_url=redis.url,
        upstream_url=serve(simulator.app),
        log_level="error",
        cache_bytes_max=str(2**20),
    )
    try:
        await asyncio.to_thread(gateway.wait_until_ready)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60, verify=False) as http:

            async def post(query: str, token: str) -> dict[str, Any]:
                headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
                return (await http.post("/graphql", json={"query": query}, headers=headers)).json()

            rounds = effort(3, 8, 20)
            assert await crowd(post, tokens, ids, rounds, seed=5) > 8 * rounds
    finally:
        gateway.stop()
    assert "unexpected error" not in gateway.output
