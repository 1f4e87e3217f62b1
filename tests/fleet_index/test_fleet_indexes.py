"""Indexes of fleets: one scan for all who ask, answers only about complete fleets, refreshes, memory and expiry."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.concurrency.deadline import Deadline
from gateway.errors import (
    DeadlineExceeded,
    FleetIncomplete,
    GatewayError,
    UpstreamForbidden,
    UpstreamRejected,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.fleet_index.fleet_indexes import FleetIndexes
from gateway.identity import Caller
from gateway.settings import FleetIndexSettings
from gateway.telemetry.metrics import INDEX_SCANS, INDEXED_VEHICLES, Metrics
from gateway.upstream.changes import Change, Changes
from gateway.upstream.models import Cursors, Vehicle, decoded
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope, RequestStats

ALICE, BOB = Caller("alice"), Caller("bob")
# A query that takes longer than any deadline.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


class CountedMetrics(Metrics):
    """Sums what is counted, by metric and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[Any, float] = {}

    def count(self, metric, labels=(), number=1):
        self.counts[metric.name, labels] = self.counts.get((metric.name, labels), 0) + number


class FakeClient:
    """A fleet API of `pages`, each a list of vehicles; `failures` are raised by token, and `gates` are waited for."""

    def __init__(self, *pages: list[dict[str, Any]]) -> None:
        self.pages = list(pages)
        self.failures: dict[str | None, list[GatewayError]] = {}
        self.gates: dict[str | None, asyncio.Event] = {}
        self.waiting = asyncio.Event()  # set once a read waits for its gate
        self.reads: list[Any] = []
        self.next_of: dict[str | None, str] = {}
        self.age = 0.0
        self.clock = Clock()
        self._made: dict[bytes, VehiclePage] = {}

    async def vehicles(self, scope, *, cursor=None, bypass_cache=False, revalidate=False):
        self.reads.append(cursor if not bypass_cache else (cursor, "bypass_cache"))
        scope.stats.upstream_calls += 1
        if cursor in self.gates:
            self.waiting.set()
            await self.gates[cursor].wait()
        if self.failures.get(cursor):
            raise self.failures[cursor].pop(0)
        scope.stats.accepted = True
        number = int(cursor or 0)
        following = str(number + 1) if number + 1 < len(self.pages) else None
        cursors = Cursors(next=self.next_of.get(cursor, following))
        body = msgspec.json.encode({"items": self.pages[number], "cursors": cursors})
        stored_at = self.clock.time - self.age
        scope.stats.used(stored_at, stored_at + 30, stale=False)
        page = self._made.get(body)
        if page is None:
            page = self._made[body] = VehiclePage.of_body(body)
        return page

    async def vehicles_by_id(self, scope, ids):
        self.reads += sorted(ids)
        known = {vehicle["id"]: vehicle for page in self.pages for vehicle in page}
        return {i: decoded(msgspec.json.encode(known[i]), Vehicle) if i in known else None for i in ids}


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def vehicles(*ids: str, **members: Any) -> list[dict[str, Any]]:
    return [{"id": vehicle_id, "latest_state": {}, **members} for vehicle_id in ids]


class Fixture:
    """Indexes over a fake client of three pages."""

    def __init__(self, *, cached: bool = True, pages_max: int = 10, **settings: Any) -> None:
        self.client = FakeClient(vehicles("A", "B"), vehicles("C", "D"), vehicles("E"))
        self.clock = self.client.clock
        self.metrics = CountedMetrics()
        self.changes = Changes()
        self.indexes = FleetIndexes(
            self.client,
            self.changes,
            {},
            FleetIndexSettings(**settings),
            self.clock,
            self.metrics,
            pages_max=pages_max,
            cached=cached,
        )

    async def count(self, caller: Caller = ALICE, seconds: float = 5.0) -> int:
        return (await self.ask(caller, seconds))[0]

    async def ask(self, caller: Caller = ALICE, seconds: float = 5.0) -> tuple[int, RequestStats]:
        scope = RequestScope(caller, RequestStats(reads=[]), deadline=Deadline.after(seconds))
        answer = await self.indexes.ask(scope, len)
        assert answer.as_of == scope.stats.oldest
        return answer.value, scope.stats

    @property
    def reads(self) -> list[Any]:
        reads, self.client.reads = self.client.reads, []
        return reads

    @property
    def indexed(self) -> float:
        """The vehicles that were indexed since the last look."""
        return self.metrics.counts.pop((INDEXED_VEHICLES.name, ()), 0)

    async def settled(self) -> None:
        """Waits for the scans in progress."""
        scans = [index.scan.task for _, index in self.indexes._indexes.items() if index.scan is not None]
        if scans:
            await asyncio.wait(scans)


