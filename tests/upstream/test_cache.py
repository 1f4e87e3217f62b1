"""The cache: which responses are stored, for whom, for how long, and which never are."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from math import inf

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
from gateway.upstream.cache import (
    OVERHEAD,
    REFRESHES_MAX,
    Age,
    CacheHit,
    CacheReader,
    CacheWriter,
    Dependency,
    Entry,
    Freshness,
    MemoryStore,
    age_of,
)
from gateway.upstream.changes import Change
from gateway.upstream.coalescing import SingleFlight
from gateway.upstream.endpoints import NOT_STORED, Lifetime
from gateway.upstream.field_masks import decode_full, vehicle_mask
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import MEMORY_FACTOR, RawValue, VehiclePage
from gateway.upstream.requests import CacheUse, UpstreamRequest
from tests.upstream.fakes import ENDPOINTS, Clock, FakeFetcher, Sending, endpoints_that_live, scope, vehicle_read


class Counts(Metrics):
    """The counters by metric and last label."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[tuple[str, str]] = Counter()

    def count(self, metric, labels=(), number=1) -> None:
        self.counted[metric.name, labels[-1]] += number


class Stack:
    """A cache over a fake fleet API."""

    def __init__(self, fleet: FakeFetcher | None = None, **bounds: int) -> None:
        self.fleet = fleet or FakeFetcher()
        self.clock = Clock()
        self.memory = BoundedMemoryCache(**{"entries_max": 100, "bytes_max": 2**20, **bounds})
        self.store = MemoryStore(self.memory)
        self.metrics = Counts()
        writer = CacheWriter(Sending(), self.store, self.clock)
        self.cache = CacheReader(SingleFlight(writer, self.fleet, Metrics()), self.store, self.clock, self.metrics)

    @property
    def reads(self) -> dict[str, int]:
        """The reads of the cache by result, as counted in metrics."""
        return {result: number for (_, result), number in self.metrics.counted.items()}

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


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (-0.1, Age.DEAD),
        (0, Age.FRESH),
        (9.9, Age.FRESH),
        (10, Age.REVALIDATING),
        (14.9, Age.REVALIDATING),
        (15, Age.IF_ERROR),
        (109.9, Age.IF_ERROR),
        (110, Age.DEAD),
    ],
)
def test_the_age_of_an_entry_says_what_it_may_be_used_for(age, expected):
    """Each bound of a lifetime is excluded; an entry from the future is dead."""
    assert age_of(1000, Lifetime(10, 5, 100), 1000 + age) is expected


@pytest.mark.parametrize(("at", "expected"), [(1003.9, Age.FRESH), (1004, Age.DEAD), (1005, Age.DEAD)])
def test_an_entry_is_dead_from_the_expiry_of_its_token(at, expected):
    """Whatever its lifetime is."""
    assert age_of(1000, Lifetime(10, 5, 100), at, token_expires_at=1004) is expected


def test_an_entry_without_a_lifetime_is_dead():
    """It is not even usable in an outage."""
    assert age_of(1000, replace(NOT_STORED, if_error=100), 1000) is Age.DEAD


def page_of(*ids: str) -> VehiclePage:
    return VehiclePage.of_body(b'{"items":[%b]}' % b",".join(b'{"id":"%b"}' % each.encode() for each in ids))


def read_page(stack: Stack, by=None, endpoints=ENDPOINTS) -> UpstreamRequest[VehiclePage]:
    """The request for a page whose items are stored, too."""
    by = by or scope()

    def parts(page):
        return ((vehicle_read(part.vehicle_id, by, endpoints), part) for part in page.parts())

    return UpstreamRequest.of(by, endpoints.vehicles, parts=parts)


def test_the_size_of_an_entry_is_what_it_takes_in_memory():
    """A body as it is, a decoded value by a factor, and an item of a page nothing of its own."""
    page = page_of("A")
    assert Entry(RawValue(b"x" * 1000, bytes), 0, 1000).size == OVERHEAD + 1000
    assert Entry({"a": 1}, 0, 1000).size == OVERHEAD + int(1000 * MEMORY_FACTOR)
    assert Entry(page.parts()[0], 0, 1000).size == OVERHEAD


