"""What leaves the gateway for the fleet API, recorded at its socket under every fault of the simulator.

Each mutation makes at most one request that is no GET, and no two share one: nothing is retried, coalesced, cached,
answered from a cache or sent ahead.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Fault, Simulator
from gateway.simulator.faults import Kind
from tests.effort import effort
from tests.gateways import PLANS, TOKENS, serving
from tests.waiting import eventually
from tests.writes.commanding import is_able
from tests.writes.mutations import KEYS, client_of, document, mutation
from tests.writes.recording_proxy import RecordingProxy

EACH = effort(3, 3, 20)  # mutations of a kind at the same time
TIMEOUT = 1.5  # seconds of a call
# The faults that can come after the execution. A 429 says that there was none.
EXECUTED = ("latency", "status", "telematics_unit_error", "outage", "drop", "silence")
FAULTS = [*((kind, False) for kind in get_args(Kind)), *((kind, True) for kind in EXECUTED)]
PARAMETERS = {"latency": {"seconds": TIMEOUT + 0.3}, "silence": {"seconds": 0.2}, "stall": {"seconds": 0.2},
              "slow_body": {"seconds": 0.002}, "huge_body": {"megabytes": 0.1}, "rate_limit": {"seconds": 0}}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """A gateway that retries, coalesces and caches reads, behind a recording proxy."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as upstream, (proxy := RecordingProxy(upstream)).serving() as url:
        settings = Settings(
            upstream={"url": url, "total_timeout": TIMEOUT, "command_timeout": TIMEOUT},
            retry={"attempts": 3, "backoff": 0.001},
            breaker={"failure_threshold": 100_000},
            rate_limit={"enabled": False},
            writes="all",
            log={"level": "error"},
        )
        with serving(create_app(settings)) as gateway:
            yield World(simulator, proxy, gateway)


class World:
    """The gateway's URL, and vehicles of which each test gets new ones."""

    def __init__(self, simulator: Simulator, proxy: RecordingProxy, url: str) -> None:
        self.simulator, self.proxy, self.url = simulator, proxy, url
        fleet = simulator.fleets["T7K2M"]
        self._able: Iterator[str] = iter([each for each in fleet.ids if is_able(fleet.vehicle(each))])

    async def post(self, query: str, **members) -> dict:
        async with client_of(base_url=self.url) as http:
            headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
            return (await http.post("/graphql", json={"query": query, **members}, headers=headers)).json()

    async def mutations(self) -> dict[str, dict]:
        """One mutation of each kind, with its input; each concerns another vehicle, which has been read before."""
        first, second = next(self._able), next(self._able)
        for vehicle_id in (first, second):
            await self.post(f'{{ vehicle(id: "{vehicle_id}") {{ vehicleId tags capabilities {{ commands }} }} }}')
        models = '{ availableVehicleModels(telematicsBrand: "CLOUDBOXX") { modelId } }'
        model = (await self.post(models))["data"]["availableVehicleModels"][0]["modelId"]
        unit = {"telematicsBrand": "CLOUDBOXX", "telematicsUnitId": first, "vehicleModelId": model}
        return {
            "updateVehicle": {"vehicleId": first, "tags": ["same"]},
            "sendVehicleCommand": {"vehicleId": first, "command": "ENABLE_DRIVING"},
            "shareVehicle": {"vehicleId": second, "partnerFleetId": "EXFL29", "endsAt": "2099-01-01T00:00:00Z"},
            "archiveVehicle": {"vehicleId": second},
            "addVehicle": unit,
        }


@pytest.fixture
async def clean(world):
    """No faults and no counts, before and after a test, and nothing that is still being executed."""
    world.simulator.faults.rules = []
    await eventually(lambda: world.simulator.requests.in_flight == 0)
    world.simulator.behaviours = Behaviours(rate_limit_requests=0)
    world.simulator.executions.log.clear()
    world.proxy.requests.clear()
    yield
    world.simulator.faults.rules = []


def paths_of(mutations: dict[str, dict]) -> dict[str, tuple[str, str]]:
    """The one request of each mutation."""
    changed, shared = (f"/vehicles/{mutations[name]['vehicleId']}" for name in ("updateVehicle", "shareVehicle"))
    return {
        "updateVehicle": ("PATCH", changed),
        "sendVehicleCommand": ("POST", f"{changed}/commands/enable-driving"),
        "shareVehicle": ("POST", f"{shared}/sharing"),
        "archiveVehicle": ("DELETE", shared),
        "addVehicle": ("POST", "/vehicles"),
    }