@pytest.fixture
async def made():
    """Makes fixtures, and closes their indexes."""
    fixtures: list[Fixture] = []

    def make(**settings: Any) -> Fixture:
        fixtures.append(Fixture(**settings))
        return fixtures[-1]

    yield make
    for each in fixtures:
        await each.indexes.close()


async def test_all_who_ask_share_one_scan(made):
    """Twenty concurrent questions cost the calls of one scan, which are counted for one of them."""
    fleet = made()
    asked = await asyncio.gather(*(fleet.ask(Caller("alice")) for _ in range(20)))
    assert [count for count, _ in asked] == [5] * 20
    assert fleet.reads == [None, "1", "2"]
    assert sorted(stats.upstream_calls for _, stats in asked) == [0] * 19 + [3]
    assert sum(stats.coalesced for _, stats in asked) == 19
    assert fleet.indexed == 5


async def test_each_principal_has_an_index_of_its_own(made):
    """Another principal's question is answered from its own scan."""
    fleet = made()
    assert await fleet.count(ALICE) == 5
    fleet.client.pages = [vehicles("X")]
    assert await fleet.count(BOB) == 1
    assert await fleet.count(ALICE) == 5


async def test_a_fresh_index_answers_without_a_call(made):
    """Its answers are cache hits, and can't be cached by the reads behind them."""
    fleet = made()
    await fleet.count()
    fleet.clock.time += 59
    assert fleet.indexes.is_fresh(ALICE)
    assert fleet.reads == [None, "1", "2"]
    count, stats = await fleet.ask()
    assert (count, fleet.reads) == (5, [])
    assert (stats.cache_hits, stats.upstream_calls, stats.stale, stats.reads) == (1, 0, False, None)


async def test_an_index_is_as_old_as_its_oldest_page(made):
    """A page that was cached 50 seconds before the scan makes the index stale ten seconds after it."""
    fleet = made()
    fleet.client.age = 50
    await fleet.count()
    fleet.clock.time += 11
    assert not fleet.indexes.is_fresh(ALICE)


async def test_a_stale_index_answers_while_the_fleet_is_scanned_again(made):
    """The refresh indexes only the vehicles that changed, and drops those that are gone."""
    fleet = made()
    await fleet.count()
    assert fleet.indexed == 5
    fleet.client.pages = [vehicles("A", "B"), [*vehicles("C", tags=["x"]), *vehicles("F")]]
    fleet.clock.time += 61
    count, stats = await fleet.ask()
    assert (count, stats.stale, stats.upstream_calls) == (5, True, 0)
    await fleet.settled()
    assert await fleet.count() == 4
    assert fleet.indexed == 2
    assert fleet.indexes.is_fresh(ALICE)


async def test_a_refresh_of_an_unchanged_fleet_indexes_nothing(made):
    """Pages that are equal cost no work."""
    fleet = made()
    await fleet.count()
    assert fleet.indexed == 5
    fleet.clock.time += 500
    assert await fleet.count() == 5
    assert fleet.reads == [None, "1", "2"] * 2
    assert fleet.indexed == 0


async def test_without_a_cache_each_question_waits_for_a_scan(made):
    """Nothing is kept that could be stale."""
    fleet = made(cached=False)
    await fleet.count()
    fleet.client.pages = [vehicles("A")]
    count, stats = await fleet.ask()
    assert (count, stats.stale) == (1, False)
    assert fleet.reads == [None, "1", "2", None]


async def test_a_scan_that_fails_gives_no_partial_answer(made):
    """The error says how far it came and why; the next question scans again."""
    fleet = made()
    fleet.client.failures["2"] = [UpstreamUnavailable(retry_after=3)]
    with pytest.raises(FleetIncomplete) as failed:
        await fleet.count()
    assert failed.value.extensions() == {
        "code": "FLEET_INCOMPLETE",
        "cause": "UPSTREAM_UNAVAILABLE",
        "pagesRead": 2,
        "vehiclesRead": 4,
        "retryable": True,
        "retryAfter": 3,
    }
    assert "4 vehicles on 2 pages" in str(failed.value)
    assert await fleet.count() == 5
    assert fleet.metrics.counts[INDEX_SCANS.name, ("failed",)] == 1


async def test_an_operation_begins_no_second_scan_after_one_failed(made):
    """Its other questions get the same error."""
    fleet = made()
    fleet.client.failures[None] = [UpstreamUnavailable()]
    scope = RequestScope(ALICE, RequestStats())
    for _ in range(2):
        with pytest.raises(FleetIncomplete):
            await fleet.indexes.ask(scope, len)
    assert fleet.reads == [None]


