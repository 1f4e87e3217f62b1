"""Two principals over a fleet API that breaks HTTP: nobody is given what another asked for, or what was not asked for.

The thorough profile asks for 200,000 answers on uvloop, which is what serves.
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

ANSWERS = {"asyncio": effort(3_000, 10_000), "uvloop": effort(3_000, 200_000)}
SERVED = effort(500, 4_000)
AT_A_TIME = 12
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
OTHER = {"alice": "bob", "bob": "alice"}
# What the fleet API is asked for, and so what is right.
KINDS = ("vehicle", "page", "state")


class CheckedRequest:
    """One question of a caller's, and what it was given: `seen` counts that."""

    def __init__(self, name: str, dice: random.Random, seen: Counter[str]) -> None:
        self.name = name
        self.seen = seen
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
                self.seen["right"] += 1
            else:
                self.seen["another's" if OTHER[self.name] in str(outcome) else "wrong"] += 1

    def failed(self, failure: BaseException) -> None:
        self.seen[type(failure).__name__] += 1

    async def result_unless_cancelled(self, work: asyncio.Future[Any]) -> Any:
        """What comes of it, if the caller does not leave before that."""
        if self.leaves_after is not None:
            asyncio.get_running_loop().call_later(self.leaves_after, work.cancel)
        return await work


async def check_request(client: FleetClient, request: CheckedRequest) -> None:
    scope = RequestScope(Caller(request.name), RequestStats(), deadline=Deadline.after(request.deadline))
    try:
        if request.kind == "vehicle":
            call = client.vehicles_by_id(scope, request.ids)
            came = list((await request.result_unless_cancelled(asyncio.ensure_future(call))).values())
        elif request.kind == "page":
            page = client.vehicles(scope, search=request.ids[0])
            came = list((await request.result_unless_cancelled(asyncio.ensure_future(page))).items)
        else:
            states = client.latest_states(scope, request.ids)
            came = await request.result_unless_cancelled(asyncio.ensure_future(states))
            came = [state["door"].value if isinstance(state, dict) and state else state for state in came]
    except (GatewayError, asyncio.CancelledError) as failure:
        request.failed(failure)
        return
    finally:
        scope.deadline.close()
    request.check([(v.vehicle_id, v.vehicle_model_id) if hasattr(v, "vehicle_id") else v for v in came])


async def crowd(url: str, answers: int, **upstream: object) -> Counter[str]:
    """Two principals ask at once until so many answers were right; counts what they were given."""
    settings = Settings(
        upstream={"url": url, "connections_max": 20, "read_timeout": 0.15, **upstream},
        cache={"enabled": False},
        coalescing={"enabled": False},
        breaker={"enabled": False},
        retry={"attempts": 2, "backoff": 0.001},
    )
    seen: Counter[str] = Counter()
    async with build_client(settings) as client:

        async def keep_asking(name: str, number: int) -> None:
            dice = random.Random(f"{name} {number}")
            while seen["right"] < answers:
                await check_request(client, CheckedRequest(name, dice, seen))
                if dice.random() < 0.05:
                    await asyncio.sleep(dice.uniform(0, 0.02))

        await asyncio.gather(*(keep_asking(name, number) for name in OTHER for number in range(AT_A_TIME)))
    return seen


@pytest.mark.parametrize("transport", ["builtin", "httpx"])
@pytest.mark.parametrize("loop", LOOPS)
def test_nobody_is_given_what_another_asked_for(loop, transport):
    """With answers doubled, unasked, late, short and long, and callers who leave: all that is given is right."""
    fleet, answers = UnrulyFleet(seed=1), ANSWERS[loop] // (1 if transport == "builtin" else 4)
    with fleet.serving() as url, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        seen = runner.run(crowd(url, answers, transport=transport))
    assert seen["right"] >= answers
    assert (seen["another's"], seen["wrong"]) == (0, 0), f"given: {seen}, sent: {fleet.answers}"


async def served_crowd(url: str, answers: int) -> Counter[str]:
    """The same over GraphQL."""
    seen: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http:

        async def keep_asking(name: str, number: int) -> None:
            dice = random.Random(f"{name} {number}")
            while seen["right"] < answers:
                request = CheckedRequest(name, dice, seen)
                if request.kind == "page":
                    query = f'{{vehicles(search:"{request.ids[0]}"){{nodes{{vehicleId vehicleModelId}}}}}}'
                else:
                    fields = [f'v{n}:vehicle(id:"{i}"){{vehicleId vehicleModelId}}' for n, i in enumerate(request.ids)]
                    query, request.kind = f"{{{' '.join(fields)}}}", "vehicle"
                call = http.post("/graphql", json={"query": query}, headers={"Authorization": f"Bearer {name}"})
                try:
                    data = (await request.result_unless_cancelled(asyncio.ensure_future(call))).json()["data"]
                except asyncio.CancelledError as left:
                    request.failed(left)
                    continue
                nodes = list(data.values()) if request.kind == "vehicle" else (data["vehicles"] or {}).get("nodes")
                if nodes is None:
                    seen["errors"] += 1
                    continue
                failure = GatewayError("as the answer says")
                request.check([failure if v is None else (v["vehicleId"], v["vehicleModelId"]) for v in nodes])

        await asyncio.gather(*(keep_asking(name, number) for name in OTHER for number in range(AT_A_TIME)))
    return seen


def test_nobody_is_given_what_another_asked_for_by_a_served_gateway(tmp_path):
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
            seen = asyncio.run(served_crowd(gateway.url, SERVED))
        finally:
            gateway.stop()
    assert seen["right"] >= SERVED
    assert (seen["another's"], seen["wrong"]) == (0, 0), f"given: {seen}, sent: {fleet.answers}"