async def test_a_batch_counts_its_hits_stale_entries_and_misses():
    """Each request counts once, in order, and only those that missed are calls."""
    stack = Stack()
    for vehicle_id in ("old", "stale"):
        await stack.fetch(vehicle_read(vehicle_id))
        stack.clock.time += 30 if vehicle_id == "old" else 12
    for vehicle_id in ("fresh", "fresher"):
        await stack.fetch(vehicle_read(vehicle_id))
    before = stack.reads["miss"]
    requests = [vehicle_read(each) for each in ("new", "fresh", "stale", "old", "fresher")]
    outcomes = await stack.cache.fetch_all(requests, 2)
    assert [outcome.value.vehicle_id.rpartition("/")[2] for outcome in outcomes] == [
        "new",
        "fresh",
        "stale",
        "old",
        "fresher",
    ]
    assert [request.source for request in requests] == ["call", "cache", "stale", "call", "cache"]
    assert (stack.reads["hit"], stack.reads["stale"], stack.reads["miss"] - before) == (2, 1, 2)
    await stack.cache.settle()


async def test_a_stale_response_that_replaces_an_outage_counts_after_its_miss():
    """The others in the batch keep their errors."""
    stack = Stack()
    await stack.fetch(vehicle_read("A"))
    stack.clock.time += 60
    stack.fleet.failure = UpstreamUnavailable()
    requests = [vehicle_read(each) for each in "BA"]
    error, response = await stack.cache.fetch_all(requests, 2)
    assert isinstance(error, UpstreamUnavailable)
    assert response.value.vehicle_id.endswith("A")
    assert [request.source for request in requests] == ["call", "stale"]
    assert stack.reads == {"miss": 1 + 2, "stale": 1}


async def test_no_requests_are_no_calls():
    """An empty batch has an empty result."""
    stack = Stack()
    assert await stack.cache.fetch_all([], 1) == await stack.cache.cached_responses([]) == []
    await stack.cache.settle()
    assert not stack.reads


async def test_a_request_may_bypass_the_cache():
    """It is a call, revalidates nothing, and replaces the entry."""
    stack = Stack()
    stack.fleet.etag = '"1"'
    await stack.fetch(vehicle_read())
    stack.clock.time += 5
    request = vehicle_read()
    request.bypass_cache = True
    await stack.fetch(request)
    assert (stack.fleet.total, request.known, request.source) == (2, None, "call")
    stack.clock.time += 9
    await stack.fetch(vehicle_read())
    assert stack.fleet.total == 2


@pytest.mark.parametrize(
    ("etag", "missing", "revalidated"), [('"1"', False, True), (None, False, False), ('"1"', True, False)]
)
async def test_only_a_value_with_an_entity_tag_is_revalidated(etag, missing, revalidated):
    """Not a 404, whose body is an error, and nothing without a tag."""
    stack = Stack(FakeFetcher(lambda request: None) if missing else None)
    stack.fleet.etag = etag
    await stack.fetch(vehicle_read())
    stack.clock.time += 60
    request = vehicle_read()
    await stack.fetch(request)
    assert (request.known is not None) is revalidated


@pytest.mark.parametrize(("missing", "fresh"), [(False, 10), (True, 3)])
async def test_the_freshness_of_calls_is_reported(missing, fresh):
    """A response is fresh for its lifetime, a 404 for its own, and an error has none."""
    stack = Stack(FakeFetcher(lambda request: None) if missing else None)
    request = vehicle_read()
    await stack.fetch(request)
    assert (request.stats.oldest, request.stats.fresh_until) == (1_000_000, 1_000_000 + fresh)
    stack.clock.time += 1
    again = vehicle_read()
    await stack.fetch(again)
    assert (again.stats.oldest, again.stats.fresh_until) == (1_000_000, 1_000_000 + fresh)
    stack.fleet.failure, failed = UpstreamUnavailable(), vehicle_read("B")
    with pytest.raises(UpstreamUnavailable):
        await stack.fetch(failed)
    assert (failed.stats.oldest, failed.stats.fresh_until) == (None, None)


async def test_used_responses_are_recorded_where_that_is_asked_for():
    """Calls and cache hits with the time when they were stored, but no errors."""
    stack, by = Stack(), scope()
    by.stats.reads = []
    await stack.fetch(vehicle_read("A", by))
    stack.clock.time += 3
    await stack.cache.fetch_all([vehicle_read("B", by), vehicle_read("A", by)], 2)
    stack.fleet.failure = UpstreamUnavailable()
    with pytest.raises(UpstreamUnavailable):
        await stack.fetch(vehicle_read("C", by))
    uses = [CacheUse(vehicle_read(each).key, ENDPOINTS.vehicle, at) for each, at in (("A", 0), ("A", 0), ("B", 3))]
    assert [(use.key, use.at - 1_000_000) for use in by.stats.reads] == [(use.key, use.at) for use in uses]
    unrecorded = vehicle_read()
    await stack.fetch(unrecorded)
    assert unrecorded.stats.reads is None


