"""A write through one gateway is in the next read through another: by id, in lists, nodes, entities and kept answers.

Two processes share Redis; what they read stays fresh for longer than the tests take.
"""

from __future__ import annotations

import asyncio
import base64
import random
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.simulator import Behaviours, Fault, Simulator
from tests.effort import effort, thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import PLANS, TOKENS, serving
from tests.redis_server import RedisServer
from tests.waiting import eventually
from tests.writes.commanding import is_able
from tests.writes.mutations import client_of, document, mutation

ROUNDS = effort(12, 20, 150)
SECONDS = "600"  # for which responses stay fresh
SHOWN = "vehicleId tags masterData { remark } latestState { centralLock { value } drivingEnabled { value } }"


def id_of(vehicle_id: str) -> str:
    return base64.b64encode(f"Vehicle:{vehicle_id}".encode()).decode()


def reads_of(vehicle_id: str) -> dict[str, str]:
    """Queries that show a vehicle, by the way in which they find it."""
    representation = f'{{ __typename: "Vehicle", id: "{id_of(vehicle_id)}" }}'
    return {
        "by id": f'{{ found: vehicle(id: "{vehicle_id}") {{ {SHOWN} }} }}',
        "node": f'{{ found: node(id: "{id_of(vehicle_id)}") {{ ... on Vehicle {{ {SHOWN} }} }} }}',
        "nodes": f'{{ found: nodes(ids: ["{id_of(vehicle_id)}"]) {{ ... on Vehicle {{ {SHOWN} }} }} }}',
        "entities": f"{{ found: _entities(representations: [{representation}]) {{ ... on Vehicle {{ {SHOWN} }} }} }}",
        "list": f"{{ found: vehicles(first: 250) {{ nodes {{ {SHOWN} }} }} }}",
        "search": f'{{ found: vehicles(first: 5, search: "{vehicle_id}") {{ nodes {{ {SHOWN} }} }} }}',
    }


