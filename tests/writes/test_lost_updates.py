"""Concurrent edits with versions lose no update: a model of the vehicle is compared with what the fleet API has."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.simulator import Behaviours, Simulator
from tests.effort import effort
from tests.gateways import PLANS, Gateway, joined
from tests.writes.mutations import client_of, document, mutation

EDITORS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=2, max_size=5)
RELAXED = settings(
    max_examples=effort(8, 15, 120), deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
READ = '{ vehicle(id: "JQ7RP") { version tags } }'
ATTEMPTS = 200


class Editor:
    """Adds tags to a vehicle, each to the version that it has read or that a conflict has shown."""

    def __init__(self, gateway: Gateway, name: str, by: str) -> None:
        self.gateway, self.name, self.by = gateway, name, by
        self.conflicts = 0

    async def add(self, tag: str) -> None:
        vehicle = (await self.gateway.data(READ, by=self.by))["vehicle"]
        for _ in range(ATTEMPTS):
            field = mutation(
                "updateVehicle", vehicleId="JQ7RP", ifVersion=vehicle["version"], tags=[*vehicle["tags"], tag]
            )
            payload = (await self.gateway.data(document(field), by=self.by))["updateVehicle"]
            if not payload["userErrors"]:
                assert payload["vehicle"]["tags"] == [*vehicle["tags"], tag]
                assert payload["vehicle"]["version"] != vehicle["version"]
                return
            assert [error["code"] for error in payload["userErrors"]] == ["CONFLICT"]
            self.conflicts += 1
            assert payload["vehicle"]["version"] != vehicle["version"]
            vehicle = payload["vehicle"]
        raise AssertionError("never succeeded")

    async def run(self, pauses: list[int]) -> list[str]:
        tags = [f"{self.name}{n}" for n in range(len(pauses))]
        for tag, pause in zip(tags, pauses, strict=True):
            await asyncio.sleep(pause / 1000)
            await self.add(tag)
        return tags


@RELAXED
@given(editors=EDITORS, cached=st.booleans())
async def test_edits_with_versions_lose_no_update(editors, cached):
    """Every tag that any editor added is there, each editor's in its order, whatever the others did meanwhile."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    groups = {"cache": {"enabled": cached, "vehicle_ttl": 60}, "writes": "all"}
    async with (
        joined(simulator, **groups) as (url, app),
        client_of(base_url=url) as http,
    ):
        gateway = Gateway(http, simulator, app)
        before = list(simulator.fleets["T7K2M"].vehicle("JQ7RP")["tags"])
        added = await asyncio.gather(
            *(Editor(gateway, "abcde"[n], ("alice", "bob")[n % 2]).run(pauses) for n, pauses in enumerate(editors))
        )
    tags = simulator.fleets["T7K2M"].vehicle("JQ7RP")["tags"]
    assert tags[: len(before)] == before
    assert sorted(tags[len(before) :]) == sorted(tag for own in added for tag in own)
    for own in added:
        assert [tag for tag in tags if tag in own] == own
    assert simulator.executions.by_kind["CHANGE"] == sum(map(len, editors))