async def test_cached_responses_are_fresh_ones():
    """One that is stale or absent is None, and neither takes a call nor counts as a miss."""
    stack = Stack()
    await stack.fetch(vehicle_read("stale"))
    stack.clock.time += 12
    await stack.fetch(vehicle_read("fresh"))
    before = dict(stack.reads)
    responses = await stack.cache.cached_responses([vehicle_read(each) for each in ("stale", "absent", "fresh")])
    assert [response is not None for response in responses] == [False, False, True]
    assert stack.reads == {**before, "hit": 1}
    assert stack.fleet.total == 2


async def test_a_fresh_entry_has_its_times():
    """When it was stored, and when it becomes stale; a stale or absent entry is None."""
    stack, key = Stack(), vehicle_read().key
    assert stack.cache.fresh_entry(key, ENDPOINTS.vehicle) is None
    value = (await stack.cache.fetch(vehicle_read())).value
    stack.clock.time += 4
    assert stack.cache.fresh_entry(key, ENDPOINTS.vehicle) == CacheHit(value, 1_000_000, 1_000_010)
    stack.clock.time += 6
    assert stack.cache.fresh_entry(key, ENDPOINTS.vehicle) is None


async def test_dependencies_are_the_entries_that_were_used():
    """If one has been dropped or replaced since, there are none."""
    stack = Stack()
    uses = []
    for vehicle_id in "AB":
        request = vehicle_read(vehicle_id)
        await stack.fetch(request)
        uses.append(CacheUse(request.key, request.endpoint, stack.clock.time))
        stack.clock.time += 1
    assert stack.cache.dependencies_of(uses) == [
        Dependency(uses[0].key, ENDPOINTS.vehicle, 1_000_000),
        Dependency(uses[1].key, ENDPOINTS.vehicle, 1_000_001),
    ]
    assert stack.cache.dependencies_of([]) == []
    stack.clock.time += 20
    request = vehicle_read("B")
    await stack.fetch(request)
    assert stack.cache.dependencies_of(uses) is None
    await stack.store.drop(uses[0].key)
    assert stack.cache.dependencies_of(uses[:1]) is None


async def test_the_freshness_of_dependencies_is_that_of_the_first_to_become_stale():
    """Stored when the oldest was; none if one is stale, replaced or dropped."""
    stack = Stack()
    dependencies = []
    for vehicle_id in "AB":
        request = vehicle_read(vehicle_id)
        await stack.fetch(request)
        dependencies.append(Dependency(request.key, request.endpoint, stack.clock.time))
        stack.clock.time += 2
    for order in (dependencies, dependencies[::-1]):
        assert stack.cache.freshness_of(order) == Freshness(1_000_000, 1_000_010)
    assert stack.cache.freshness_of([]) is None
    assert stack.cache.freshness_of([dependencies[0]._replace(stored_at=999_999)]) is None
    stack.clock.time = 1_000_010
    assert stack.cache.freshness_of(dependencies) is None
    assert stack.cache.freshness_of(dependencies[1:]) == Freshness(1_000_002, 1_000_012)
    await stack.store.drop(dependencies[1].key)
    assert stack.cache.freshness_of(dependencies[1:]) is None


async def test_a_vehicle_of_a_page_lives_no_longer_than_the_page():
    """Once the page is gone it is no dependency, no hit, and takes a call."""
    stack = Stack(FakeFetcher(lambda request: page_of("A") if request.item_id is None else page_of("A").vehicle(0)))
    request = read_page(stack)
    await stack.cache.fetch(request)
    dependency = Dependency(vehicle_read("A").key, ENDPOINTS.vehicle, 1_000_000)
    assert stack.cache.freshness_of([dependency]) == Freshness(1_000_000, 1_000_010)
    await stack.store.drop(request.key)
    assert stack.cache.freshness_of([dependency]) is None
    assert stack.cache.fresh_entry(dependency.key, ENDPOINTS.vehicle) is None
    assert await stack.fetch(vehicle_read("A")) == "A"
    assert stack.fleet.total == 2


