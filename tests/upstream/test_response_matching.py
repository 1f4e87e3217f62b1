"""Two principals over a fleet API that breaks HTTP: no call gets a response to another, or an unsolicited one.

The exhaustive profile requests 200,000 responses on uvloop, which serves in production.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
import pytest
import uvloop

from gateway.concurrency.deadline import Deadline
from gateway.errors import GatewayError
from gateway.identity import Caller
from gateway.settings import Settings
from gateway.upstream.client import FleetClient
from gateway.upstream.requests import RequestScope, RequestStats
from gateway.upstream.stack import build_client
from tests.effort import effort
from tests.gateway_process import GatewayProcess
from tests.upstream.unruly import PAGE, UnrulyFleet

RESPONSES = {"asyncio": effort(1_000, 2_000, 10_000), "uvloop": effort(1_000, 10_000, 200_000)}
SERVED = effort(200, 1_000, 4_000)
AT_A_TIME = 12
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
OTHER = {"alice": "bob", "bob": "alice"}
# The kinds of requests.
KINDS = ("vehicle", "page", "state")


class CheckedRequest:
    """A request whose outcomes are checked and counted in `seen`."""

    def __init__(self, name: str, dice: random.Random, counts: Counter[str]) -> None:
        self.name = name
        self.counts = counts
        self.kind = dice.choice(KINDS)
        self.ids = [f"V{dice.randrange(10**9)}" for _ in range(dice.choice((1, 1, 4)))]
        self.deadline = dice.choice((0.005, 5, 5, 5))
        self.leaves_after = dice.choice((0, 0.001, 0.003)) if dice.random() < 0.03 else None

    def expected(self) -> list[Any]:
        if self.kind == "state":
            return [f"{self.name} {vehicle_id}" for vehicle_id in self.ids]
        ids = self.ids if self.kind == "vehicle" else [f"{self.ids[0]}{number}" for number in range(PAGE)]
        return [(vehicle_id, self.name) for vehicle_id in ids]

    def check(self, outcomes: list[Any]) -> None:
        for outcome, right in zip(outcomes, self.expected(), strict=True):
            if isinstance(outcome, BaseException):
                self.failed(outcome)
            elif outcome == right:
                self.counts["right"] += 1
            else:
                self.counts["another's" if OTHER[self.name] in str(outcome) else "wrong"] += 1

    def failed(self, failure: BaseException) -> None:
        self.counts[type(failure).__name__] += 1

    async def result_unless_cancelled(self, work: asyncio.Future[Any]) -> Any:
        """The result, unless the caller cancels before."""
        if self.leaves_after is not None:
            asyncio.get_running_loop().call_later(self.leaves_after, work.cancel)
        return await work


async def check_request(client: FleetClient, request: CheckedRequest) -> None:
    scope = RequestScope(Caller(request.name), RequestStats(), deadline=Deadline.after(request.deadline))
    try:
        if request.kind == "vehicle":
            call = client.vehicles_by_id(scope, request.ids)
            outcomes = list((await request.result_unless_cancelled(asyncio.ensure_future(call))).values())
        elif request.kind == "page":
            page = client.vehicles(scope, search=request.ids[0])
            outcomes = list((await request.result_unless_cancelled(asyncio.ensure_future(page))).items)
        else:
            states = client.latest_states(scope, request.ids)
            outcomes = await request.result_unless_cancelled(asyncio.ensure_future(states))
            outcomes = [state["door"].value if isinstance(state, dict) and state else state for state in outcomes]
    except (GatewayError, asyncio.CancelledError) as failure:
        request.failed(failure)
        return
    finally:
        scope.deadline.close()
    request.check([(v.vehicle_id, v.vehicle_model_id) if hasattr(v, "vehicle_id") else v for v in outcomes])


async def crowd(url: str, responses: int, **upstream: object) -> Counter[str]:
    """Two principals send concurrent requests until so many responses were right; returns the counts of outcomes."""
    settings = Settings(
        upstream={"url": url, "connections_max": 20, "read_timeout": 0.15, **upstream},
        cache={"enabled": False},
        coalescing={"enabled": False},
        breaker={"enabled": False},
        retry={"attempts": 2, "backoff": 0.001},
    )
    counts: Counter[str] = Counter()
    async with build_client(settings) as client:

        async def send_requests(name: str, number: int) -> None:
            dice = random.Random(f"{name} {number}")
            while counts["right"] < responses:
                await check_request(client, CheckedRequest(name, dice, counts))
                if dice.random() < 0.05:
                    await asyncio.sleep(dice.uniform(0, 0.02))

        await asyncio.gather(*(send_requests(name, number) for name in OTHER for number in range(AT_A_TIME)))
    return counts


@pytest.mark.parametrize("transport", ["builtin", "httpx"])
@pytest.mark.parametrize("loop", LOOPS)
def test_no_call_gets_another_response(loop, transport):
    """With duplicate, unsolicited, late, short and long responses, and cancelled calls, all results are right."""
    fleet, responses = UnrulyFleet(seed=1), RESPONSES[loop] // (1 if transport == "builtin" else 4)
    with fleet.serving() as url, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        counts = runner.run(crowd(url, responses, transport=transport))
    assert counts["right"] >= responses
    assert (counts["another's"], counts["wrong"]) == (0, 0), f"given: {counts}, sent: {fleet.responses}"


async def served_crowd(url: str, responses: int) -> Counter[str]:
    """The same over GraphQL."""
    counts: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits, verify=False) as http:

        async def send_requests(name: str, number: int) -> None:
            dice = random.Random(f"{name} {number}")
            while counts["right"] < responses:
                request = CheckedRequest(name, dice, counts)
                if request.kind == "page":
                    query = f'{{vehicles(search:"{request.ids[0]}"){{nodes{{vehicleId vehicleModelId}}}}}}'
                else:
                    fields = [f'v{n}:vehicle(id:"{i}"){{vehicleId vehicleModelId}}' for n, i in enumerate(request.ids)]
                    query, request.kind = f"{{{' '.join(fields)}}}", "vehicle"
                call = http.post("/graphql", json={"query": query}, headers={"Authorization": f"Bearer {name}"})
                try:
                    data = (await request.result_unless_cancelled(asyncio.ensure_future(call))).json()["data"]
                except asyncio.CancelledError as cancelled:
                    request.failed(cancelled)
                    continue
                nodes = list(data.values()) if request.kind == "vehicle" else (data["vehicles"] or {}).get("nodes")
                if nodes is None:
                    counts["errors"] += 1
                    continue
                failure = GatewayError("in the response")
                request.check([failure if v is None else (v["vehicleId"], v["vehicleModelId"]) for v in nodes])

        await asyncio.gather(*(send_requests(name, number) for name in OTHER for number in range(AT_A_TIME)))
    return counts


def test_no_call_gets_another_response_over_sockets(tmp_path):
    """The same over sockets on both sides."""
    fleet = UnrulyFleet(seed=2)
    settings = {
        "cache_enabled": "false",
        "breaker_enabled": "false",
        "upstream_read_timeout": "0.15",
        "upstream_connections_max": "20",
        "log_level": "error",
    }
    with fleet.serving() as url:
        gateway = GatewayProcess(tmp_path, upstream_url=url, **settings)
        try:
            gateway.wait_until_ready()
            counts = asyncio.run(served_crowd(gateway.url, SERVED))
        finally:
            gateway.stop()
    assert counts["right"] >= SERVED
    assert (counts["another's"], counts["wrong"]) == (0, 0), f"given: {counts}, sent: {fleet.responses}"