async def test_a_page_that_hangs_ends_the_wait_but_not_the_scan(made):
    """The caller gets an error at its deadline; once the page arrives, the next question is answered."""
    fleet = made()
    gate = fleet.client.gates["2"] = asyncio.Event()
    with pytest.raises(FleetIncomplete) as failed:
        await fleet.count(seconds=0.05)
    assert failed.value.extensions()["cause"] == "DEADLINE_EXCEEDED"
    assert failed.value.pages == 2
    gate.set()
    assert await fleet.count() == 5
    assert fleet.reads == [None, "1", "2"]


async def test_an_outage_keeps_an_old_index_for_some_time(made):
    """Its answers are marked as stale; later they end."""
    fleet = made(stale_while_revalidate=0)
    await fleet.count()
    fleet.client.failures[None] = [UpstreamUnavailable()] * 2
    fleet.clock.time += 300
    count, stats = await fleet.ask()
    assert (count, stats.stale) == (5, True)
    fleet.clock.time += 61
    with pytest.raises(FleetIncomplete):
        await fleet.count()


async def test_a_denied_scan_raises_its_error(made):
    """A missing permission ends the answers of an old index, too."""
    fleet = made(stale_while_revalidate=0)
    await fleet.count()
    fleet.client.failures[None] = [UpstreamForbidden()]
    fleet.clock.time += 61
    with pytest.raises(UpstreamForbidden):
        await fleet.count()


async def test_an_expired_token_of_another_caller_is_not_this_ones_error(made):
    """A caller whose principal's scan began with a token that expires scans with its own."""
    fleet = made()
    gate = fleet.client.gates["1"] = asyncio.Event()
    fleet.client.failures["1"] = [UpstreamUnauthenticated()]
    old, new = Caller("old", "alice"), Caller("new", "alice")
    first = asyncio.create_task(fleet.count(old))
    await asyncio.sleep(0)
    second = asyncio.create_task(fleet.count(new))
    await asyncio.sleep(0)
    gate.set()
    assert await second == 5
    with pytest.raises(UpstreamUnauthenticated):
        await first


async def test_a_rejected_token_of_a_page_restarts_the_scan_without_the_cache(made):
    """A cached page may be older than the fleet API accepts its tokens."""
    fleet = made()
    fleet.client.failures["1"] = [UpstreamRejected()]
    assert await fleet.count() == 5
    assert fleet.reads == [None, "1", (None, "bypass_cache"), ("1", "bypass_cache"), ("2", "bypass_cache")]


@pytest.mark.parametrize(
    ("pages_max", "cause"), [(2, "WALK_LIMIT_EXCEEDED"), (10, "UPSTREAM_INVALID_RESPONSE")]
)  # fmt: skip
async def test_a_list_without_end_is_an_error(made, pages_max, cause):
    """Pages that lead back to an earlier one, and more pages than a scan may read."""
    fleet = made(pages_max=pages_max)
    fleet.client.next_of["2"] = "1"
    with pytest.raises(FleetIncomplete) as failed:
        await fleet.count()
    assert failed.value.extensions()["cause"] == cause


def written(number: int | None, vehicle_id: str | None, *groups: str, write: str = "w") -> Change:
    """A write that has ended, or is open if it has no number."""
    return Change(write, vehicle_id, (), groups or ("",), 60.0, number)


async def test_a_changed_vehicle_is_read_again_before_the_next_answer(made):
    """One call for it; a vehicle that is gone is dropped, a new one is added."""
    fleet = made()
    await fleet.count()
    fleet.client.pages = [vehicles("A", "B"), vehicles("C"), vehicles("E", "F")]
    for number, vehicle_id in enumerate("ADF", 1):
        fleet.changes.apply(written(number, vehicle_id))
    assert not fleet.indexes.is_fresh(ALICE)
    assert fleet.reads == [None, "1", "2"]
    assert await fleet.count() == 5
    assert fleet.reads == ["A", "D", "F"]
    assert await fleet.count() == 5
    assert fleet.reads == []


async def test_a_vehicle_is_read_for_each_answer_while_a_write_is_open(made):
    """Nobody knows when it is carried out."""
    fleet = made()
    await fleet.count()
    fleet.changes.apply(written(None, "A"))
    assert (await fleet.count(), await fleet.count()) == (5, 5)
    fleet.client.pages[0] = vehicles("B")
    assert await fleet.count() == 4
    assert fleet.reads == [None, "1", "2", "A", "A", "A"]
    fleet.changes.apply(written(1, "A"))
    assert (await fleet.count(), await fleet.count()) == (4, 4)
    assert fleet.reads == ["A"]


