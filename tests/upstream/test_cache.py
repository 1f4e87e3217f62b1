"""The cache: which responses are stored, for whom, for how long, and which never are."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import (
    RateLimited,
    UpstreamForbidden,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.telemetry.metrics import Metrics
from gateway.upstream.cache import REFRESHES_MAX, CacheReader, CacheWriter, Entry, MemoryStore
from gateway.upstream.coalescing import SingleFlight
from gateway.upstream.field_masks import decode_full, vehicle_mask
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import UpstreamRequest
from tests.upstream.fakes import ENDPOINTS, Clock, FakeFetcher, Sending, endpoints_that_live, scope, vehicle_read


class Stack:
    """A cache over a fake fleet API."""

    def __init__(self, fleet: FakeFetcher | None = None, **bounds: int) -> None:
        self.fleet = fleet or FakeFetcher()
        self.clock = Clock()
        self.memory = BoundedMemoryCache(**{"entries_max": 100, "bytes_max": 2**20, **bounds})
        store = MemoryStore(self.memory)
        writer = CacheWriter(Sending(), store, self.clock)
        self.cache = CacheReader(SingleFlight(writer, self.fleet, Metrics()), store, self.clock, Metrics())

    async def fetch(self, request: UpstreamRequest[Vehicle]) -> str | None:
        value = (await self.cache.fetch(request)).value
        return value.vehicle_id if value is not None else None


async def test_a_fresh_response_is_served_from_the_cache():
    """Within its lifetime it takes no call, and the stats count a cache hit."""
    stack = Stack()
    request = vehicle_read()
    await stack.fetch(request)
    stack.clock.time += 9
    await stack.fetch(request)
    assert stack.fleet.total == 1
    assert (request.stats.cache_hits, request.stats.stale, request.stats.oldest) == (1, False, 1_000_000)


async def test_entries_are_private_to_a_principal():
    """Equal reads with two tokens are two calls."""
    stack = Stack()
    mine = await stack.fetch(vehicle_read(by=scope("alice")))
    theirs = await stack.fetch(vehicle_read(by=scope("bob")))
    assert mine != theirs
    assert stack.fleet.total == 2


async def test_a_stale_response_is_served_while_it_is_revalidated():
    """Just after its lifetime it is returned at once, marked stale, and refreshed in the background."""
    stack = Stack()
    await stack.fetch(vehicle_read())
    stack.clock.time += 12
    stale = vehicle_read()
    await stack.fetch(stale)
    assert stale.stats.stale
    await stack.cache.settle()
    assert stack.fleet.total == 2
    again = vehicle_read()
    await stack.fetch(again)
    assert not again.stats.stale
    assert stack.fleet.total == 2


async def test_refreshes_are_shared_and_bounded():
    """Each stale entry is refreshed once, with a bounded number at a time; the rest are refreshed later."""
    stack = Stack(entries_max=2 * REFRESHES_MAX, bytes_max=2**24)
    everything = [f"V{number}" for number in range(REFRESHES_MAX + 100)]
    for vehicle_id in everything:
        await stack.fetch(vehicle_read(vehicle_id))
    stack.clock.time += 12
    for vehicle_id in everything * 2:
        stale = vehicle_read(vehicle_id)
        assert await stack.fetch(stale) is not None
        assert stale.stats.stale
    await stack.cache.settle()
    assert stack.fleet.total == len(everything) + REFRESHES_MAX
    for vehicle_id in everything:
        await stack.fetch(vehicle_read(vehicle_id))
    await stack.cache.settle()
    assert stack.fleet.total == 2 * len(everything)


async def test_a_refresh_survives_a_client_disconnect():
    """Cancelling the request that got the stale response does not end its refresh."""
    stack = Stack()
    await stack.fetch(vehicle_read())
    stack.clock.time += 12
    stack.fleet.gate = asyncio.Event()
    stale = vehicle_read()
    await stack.fetch(stale)
    await asyncio.sleep(0.01)  # it has begun
    stale.scope.deadline.cancel()
    await asyncio.sleep(0)
    stack.fleet.gate.set()
    await stack.cache.settle()
    again = vehicle_read()
    await stack.fetch(again)
    assert not again.stats.stale


@pytest.mark.parametrize("outage", [UpstreamUnavailable(), UpstreamTimeout(), RateLimited()])
async def test_a_stale_response_replaces_an_outage(outage):
    """While the fleet API is down, slow or limiting, a stale response is served within its bound, and marked."""
    stack = Stack()
    before = await stack.fetch(vehicle_read())
    stack.fleet.failure = outage
    stack.clock.time += 60
    request = vehicle_read()
    assert await stack.fetch(request) == before
    assert request.stats.stale
    stack.clock.time += 60
    with pytest.raises(type(outage)):
        await stack.fetch(vehicle_read())


@pytest.mark.parametrize("rejection", [UpstreamUnauthenticated(), UpstreamForbidden(), UpstreamRejected()])
async def test_a_rejection_is_never_replaced_by_a_stale_response(rejection):
    """A token that may no longer read gets the error, and its entry is dropped."""
    stack = Stack()
    await stack.fetch(vehicle_read())
    stack.fleet.failure = rejection
    stack.clock.time += 20
    with pytest.raises(type(rejection)):
        await stack.fetch(vehicle_read())
    if not isinstance(rejection, UpstreamRejected):
        assert len(stack.memory) == 0


@pytest.mark.parametrize(
    "failure", [UpstreamUnauthenticated(), UpstreamForbidden(), RateLimited(), UpstreamUnavailable()]
)
async def test_failures_are_not_stored(failure):
    """After a failure the next read is a call."""
    stack = Stack()
    stack.fleet.failure = failure
    for _ in range(2):
        with pytest.raises(type(failure)):
            await stack.fetch(vehicle_read())
    assert stack.fleet.total == 2


async def test_a_404_is_cached():
    """It has its own, shorter lifetime."""
    stack = Stack(FakeFetcher(lambda request: None))
    assert await stack.fetch(vehicle_read()) is None
    stack.clock.time += 2
    assert await stack.fetch(vehicle_read()) is None
    assert stack.fleet.total == 1
    stack.clock.time += 2
    await stack.fetch(vehicle_read())
    assert stack.fleet.total == 2


async def test_no_entry_outlives_its_token():
    """After the verified expiry of its token an entry is not used, stale or not."""
    stack = Stack()
    await stack.fetch(vehicle_read(by=scope(expires_at=1_000_004)))
    stack.clock.time += 5
    stack.fleet.failure = UpstreamUnavailable()
    with pytest.raises(UpstreamUnavailable):
        await stack.fetch(vehicle_read(by=scope(expires_at=1_000_900)))


async def test_a_page_caches_its_vehicles():
    """The vehicles of a list page are then read by id without another call."""
    by = scope()
    page = VehiclePage(items=[Vehicle(vehicle_id="A"), Vehicle(vehicle_id="B")])
    stack = Stack(FakeFetcher(lambda request: page))

    def items(page):
        return ((vehicle_read(part.vehicle_id, by), part) for part in page.parts())

    await stack.cache.fetch(UpstreamRequest.of(by, ENDPOINTS.vehicles, parts=items))
    assert await stack.fetch(vehicle_read("B")) == "B"
    assert [
        response is not None for response in await stack.cache.cached_responses([vehicle_read("A"), vehicle_read("C")])
    ] == [
        True,
        False,
    ]
    assert stack.fleet.total == 1


async def test_a_cached_vehicle_is_decoded_with_the_mask():
    """A vehicle that is stored as JSON is decoded with the requested mask, or in full."""
    body = b'{"id": "A", "status": "ACTIVE", "tags": ["blue"]}'
    fleet = FakeFetcher()
    fleet.body = body
    stack = Stack(fleet)
    mask = vehicle_mask({"status": None})
    await stack.fetch(vehicle_read())
    request = vehicle_read(mask=mask)
    for response in (await stack.cache.fetch(request), *await stack.cache.fetch_all([request], 1)):
        assert isinstance(response.value, mask)
        assert response.value.status == "ACTIVE"
        assert decode_full(response.value).tags == ["blue"]
    assert (await stack.cache.fetch(vehicle_read())).value.tags == ["blue"]
    assert fleet.total == 1


async def test_an_entity_tag_saves_the_body():
    """A stale response with an ETag is revalidated, and is fresh again if it is unchanged."""
    stack = Stack(FakeFetcher())
    stack.fleet.etag = '"1"'
    before = await stack.fetch(vehicle_read())
    for _ in range(3):
        stack.clock.time += 50
        assert await stack.fetch(vehicle_read()) == before
    assert [request.known.etag if request.known else None for request in stack.fleet.reads] == [
        None,
        '"1"',
        '"1"',
        '"1"',
    ]
    assert stack.memory.bytes == Entry(None, 0, 1000).size


async def test_a_lifetime_of_zero_stores_nothing():
    """With a time to live of 0 every read is a call."""
    stack, endpoints = Stack(), endpoints_that_live(0, 30, 300, 0)
    for _ in range(2):
        await stack.fetch(vehicle_read(endpoints=endpoints))
    assert stack.fleet.total == 2
    assert len(stack.memory) == 0


async def test_memory_is_bounded_by_entries_and_by_bytes():
    """Above either bound the least recently used entries are dropped; the accounted bytes stay within theirs."""
    one = Entry(None, 0, 1000).size
    for bounds, entries in (({"entries_max": 3}, 3), ({"bytes_max": 5 * one}, 5)):
        stack = Stack(**bounds)
        for number in range(20):
            await stack.fetch(vehicle_read("first"))
            await stack.fetch(vehicle_read(str(number)))
            assert stack.memory.bytes <= bounds.get("bytes_max", 2**20)
        assert len(stack.memory) == entries
        assert stack.fleet.calls["/vehicles/first"] == 1
        assert stack.memory.bytes == entries * one


async def test_an_entry_larger_than_the_bound_is_not_stored():
    """It does not evict all others."""
    stack = Stack(bytes_max=3000)
    await stack.fetch(vehicle_read())
    assert stack.memory.bytes == 0


async def test_concurrent_reads_share_one_call():
    """Equal reads in progress are one call, and all but one count as coalesced."""
    stack = Stack()
    stack.fleet.gate = asyncio.Event()
    requests = [vehicle_read() for _ in range(50)]
    fetches = [asyncio.create_task(stack.fetch(request)) for request in requests]
    await asyncio.sleep(0)
    stack.fleet.gate.set()
    assert len(set(await asyncio.gather(*fetches))) == 1
    assert stack.fleet.total == 1
    assert sum(request.stats.coalesced for request in requests) == 49
