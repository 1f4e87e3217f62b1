"""Pages that are read again and again without a cache while vehicles of them change."""

from __future__ import annotations

import random

import pytest

from gateway.simulator import Behaviours, Simulator
from tests.effort import effort
from tests.gateways import PLANS, Start

QUERIES = [
    "vehicles(first: 100) { edges { cursor node { vehicleId masterData { customName } } } pageInfo { endCursor } }",
    "vehicles(first: 100) { nodes { data: masterData { name: customName } vehicleId } }",
    "vehicles(first: 30) { edges { cursor node { vehicleId masterData { customName } } } pageInfo { endCursor } }",
    "vehicles(first: 100) { nodes { id tags latestState { mileageInKilometers { value timestamp } } } }",
    "vehicles(last: 5) { nodes { masterData { customName } lifeStatus { value } } }",
    "telematicsUnits(first: 20) { edges { cursor node { unitId vehicle { vehicleId masterData { customName } } } } }",
    "vehicles(first: 2) { nodes { otherMembers masterData { customName } } }",
]


@pytest.mark.parametrize("state", ["full", "missing"])
async def test_a_page_of_changing_vehicles_is_current(state, start: Start):
    """Each response equals that of a gateway that remembers no pages, whatever has changed and is selected."""
    generator = random.Random(7)
    behaviours = Behaviours(rate_limit_requests=0, latest_state_in_list=state)
    simulator = Simulator(PLANS, behaviours)
    gateway = await start(simulator=simulator)
    other = await start(simulator=simulator, upstream__page_dedup_bytes_max=0)
    fleet = simulator.fleets["T7K2M"]
    query = QUERIES[0]
    for changes in range(effort(60, 150, 1_000)):
        for vehicle_id in generator.sample(
            fleet.ids[:100], generator.choice([0, 1, 5, 12, 12, 60] if changes % 40 < 5 else [0, 1, 5, 12])
        ):
            fleet.edit(vehicle_id, custom_name="x" * generator.randrange(9))
        query = generator.choice([query, *QUERIES[:3], *QUERIES])
        assert await gateway.data(f"{{ {query} }}") == await other.data(f"{{ {query} }}")
