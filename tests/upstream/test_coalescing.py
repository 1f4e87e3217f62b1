"""Single flight: equal concurrent reads share one call, even if some are cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded, UpstreamUnavailable
from gateway.identity import Caller
from gateway.telemetry.metrics import COALESCED, Metrics
from gateway.upstream.coalescing import SingleFlight, Uncoalesced, retrieve_exception
from gateway.upstream.requests import RequestScope, RequestStats, UpstreamResponse
from tests.upstream.fakes import FakeFetcher, Sending, scope, vehicle_read


async def test_followers_get_the_error_too():
    """If the call fails, every waiter gets the same error, and the next read starts a new call."""
    fleet = FakeFetcher()
    fleet.failure = UpstreamUnavailable()
    flights = SingleFlight(Sending(), fleet, Metrics())
    results = await asyncio.gather(*(flights.fetch(vehicle_read()) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamUnavailable] * 5
    assert fleet.total == 1
    with pytest.raises(UpstreamUnavailable):
        await flights.fetch(vehicle_read())
    assert fleet.total == 2


async def test_a_cancelled_leader_does_not_end_the_flight():
    """The others still get the response of the one call."""
    fleet = FakeFetcher()
    fleet.gate = asyncio.Event()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leader, follower = (asyncio.create_task(flights.fetch(vehicle_read())) for _ in range(2))
    await asyncio.sleep(0.001)
    leader.cancel()
    await asyncio.sleep(0.001)
    fleet.gate.set()
    assert (await follower).value is not None
    assert fleet.total == 1
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_flights_are_not_shared_between_principals():
    """Equal concurrent reads of two callers are two calls."""
    fleet = FakeFetcher()
    flights = SingleFlight(Sending(), fleet, Metrics())
    replies = await asyncio.gather(*(flights.fetch(vehicle_read(by=scope(name))) for name in ("alice", "bob")))
    assert replies[0].value != replies[1].value
    assert fleet.total == 2


async def test_a_complete_flight_is_removed():
    """`settle` waits for flights in progress, and none remains."""
    fleet = FakeFetcher()
    flights = SingleFlight(Sending(), fleet, Metrics())
    await asyncio.gather(*(flights.fetch(vehicle_read(str(number))) for number in range(10)))
    await flights.settle()
    await asyncio.sleep(0)
    assert flights._flights == {}


async def iterations() -> None:
    """Lets everything run that need not wait."""
    for _ in range(9):
        await asyncio.sleep(0)


class Gated(FakeFetcher):
    """Responds to each request when its path is opened, and records the most requests at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        self.running = self.most = 0

    async def fetch(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gates.setdefault(request.item_id, asyncio.Event()).wait()
            return await super().fetch(request)
        finally:
            self.running -= 1

    async def open(self, vehicle_id: str) -> None:
        self.gates.setdefault(vehicle_id, asyncio.Event()).set()
        await iterations()


def scope_until(at: float | None) -> RequestScope:
    return RequestScope(Caller("alice"), RequestStats(), deadline=Deadline(at))


@pytest.mark.parametrize("kind", [SingleFlight, Uncoalesced])
async def test_a_batch_has_a_bounded_number_of_calls_in_progress(kind):
    """The next one starts when any of them completes; the responses are in the order of the requests."""
    fleet = Gated()
    flights = kind(Sending(), fleet, Metrics())
    batch = asyncio.create_task(flights.fetch_all([vehicle_read(each) for each in "ABCDE"], 2))
    await iterations()
    for opened, started in (("B", "ABC"), ("C", "ABCD"), ("A", "ABCDE"), ("E", "ABCDE")):
        await fleet.open(opened)
        assert "".join(fleet.gates) == started
        assert len(flights) == fleet.running
    assert not batch.done()
    await fleet.open("D")
    assert [outcome.value.vehicle_id[-1] for outcome in await batch] == [*"ABCDE"]
    assert (fleet.most, len(flights)) == (2, 0)


async def test_equal_requests_of_a_batch_are_one_call():
    """The second one is counted as coalesced, and its place goes to the next request."""
    counted = []
    metrics = Metrics()
    metrics.count = lambda metric, labels=(), number=1: counted.append((metric, labels))
    fleet = FakeFetcher()
    flights = SingleFlight(Sending(), fleet, metrics)
    by = scope()
    requests = [vehicle_read(each, by) for each in ("A", "A", "B")]
    outcomes = await flights.fetch_all(requests, 2)
    assert [outcome.value.vehicle_id[-1] for outcome in outcomes] == ["A", "A", "B"]
    assert fleet.calls == {"/vehicles/A": 1, "/vehicles/B": 1}
    assert by.stats.coalesced == 1
    assert [request.source for request in requests] == ["call", "coalesced", "call"]
    assert counted == [(COALESCED, ("vehicle",))]


async def test_equal_requests_are_calls_of_their_own_without_coalescing_or_for_writes():
    """Each is sent."""
    fleet = FakeFetcher()
    await Uncoalesced(Sending(), fleet, Metrics()).fetch_all([vehicle_read(), vehicle_read()], 2)
    assert fleet.total == 2
    flights, writes = SingleFlight(Sending(), fleet, Metrics()), [vehicle_read(), vehicle_read()]
    for write in writes:
        write.endpoint = replace(write.endpoint, idempotent=False)
    await flights.fetch_all(writes, 2)
    assert (fleet.total, len(flights), writes[1].stats.coalesced) == (4, 0, 0)


@pytest.mark.parametrize("kind", [SingleFlight, Uncoalesced])
async def test_calls_that_complete_at_once_need_no_wait(kind):
    """As when the circuit is open: the whole batch is complete."""

    class Complete:
        def steps(self, call):
            call.response = UpstreamResponse(call.request.item_id)
            return
            yield

    flights = kind(Complete(), FakeFetcher(), Metrics())
    outcomes = await flights.fetch_all([vehicle_read(each) for each in "ABC"], 1)
    assert [outcome.value for outcome in outcomes] == [*"ABC"]
    assert len(flights) == 0
    assert await flights.fetch_all([], 1) == []


@pytest.mark.parametrize("kind", [SingleFlight, Uncoalesced])
async def test_at_the_deadline_complete_calls_keep_their_responses(kind):
    """The others are late, and cancelled; after the deadline no call starts."""
    fleet = Gated()
    flights = kind(Sending(), fleet, Metrics())
    by = scope_until(None)
    batch = asyncio.create_task(flights.fetch_all([vehicle_read(each, by) for each in "ABC"], 2))
    await fleet.open("A")
    by.deadline.cancel()
    first, *late = await batch
    assert first.value.vehicle_id.endswith("A")
    assert [type(outcome) for outcome in late] == [DeadlineExceeded] * 2
    await flights.settle()
    assert (len(flights), fleet.running) == (0, 0)
    started = len(fleet.gates)
    assert [type(each) for each in await flights.fetch_all([vehicle_read("D", by)] * 2, 2)] == [DeadlineExceeded] * 2
    assert len(fleet.gates) == started


@pytest.mark.parametrize("kind", [SingleFlight, Uncoalesced])
async def test_settling_waits_for_all_calls(kind):
    """Without any it returns at once."""
    fleet = Gated()
    flights = kind(Sending(), fleet, Metrics())
    await flights.settle()
    reads = [asyncio.create_task(flights.fetch(vehicle_read(each))) for each in "AB"]
    await iterations()
    settled = asyncio.create_task(flights.settle())
    await fleet.open("A")
    assert not settled.done()
    await fleet.open("B")
    await settled
    await asyncio.gather(*reads)
    assert len(flights) == 0


@pytest.mark.parametrize(
    ("deadlines", "latest"), [((50, 90, 70), 90), ((50, 40, 30), 50), ((50, None, 90), None), ((None, 50), None)]
)
async def test_the_deadline_of_a_shared_call_is_the_latest(deadlines, latest):
    """Those of its callers do not change."""
    loop_time = 10**9
    fleet = Gated()
    flights = SingleFlight(Sending(), fleet, Metrics())
    scopes = [scope_until(None if at is None else loop_time + at) for at in deadlines]
    reads = [asyncio.create_task(flights.fetch(vehicle_read(by=by))) for by in scopes]
    await iterations()
    (flight,) = flights._flights.values()
    assert flight.request.deadline.at == (None if latest is None else loop_time + latest)
    assert [by.deadline.at for by in scopes] == [None if at is None else loop_time + at for at in deadlines]
    await fleet.open("A")
    await asyncio.gather(*reads)


async def test_an_abandoned_call_and_its_successor_are_both_settled():
    """The abandoned one may still need a while to end."""
    ending = asyncio.Event()

    class Slow(Gated):
        async def fetch(self, request):
            try:
                return await super().fetch(request)
            except asyncio.CancelledError:
                await ending.wait()
                raise

    fleet = Slow()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leaving = scope_until(None)
    first = asyncio.create_task(flights.fetch(vehicle_read(by=leaving)))
    await iterations()
    leaving.deadline.cancel()
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], DeadlineExceeded)
    second = asyncio.create_task(flights.fetch(vehicle_read()))
    await iterations()
    assert len(flights) == 2
    await fleet.open("A")
    assert (await second).value is not None
    settled = asyncio.create_task(flights.settle())
    await iterations()
    assert (len(flights), settled.done()) == (1, False)
    ending.set()
    await settled
    assert len(flights) == 0


async def test_an_unwanted_failure_is_not_logged():
    """Neither is a cancelled future."""
    loop, logged = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: logged.append(context))
    failed = loop.create_future()
    failed.set_exception(ValueError())
    retrieve_exception(failed)
    del failed
    cancelled = loop.create_future()
    cancelled.cancel()
    retrieve_exception(cancelled)
    assert logged == []
