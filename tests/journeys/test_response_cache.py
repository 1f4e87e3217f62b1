"""The response cache: equal responses, invalid with their dependencies, and never for another principal."""

from __future__ import annotations

import json

import pytest

from gateway.schema.global_ids import vehicle_global_id
from gateway.simulator import Behaviours, Simulator
from gateway.web.response_cache import WholeResponses
from tests.gateways import PLANS
from tests.upstream.fakes import Clock

BY_ID = "query($ids: [ID!]!) { nodes(ids: $ids) { ... on Vehicle { vehicleId status modifiedAt masterData { vin } } } }"
LIST = """{ vehicles(first: 20) { edges { cursor node { vehicleId modifiedAt } } pageInfo { hasNextPage } }
  telematicsUnits(first: 5) { nodes { unitId } } }"""


class World:
    """A gateway with a response cache of ten seconds, and one over the same fleet without any cache."""

    def __init__(self, cached, plain, clock, hits) -> None:
        self.cached, self.plain, self.clock, self.hits = cached, plain, clock, hits
        fleet = cached.simulator.fleets["T7K2M"]
        self.ids = fleet.ids[:20]
        self.variables = {"ids": [vehicle_global_id(i) for i in [*self.ids, "NONE1"]]}

    async def ask(self, query: str, by: str = "alice"):
        """A response, and whether it was a cache hit."""
        variables = self.variables if "$ids" in query else {}
        self.hits.clear()
        answer = await self.cached.post(query, variables, by)
        assert answer.json() == (await self.plain.post(query, variables, by)).json()
        return answer, self.hits == [True]

    async def warm(self, query: str, by: str = "alice") -> None:
        """Repeats a request until its response is cached: the first ones parse, read and store."""
        for _ in range(3):
            await self.ask(query, by)
        assert (await self.ask(query, by))[1]


@pytest.fixture
async def world(start, monkeypatch):
    hits, get = [], WholeResponses.get

    def recording(*arguments):
        whole = get(*arguments)
        hits.append(whole is not None)
        return whole

    monkeypatch.setattr(WholeResponses, "get", recording)
    clock, simulator = Clock(), Simulator(PLANS, Behaviours(rate_limit_requests=0))
    lives = {f"cache__{name}_ttl": 10 for name in ("vehicles", "vehicle", "latest_state", "negative")}
    lives |= {f"cache__{name}_stale_while_revalidate": 0 for name in ("vehicles", "vehicle", "latest_state")}
    # Only the response of an operation with a plan is cached whole.
    cached = await start(
        simulator=simulator, clock=clock, cache__enabled=True, cache__responses=True, graphql__projection=True, **lives,
    )  # fmt: skip
    return World(cached, await start(simulator=simulator), clock, hits)


@pytest.mark.parametrize("query", [BY_ID, LIST])
async def test_a_cached_response_is_the_same_and_makes_no_call(world, query):
    """Plain or as gzip, the response equals that of a gateway without a cache; its Age is that of its oldest part."""
    await world.warm(query)
    world.clock.time += 4
    before = world.cached.simulator.requests.total
    variables = world.variables if query is BY_ID else {}
    compressed = await world.cached.post(query, variables, **{"Accept-Encoding": "gzip"})
    plain = await world.cached.post(query, variables, **{"Accept-Encoding": "gzip;q=0"})
    assert world.cached.simulator.requests.total == before
    assert compressed.content == plain.content
    assert [each.headers.get("Content-Encoding") for each in (compressed, plain)] == ["gzip", None]
    for answer in (compressed, plain):
        assert (answer.headers["Age"], answer.headers["Cache-Control"]) == ("4", "private, max-age=10")
        assert "Accept-Encoding" in answer.headers["Vary"].split(", ")
        assert json.loads(answer.content)["data"]


@pytest.mark.parametrize("query", [BY_ID, LIST])
async def test_a_response_expires_with_its_dependencies(world, query):
    """A changed vehicle is served as soon as the old entry has expired, whatever responses are cached."""
    await world.warm(query)
    world.clock.time += 11
    world.cached.simulator.fleets["T7K2M"].edit(world.ids[3])
    _, was_hit = await world.ask(query)
    assert not was_hit
    await world.warm(query)


async def test_a_newer_dependency_invalidates_a_response(world):
    """Where one of many entries is newer, the response is rendered again."""
    await world.warm(BY_ID)
    world.clock.time += 6
    world.cached.fault("status", path=f"/vehicles/{world.ids[0]}$", status=403, times=1)
    world.clock.time += 5
    one = "query($id: ID!) { vehicle(id: $id) { vehicleId } }"
    await world.cached.ask(one, id=world.ids[0])
    _, was_hit = await world.ask(BY_ID)
    assert not was_hit


async def test_a_response_is_cached_per_principal(world):
    """Another principal's equal request is read for that principal."""
    await world.warm(BY_ID)
    before = world.cached.simulator.requests.total
    answer = await world.cached.post(BY_ID, world.variables, "eve")
    assert world.cached.simulator.requests.total > before
    assert set(map(json.dumps, answer.json()["data"]["nodes"])) == {"null"}
    assert (await world.ask(BY_ID))[1]


async def test_a_response_with_errors_is_not_cached(world):
    """The next request tries again."""
    world.cached.fault("status", path=f"/vehicles/{world.ids[0]}$", status=500, times=3)
    for _ in range(3):
        assert (await world.cached.post(BY_ID, world.variables)).json()["errors"]
    assert "errors" not in (await world.cached.post(BY_ID, world.variables)).json()
    await world.warm(BY_ID)