@pytest.mark.parametrize(("kind", "executed"), FAULTS, ids=str)
async def test_each_mutation_is_one_request_whatever_fails(world, clean, kind, executed):
    """Several with the same input and different keys at the same time, before which the vehicle was read."""
    mutations = await world.mutations()
    world.simulator.faults.rules = [
        Fault(kind, method=method, executed=executed, **PARAMETERS.get(kind, {}))
        for method in ("POST", "PATCH", "DELETE")
    ]
    names = [name for name in mutations for _ in range(EACH)]
    answers = await asyncio.gather(*(world.post(document(mutation(name, **mutations[name]))) for name in names))
    paths = paths_of(mutations)
    if kind != "rate_limit":  # after a 429 the others may not be sent
        await eventually(lambda: len(world.proxy.writes) >= len(names))
    sent = Counter((each.method, each.path) for each in world.proxy.writes)
    assert sent <= Counter(dict.fromkeys(paths.values(), EACH)), answers
    executed_kinds = Counter(each["kind"] for each in world.simulator.executions.log)
    outcomes = {name: Counter[str]() for name in mutations}
    for name, answer in zip(names, answers, strict=True):
        outcomes[name][(answer["data"][name] or {"outcome": "NONE"})["outcome"]] += 1
    kinds = {"updateVehicle": "CHANGE", "sendVehicleCommand": "ENABLE_DRIVING", "shareVehicle": "SHARE",
             "archiveVehicle": "ARCHIVE", "addVehicle": "ADD"}  # fmt: skip
    for name, counted in outcomes.items():
        certain = counted["EXECUTED"]
        assert certain <= executed_kinds[kinds[name]] <= certain + counted["UNKNOWN"], (name, counted, executed_kinds)


@pytest.mark.parametrize("late", [False, True])
async def test_a_key_makes_one_request_however_often_it_is_sent(world, clean, late):
    """At the same time and afterwards; the outcome is the same, also if it is unknown."""
    mutations = await world.mutations()
    seconds = TIMEOUT + 0.3 if late else 0.1
    world.simulator.faults.rules = [
        Fault("latency", method=method, seconds=seconds) for method in ("POST", "PATCH", "DELETE")
    ]
    for name, members in mutations.items():
        query, before = document(mutation(name, key=next(KEYS), **members)), len(world.proxy.writes)
        answers = await asyncio.gather(*(world.post(query) for _ in range(EACH)))
        answers.append(await world.post(query))
        assert len(world.proxy.writes) == before + 1
        payloads = [answer["data"][name] for answer in answers]
        assert {payload["outcome"] for payload in payloads} <= ({"UNKNOWN"} if late else {"EXECUTED", "REJECTED"})
        assert len({json.dumps([payload["outcome"], payload["userErrors"]]) for payload in payloads}) == 1


async def test_a_mutation_that_is_not_executed_sends_nothing(world, clean):
    """By GET, as another operation of the document, skipped, or invalid."""
    fields = [mutation(name, **members) for name, members in (await world.mutations()).items()]
    async with client_of(base_url=world.url) as http:
        headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
        for field in fields:
            response = await http.get("/graphql", params={"query": document(field)}, headers=headers)
            assert response.status_code >= 400
    for field in fields:
        text = document(field)
        both = f"query read {{ __typename }} mutation write {text.removeprefix('mutation')}"
        assert (await world.post(both, operationName="read"))["data"] == {"__typename": "Query"}
        assert "errors" in await world.post(both)
        assert "errors" in await world.post(text.replace("userErrors", "nope userErrors", 1))
        skipped = await world.post(text.replace(") {", ") @skip(if: true) {", 1))
        assert skipped["data"] == {}
    assert world.proxy.writes == []


async def test_writes_to_one_vehicle_in_a_document_are_sent_one_after_the_other(world, clean):
    """In their order; the next is sent when the one before has its response."""
    world.simulator.behaviours = Behaviours(rate_limit_requests=0, command_seconds=0.05)
    vehicle_id = (await world.mutations())["updateVehicle"]["vehicleId"]
    fields = [
        mutation("updateVehicle", alias="a", vehicleId=vehicle_id, tags=["first"]),
        mutation("sendVehicleCommand", alias="b", vehicleId=vehicle_id, command="LOCK_CENTRAL_LOCK"),
        mutation("sendVehicleCommand", alias="c", vehicleId=vehicle_id, command="UNLOCK_CENTRAL_LOCK"),
        mutation("updateVehicle", alias="d", vehicleId=vehicle_id, tags=["last"]),
    ]
    data = (await world.post(document(*fields)))["data"]
    assert [data[alias]["userErrors"] for alias in "abcd"] == [[]] * 4
    assert data["b"]["vehicle"]["latestState"]["centralLock"]["value"] == "LOCKED"
    assert data["d"]["vehicle"]["tags"] == ["last"]
    kinds = [each["kind"] for each in world.simulator.executions.log]
    assert kinds == ["CHANGE", "LOCK_CENTRAL_LOCK", "UNLOCK_CENTRAL_LOCK", "CHANGE"]
