"""The indexes of fleets, one for each principal: read by a scan of all pages, refreshed by another one, and dropped.

An index answers only if a scan has read the whole fleet, and its answers are as old as the oldest page of that scan.
All who ask for one principal share a scan. A refresh reads every page again, but indexes only vehicles that changed.
Indexing and queries run on one thread, because they take milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from gateway.concurrency.deadline import Deadline
from gateway.concurrency.lru import LRU
from gateway.errors import (
    DeadlineExceeded,
    FleetIncomplete,
    GatewayError,
    IndexFull,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamUnauthenticated,
    WalkLimitExceeded,
)
from gateway.fleet_index.conditions import Given, Known, Names, compile_order, compile_where
from gateway.fleet_index.vehicle_index import VehicleIndex
from gateway.identity import Caller
from gateway.settings import FleetIndexSettings
from gateway.telemetry.metrics import (
    INDEX_BYTES,
    INDEX_SCANS,
    INDEX_VEHICLES,
    INDEXED_VEHICLES,
    INDEXES,
    Metrics,
    Sample,
)
from gateway.upstream.cache import OUTAGES, Age, age_of
from gateway.upstream.changes import Change, Changes, group_of
from gateway.upstream.client import FleetClient
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.endpoints import Lifetime
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import Clock, RequestScope, RequestStats

T = TypeVar("T")
# Fleets whose index may be kept, of any size.
INDEXES_MAX = 1_000
# The interval at which unused indexes are dropped.
SWEEP_SECONDS = 5.0


class Answer(NamedTuple, Generic[T]):
    """An answer, and the age of its oldest data: when that was read, in epoch seconds."""

    value: T
    as_of: float


class Scan:
    """A scan in progress: what it has read, and what was changed meanwhile by writes."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.stats = RequestStats()
        self.pages = self.vehicles = 0
        self.number = 0
        self.changed: set[str] = set()
        self.is_counted = False  # whether its calls are in the cost of the operation that began it
        self.task: asyncio.Task[None]


class FleetIndex:
    """The index of one principal's fleet. Before its first complete scan it has vehicles, but no `as_of`."""

    def __init__(self, principal: str, group: str, rows: VehicleIndex) -> None:
        self.principal = principal
        self.group = group
        self.rows = rows
        self.bytes = self.vehicles = 0
        self.as_of: float | None = None
        self.used_at = 0.0
        self.tokens_expire_at = 0.0
        self.scan: Scan | None = None
        # The number of the latest write when its scan began, the least one that it needs, the ids of vehicles that
        # writes may have changed since, and the vehicle of each open write, or None for one that may add a vehicle.
        self.number = self.least = 0
        self.changed: set[str] = set()
        self.open: dict[str, str | None] = {}
        self.reading_changed = asyncio.Lock()


