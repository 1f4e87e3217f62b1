"""Whole answers, where they are switched on: the same as others, gone with what they were made of, nobody else's."""

from __future__ import annotations

import json

import pytest

from gateway.schema.global_ids import vehicle_global_id
from gateway.simulator import Behaviours, Simulator
from tests.gateways import PLANS
from tests.upstream.fakes import Clock

BY_ID = "query($ids: [ID!]!) { nodes(ids: $ids) { ... on Vehicle { vehicleId status modifiedAt masterData { vin } } } }"
LIST = "{ vehicles(first: 20) { edges { cursor node { vehicleId modifiedAt } } pageInfo { hasNextPage } } }"


class World:
    """A gateway that keeps whole answers for ten seconds, and one over the same fleet that keeps nothing."""

    def __init__(self, kept, plain, clock) -> None:
        self.kept, self.plain, self.clock = kept, plain, clock
        fleet = kept.simulator.fleets["T7K2M"]
        self.ids = fleet.ids[:20]
        self.variables = {"ids": [vehicle_global_id(i) for i in [*self.ids, "NONE1"]]}

    async def ask(self, query: str, by: str = "alice"):
        """An answer, and whether it was a kept one."""
        variables = self.variables if "$ids" in query else {}
        answer = await self.kept.post(query, variables, by, **{"Accept-Encoding": "gzip"})
        assert answer.json() == (await self.plain.post(query, variables, by)).json()
        return answer, answer.headers.get("Content-Encoding") == "gzip"

    async def warm(self, query: str, by: str = "alice") -> None:
        """Until the answer is kept: the first asks parse, read and keep."""
        for _ in range(3):
            await self.ask(query, by)
        assert (await self.ask(query, by))[1]


@pytest.fixture
async def world(start):
    clock, simulator = Clock(), Simulator(PLANS, Behaviours(rate_limit_requests=0))
    lives = {f"cache__{name}_ttl": 10 for name in ("vehicles", "vehicle", "latest_state", "negative")}
    lives |= {f"cache__{name}_stale_while_revalidate": 0 for name in ("vehicles", "vehicle", "latest_state")}
    # Only the response of an operation with a plan is kept whole.
    kept = await start(
        simulator=simulator, clock=clock, cache__enabled=True, cache__responses=True, cache__responses_gzip=True,
        graphql__projection=True, **lives,
    )  # fmt: skip
    return World(kept, await start(simulator=simulator), clock)


@pytest.mark.parametrize("query", [BY_ID, LIST])
async def test_a_kept_answer_is_the_same_and_costs_nothing(world, query):
    """Plain or as gzip the answer is that of a gateway without a cache, told as fresh as its oldest part."""
    await world.warm(query)
    world.clock.time += 4
    before = world.kept.simulator.requests.total
    compressed = await world.kept.post(query, world.variables if query is BY_ID else {}, "alice")
    plain = await world.kept.post(
        query, world.variables if query is BY_ID else {}, "alice", **{"Accept-Encoding": "gzip;q=0"}
    )
    assert world.kept.simulator.requests.total == before
    assert compressed.content == plain.content
    assert "Content-Encoding" not in plain.headers
    for answer in (compressed, plain):
        assert (answer.headers["Age"], answer.headers["Cache-Control"]) == ("4", "private, max-age=10")
        assert "Accept-Encoding" in answer.headers["Vary"].split(", ")
        assert json.loads(answer.content)["data"]


@pytest.mark.parametrize("query", [BY_ID, LIST])
async def test_it_ends_with_what_it_was_made_of(world, query):
    """A vehicle that has changed is told as soon as the old entry's time is over, whatever was kept of it."""
    await world.warm(query)
    world.clock.time += 11
    world.kept.simulator.fleets["T7K2M"].edit(world.ids[3])
    _, was_kept = await world.ask(query)
    assert not was_kept
    await world.warm(query)


async def test_one_part_that_is_read_anew_ends_it(world):
    """Where one of many reads has a newer entry, the answer is made anew with it."""
    await world.warm(BY_ID)
    world.clock.time += 6
    world.kept.fault("status", path=f"/vehicles/{world.ids[0]}$", status=403, times=1)
    world.clock.time += 5
    one = "query($id: ID!) { vehicle(id: $id) { vehicleId } }"
    await world.kept.ask(one, id=world.ids[0])
    _, was_kept = await world.ask(BY_ID)
    assert not was_kept


async def test_it_is_given_to_nobody_else(world):
    """Another principal's equal request is read for that principal, whatever is kept for the first."""
    await world.warm(BY_ID)
    before = world.kept.simulator.requests.total
    answer = await world.kept.post(BY_ID, world.variables, "eve")
    assert world.kept.simulator.requests.total > before
    assert set(map(json.dumps, answer.json()["data"]["nodes"])) == {"null"}
    assert (await world.ask(BY_ID))[1]


async def test_an_answer_with_errors_is_not_kept(world):
    """What failed is tried again by the next request."""
    world.kept.fault("status", path=f"/vehicles/{world.ids[0]}$", status=500, times=3)
    for _ in range(3):
        assert (await world.kept.post(BY_ID, world.variables)).json()["errors"]
    assert "errors" not in (await world.kept.post(BY_ID, world.variables)).json()
    await world.warm(BY_ID)
