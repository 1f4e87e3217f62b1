"""`FleetClient`: the fleet API as methods, over the endpoints and a fetcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from gateway.concurrency.deadline import Deadline
from gateway.concurrency.lru import LRU
from gateway.errors import (
    CallLimitExceeded,
    GatewayError,
    Problem,
    RateLimited,
    UpstreamForbidden,
    UpstreamRejected,
    UpstreamUnauthenticated,
)
from gateway.identity import Caller
from gateway.settings import UpstreamSettings
from gateway.upstream.cache import REFRESH_SECONDS, CacheHit, Dependency, Freshness
from gateway.upstream.changes import Changes
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.endpoints import PAGE_TOKEN, Endpoint, FleetEndpoints, are_plain, is_possible
from gateway.upstream.field_masks import decode_full, vehicle_mask
from gateway.upstream.models import AnyVehicle, Cursors, SharingFleet, State, Vehicle, VehicleModel
from gateway.upstream.pages import IDS, PageItemRef, VehiclePage
from gateway.upstream.requests import (
    CacheUse,
    ManyFetcher,
    RequestScope,
    RequestStats,
    UpstreamRequest,
    UpstreamResponse,
    digest_of,
    key_of,
    requests_of,
)
from gateway.upstream.scan_planner import ScanProgress, should_scan
from gateway.upstream.writes import Writer

T = TypeVar("T")
# Principals whose fleet sizes are cached.
FLEETS_MAX = 10_000
Found = dict[str, Vehicle | BaseException | None]

# Cached digests of page requests, which are independent of the caller; and the longest cursor and search that they are
# cached for.
DIGESTS_MAX = 4096
CACHED_LENGTH_MAX = 512
# The members of a vehicle that say which version of it was read.
VERSIONED = vehicle_mask({"version": None, "modified_at": None})
# Every further request of the same caller would fail in the same way.
FINAL = (UpstreamUnauthenticated, UpstreamForbidden, RateLimited)


class CacheLookup(Protocol):
    """Looks up entries without a call."""

    def fresh_entry(self, key: str, endpoint: Endpoint[Any]) -> CacheHit | None: ...

    def dependencies_of(self, uses: Sequence[CacheUse]) -> list[Dependency] | None: ...

    def freshness_of(self, dependencies: Sequence[Dependency]) -> Freshness | None: ...

    async def cached_responses(self, requests: Sequence[UpstreamRequest[T]]) -> list[UpstreamResponse[T] | None]: ...


class FleetClient:
    """The fleet API as methods; raises the errors of `gateway.errors`."""

    def __init__(
        self,
        fetcher: ManyFetcher,
        settings: UpstreamSettings,
        endpoints: FleetEndpoints,
        cache: CacheLookup | None = None,
        *,
        writer: Writer | None = None,
        changes: Changes | None = None,
        prefetch: bool = False,
        under_way: Callable[[], int] = lambda: 0,
        is_circuit_open: Callable[[], bool] = lambda: False,
        is_redis_away: Callable[[], bool] | None = None,
        calls_max: int | None = None,
    ) -> None:
        self._calls_max = calls_max
        self.writer = writer  # None for a client that only reads
        self.changes = changes or Changes()
        self._under_way = under_way
        self.is_circuit_open = is_circuit_open
        self.is_redis_away = is_redis_away  # None without Redis
        self._fetcher = fetcher
        self._settings = settings
        self._endpoints = endpoints
        self._cached_digest = lru_cache(DIGESTS_MAX)(self._digest_of_page)
        self._cache = cache
        self._prefetch = prefetch and cache is not None
        self._prefetches: set[asyncio.Task[Any]] = set()
        # The size of each principal's fleet at its last complete scan.
        self._fleet_sizes: LRU[str, int] = LRU(FLEETS_MAX)

    async def vehicles(
        self,
        scope: RequestScope,
        *,
        cursor: str | None = None,
        search: str | None = None,
        mask: type[Vehicle] | None = None,
        bypass_cache: bool = False,
    ) -> VehiclePage:
        """A page of the fleet: the first one, filtered by `search`, or the one of a `cursor`.

        Vehicles are decoded with `mask`, but a cached page may be decoded otherwise. `bypass_cache` ignores cached
        pages.
        """
        request = self._page_request(scope, cursor, search, mask)
        request.bypass_cache = bypass_cache
        response = await self._fetcher.fetch(request)
        page = response.value
        if page is None:
            raise UpstreamRejected(Problem(404, flow_id=response.flow_id))
        if page.cursors is None:
            token = page.next_page_token
            page.cursors = Cursors(next=PAGE_TOKEN + token if token else None)
        if self._prefetch and page.cursors.next:
            self._prefetch_page(
                RequestScope(scope.caller, RequestStats(), deadline=Deadline.after(REFRESH_SECONDS)), page.cursors.next
            )
        return page

    def cached_page(self, caller: Caller, cursor: str | None, search: str | None) -> CacheHit | None:
        """A cached page of the fleet that is fresh; only the first page has a `search`."""
        if self._cache is None or self._prefetch:
            return None
        is_short = len(cursor or "") + len(search or "") <= CACHED_LENGTH_MAX
        digest = (self._cached_digest if is_short else self._digest_of_page)(cursor, search)
        return self._cache.fresh_entry(key_of(caller, digest), self._endpoints.vehicles)

    def dependencies_of(self, uses: Sequence[CacheUse]) -> list[Dependency] | None:
        """The used cache entries, if they are unchanged."""
        return None if self._cache is None else self._cache.dependencies_of(uses)

    def freshness_of(self, dependencies: Sequence[Dependency]) -> Freshness | None:
        """The freshness of cache entries, if they are unchanged and fresh."""
        return None if self._cache is None else self._cache.freshness_of(dependencies)

    async def vehicle(self, scope: RequestScope, vehicle_id: str) -> Vehicle | None:
        """One vehicle, or None if it does not exist or is invisible to the caller."""
        if not is_possible(vehicle_id):
            return None
        vehicle = (await self._fetcher.fetch(self._vehicle_requests(scope, [vehicle_id])[0])).value
        return None if vehicle is None else decode_full(vehicle)

    async def vehicles_by_id(self, scope: RequestScope, ids: Iterable[str], mask: type[Vehicle] | None = None) -> Found:
        """The vehicle or the error of each id, by single reads or a scan, whichever takes fewer upstream calls.

        Vehicles are decoded with `mask`, or in full.
        """
        wanted = list(dict.fromkeys(ids))
        found: Found = {}
        if not are_plain(wanted):
            found = {vehicle_id: None for vehicle_id in wanted if not is_possible(vehicle_id)}
        fleet_size = self._fleet_sizes.get(scope.caller.principal)
        # Lists have no versions.
        is_listed = not getattr(mask, "needs_version", False)
        if is_listed and should_scan(len(wanted) - len(found), self._settings.page_size, fleet_size):
            # Cached vehicles need no scan. Without a scan, the reads below find them.
            await self._take_cached(scope, [i for i in wanted if i not in found], found, mask)
            await self._scan(scope, {i for i in wanted if i not in found}, found)
        missing = [i for i in wanted if i not in found] if found else wanted
        values = await self._values(self._vehicle_requests(scope, missing, mask))
        if set(map(type, values)) != {mask}:
            values = [as_masked(value, mask) for value in values]
        found.update(zip(missing, values, strict=True))
        return found

    async def latest_states(self, scope: RequestScope, ids: Sequence[str]) -> list[State | BaseException | None]:
        """The latest state of each vehicle as properties by name, or its error.

        Lists usually contain the states, so the estimated cost omits these calls. Above an operation's call limit the
        error is CallLimitExceeded.
        """
        possible = list(dict.fromkeys(ids))
        if not are_plain(possible):
            possible = list(filter(is_possible, possible))
        values = await self._uncosted(scope, requests_of(scope, self._endpoints.latest_state, possible))
        found = dict(zip(possible, values, strict=True))
        return [found.get(vehicle_id) for vehicle_id in ids]

    async def current_vehicle(self, scope: RequestScope, vehicle_id: str) -> Vehicle | None:
        """One vehicle as it is now, with its version, or None. It is not read from the cache."""
        if not is_possible(vehicle_id):
            return None
        (request,) = self._vehicle_requests(scope, [vehicle_id])
        request.bypass_cache = True
        vehicle = (await self._fetcher.fetch(request)).value
        return None if vehicle is None else decode_full(vehicle)

    async def versioned(self, scope: RequestScope, ids: Sequence[str]) -> list[Vehicle | BaseException | None]:
        """Each vehicle with its version and the time of its last change, or its error.

        The estimated cost omits these calls, as those of `latest_states`.
        """
        possible = list(filter(is_possible, dict.fromkeys(ids)))
        values: list[Vehicle | BaseException | None] = await self._uncosted(
            scope, self._vehicle_requests(scope, possible, VERSIONED)
        )
        found = dict(zip(possible, values, strict=True))
        return [found.get(vehicle_id) for vehicle_id in ids]

    async def vehicle_models(self, scope: RequestScope, brand: str) -> list[VehicleModel] | None:
        """The vehicle models that a telematics brand supports; None if there is no such brand."""
        if not is_possible(brand):
            return None
        request = UpstreamRequest.of(scope, self._endpoints.vehicle_models, item_id=brand)
        models = (await self._fetcher.fetch(request)).value
        return None if models is None else models.items

    async def sharing_partners(self, scope: RequestScope) -> list[SharingFleet]:
        """The fleets with which vehicles can be shared."""
        partners = (await self._fetcher.fetch(UpstreamRequest.of(scope, self._endpoints.sharing_partners))).value
        return [] if partners is None else partners.items

    def under_way(self) -> int:
        """The number of reads in progress."""
        return self._under_way()

    async def settle(self) -> None:
        """Waits for the pages that are being prefetched."""
        if self._prefetches:
            await asyncio.wait(self._prefetches)

    def _page_request(
        self, scope: RequestScope, cursor: str | None, search: str | None, mask: type[Vehicle] | None = None
    ) -> UpstreamRequest[VehiclePage]:
        def parts(page: VehiclePage) -> Iterable[tuple[UpstreamRequest[Vehicle], PageItemRef]]:
            parts = page.parts()
            return zip(self._vehicle_requests(scope, [part.vehicle_id for part in parts]), parts, strict=True)

        parameters = self._endpoints.page_parameters(cursor, search)
        return UpstreamRequest.of(scope, self._endpoints.vehicles, parameters=parameters, parts=parts, mask=mask)

    def _digest_of_page(self, cursor: str | None, search: str | None) -> str:
        return digest_of(self._endpoints.vehicles.path, self._endpoints.page_parameters(cursor, search))

    def _vehicle_requests(
        self, scope: RequestScope, ids: Sequence[str], mask: type[Vehicle] | None = None
    ) -> list[UpstreamRequest[Vehicle]]:
        requests = requests_of(scope, self._endpoints.vehicle, ids, mask)
        if getattr(mask, "needs_version", False):
            for request in requests:
                request.needs_version = True
        return requests

    async def _take_cached(self, scope: RequestScope, ids: list[str], found: Found, mask: type[Vehicle] | None) -> None:
        if self._cache is None or not ids:
            return
        responses = await self._cache.cached_responses(self._vehicle_requests(scope, ids, mask))
        found.update((i, as_masked(hit.value, mask)) for i, hit in zip(ids, responses, strict=True) if hit is not None)

    async def _scan(self, scope: RequestScope, missing: set[str], found: Found) -> None:
        principal = scope.caller.principal
        progress, seen, cursor = ScanProgress(), 0, None
        while should_scan(len(missing), self._settings.page_size, self._fleet_sizes.get(principal), progress):
            try:
                page = await self.vehicles(scope, cursor=cursor, mask=IDS)
            except FINAL as failure:
                found.update(dict.fromkeys(missing, failure))
                return
            except GatewayError:
                return  # the missing vehicles are then read, and may fail, one by one
            ids = page.ids
            hits = {vehicle_id: page.vehicle(index) for index, vehicle_id in enumerate(ids) if vehicle_id in missing}
            found.update(hits)
            missing -= hits.keys()
            progress, seen = ScanProgress(progress.pages + 1, progress.found + len(hits)), seen + len(ids)
            cursor = page.cursors.next if page.cursors is not None else None
            if not cursor:
                self._fleet_sizes.put(principal, seen)
                return

    async def _values(self, requests: Sequence[UpstreamRequest[T]]) -> list[T | BaseException | None]:
        responses = await self._fetcher.fetch_all(requests, self._settings.parallel_reads_max)
        return [response.value if isinstance(response, UpstreamResponse) else response for response in responses]

    async def _uncosted(
        self, scope: RequestScope, requests: Sequence[UpstreamRequest[T]]
    ) -> list[T | BaseException | None]:
        """The values of requests that the estimated cost omits."""
        scope.uncosted_calls += len(requests)
        if self._calls_max is None or scope.uncosted_calls <= self._calls_max:
            return await self._values(requests)
        return await self._values_within(scope, requests, self._calls_max)

    async def _values_within(
        self, scope: RequestScope, requests: Sequence[UpstreamRequest[T]], calls_max: int
    ) -> list[T | BaseException | None]:
        """The values of requests until the operation's calls reach the limit; cached values take no call."""
        values: list[T | BaseException | None] = []
        if scope.call_lock is None:
            scope.call_lock = asyncio.Lock()
        async with scope.call_lock:
            while len(values) < len(requests) and (room := calls_max - scope.stats.upstream_calls) > 0:
                part: list[T | BaseException | None] = await self._values(requests[len(values) :][:room])
                values += part
        return values + [CallLimitExceeded(calls_max)] * (len(requests) - len(values))

    def _prefetch_page(self, scope: RequestScope, cursor: str) -> None:
        prefetch = asyncio.create_task(self._fetcher.fetch(self._page_request(scope, cursor, None)))
        self._prefetches.add(prefetch)
        prefetch.add_done_callback(self._prefetches.discard)
        prefetch.add_done_callback(retrieve_exception)


def as_masked(outcome: Vehicle | BaseException | None, mask: type[Vehicle] | None) -> Vehicle | BaseException | None:
    """A vehicle decoded with a mask, or in full: a shared call may have used the mask of another operation."""
    if outcome is None or type(outcome) is mask or not isinstance(outcome, AnyVehicle):
        return outcome
    try:
        return decode_full(outcome)
    except GatewayError as unreadable:
        return unreadable