async def test_a_write_that_may_have_added_a_vehicle_needs_a_scan(made):
    """While it is open, and once after it ended; a scan that began before its end is not enough."""
    fleet = made()
    await fleet.count()
    fleet.changes.apply(written(None, None))
    await fleet.count()
    assert fleet.reads == [None, "1", "2"] * 2
    gate = fleet.client.gates["2"] = asyncio.Event()
    asked = asyncio.create_task(fleet.count())
    await fleet.client.waiting.wait()
    fleet.changes.apply(written(1, None))
    fleet.client.pages[0] = vehicles("A", "B", "X")
    gate.set()
    assert await asked == 6
    assert fleet.reads == [None, "1", "2"] * 2
    assert await fleet.count() == 6
    assert fleet.reads == []


async def test_a_change_during_a_scan_is_not_lost(made):
    """The page of the vehicle may have been read before the write."""
    fleet = made()
    gate = fleet.client.gates["2"] = asyncio.Event()
    asked = asyncio.create_task(fleet.count())
    await fleet.client.waiting.wait()
    fleet.changes.apply(written(1, "A"))
    fleet.client.pages[0] = vehicles("B")
    gate.set()
    assert await asked == 4


async def test_while_the_writes_of_others_are_unknown_each_question_needs_a_scan(made):
    """Other processes may write, of which this one hears nothing."""
    fleet = made()
    await fleet.count()
    fleet.changes.lose()
    await fleet.count()
    await fleet.count()
    assert fleet.reads == [None, "1", "2"] * 3
    fleet.changes.resume(7)
    await fleet.count()
    await fleet.count()
    assert fleet.reads == [None, "1", "2"]


async def test_a_change_concerns_only_some_fleets(made):
    """The others' indexes stay fresh."""
    fleet = made()
    own, other = Caller("1", fleet="F1"), Caller("2", fleet="F2")
    await fleet.count(own)
    await fleet.count(other)
    fleet.changes.apply(written(1, "A", "F1", ""))
    assert (fleet.indexes.is_fresh(own), fleet.indexes.is_fresh(other)) == (False, True)


async def test_an_index_is_dropped_with_its_principals_last_token(made):
    """Not with the first one that expires."""
    fleet = made()
    now = fleet.clock.time
    await fleet.count(Caller("1", "alice", expires_at=now + 10))
    await fleet.count(Caller("2", "alice", expires_at=now + 20))
    assert fleet.reads == [None, "1", "2"]
    fleet.clock.time += 15
    await fleet.count(BOB)
    assert len(fleet.indexes._indexes) == 2
    fleet.clock.time += 5
    await fleet.count(BOB)
    assert [principal for principal, _ in fleet.indexes._indexes.items()] == [BOB.principal]


async def test_an_unused_index_is_dropped(made):
    """Opaque tokens have no known expiry."""
    fleet = made(idle=100)
    await fleet.count(ALICE)
    fleet.clock.time += 101
    await fleet.count(BOB)
    assert [principal for principal, _ in fleet.indexes._indexes.items()] == [BOB.principal]


async def test_the_memory_of_all_indexes_is_bounded(made):
    """The one that was used longest ago makes room."""
    fleet = made(bytes_max=3 * 2**20)
    fleet.client.pages = [vehicles(*(f"V{number}" for number in range(500)), custom_fields={"a": "b" * 500})]
    for number in range(8):
        await fleet.count(Caller(f"{number}"))
        assert fleet.indexes._indexes.bytes <= 3 * 2**20
    kept = [principal for principal, _ in fleet.indexes._indexes.items()]
    assert 1 <= len(kept) < 8
    assert kept[-1] == Caller("7").principal


async def test_a_fleet_that_is_too_large_is_an_error(made):
    """It says which limit there is, and leaves nothing behind."""
    fleet = made(bytes_max=2**20)
    fleet.client.pages = [vehicles(*(f"V{number}" for number in range(2_000)), custom_fields={"a": "b" * 500})]
    with pytest.raises(FleetIncomplete) as failed:
        await fleet.count()
    assert failed.value.extensions()["cause"] == "INDEX_FULL"
    assert fleet.indexes._indexes.bytes == 0


async def test_a_question_is_interrupted_at_its_deadline_and_nothing_else(made):
    """A query that takes too long ends on its thread; the next one is answered."""
    fleet = made()
    await fleet.count()
    scope = RequestScope(ALICE, RequestStats(), deadline=Deadline.after(0.05))
    with pytest.raises(GatewayError):
        await fleet.indexes.ask(scope, lambda rows: rows._query(ENDLESS, []))
    assert await fleet.count(seconds=1) == 5


async def test_a_question_about_some_pages_is_interrupted_too(made):
    """It runs on the same thread, for which others wait."""
    fleet = made()
    scope = RequestScope(ALICE, RequestStats(), deadline=Deadline.after(0.05))
    with pytest.raises(DeadlineExceeded):
        await fleet.indexes.ask_about(scope, [], lambda rows: rows._query(ENDLESS, []))
    assert await fleet.count(seconds=1) == 5
