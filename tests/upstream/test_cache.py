"""The cache: what is kept, for whom, for how long, and what is never kept."""

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
        filling = CacheWriter(Sending(), store, self.clock)
        self.cache = CacheReader(SingleFlight(filling, self.fleet), store, self.clock)

    async def fetch(self, request: UpstreamRequest[Vehicle]) -> str | None:
        value = (await self.cache.fetch(request)).value
        return value.vehicle_id if value is not None else None


async def test_a_fresh_answer_is_not_asked_for_again():
    """Within its lifetime an answer is given from the cache, and the tally says so."""
    stack = Stack()
    request = vehicle_read()
    await stack.fetch(request)
    stack.clock.time += 9
    await stack.fetch(request)
    assert stack.fleet.total == 1
    assert (request.stats.cache_hits, request.stats.stale, request.stats.oldest) == (1, False, 1_000_000)


async def test_no_caller_sees_what_another_may_see():
    """Equal reads of two tokens are two answers."""
    stack = Stack()
    mine = await stack.fetch(vehicle_read(by=scope("alice")))
    theirs = await stack.fetch(vehicle_read(by=scope("bob")))
    assert mine != theirs
    assert stack.fleet.total == 2


async def test_a_stale_answer_is_given_while_it_is_read_again():
    """Just after its lifetime an answer comes at once, marked stale, and is refreshed behind the scenes."""
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


async def test_what_is_stale_is_read_again_once_and_not_all_in_one_moment():
    """However many are given stale answers, each is refreshed once, and so many at a time; the rest a little later."""
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


async def test_a_refresh_goes_on_when_its_caller_has_left():
    """Whoever was given the stale answer is not waited for: their leaving ends nothing."""
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
async def test_a_stale_answer_is_better_than_an_outage(outage):
    """While the fleet API is down, slow or limiting, an old answer is given within its bound, marked stale."""
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


@pytest.mark.parametrize("refusal", [UpstreamUnauthenticated(), UpstreamForbidden(), UpstreamRejected()])
async def test_a_refusal_is_never_covered_by_an_old_answer(refusal):
    """A token that may no longer read gets the refusal, and what was kept for it is gone."""
    stack = Stack()
    await stack.fetch(vehicle_read())
    stack.fleet.failure = refusal
    stack.clock.time += 20
    with pytest.raises(type(refusal)):
        await stack.fetch(vehicle_read())
    if not isinstance(refusal, UpstreamRejected):
        assert len(stack.memory) == 0


@pytest.mark.parametrize(
    "failure", [UpstreamUnauthenticated(), UpstreamForbidden(), RateLimited(), UpstreamUnavailable()]
)
async def test_failures_are_not_kept(failure):
    """After a failure the next read goes up again."""
    stack = Stack()
    stack.fleet.failure = failure
    for _ in range(2):
        with pytest.raises(type(failure)):
            await stack.fetch(vehicle_read())
    assert stack.fleet.total == 2


async def test_what_does_not_exist_is_known_for_a_while():
    """A 404 is kept for its own, shorter lifetime."""
    stack = Stack(FakeFetcher(lambda request: None))
    assert await stack.fetch(vehicle_read()) is None
    stack.clock.time += 2
    assert await stack.fetch(vehicle_read()) is None
    assert stack.fleet.total == 1
    stack.clock.time += 2
    await stack.fetch(vehicle_read())
    assert stack.fleet.total == 2


async def test_no_entry_outlives_its_token():
    """At the verified expiry of its token an entry is gone, stale or not."""
    stack = Stack()
    await stack.fetch(vehicle_read(by=scope(expires_at=1_000_004)))
    stack.clock.time += 5
    stack.fleet.failure = UpstreamUnavailable()
    with pytest.raises(UpstreamUnavailable):
        await stack.fetch(vehicle_read(by=scope(expires_at=1_000_900)))


async def test_a_page_answers_for_its_vehicles():
    """The vehicles of a list page are known by id without another call."""
    by = scope()
    page = VehiclePage(items=[Vehicle(vehicle_id="A"), Vehicle(vehicle_id="B")])
    stack = Stack(FakeFetcher(lambda request: page))

    def items(answer):
        return ((vehicle_read(part.vehicle_id, by), part) for part in answer.parts())

    await stack.cache.fetch(UpstreamRequest.of(by, ENDPOINTS.vehicles, parts=items))
    assert await stack.fetch(vehicle_read("B")) == "B"
    assert [
        response is not None for response in await stack.cache.cached_responses([vehicle_read("A"), vehicle_read("C")])
    ] == [
        True,
        False,
    ]
    assert stack.fleet.total == 1


async def test_a_vehicle_at_hand_is_decoded_as_it_is_needed():
    """A vehicle that is kept as it came is decoded in the view that is asked for; who needs all of it gets all."""
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
    """A stale answer with an ETag is asked for conditionally, and counts again when nothing has changed."""
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


async def test_a_lifetime_of_zero_keeps_nothing():
    """With a time to live of 0 every read goes up."""
    stack, endpoints = Stack(), endpoints_that_live(0, 30, 300, 0)
    for _ in range(2):
        await stack.fetch(vehicle_read(endpoints=endpoints))
    assert stack.fleet.total == 2
    assert len(stack.memory) == 0


async def test_memory_is_bounded_by_entries_and_by_bytes():
    """Beyond either bound the least recently used entries go; the accounted bytes never exceed theirs."""
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


async def test_an_entry_larger_than_the_whole_bound_is_not_kept():
    """One huge answer does not throw everything else out."""
    stack = Stack(bytes_max=3000)
    await stack.fetch(vehicle_read())
    assert stack.memory.bytes == 0


async def test_many_at_once_share_one_call():
    """Equal reads under way at the same time are one call, and all but one are counted as coalesced."""
    stack = Stack()
    stack.fleet.gate = asyncio.Event()
    requests = [vehicle_read() for _ in range(50)]
    fetches = [asyncio.create_task(stack.fetch(request)) for request in requests]
    await asyncio.sleep(0)
    stack.fleet.gate.set()
    assert len(set(await asyncio.gather(*fetches))) == 1
    assert stack.fleet.total == 1
    assert sum(request.stats.coalesced for request in requests) == 49
