"""What `/health/ready` says about the dependencies."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from gateway.app import create_app
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Fault
from gateway.web.health import readiness
from tests.gateways import served
from tests.issuer import ISSUER, FakeIssuer

NONE = {"operations": 0, "queued": 0, "reads": 0}


@pytest.mark.parametrize(
    ("operations", "states", "is_stopping", "expected"),
    [
        (NONE, {}, False, (200, "ready")),
        (NONE, {"upstream": "circuit open", "redis": "away", "issuer": "keys expired"}, False, (200, "ready")),
        (NONE, {"upstream": "up", "issuer": "no keys"}, False, (200, "ready")),
        (None, {}, False, (503, "not ready")),
        (NONE, {"upstream": "up"}, True, (503, "stopping")),
    ],
)
def test_what_is_ready(operations, states, is_stopping, expected):
    """No outage makes a process unready."""
    status, body = readiness(operations, states, is_stopping=is_stopping)
    assert (status, body["status"]) == expected


async def test_the_fleet_api_and_redis_may_be_away(start, redis):
    """Their state is reported, and the gateway stays ready."""
    gateway = await start(
        redis__url=redis.url, cache__enabled=True, breaker__failure_threshold=1, retry__attempts=1, redis__cooldown=60
    )
    ready = (await gateway.http.get("/health/ready")).json()
    assert (ready["upstream"], ready["redis"]) == ("up", "up")
    gateway.simulator.faults.rules.append(Fault("status", status=503))
    redis.kill()
    await gateway.ask("{ vehicles(first: 1) { nodes { vehicleId } } }")
    response = await gateway.http.get("/health/ready")
    ready = response.json()
    assert (response.status_code, ready["upstream"], ready["redis"]) == (200, "circuit open", "away")


async def test_the_keys_of_the_issuer_are_fetched_by_the_first_token():
    """They may expire later, if the issuer fails for too long."""
    issuer = FakeIssuer()
    oidc = {"issuer": ISSUER, "jwks_ttl": 2, "jwks_stale_if_error": 0}
    settings = Settings(upstream={"url": "http://fleet.test"}, oidc=oidc)
    app = create_app(settings, httpx.MockTransport(issuer.handle))
    async with served(ServerConfig(app, settings)) as url, httpx.AsyncClient(base_url=url, verify=False) as http:

        async def state() -> tuple[int, str]:
            response = await http.get("/health/ready")
            return response.status_code, response.json()["issuer"]

        assert await state() == (200, "no keys")
        await http.post(
            "/graphql", json={"query": "{ __typename }"}, headers={"Authorization": f"Bearer {issuer.token()}"}
        )
        assert await state() == (200, "up")
        await asyncio.sleep(2.1)
        assert await state() == (200, "keys expired")
