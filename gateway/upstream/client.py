"""`FleetClient`: the fleet API as methods, over the endpoints and whatever makes the requests."""

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
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.endpoints import PAGE_TOKEN, Endpoint, FleetEndpoints, are_plain, is_possible
from gateway.upstream.field_masks import decode_full
from gateway.upstream.models import Cursors, State, Vehicle, VehicleForm
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

T = TypeVar("T")
# Principals whose fleet sizes are remembered.
FLEETS_MAX = 10_000
Found = dict[str, Vehicle | BaseException | None]

# Pages whose digests are remembered, those of all callers, for a digest knows of none; and how long the cursor or the
# words may be that they are asked for with.
DIGESTS_MAX = 4096
SHORT = 512
# These would be the answer to every further read of the same caller, too.
FINAL = (UpstreamUnauthenticated, UpstreamForbidden, RateLimited)


class Holder(Protocol):
    """Knows what is there without a call."""

    def fresh_entry(self, key: str, endpoint: Endpoint[Any]) -> CacheHit | None: ...

    def dependencies_of(self, reads: Sequence[CacheUse]) -> list[Dependency] | None: ...

    def freshness_of(self, made: Sequence[Dependency]) -> Freshness | None: ...

    async def held(self, reads: Sequence[UpstreamRequest[T]]) -> list[UpstreamResponse[T] | None]: ...