class FleetIndexes:
    """Answers questions about the fleets of principals; `known` has the words of enums, for VehicleIndex."""

    def __init__(
        self,
        client: FleetClient,
        changes: Changes,
        known: Known,
        settings: FleetIndexSettings,
        clock: Clock,
        metrics: Metrics,
        *,
        pages_max: int,
        cached: bool,
    ) -> None:
        self._client = client
        self._changes = changes
        self._known = known
        self._settings = settings
        # Without a cache nothing is fresh: each question waits for a scan.
        self._lifetime = (
            Lifetime(settings.ttl, settings.stale_while_revalidate, settings.stale_if_error) if cached else Lifetime(0)
        )
        self._clock = clock
        self._metrics = metrics
        self._pages_max = pages_max
        self._indexes: LRU[str, FleetIndex] = LRU(INDEXES_MAX, settings.bytes_max, size_of=lambda _, index: index.bytes)
        self._thread = ThreadPoolExecutor(1, "fleet-index")
        self._sweep: asyncio.TimerHandle | None = None
        changes.listeners.append(self.note)

    async def ask(self, scope: RequestScope, question: Callable[[VehicleIndex], T]) -> Answer[T]:
        """The answer to a question about the caller's fleet, which runs on the thread of the indexes.

        Raises FleetIncomplete if the fleet can't be read completely, and DeadlineExceeded.
        """
        index = self._index_of(scope.caller)
        is_stale = await self._prepare(index, scope)
        as_of = index.as_of
        assert as_of is not None
        value = await self._run(index.rows, question, scope.deadline)
        scope.stats.used(as_of, as_of + self._lifetime.fresh, stale=is_stale)
        scope.stats.reads = None  # its response can't be cached by the reads behind it
        return Answer(value, as_of)

    async def ask_about(
        self, scope: RequestScope, pages: Iterable[VehiclePage], question: Callable[[VehicleIndex], T]
    ) -> T:
        """The answer to a question about the vehicles of some pages."""

        def answer(rows: VehicleIndex) -> T:
            try:
                for page in pages:
                    rows.put(page)
                return question(rows)
            finally:
                rows.close()

        scope.stats.reads = None
        making = asyncio.get_running_loop().run_in_executor(self._thread, VehicleIndex, self._known)
        return await self._run(await scope.deadline.wait(making), answer, scope.deadline)

    def now(self) -> float:
        """The time for conditions on ages, in epoch seconds."""
        return self._clock()

    def check(self, where: Given | None, order_by: Sequence[Given] = (), *, units: bool = False) -> None:
        """Raises InputInvalid for an invalid filter or order, before anything is read for it; questions do so, too."""
        names = Names(self._known, lambda _: -1, lambda _: -1)
        compile_where(where, names, self.now(), units=units)
        compile_order(order_by, names)

    def is_fresh(self, caller: Caller) -> bool:
        """Whether the index of the caller's fleet answers without a call."""
        index = self._indexes.get(caller.principal)
        return index is not None and self._age(index) is Age.FRESH and not index.changed and not index.open

    def note(self, change: Change) -> None:
        """Takes note of an open or a completed write: the indexes that it concerns read its vehicle again.

        While it is open they do so for each question, because nobody knows when it is carried out.
        """
        for index in self._kept():
            if index.group not in change.groups:
                continue
            index.open.pop(change.write, None)
            if change.number is None:
                index.open[change.write] = change.vehicle_id
            elif change.vehicle_id is None:
                index.least = change.number  # it may have added a vehicle
            else:
                index.changed.add(change.vehicle_id)
            if index.scan is not None and change.vehicle_id is not None:
                index.scan.changed.add(change.vehicle_id)

    def samples(self) -> Iterator[Sample]:
        """The number of indexes, their vehicles and their memory."""
        yield INDEXES, (), len(self._indexes)
        yield INDEX_VEHICLES, (), sum(index.vehicles for index in self._kept())
        yield INDEX_BYTES, (), self._indexes.bytes

    async def close(self) -> None:
        """Ends all scans and drops all indexes."""
        if self._sweep is not None:
            self._sweep.cancel()
        scans = [index.scan.task for index in self._kept() if index.scan is not None]
        for task in scans:
            task.cancel()
        if scans:
            await asyncio.wait(scans)
        self._indexes.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, index: FleetIndex, scope: RequestScope) -> bool:
        """Makes an index answer: completes it, refreshes it if it is too old, and reads changed vehicles again.

        Returns whether its answers are stale.
        """
        age = self._age(index)
        is_stale = age is Age.REVALIDATING
        if age is Age.FRESH:
            scope.stats.cache_hits += 1
        elif is_stale:
            self._scan_of(index, scope)
        else:
            is_stale = not await self._completed(index, age, scope)
            while not is_stale and index.number < max(index.least, self._changes.floor):
                is_stale = not await self._completed(index, age, scope)  # a write ended during the scan
        if index.changed or index.open:
            await self._read_changed(index, scope)
        return is_stale

    def _scan_of(self, index: FleetIndex, scope: RequestScope) -> Scan:
        """The scan in progress, or a new one."""
        if scope.scan_failure is not None:
            raise scope.scan_failure
        if index.scan is None:
            scan = index.scan = Scan(scope.caller)
            scan.task = asyncio.create_task(self._read_fleet(index, scan))
            scan.task.add_done_callback(retrieve_exception)
        elif index.scan.caller is not scope.caller:
            scope.stats.coalesced += 1
        return index.scan

    async def _completed(self, index: FleetIndex, age: Age, scope: RequestScope) -> bool:
        """Waits for a scan; false if an outage ended it, and the index may answer in spite of its age."""
        scan = self._scan_of(index, scope)
        is_own = scan.caller is scope.caller
        try:
            try:
                await scope.deadline.wait(scan.task)
            finally:
                if is_own and not scan.is_counted:
                    scan.is_counted = True
                    scope.stats.upstream_calls += scan.stats.upstream_calls
                    scope.stats.accepted = scope.stats.accepted or scan.stats.accepted
        except UpstreamUnauthenticated:
            if is_own:
                raise
            # The token of another caller of this principal has expired; this one's may not have.
            return await self._completed(index, age, scope)
        except UpstreamForbidden:
            raise
        except GatewayError as failure:
            if age is Age.IF_ERROR and isinstance(failure, OUTAGES) and scan.task.done():
                return False
            scope.scan_failure = FleetIncomplete(scan.pages, scan.vehicles, failure)
            raise scope.scan_failure from failure
        return True

    async def _read_fleet(self, index: FleetIndex, scan: Scan) -> None:
        outcome = "failed"
        scope = RequestScope(scan.caller, scan.stats, deadline=Deadline.after(self._settings.scan_timeout))
        begun_at = self._clock()
        scan.number = self._changes.latest
        try:
            try:
                ids = await self._read_pages(index, scan, scope, bypass_cache=False)
            except UpstreamRejected:
                if not scan.pages:
                    raise
                # A page may be cached for longer than the fleet API accepts its tokens.
                scan.pages = 0
                ids = await self._read_pages(index, scan, scope, bypass_cache=True)
            await self._submit(index.rows, lambda rows: rows.retain(ids))
            index.as_of = begun_at if scan.stats.oldest is None else scan.stats.oldest
            index.number = scan.number
            index.changed |= scan.changed
            index.vehicles = len(ids)
            outcome = "complete"
        finally:
            index.scan = None
            scope.deadline.close()
            self._metrics.count(INDEX_SCANS, (outcome,))

    async def _read_pages(self, index: FleetIndex, scan: Scan, scope: RequestScope, *, bypass_cache: bool) -> set[str]:
        """Reads and indexes all pages; while one is indexed, the next one is read."""
        ids: set[str] = set()
        tokens: set[str | None] = set()
        token: str | None = None
        indexing: asyncio.Future[int] | None = None
        try:
            while True:
                if len(tokens) == self._pages_max:
                    raise WalkLimitExceeded(self._pages_max)
                tokens.add(token)
                page = await self._client.vehicles(scope, cursor=token, bypass_cache=bypass_cache, revalidate=True)
                if indexing is not None:
                    self._indexed(index, await indexing)
                scan.pages += 1
                ids.update(page.ids)
                scan.vehicles = len(ids)
                indexing = self._submit(index.rows, lambda rows, page=page: rows.put(page))  # type: ignore[misc]
                token = page.cursors.next if page.cursors is not None else None
                if not token:
                    self._indexed(index, await indexing)
                    return ids
                if token in tokens:
                    raise UpstreamInvalidResponse
        finally:
            if indexing is not None:
                await asyncio.wait([indexing])

    def _indexed(self, index: FleetIndex, vehicles: int) -> None:
        """Counts indexed vehicles and the memory. Raises IndexFull for an index that had to be dropped."""
        self._metrics.count(INDEXED_VEHICLES, (), vehicles)
        if self._indexes.touch(index.principal):
            growth = index.rows.bytes - index.bytes
            index.bytes += growth
            self._discard(self._indexes.grow(growth))
        if index.principal not in self._indexes:
            raise IndexFull(self._settings.bytes_max)

    async def _read_changed(self, index: FleetIndex, scope: RequestScope) -> None:
        """Reads vehicles again that writes may have changed."""
        async with index.reading_changed:
            open_ids = {vehicle_id for vehicle_id in index.open.values() if vehicle_id is not None}
            changed = set(index.changed)
            ids = changed | open_ids
            found = await self._client.vehicles_by_id(scope, ids)
            failed = {vehicle_id: each for vehicle_id, each in found.items() if isinstance(each, BaseException)}
            vehicles = [each for each in found.values() if each is not None and not isinstance(each, BaseException)]

            def replace(rows: VehicleIndex) -> None:
                for vehicle_id in ids - failed.keys():
                    if found[vehicle_id] is None:
                        rows.remove(vehicle_id)
                if vehicles:
                    rows.put(page_of(vehicles))

            await self._submit(index.rows, replace)
            index.changed -= changed - failed.keys()
            for failure in failed.values():
                raise failure

    def _kept(self) -> list[FleetIndex]:
        return [index for _, index in self._indexes.items()]

    def _index_of(self, caller: Caller) -> FleetIndex:
        """The index of a caller's principal."""
        self._drop_unused()
        index = self._indexes.get(caller.principal)
        if index is None:
            index = FleetIndex(caller.principal, group_of(caller), VehicleIndex(self._known))
            self._discard(self._indexes.put(caller.principal, index))
            if self._sweep is None:
                self._sweep_later()
        index.used_at = self._clock()
        if caller.expires_at is None:
            index.tokens_expire_at = inf
        else:
            index.tokens_expire_at = max(index.tokens_expire_at, caller.expires_at)
        return index

    def _sweep_later(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep_again)

    def _sweep_again(self) -> None:
        self._sweep = None
        self._drop_unused()
        if self._indexes:
            self._sweep_later()

    def _drop_unused(self) -> None:
        """Drops the indexes of principals whose last token has expired, or who have not asked for some time."""
        now = self._clock()
        for index in self._kept():
            if index.tokens_expire_at <= now or index.used_at + self._settings.idle <= now:
                self._discard([(index.principal, index)])
                self._indexes.drop(index.principal)

    def _discard(self, dropped: list[tuple[str, FleetIndex]]) -> None:
        """Frees the memory of dropped indexes on their thread, because that takes milliseconds."""
        for _, index in dropped:
            self._thread.submit(id, index.rows)

    def _age(self, index: FleetIndex) -> Age:
        is_known = index.number >= index.least and self._changes.are_known_since(index.number)
        if index.as_of is None or not is_known or None in index.open.values():
            return Age.DEAD
        return age_of(index.as_of, self._lifetime, self._clock())

    def _submit(self, rows: VehicleIndex, question: Callable[[VehicleIndex], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, question, rows)

    async def _run(self, rows: VehicleIndex, question: Callable[[VehicleIndex], T], deadline: Deadline) -> T:
        """The answer to a question. One that is still running at the deadline is interrupted."""
        interruptible = _Interruptible(question)
        answer = self._submit(rows, interruptible)
        try:
            return await deadline.wait(answer)
        finally:
            if not answer.done():
                answer.add_done_callback(retrieve_exception)
                interruptible.interrupt(rows)


class _Interruptible(Generic[T]):
    """A question that another thread may interrupt, and only itself: what runs after it on the same index is not."""

    def __init__(self, question: Callable[[VehicleIndex], T]) -> None:
        self._question = question
        self._lock = Lock()
        self._is_running = self._is_interrupted = False

    def __call__(self, rows: VehicleIndex) -> T:
        with self._lock:
            if self._is_interrupted:
                raise DeadlineExceeded
            self._is_running = True
        try:
            return self._question(rows)
        finally:
            with self._lock:
                self._is_running = False

    def interrupt(self, rows: VehicleIndex) -> None:
        with self._lock:
            self._is_interrupted = True
            if self._is_running:
                rows.interrupt()


def page_of(vehicles: Sequence[Vehicle]) -> VehiclePage:
    """A page of vehicles that were read one by one."""
    return VehiclePage.of_body(b'{"items":[%b]}' % b",".join(bytes(vehicle.body) for vehicle in vehicles))
