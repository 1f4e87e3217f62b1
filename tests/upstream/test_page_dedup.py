"""Page de-duplication: an unchanged page of the same key is shared; a changed one, or another caller's, is not."""

from __future__ import annotations

import weakref

import httpx
import msgspec
import pytest

from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from gateway.upstream.page_dedup import PageDeduplicator
from gateway.upstream.pages import IDS
from gateway.upstream.stack import build_client
from tests.gateways import PLANS, TOKENS
from tests.upstream.fakes import Clock, scope

ROOM = 100_000
HERE = "alice:vehicles"


def body(brand: str = "VW", vehicles: int = 3) -> bytes:
    items = [{"id": f"V{number}", "master_data": {"brand": brand}} for number in range(vehicles)]
    return msgspec.json.encode({"items": items, "cursors": {"next": None}})


def test_an_unchanged_page_is_shared_with_its_fragments():
    """It is decoded once per mask, however often it is received."""
    pages = PageDeduplicator(ROOM)
    first = pages.page_of(HERE, body(), None)
    assert pages.page_of(HERE, body(), IDS) is first
    assert [vehicle.master_data.brand for vehicle in first.items] == ["VW"] * 3


def test_a_changed_page_replaces_the_last_one():
    """A single byte suffices; only the last page is compared."""
    pages = PageDeduplicator(ROOM)
    old = pages.page_of(HERE, body("VW"), None)
    new = pages.page_of(HERE, body("BMW"), None)
    assert [vehicle.master_data.brand for vehicle in new.items] == ["BMW"] * 3
    assert [vehicle.master_data.brand for vehicle in old.items] == ["VW"] * 3
    assert pages.page_of(HERE, body("BMW"), None) is new
    assert pages.page_of(HERE, body("VW"), None) is not old


def test_pages_are_compared_by_key():
    """Neither another principal nor another target shares it."""
    pages = PageDeduplicator(ROOM)
    page = pages.page_of(HERE, body(), None)
    assert pages.page_of("bob:vehicles", body(), None) is not page
    assert pages.page_of("alice:another page", body(), None) is not page


def test_memory_is_bounded():
    """The least recently received pages are dropped first."""
    pages = PageDeduplicator(2 * len(body()))
    latest = {name: weakref.ref(pages.page_of(name, body(), None)) for name in ("alice", "bob")}
    assert pages.page_of("alice", body(), None) is latest["alice"]()
    latest["eve"] = weakref.ref(pages.page_of("eve", body(), None))
    assert {name: page() is not None for name, page in latest.items()} == {"alice": True, "bob": False, "eve": True}


def test_a_large_page_is_shared_while_it_is_referenced():
    """It then takes no memory of its own, and ends with the last reference."""
    pages = PageDeduplicator(10)
    page = pages.page_of(HERE, body(), None)
    assert pages.page_of(HERE, body(), None) is page
    page_ref = weakref.ref(page)
    del page
    assert page_ref() is None


@pytest.mark.parametrize(("bytes_max", "same"), [(0, False), (10_000_000, True)])
async def test_zero_bytes_turn_it_off(bytes_max, same):
    """Each page is decoded on its own."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    settings = Settings(
        upstream={"url": "http://fleet.test", "page_dedup_bytes_max": bytes_max}, cache={"enabled": False}
    )
    async with build_client(settings, httpx.ASGITransport(simulator.app)) as client:
        by = scope(TOKENS["alice"])
        assert (await client.vehicles(by) is await client.vehicles(by)) is same


async def test_with_a_cache_an_unchanged_page_is_held_once():
    """A page that is read again after its lifetime is the stored one if it is unchanged."""
    simulator, time = Simulator(PLANS, Behaviours(rate_limit_requests=0)), Clock()
    settings = Settings(upstream={"url": "http://fleet.test"}, cache={"vehicles_stale_while_revalidate": 0})
    async with build_client(settings, httpx.ASGITransport(simulator.app), time) as client:
        by = scope(TOKENS["alice"])
        page = await client.vehicles(by)
        time.time += 3600
        assert await client.vehicles(by) is page
        assert simulator.requests.total == 2


async def test_a_change_is_seen_at_once(gateway):
    """Without a cache each response is the fleet API's current one."""
    query = "{ vehicles(first: 3) { nodes { vehicleId masterData { customName } } } }"
    fleet = gateway.simulator.fleets["T7K2M"]
    for name in ("one", "one", "two", "two", "one"):
        fleet.edit(fleet.ids[1], custom_name=name)
        data, calls = await gateway.data(query), gateway.simulator.requests.total
        assert data["vehicles"]["nodes"][1]["masterData"]["customName"] == name
    assert calls == 5
