"""Page de-duplication: an unchanged page of the same key is shared; a changed one, or another caller's, is not."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from gateway.upstream.field_masks import vehicle_mask
from gateway.upstream.models import Vehicle
from gateway.upstream.page_dedup import PageDeduplicator
from gateway.upstream.pages import IDS, VehiclePage
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


VALUES = st.sampled_from(["VW", "BMW", "Škoda", '"},{"id":"V1"', "x" * 90])
VEHICLES = st.lists(st.tuples(st.integers(0, 30), VALUES, VALUES), max_size=30)


def listed(vehicles: list[tuple[int, str, str]], separator: str, more: dict[str, object]) -> bytes:
    items = [
        {"id": f"V{number}", "master_data": {"brand": brand}, "x": [{"id": "V2", "y": y}]}
        for number, brand, y in vehicles
    ]
    return json.dumps({"items": items, **more}, separators=(separator, ":")).encode()


@given(
    st.lists(VEHICLES, min_size=1, max_size=4),
    VEHICLES,
    st.sets(st.integers(0, 29)),
    st.sampled_from([",", ", "]),
    st.sampled_from([{"cursors": {"next": "a"}}, {"cursors": {"next": "b"}}, {}]),
    st.sampled_from([None, IDS, vehicle_mask({"master_data": {"brand": None}})]),
)
def test_a_page_with_changes_is_as_if_decoded_by_itself(lists, other, changed, separator, more, mask):
    """Whatever has changed: vehicles, their number and order, what they contain, the cursors, the format."""
    pages = PageDeduplicator(10**6)
    vehicles = other
    for new in lists:
        vehicles = [new[n] if n in changed and n < len(new) else vehicle for n, vehicle in enumerate(vehicles)] or new
        sent = listed(vehicles, separator, more)
        page, alone = pages.page_of(HERE, sent, mask), VehiclePage.of_body(sent, mask)
        assert msgspec.json.encode(page.items_as(mask)) == msgspec.json.encode(alone.items_as(mask))
        assert (page.body, page.ids, page.cursors) == (sent, alone.ids, alone.cursors)
        assert page.places == alone.places
        assert [page.vehicle(n).master_data for n in range(len(page))] == [each.master_data for each in alone.items]


def test_only_changed_vehicles_are_decoded():
    """The others are the same objects, also of the pages after it, and after one in which everything has changed."""
    pages = PageDeduplicator(10**6)
    mask = vehicle_mask({"master_data": {"brand": None}})
    brands = [[b"VW"] * 50, [b"VW"] * 50, [b"VW"] * 50]
    brands[1][7] = brands[2][7] = brands[2][30] = b"Alfa Romeo"

    def page_of(brands: list[bytes]) -> Sequence[Vehicle]:
        items = [b'{"id":"V%d","master_data":{"brand":"%b"}}' % each for each in enumerate(brands)]
        return pages.page_of(HERE, b'{"items":[%b]}' % b",".join(items), mask).items_as(mask)

    one, two, three = map(page_of, brands)
    assert [n for n in range(50) if two[n] is not one[n]] == [7]
    assert [n for n in range(50) if three[n] is not two[n]] == [30]
    for n in range(20):
        page_of([b"%d" % n] * 50)
    later = [page_of([b"VW"] * 49 + [b"%d" % n]) for n in range(20)]
    assert later[-1][0] is later[-2][0]


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
