"""Random faults, disconnecting clients, killed workers and a killed Redis, all at once. Afterwards all is at rest.

A short form runs with the tests, a longer one in the thorough profile;
`CHAOS_SECONDS=600 uv run pytest tests/journeys/test_chaos.py` runs for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.simulator import Behaviours, Client, Fault, FleetPlan, Simulator
from tests.effort import effort, thorough_only
from tests.gateway_process import GatewayProcess

SECONDS = float(os.environ.get("CHAOS_SECONDS") or effort(4, 10, 30))
PATIENT = 60.0  # seconds; far beyond the deadline of an operation, and what a busy machine takes to start a worker
ENOUGH = 20
CALLERS = [f"chaos-token-{number}" for number in range(8)]
QUERIES = (
    "{ vehicles(first: 250) { edges { cursor node { vehicleId masterData { brand } } } pageInfo { hasNextPage } } }",
    '{ vehicle(id: "JQ7RP") { vehicleId status } }',
    "{ telematicsUnits(last: 5) { nodes { unitId vehicle { vehicleId } } } }",
    '{ nodes(ids: ["VmVoaWNsZTpKUTdSUA==", "VmVoaWNsZTpLM1dYOA=="]) { id } }',
)
# Few, so that a worker that lost them with cancelled calls would soon have none.
CONNECTIONS = 4
REDIS_CONNECTIONS = 8
FAULTS = (
    Fault("latency", probability=0.2, seconds=0.2, jitter=0.5),
    Fault("status", probability=0.1, status=503),
    Fault("rate_limit", probability=0.02, seconds=1, form="retry_after"),
    Fault("drop", probability=0.05),
    Fault("truncate", probability=0.05),
    Fault("stall", probability=0.02, seconds=30),
    Fault("malformed_json", probability=0.02),
    Fault("wrong_types", probability=0.02),
    Fault("not_an_object", probability=0.02),
    Fault("slow_body", probability=0.02, seconds=0.01),
    Fault("huge_body", probability=0.01, megabytes=2),
    Fault("telematics_unit_error", probability=0.02),
    Fault("expired_cursor", probability=0.02),
    Fault("churn", probability=0.1),
    Fault("outage", times=30),
)
# The codes that a caller may get meanwhile; any other is a bug.
HONEST = {
    "UPSTREAM_UNAVAILABLE", "UPSTREAM_TIMEOUT", "UPSTREAM_INVALID_RESPONSE", "RATE_LIMITED", "DEADLINE_EXCEEDED", "OVERLOADED",
    "UPSTREAM_REJECTED",  # cursors that expired twice during a scan
}  # fmt: skip


@dataclass
class Outcomes:
    """What the callers received, and when they stop: after SECONDS or, on a slow machine, after enough outcomes."""

    until: float
    whole: int = 0
    killed: int = 0
    unanswered: int = 0
    codes: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)

    def go_on(self) -> bool:
        now = time.monotonic()
        enough = self.whole > ENOUGH and self.killed
        return now < self.until or (not enough and now < self.until + 60)


async def keep_calling(url: str, token: str, outcomes: Outcomes) -> None:
    dice = random.Random(token)
    limits = httpx.Limits(max_keepalive_connections=0)  # a killed worker's connections are closed
    async with httpx.AsyncClient(base_url=url, limits=limits, verify=False) as http:
        while outcomes.go_on():
            deadline = dice.choice([0.02, 0.1, PATIENT, PATIENT])
            try:
                response = await http.post(
                    "/graphql",
                    json={"query": dice.choice(QUERIES)},
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=deadline,
                )
            except httpx.TimeoutException:
                outcomes.unanswered += deadline == PATIENT
            except httpx.TransportError:
                pass  # its worker was killed
            else:
                outcomes.statuses.add(response.status_code)
                errors = response.json().get("errors", ())
                outcomes.codes |= {error["extensions"]["code"] for error in errors}
                outcomes.whole += not errors


async def kill_and_restart(gateway: GatewayProcess, redis, outcomes: Outcomes) -> None:
    """Kills a worker and Redis repeatedly, each time after callers got responses."""
    whole = 0
    while outcomes.go_on():
        await asyncio.sleep(2.5)
        if outcomes.whole == whole:
            continue
        whole = outcomes.whole
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(gateway.workers()), signal.SIGKILL)
            outcomes.killed += 1
        redis.kill()
        await asyncio.sleep(0.7)
        await asyncio.to_thread(redis.start)


async def at_rest(url: str) -> bool:
    """Whether no worker has work under way, after enough requests to reach every worker."""
    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_keepalive_connections=0), verify=False) as http:
        loads = [(await http.get("/health/ready", timeout=10)).json() for _ in range(20)]
    return all(
        load["status"] == "ready" and not (load["operations"] + load["queued"] + load["reads"]) for load in loads
    )


def check(data: dict[str, Any], there: list[str]) -> None:
    """Whether the fleet is as the faults left it."""
    if "vehicles" in data:
        assert [edge["node"]["vehicleId"] for edge in data["vehicles"]["edges"]] == there[:250]
    else:
        assert data["vehicle"] is None or data["vehicle"]["vehicleId"] == "JQ7RP"
        assert (data["vehicle"] is None) == ("JQ7RP" not in there)


@thorough_only
async def test_after_the_chaos_all_is_at_rest(redis, tmp_path, serve):
    """All responses were right throughout; then queues, calls and memory are as before, and each caller is served."""
    clients = tuple(Client(f"T7K2M#{number}", token=token) for number, token in enumerate(CALLERS))
    simulator = Simulator([FleetPlan("T7K2M", 1000, clients=clients)], Behaviours(rate_limit_requests=0))
    gateway = GatewayProcess(
        tmp_path,
        workers="2",
        upstream_url=serve(simulator.app),
        upstream_read_timeout="1",
        upstream_total_timeout="2",
        upstream_connections_max=str(CONNECTIONS),
        upstream_response_bytes_max=str(2**20),
        redis_url=redis.url,
        redis_connections_max=str(REDIS_CONNECTIONS),
        log_level="warning",
        limits_deadline="4",
        cache_vehicles_ttl="0.5",
        cache_vehicle_ttl="0.5",
        cache_vehicles_stale_while_revalidate="0",
        cache_vehicle_stale_while_revalidate="0",
        breaker_open_seconds="0.2",
        breaker_open_seconds_max="1",
    )
    try:
        await asyncio.to_thread(gateway.wait_until_ready)
        memory, files = gateway.memory(), gateway.open_files()
        outcomes = Outcomes(time.monotonic() + SECONDS)
        simulator.faults.rules[:] = [
            Fault(**{name: getattr(rule, name) for name in rule.__struct_fields__}) for rule in FAULTS
        ]
        await asyncio.gather(
            kill_and_restart(gateway, redis, outcomes),
            *(keep_calling(gateway.url, token, outcomes) for token in CALLERS * 3),
        )
        simulator.faults.rules.clear()
        await asyncio.to_thread(gateway.wait_until_ready)
        for _ in range(40):
            if await at_rest(gateway.url):
                break
            await asyncio.sleep(0.25)
        assert await at_rest(gateway.url)
        await asyncio.sleep(1.5)  # past the breaker's longest open time
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20, verify=False) as http:

            async def ask(token: str, query: str) -> httpx.Response:
                headers = {"Authorization": f"Bearer {token}"}
                return await http.post("/graphql", json={"query": query}, headers=headers)

            # All at once: on either worker they use every connection to the fleet API. A breaker that the
            # chaos left open permits a single one, so the first rounds may fail.
            asked = [(token, query) for token in CALLERS for query in QUERIES[:2]]
            for _ in range(10):
                responses = [answer.json() for answer in await asyncio.gather(*(ask(*each) for each in asked))]
                if all(answer.keys() == {"data"} for answer in responses):  # neither errors nor stale data
                    break
                await asyncio.sleep(1)
            for answer in responses:
                assert answer.keys() == {"data"}, answer
                check(answer["data"], simulator.fleets["T7K2M"].ids)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(gateway.wait_for_workers, 2)
        assert gateway.memory() < memory + 100 * 2**20
        assert gateway.open_files() <= files + CONNECTIONS + REDIS_CONNECTIONS
    finally:
        gateway.stop()
    assert outcomes.whole > ENOUGH
    assert outcomes.killed
    assert outcomes.unanswered == 0
    assert outcomes.statuses <= {200, 294, 503}
    assert outcomes.codes <= HONEST
    assert "Traceback" not in gateway.output
    assert "unexpected error" not in gateway.output
    assert "never retrieved" not in gateway.output
    assert "chaos-token" not in gateway.output
