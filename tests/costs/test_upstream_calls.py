"""The canonical operations and their upstream calls, as the simulator counts them: 1,000 vehicles in pages of 100.

`OPERATIONS` is the table: the most upstream calls with an empty cache, and the calls of a repetition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from gateway.schema.global_ids import vehicle_global_id
from gateway.simulator import Behaviours, Client, Fault, FleetPlan, Simulator
from tests.effort import thorough_only
from tests.gateways import Gateway
from tests.journeys.test_queries import ALL_OF_A_VEHICLE

TOKENS = [f"token-{number}" for number in range(200)]
ONE = TOKENS[0]
WHOLE_PAGE = f"{{ vehicles(first: 100) {{ edges {{ cursor node {{ {ALL_OF_A_VEHICLE} }} }} }} }}"
THREE_SIZES = f"""{{ a: vehicles(first: 100) {{ nodes {{ {ALL_OF_A_VEHICLE} }} }}
  b: vehicles(first: 20) {{ nodes {{ id }} }} c: vehicles(first: 7) {{ nodes {{ id }} }} }}"""
PAGE = """query($n: Int, $c: String) { vehicles(first: $n, after: $c) {
  nodes { vehicleId } pageInfo { hasNextPage endCursor } } }"""
NODES = "query($ids: [ID!]!) { nodes(ids: $ids) { id ... on Vehicle { vehicleId } } }"


async def whole_page(gateway: Gateway) -> None:
    assert len((await gateway.data(WHOLE_PAGE, by=ONE))["vehicles"]["edges"]) == 100


async def three_sizes(gateway: Gateway) -> None:
    assert {alias: len(page["nodes"]) for alias, page in (await gateway.data(THREE_SIZES, by=ONE)).items()} == {
        "a": 100, "b": 20, "c": 7,
    }  # fmt: skip


async def two_hundred_at_once(gateway: Gateway) -> None:
    gateway.simulator.faults.rules = [Fault("latency", seconds=0.2)]
    query = "{ vehicles(first: 100) { nodes { vehicleId } } }"
    await asyncio.gather(*(gateway.data(query, by=ONE) for _ in range(200)))


async def twenty_by_id(gateway: Gateway) -> None:
    ids = gateway.simulator.fleets["T7K2M"].ids[:90:6]
    aliases = " ".join(f'v{n}: vehicle(id: "{ids[n % 15]}") {{ vehicleId }}' for n in range(20))
    data = await gateway.data(f"{{ {aliases} }}", by=ONE)
    assert [vehicle["vehicleId"] for vehicle in data.values()] == [ids[n % 15] for n in range(20)]


async def four_hundred_nodes(gateway: Gateway) -> None:
    wanted = gateway.simulator.fleets["T7K2M"].ids[::-1][::2][:400]
    ids = [vehicle_global_id(vehicle_id) for vehicle_id in wanted]
    assert [node["vehicleId"] for node in (await gateway.data(NODES, by=ONE, ids=ids))["nodes"]] == wanted


async def page_through_all(gateway: Gateway, size: int) -> None:
    found, cursor = [], None
    while True:
        page = (await gateway.data(PAGE, by=ONE, n=size, c=cursor))["vehicles"]
        found += [node["vehicleId"] for node in page["nodes"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        cursor = page["pageInfo"]["endCursor"]
    assert found == gateway.simulator.fleets["T7K2M"].ids


async def two_hundred_principals(gateway: Gateway) -> None:
    await asyncio.gather(*(gateway.data("{ vehicles(first: 9) { nodes { id } } }", by=token) for token in TOKENS))


Do = Callable[[Gateway], Awaitable[None]]


class Operation(NamedTuple):
    """An operation and its description; its calls cold and warm; what runs before it, or in place of the repetition."""

    name: str
    do: Do
    cold: int
    warm: int
    before: Do | None = None
    again: Do | None = None
    at_most: bool = False


OPERATIONS = [
    Operation("vehicles(first: 100) with every field", whole_page, 1, 0),
    Operation("the same with 3 aliases of different `first` up to 100", three_sizes, 1, 0),
    Operation("200 concurrent clients of one principal asking it", two_hundred_at_once, 1, 0),
    Operation("20 aliases of vehicle(id), 15 distinct", twenty_by_id, 15, 0),
    Operation("the same after a list with them", twenty_by_id, 0, 0, before=whole_page),
    Operation("nodes of 400 ids, fleet size not yet known", four_hundred_nodes, 20, 0, at_most=True),
    Operation(
        "scan of all by first: 50, then again by first: 20",
        lambda gateway: page_through_all(gateway, 50), 10, 0, again=lambda gateway: page_through_all(gateway, 20),
    ),
    Operation("200 principals asking the same", two_hundred_principals, 200, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    "operation",
    [*OPERATIONS[:-1], pytest.param(OPERATIONS[-1], marks=thorough_only)],
    ids=lambda operation: operation.name,
)
async def test_upstream_calls(start, operation):
    """Each operation makes the calls that the table says, cold and warm."""
    clients = tuple(Client(f"T7K2M#{number}", token=token) for number, token in enumerate(TOKENS))
    simulator = Simulator([FleetPlan(vehicles=1000, clients=clients)], Behaviours(rate_limit_requests=0))
    gateway = await start(simulator=simulator, cache__enabled=True)
    if operation.before is not None:
        await operation.before(gateway)
    before = simulator.requests.total
    await operation.do(gateway)
    cold = simulator.requests.total - before
    await (operation.again or operation.do)(gateway)
    warm = simulator.requests.total - before - cold
    assert cold <= operation.cold if operation.at_most else cold == operation.cold
    assert warm == operation.warm
