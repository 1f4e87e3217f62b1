"""Callers with verified tokens: rotation keeps the cache, and an invalid token never reaches the fleet API."""

from __future__ import annotations

import time

import httpx
import pytest
from joserfc.jwk import RSAKey

from gateway.app import create_app
from gateway.engine.documents import digest_of
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Behaviours, FleetPlan, Simulator
from tests.gateways import served
from tests.issuer import ISSUER, FakeIssuer, published

QUERY = "query($c: String) { vehicles(first: 2, after: $c) { nodes { vehicleId } pageInfo { endCursor } } }"


class Network(httpx.AsyncBaseTransport):
    """A network of two hosts: the fleet API and the issuer."""

    def __init__(self, simulator: Simulator, issuer: FakeIssuer) -> None:
        self._fleet = httpx.ASGITransport(simulator.app)
        self._issuer = httpx.MockTransport(issuer.handle)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        there = self._issuer if request.url.host == "issuer.test" else self._fleet
        return await there.handle_async_request(request)


@pytest.fixture
async def world():
    simulator, issuer = Simulator([FleetPlan(), FleetPlan("EXFL29")], Behaviours(rate_limit_requests=0)), FakeIssuer()
    settings = Settings(upstream={"url": "http://fleet.test"}, oidc={"issuer": ISSUER, "audience": "fleet"})
    app = create_app(settings, Network(simulator, issuer))
    async with served(ServerConfig(app, settings)) as url, httpx.AsyncClient(base_url=url, verify=False) as http:

        async def ask(token: str, cursor: str | None = None, **other: object) -> httpx.Response:
            body = other or {"query": QUERY, "variables": {"c": cursor}}
            return await http.post("/graphql", json=body, headers={"Authorization": f"Bearer {token}"})

        yield simulator, issuer, ask


async def test_a_rotated_token_hits_the_cache(world):
    """A new token of the same client makes no upstream call; another client's does."""
    simulator, issuer, ask = world
    for number in range(3):
        token = issuer.token(jti=str(number))
        simulator.accept(token, "T7K2M#cl1")
        assert "errors" not in (await ask(token)).json()
    assert simulator.requests.total == 1
    other = issuer.token(sub="cl2")
    simulator.accept(other, "T7K2M#cl2")
    await ask(other)
    assert simulator.requests.total == 2


async def test_no_http_cache_keeps_a_response_beyond_its_tokens_expiry(world):
    """A token that expires before the data bounds max-age, cached or not."""
    simulator, issuer, ask = world
    for seconds in (600, 8):
        token = issuer.token(exp=int(time.time()) + seconds)
        simulator.accept(token, "T7K2M#cl1")
        for _ in range(2):
            answer = await ask(token)
            assert "errors" not in answer.json()
            left = int(answer.headers["Cache-Control"].removeprefix("private, max-age=")) - int(answer.headers["Age"])
            assert 20 < left <= 30 if seconds == 600 else 0 < left <= 8


async def test_a_rotated_token_keeps_persisted_queries(world):
    """A hash is known for the next token of its principal, and for no other principal's."""
    simulator, issuer, ask = world
    named = {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": digest_of(QUERY)}}}
    responses = []
    for number, body in enumerate(({"query": QUERY, **named}, named)):
        token = issuer.token(jti=str(number))
        simulator.accept(token, "T7K2M#cl1")
        responses.append((await ask(token, **body)).json())
    assert responses[0] == responses[1]
    assert "errors" not in responses[0]
    other = issuer.token(sub="cl2")
    simulator.accept(other, "T7K2M#cl2")
    assert (await ask(other, **named)).json()["errors"][0]["message"] == "PersistedQueryNotFound"


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.test"},
        {"aud": "other"},
        {"exp": int(time.time()) - 60},
        {"exp": 10**400},
        {"scope": 7},
        {"scope": True},
    ],
)
async def test_a_bad_token_never_reaches_the_fleet_api(world, wrong):
    """Wrong issuer, wrong audience or expired: 401 before any upstream call, although the fleet API would accept it."""
    simulator, issuer, ask = world
    token = issuer.token(**wrong)
    simulator.accept(token, "T7K2M#cl1")
    response = await ask(token)
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert simulator.requests.total == 0


async def test_without_keys_tokens_get_503(world):
    """While the issuer was never reached the status is 503, with Retry-After."""
    simulator, issuer, ask = world
    issuer.down = True
    response = await ask(issuer.token())
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.json()["errors"][0]["extensions"]["code"] == "IDENTITY_UNAVAILABLE"
    assert simulator.requests.total == 0


async def test_another_discovered_issuer_is_no_issuer(world):
    """The status is 503, as without keys, until the metadata contain the configured issuer."""
    simulator, issuer, ask = world
    issuer.metadata["issuer"] = f"{ISSUER}/"
    response = await ask(issuer.token())
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.json()["errors"][0]["extensions"]["code"] == "IDENTITY_UNAVAILABLE"
    assert simulator.requests.total == 0


async def test_a_token_without_kid_is_accepted_for_a_single_key(world):
    """Neither the token nor the key needs one."""
    simulator, issuer, ask = world
    issuer.jwks = [published(issuer.key)]
    token = issuer.token(header={"alg": "RS256"})
    simulator.accept(token, "T7K2M#cl1")
    assert "errors" not in (await ask(token)).json()


async def test_a_token_without_kid_is_rejected_for_two_keys(world):
    """The status is 401, and the message says why."""
    _, issuer, ask = world
    issuer.jwks = [published(issuer.key), published(RSAKey.generate_key(2048))]
    response = await ask(issuer.token(header={"alg": "RS256"}))
    assert response.status_code == 401
    assert "has no `kid`" in response.json()["errors"][0]["message"]


async def test_cursors_are_bound_to_the_verified_fleet(world):
    """A cursor of one fleet is foreign to a caller of another."""
    simulator, issuer, ask = world
    mine, theirs = issuer.token(), issuer.token(fleet_id="EXFL29")
    simulator.accept(mine, "T7K2M#cl1")
    simulator.accept(theirs, "EXFL29#cl1")
    cursor = (await ask(mine)).json()["data"]["vehicles"]["pageInfo"]["endCursor"]
    assert (await ask(theirs, cursor)).json()["errors"][0]["extensions"]["code"] == "CURSOR_FOREIGN"
    assert "errors" not in (await ask(mine, cursor)).json()