def gateway_of(folder: Path, upstream: str, redis: RedisServer) -> GatewayProcess:
    return GatewayProcess(
        folder,
        writes="all",
        upstream_url=upstream,
        redis_url=redis.url,
        redis_timeout="2",  # a busy machine is not what these tests are about
        cache_vehicle_ttl=SECONDS,
        cache_vehicles_ttl=SECONDS,
        cache_latest_state_ttl=SECONDS,
        log_level="warning",
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory, redis_process):
    """Two gateways and their simulator."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    with ExitStack() as stack:
        upstream = stack.enter_context(serving(simulator.app))
        gateways = []
        for _ in range(2):
            gateways.append(gateway_of(tmp_path_factory.mktemp("gateway"), upstream, redis_process))
            stack.callback(gateways[-1].stop)
        for gateway in gateways:
            gateway.wait_until_ready()
        yield World(simulator, upstream, [gateway.url for gateway in gateways])
        for gateway in gateways:
            assert "Traceback" not in gateway.output


class World:
    """The gateways, and requests to one of them."""

    def __init__(self, simulator: Simulator, upstream: str, urls: list[str]) -> None:
        self.simulator, self.upstream, self.urls = simulator, upstream, urls
        self.fleet = simulator.fleets["T7K2M"]

    async def ask(self, gateway: int, query: str, by: str = "alice"):
        async with client_of(base_url=self.urls[gateway]) as http:
            headers = {"Authorization": f"Bearer {TOKENS[by]}"}
            answer = (await http.post("/graphql", json={"query": query}, headers=headers)).json()
        assert "errors" not in answer, answer
        return answer["data"]

    async def found(self, gateway: int, query: str, vehicle_id: str, by: str = "alice"):
        """The vehicle as a query shows it, or None."""
        found = (await self.ask(gateway, query, by))["found"]
        if isinstance(found, dict) and "nodes" in found:
            found = found["nodes"]
        if not isinstance(found, list):
            found = [found]
        return next((each for each in found if each and each["vehicleId"] == vehicle_id), None)

    async def all_found(self, vehicle_id: str):
        """The vehicle as every read through every gateway by every caller shows it, by what it is read with."""
        ways = [(gateway, name, by) for gateway in range(2) for name in reads_of(vehicle_id) for by in ("alice", "bob")]
        reads = [self.found(gateway, reads_of(vehicle_id)[name], vehicle_id, by) for gateway, name, by in ways]
        return dict(zip(ways, await asyncio.gather(*reads), strict=True))

    async def write(self, gateway: int, name: str, **members):
        """A mutation that succeeds; returns its payload."""
        payload = (await self.ask(gateway, document(mutation(name, **members))))[name]
        assert payload["userErrors"] == [], payload
        return payload


def able(world: World) -> list[str]:
    """Vehicles that accept commands and have the members that the tests look at."""
    vehicles = [world.fleet.vehicle(vehicle_id) for vehicle_id in world.fleet.ids]
    return [vehicle["id"] for vehicle in vehicles if is_able(vehicle) and vehicle.get("master_data")]


async def test_a_change_is_in_the_next_read_through_either_gateway(world):
    """By the same caller or another one of the fleet; reads before the write had filled all caches."""
    dice = random.Random(1)
    for number in range(ROUNDS):
        vehicle_id, writer = dice.choice(able(world)), dice.randrange(2)
        await world.all_found(vehicle_id)
        remark, tag = f"remark {number}", f"tag{number}"
        payload = await world.write(
            writer, "updateVehicle", vehicleId=vehicle_id, masterData={"remark": remark}, tags=[tag]
        )
        assert (payload["vehicle"]["masterData"], payload["vehicle"]["tags"]) == ({"remark": remark}, [tag])
        for way, vehicle in (await world.all_found(vehicle_id)).items():
            assert (vehicle["masterData"], vehicle["tags"]) == ({"remark": remark}, [tag]), (number, writer, way)


async def test_the_state_after_a_command_is_in_the_next_read_through_either_gateway(world):
    """So is the state in lists."""
    dice = random.Random(2)
    for number in range(ROUNDS):
        vehicle_id, writer = dice.choice(able(world)), dice.randrange(2)
        command, lock, driving = dice.choice(
            [("LOCK_AND_DISABLE_DRIVING", "LOCKED", False), ("UNLOCK_AND_ENABLE_DRIVING", "UNLOCKED", True)]
        )
        await world.all_found(vehicle_id)
        payload = await world.write(writer, "sendVehicleCommand", vehicleId=vehicle_id, command=command)
        assert payload["outcome"] == "EXECUTED"
        assert payload["vehicle"]["latestState"]["centralLock"]["value"] == lock
        for way, vehicle in (await world.all_found(vehicle_id)).items():
            state = vehicle["latestState"]
            assert (state["centralLock"]["value"], state["drivingEnabled"]["value"]) == (lock, driving), (
                number, writer, way,
            )  # fmt: skip


async def test_a_write_of_unknown_outcome_is_in_the_next_read(world):
    """What was executed without a response is read anew, too."""
    dice = random.Random(3)
    for number in range(effort(3, 6, 20)):
        vehicle_id, writer = dice.choice(able(world)), dice.randrange(2)
        await world.all_found(vehicle_id)
        world.simulator.faults.rules = [Fault("drop", method="PATCH", executed=True, times=1)]
        field = mutation("updateVehicle", vehicleId=vehicle_id, tags=[f"unknown{number}"])
        async with client_of(base_url=world.urls[writer]) as http:
            headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
            await http.post("/graphql", json={"query": document(field)}, headers=headers)
        assert world.simulator.faults.rules[0].times == 0
        for way, vehicle in (await world.all_found(vehicle_id)).items():
            assert vehicle["tags"] == [f"unknown{number}"], (number, writer, way)


async def test_a_write_of_a_killed_gateway_is_in_the_next_read(world, redis_process, tmp_path):
    """It was carried out, and its gateway was killed before it had a response."""
    vehicle_id = able(world)[-1]
    writer = gateway_of(tmp_path, world.upstream, redis_process)
    try:
        await asyncio.to_thread(writer.wait_until_ready)
        await world.all_found(vehicle_id)
        world.simulator.faults.rules = [Fault("latency", method="PATCH", executed=True, times=1, seconds=5)]
        query = document(mutation("updateVehicle", vehicleId=vehicle_id, tags=["of a killed one"]))
        async with client_of(base_url=writer.url, headers={"Authorization": f"Bearer {TOKENS['alice']}"}) as http:
            writing = asyncio.ensure_future(http.post("/graphql", json={"query": query}))
            await eventually(lambda: world.fleet.vehicle(vehicle_id)["tags"] == ["of a killed one"])
            writer.process.kill()
            with pytest.raises(httpx.TransportError):
                await writing
    finally:
        writer.stop()
    for way, vehicle in (await world.all_found(vehicle_id)).items():
        assert vehicle["tags"] == ["of a killed one"], way


@thorough_only
async def test_added_and_archived_vehicles_are_in_the_next_list_or_not(world):
    """And by their ids, where the absence of a vehicle may be kept as well."""
    for number in range(effort(2, 5, 20)):
        writer = number % 2
        models = 'found: availableVehicleModels(telematicsBrand: "CLOUDBOXX") { modelId }'
        model = (await world.ask(writer, f"{{ {models} }}"))["found"][0]["modelId"]
        await world.all_found("JQ7RP")
        payload = await world.write(
            writer,
            "addVehicle",
            telematicsBrand="CLOUDBOXX",
            telematicsUnitId=f"UNIT{number}",
            vehicleModelId=model,
            masterData={"remark": f"new {number}"},
        )
        vehicle_id = payload["vehicle"]["vehicleId"]
        for way, vehicle in (await world.all_found(vehicle_id)).items():
            if way[1] != "list":  # it may be beyond the first page
                assert vehicle["masterData"]["remark"] == f"new {number}", way
        await world.write(1 - writer, "archiveVehicle", vehicleId=vehicle_id)
        assert set((await world.all_found(vehicle_id)).values()) == {None}
        gone = world.fleet.ids[5 + number]
        await world.all_found(gone)
        await world.write(writer, "archiveVehicle", vehicleId=gone)
        for way, vehicle in (await world.all_found(gone)).items():
            assert vehicle is None, way
