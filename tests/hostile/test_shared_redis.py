"""Gateways for different fleet APIs, or with different settings, share one Redis without sharing entries."""

from __future__ import annotations

import httpx
import pytest
from redis.asyncio import Redis

from gateway.app import create_app
from gateway.settings import Settings, UpstreamSettings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.upstream.redis_store import HOW, digest_of_answers, digest_of_url

TOKEN = "one-token-for-all"
QUERY = "{ vehicles(first: 3) { nodes { vehicleId fleetId } } }"


def fleet(fleet_id: str, limit: int = 0) -> Simulator:
    plan = FleetPlan(fleet_id, 20, clients=(Client(f"{fleet_id}#one", token=TOKEN),))
    return Simulator([plan], Behaviours(rate_limit_requests=limit))


@pytest.fixture
def gateway(redis, serve):
    """Starts gateways on one Redis, each over sockets of its own; gives their URLs."""

    def started(upstream: str, **settings: object) -> str:
        groups = {"upstream": {"url": upstream, **settings}, "redis": {"url": redis.url, "timeout": 2.0}}
        return serve(create_app(Settings(**groups)))

    return started


def ask(url: str) -> dict:
    """A gateway's response."""
    answer = httpx.post(
        f"{url}/graphql", json={"query": QUERY}, headers={"Authorization": f"Bearer {TOKEN}"}, verify=False
    )
    return answer.json()


def fleets_of(url: str) -> set[str]:
    """The fleets of the vehicles in a gateway's response."""
    return {vehicle["fleetId"] for vehicle in ask(url)["data"]["vehicles"]["nodes"]}


def test_two_fleet_apis_are_apart_in_one_redis(gateway, serve):
    """A caller of staging never gets production's vehicles, although the token and the query are the same."""
    production, staging = serve(fleet("PROD1").app), serve(fleet("STAG1").app)
    assert fleets_of(gateway(production)) == {"PROD1"}
    assert fleets_of(gateway(staging)) == {"STAG1"}


@pytest.mark.parametrize("other", [{"fleet_id": "EXFL29"}, {"page_size": 7}, {"unit_search": True}])
def test_settings_that_change_responses_are_part_of_every_key(gateway, serve, other):
    """Gateways that differ in such a setting call for themselves; others use each other's entries."""
    simulator = fleet("PROD1")
    upstream = serve(simulator.app)
    for url in (upstream, f"{upstream}/"):
        assert fleets_of(gateway(url, parallel_reads_max=5)) == {"PROD1"}
    assert simulator.requests.total == 1
    answer = ask(gateway(upstream, **other))
    assert simulator.requests.total == 2
    if "fleet_id" in other:  # which the fleet API forbids for this caller
        assert answer["errors"][0]["extensions"]["code"] == "FORBIDDEN"


def test_each_upstream_setting_is_classified():
    """A new setting is part of the key until it is listed as one that does not change responses."""
    other = {str: "x", "str | None": "x", int: 7, float: 7.0, bool: True}
    plain = UpstreamSettings()
    for name, field in UpstreamSettings.model_fields.items():
        if name in ("url", "transport"):
            continue
        value = other.get(field.annotation, "x")
        changed = plain.model_copy(update={name: value})
        assert getattr(plain, name) != value
        assert (digest_of_answers(changed) == digest_of_answers(plain)) == (name in HOW), name
        assert digest_of_url(changed) == digest_of_url(plain)
    assert UpstreamSettings.model_fields.keys() >= HOW


def test_one_url_has_one_key_however_it_is_spelt():
    """Case of scheme and host, the default port and a final slash do not change the key; everything else does."""
    spellings = ("https://api.invers.com", "https://API.Invers.com/", "https://api.invers.com:443")
    assert len({digest_of_url(UpstreamSettings(url=url)) for url in spellings}) == 1
    others = (
        "http://api.invers.com", "https://api.invers.com:8443", "https://api.sg.invers.com", "https://api.invers.com/v2",
        "https://api.invers.com/V2",
    )  # fmt: skip
    assert len({digest_of_url(UpstreamSettings(url=url)) for url in (*spellings, *others)}) == 1 + len(others)
    assert digest_of_answers(UpstreamSettings(fleet_id="")) == digest_of_answers(UpstreamSettings())


async def test_gateways_of_one_fleet_api_share_its_rate_limit(gateway, serve, redis):
    """The page size changes entries and not the client's rate limit; another URL has a window of its own."""
    one, other = serve(fleet("PROD1", 100).app), serve(fleet("STAG1", 100).app)
    for url in (gateway(one), gateway(one, page_size=7), gateway(other)):
        fleets_of(url)
    async with Redis.from_url(redis.url) as client:
        windows = [key for key in await client.keys("*") if b":rate:" in key]
        remaining = sorted([int((await client.get(key)).split()[1]) for key in windows])
    assert remaining == [98, 99]