async def put_by(stack: Stack, request: UpstreamRequest) -> dict[str, float]:
    """The seconds for which each entry of a response is stored, in the order in which they are."""
    stored = {}

    async def put(entries):
        stored.update({key: seconds for key, _, seconds in entries})

    stack.store.put = put
    await stack.cache.fetch(request)
    return stored


@pytest.mark.parametrize(
    ("expires_in", "seconds"), [(inf, 110), (111, 110), (50, 50), (0, None), (-1, None), (None, 110)]
)
async def test_entries_are_stored_for_their_lifetime_or_until_their_token_expires(expires_in, seconds):
    """The vehicles are stored before their page; with an expired token nothing is."""
    stack = Stack(FakeFetcher(lambda request: page_of("A", "B")))
    by = scope(expires_at=None if expires_in is None else 1_000_000 + expires_in)
    request = read_page(stack, by)
    stored = await put_by(stack, request)
    keys = [vehicle_read("A", by).key, vehicle_read("B", by).key, request.key]
    assert list(stored.items()) == ([] if seconds is None else [(key, seconds) for key in keys])


async def test_vehicles_are_stored_for_the_lifetime_of_vehicles():
    """Not for that of the page; without one only the page is stored."""
    vehicles = ENDPOINTS.vehicles
    for lifetime, seconds in ((Lifetime(20, 5), [25, 110]), (NOT_STORED, [110])):
        stack = Stack(FakeFetcher(lambda request: page_of("A")))
        endpoint = replace(ENDPOINTS.vehicle, lifetime=lifetime)

        def parts(page, endpoint=endpoint):
            return [(UpstreamRequest.of(scope(), endpoint, item_id="A"), page.parts()[0])]

        assert [*(await put_by(stack, UpstreamRequest.of(scope(), vehicles, parts=parts))).values()] == seconds


async def test_a_page_that_is_missing_has_no_vehicles():
    """A 404 of an endpoint that has a lifetime for it is stored alone."""
    stack = Stack(FakeFetcher(lambda request: None))
    request = read_page(stack)
    request.endpoint = replace(request.endpoint, missing=Lifetime(3))
    assert await put_by(stack, request) == {request.key: 3}


async def test_entries_in_memory_are_sampled_by_resource():
    """Their number, bytes and evictions."""
    stack = Stack(entries_max=2)
    for vehicle_id in "ABC":
        await stack.fetch(vehicle_read(vehicle_id))
    samples = {(metric.name, *labels): value for metric, labels, value in stack.store.samples()}
    size = 2 * Entry(None, 0, 1000).size
    assert [value for (_, resource), value in samples.items() if resource == "vehicle"] == [2, size, 1]
    assert sum(samples.values()) == 2 + size + 1


async def test_what_was_stored_before_a_write_is_not_used():
    """Only what is of its vehicle, whether it is asked for alone or with others; what is stored after it is used."""
    stack = Stack()
    keys = [vehicle_read(vehicle_id).key for vehicle_id in ("A", "B", "never read")]

    async def used() -> list[bool]:
        many = await stack.store.get_many(keys, Vehicle)
        single = [stack.store.peek(key) for key in keys]
        assert [entry is None for entry in many] == [entry is None for entry in single]
        return [entry is not None for entry in many]

    for vehicle_id in ("A", "B"):
        await stack.fetch(vehicle_read(vehicle_id))
    assert await used() == [True, True, False]
    stack.store.changes.apply(Change("w", "A", (keys[0].partition(":")[2],), (), number=7))
    assert await used() == [False, True, False]
    await stack.fetch(vehicle_read("A"))
    assert stack.fleet.total == 3
    assert await used() == [True, True, False]
    await stack.fetch(vehicle_read("A"))
    assert stack.fleet.total == 3


@pytest.mark.parametrize(("etag", "missing", "calls"), [('"1"', False, 1), (None, False, 2), (None, True, 1)])
async def test_who_needs_a_version_gets_no_entry_without_one(etag, missing, calls):
    """A 404 has none, and needs none."""
    stack = Stack(FakeFetcher(lambda request: None) if missing else None)
    stack.fleet.etag = etag
    await stack.fetch(vehicle_read())
    request = vehicle_read()
    request.needs_version = True
    await stack.fetch(request)
    assert stack.fleet.total == calls
    assert request.known is None