class FleetClient:
    """The fleet API as methods; raises the errors of `gateway.errors`."""

    def __init__(
        self,
        fetcher: ManyFetcher,
        settings: UpstreamSettings,
        endpoints: FleetEndpoints,
        cache: Holder | None = None,
        *,
        prefetch: bool = False,
        under_way: Callable[[], int] = lambda: 0,
        calls_max: int | None = None,
    ) -> None:
        self._calls_max = calls_max
        self._under_way = under_way
        self._fetcher = fetcher
        self._settings = settings
        self._endpoints = endpoints
        self._known_digest = lru_cache(DIGESTS_MAX)(self._digest_of_page)
        self._cache = cache
        self._prefetch = prefetch and cache is not None
        self._ahead: set[asyncio.Task[Any]] = set()
        # The size of each principal's fleet when it was last scanned to its end.
        self._fleet_sizes: LRU[str, int] = LRU(FLEETS_MAX)

    async def vehicles(
        self,
        scope: RequestScope,
        *,
        cursor: str | None = None,
        search: str | None = None,
        mask: type[Vehicle] | None = None,
        afresh: bool = False,
    ) -> VehiclePage:
        """A page of the fleet: the first one, filtered by `search`, or the one that `cursor` names.

        `mask` is the form its vehicles are needed in; if the page is at hand, it may be in another so far. What is
        kept does not count where it is read `afresh`.
        """
        read = self._page_read(scope, cursor, search, mask)
        read.afresh = afresh
        reply = await self._fetcher.fetch(read)
        page = reply.value
        if page is None:
            raise UpstreamRejected(Problem(404, flow_id=reply.flow_id))
        if page.cursors is None:
            token = page.next_page_token
            page.cursors = Cursors(next=PAGE_TOKEN + token if token else None)
        if self._prefetch and page.cursors.next:
            self._read_ahead(
                RequestScope(scope.caller, RequestStats(), deadline=Deadline.after(REFRESH_SECONDS)), page.cursors.next
            )
        return page

    def cached_page(self, caller: Caller, cursor: str | None, search: str | None) -> CacheHit | None:
        """A page of the fleet that is there and fresh; `search` goes with the first alone."""
        if self._cache is None or self._prefetch:
            return None
        is_short = len(cursor or "") + len(search or "") <= SHORT
        digest = (self._known_digest if is_short else self._digest_of_page)(cursor, search)
        return self._cache.fresh_entry(key_of(caller, digest), self._endpoints.vehicles)

    def dependencies_of(self, reads: Sequence[CacheUse]) -> list[Dependency] | None:
        """What holds what was read, if it is kept and the same still."""
        return None if self._cache is None else self._cache.dependencies_of(reads)

    def freshness_of(self, made: Sequence[Dependency]) -> Freshness | None:
        """How fresh something is that was made of what is kept, if that is the same still."""
        return None if self._cache is None else self._cache.freshness_of(made)

    async def vehicle(self, scope: RequestScope, vehicle_id: str) -> Vehicle | None:
        """One vehicle, or None where there is none (or none that the caller may know of)."""
        if not is_possible(vehicle_id):
            return None
        vehicle = (await self._fetcher.fetch(self._vehicle_reads(scope, [vehicle_id])[0])).value
        return None if vehicle is None else decode_full(vehicle)

    async def vehicles_by_id(self, scope: RequestScope, ids: Iterable[str], mask: type[Vehicle] | None = None) -> Found:
        """Vehicles by id, each with its own error if it has one, in as few upstream calls as the plan allows.

        `mask` is the form they are needed in; some may be whole.
        """
        wanted = list(dict.fromkeys(ids))
        found: Found = {}
        if not are_plain(wanted):
            found = {vehicle_id: None for vehicle_id in wanted if not is_possible(vehicle_id)}
        fleet_size = self._fleet_sizes.get(scope.caller.principal)
        if should_scan(len(wanted) - len(found), self._settings.page_size, fleet_size):
            # What is held need not be walked for; else the reads themselves find it.
            await self._take_held(scope, [i for i in wanted if i not in found], found, mask)
            await self._scan(scope, {i for i in wanted if i not in found}, found)
        missing = [i for i in wanted if i not in found] if found else wanted
        values = await self._values(self._vehicle_reads(scope, missing, mask))
        if set(map(type, values)) != {mask}:
            values = [in_form(value, mask) for value in values]
        found.update(zip(missing, values, strict=True))
        return found

    async def latest_states(self, scope: RequestScope, ids: Sequence[str]) -> list[State | BaseException | None]:
        """The latest states of vehicles as property by name, each with its own error if it has one.

        They are part of what lists answer, so the price does not count them; beyond the limit of an operation's calls
        the error is CallLimitExceeded.
        """
        possible = list(dict.fromkeys(ids))
        if not are_plain(possible):
            possible = list(filter(is_possible, possible))
        reads = requests_of(scope, self._endpoints.latest_state, possible)
        scope.unpriced_calls += len(reads)
        if self._calls_max is None or scope.unpriced_calls <= self._calls_max:
            values = await self._values(reads)
        else:
            values = await self._values_within(scope, reads, self._calls_max)
        found = dict(zip(possible, values, strict=True))
        return [found.get(vehicle_id) for vehicle_id in ids]

    def under_way(self) -> int:
        """Reads that have not come to their end."""
        return self._under_way()

    async def settle(self) -> None:
        """Waits for the pages being read ahead."""
        if self._ahead:
            await asyncio.wait(self._ahead)

    def _page_read(
        self, scope: RequestScope, cursor: str | None, search: str | None, mask: type[Vehicle] | None = None
    ) -> UpstreamRequest[VehiclePage]:
        def parts(page: VehiclePage) -> Iterable[tuple[UpstreamRequest[Vehicle], PageItemRef]]:
            parts = page.parts()
            return zip(self._vehicle_reads(scope, [part.vehicle_id for part in parts]), parts, strict=True)

        parameters = self._endpoints.page_parameters(cursor, search)
        return UpstreamRequest.of(scope, self._endpoints.vehicles, parameters=parameters, parts=parts, mask=mask)

    def _digest_of_page(self, cursor: str | None, search: str | None) -> str:
        return digest_of(self._endpoints.vehicles.path, self._endpoints.page_parameters(cursor, search))

    def _vehicle_reads(
        self, scope: RequestScope, ids: Sequence[str], mask: type[Vehicle] | None = None
    ) -> list[UpstreamRequest[Vehicle]]:
        return requests_of(scope, self._endpoints.vehicle, ids, mask)

    async def _take_held(self, scope: RequestScope, ids: list[str], found: Found, mask: type[Vehicle] | None) -> None:
        if self._cache is None or not ids:
            return
        held = await self._cache.held(self._vehicle_reads(scope, ids, mask))
        found.update((i, in_form(reply.value, mask)) for i, reply in zip(ids, held, strict=True) if reply is not None)

    async def _scan(self, scope: RequestScope, missing: set[str], found: Found) -> None:
        principal = scope.caller.principal
        walked, seen, cursor = ScanProgress(), 0, None
        while should_scan(len(missing), self._settings.page_size, self._fleet_sizes.get(principal), walked):
            try:
                page = await self.vehicles(scope, cursor=cursor, mask=IDS)
            except FINAL as refusal:
                found.update(dict.fromkeys(missing, refusal))
                return
            except GatewayError:
                return  # each vehicle is then read, and may fail, on its own
            ids = page.ids
            hits = {vehicle_id: page.vehicle(place) for place, vehicle_id in enumerate(ids) if vehicle_id in missing}
            found.update(hits)
            missing -= hits.keys()
            walked, seen = ScanProgress(walked.pages + 1, walked.found + len(hits)), seen + len(ids)
            cursor = page.cursors.next if page.cursors is not None else None
            if not cursor:
                self._fleet_sizes.put(principal, seen)
                return

    async def _values(self, reads: Sequence[UpstreamRequest[T]]) -> list[T | BaseException | None]:
        replies = await self._fetcher.fetch_all(reads, self._settings.parallel_reads_max)
        return [reply.value if isinstance(reply, UpstreamResponse) else reply for reply in replies]

    async def _values_within(
        self, scope: RequestScope, reads: Sequence[UpstreamRequest[T]], calls_max: int
    ) -> list[T | BaseException | None]:
        """What is read as long as the operation's calls are within the limit: what is kept takes none."""
        values: list[T | BaseException | None] = []
        if scope.one_at_a_time is None:
            scope.one_at_a_time = asyncio.Lock()
        async with scope.one_at_a_time:
            while len(values) < len(reads) and (room := calls_max - scope.stats.upstream_calls) > 0:
                part: list[T | BaseException | None] = await self._values(reads[len(values) :][:room])
                values += part
        return values + [CallLimitExceeded(calls_max)] * (len(reads) - len(values))

    def _read_ahead(self, scope: RequestScope, cursor: str) -> None:
        ahead = asyncio.create_task(self._fetcher.fetch(self._page_read(scope, cursor, None)))
        self._ahead.add(ahead)
        ahead.add_done_callback(self._ahead.discard)
        ahead.add_done_callback(retrieve_exception)


def in_form(outcome: Vehicle | BaseException | None, mask: type[Vehicle] | None) -> Vehicle | BaseException | None:
    """A vehicle in a view, or whole: another caller's read, which this one shared, may have asked for another view."""
    if outcome is None or type(outcome) is mask or not isinstance(outcome, VehicleForm):
        return outcome
    try:
        return decode_full(outcome)
    except GatewayError as unreadable:
        return unreadable
