"""Deadlines: how long callers wait, and when abandoned calls are cancelled."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.identity import Caller
from gateway.telemetry.metrics import Metrics
from gateway.upstream.coalescing import SingleFlight, Uncoalesced
from gateway.upstream.requests import RequestScope, RequestStats
from tests.upstream.fakes import FakeFetcher, Sending, vehicle_read


def hurried(seconds: float | None) -> RequestScope:
    deadline = Deadline() if seconds is None else Deadline.after(seconds)
    return RequestScope(Caller("alice"), RequestStats(), deadline=deadline)


class HeldUp(FakeFetcher):
    """Responds when its gate opens, and counts the calls that were cancelled before."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.cancelled = 0

    async def fetch(self, read):
        try:
            return await super().fetch(read)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("kind", [SingleFlight, Uncoalesced])
async def test_the_deadline_ends_the_wait_and_the_call(kind):
    """At the deadline the read fails, and a call without waiters is cancelled."""
    fleet = HeldUp()
    flights = kind(Sending(), fleet, Metrics())
    with pytest.raises(DeadlineExceeded):
        await flights.fetch(vehicle_read(by=hurried(0.02)))
    await flights.settle()
    assert fleet.cancelled == 1
    await asyncio.sleep(0)
    assert len(flights) == 0


async def test_a_call_lasts_as_long_as_anyone_waits():
    """The first caller fails at its deadline; one that joined with more time gets the response of the same call."""
    fleet = HeldUp()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leader = asyncio.create_task(flights.fetch(vehicle_read(by=hurried(0.02))))
    follower = asyncio.create_task(flights.fetch(vehicle_read(by=hurried(5))))
    with pytest.raises(DeadlineExceeded):
        await leader
    fleet.gate.set()
    assert (await follower).value is not None
    assert (fleet.total, fleet.cancelled) == (1, 0)


async def test_cancelling_a_deadline_ends_all_waits():
    """It ends each read in progress and prevents new ones."""
    fleet = HeldUp()
    flights = SingleFlight(Sending(), fleet, Metrics())
    scope = hurried(None)
    reads = [asyncio.create_task(flights.fetch(vehicle_read(name, by=scope))) for name in "AB"]
    await asyncio.sleep(0.001)
    scope.deadline.cancel()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(result) for result in results] == [DeadlineExceeded] * 2
    with pytest.raises(DeadlineExceeded):
        await flights.fetch(vehicle_read("C", by=scope))
    await flights.settle()
    assert (fleet.total, fleet.cancelled) == (2, 2)


async def test_a_cancelled_call_is_not_joined():
    """A read that equals a call being cancelled starts a call of its own."""
    fleet = HeldUp()
    flights = SingleFlight(Sending(), fleet, Metrics())
    leaving = hurried(None)
    first = asyncio.create_task(flights.fetch(vehicle_read(by=leaving)))
    await asyncio.sleep(0.001)
    leaving.deadline.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(flights.fetch(vehicle_read(by=hurried(None))))
    await asyncio.sleep(0.001)
    fleet.gate.set()
    assert (await second).value is not None
    assert fleet.total == 2


def test_the_remaining_seconds_are_never_negative():
    """And infinite without a time; a deadline that has passed or was cancelled fails its check."""
    now = time.monotonic()
    assert Deadline().remaining == math.inf
    assert 50 < Deadline(now + 60).remaining <= 60
    assert Deadline(now - 60).remaining == 0
    assert 50 < Deadline.after(60).at - now < 70
    for deadline in (Deadline(), Deadline(now + 60)):
        deadline.check()
        deadline.cancel()
        with pytest.raises(DeadlineExceeded):
            deadline.check()
    with pytest.raises(DeadlineExceeded):
        Deadline(now - 60).check()


@pytest.mark.parametrize(
    ("at", "to", "moved"), [(5.0, 9.0, 9.0), (5.0, 3.0, 5.0), (5.0, None, None), (None, 9.0, None), (None, None, None)]
)
def test_a_deadline_is_only_moved_to_a_later_time(at, to, moved):
    """None is the latest."""
    deadline = Deadline(at)
    deadline.extend(to)
    assert deadline.at == moved


@pytest.mark.parametrize("deadline", [Deadline(), Deadline(0.0)])
async def test_a_result_that_is_there_is_returned(deadline):
    """Even after the deadline, as a result or as an exception."""
    work = asyncio.get_running_loop().create_future()
    work.set_result("done")
    assert await deadline.wait(work) == "done"
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(ValueError())
    with pytest.raises(ValueError):  # noqa: PT011 - it has no message
        await deadline.wait(failed)


async def test_the_result_is_returned_once_it_is_there(monkeypatch):
    """To all who wait for it; they share one timer, which ends when the deadline is closed."""
    loop, timers = asyncio.get_running_loop(), []
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda *each: timers.append(call_later(*each)) or timers[-1])
    deadline, work = Deadline.after(60), loop.create_future()
    waits = [asyncio.create_task(deadline.wait(work)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    work.set_result("done")
    assert await asyncio.gather(*waits) == ["done", "done"]
    assert [timer.cancelled() for timer in timers] == [False]
    deadline.close()
    Deadline().close()
    assert [timer.cancelled() for timer in timers] == [True]


@pytest.mark.parametrize("deadline", [Deadline.after(0.01), Deadline(0.0)])
async def test_at_the_deadline_the_wait_ends_and_the_work_goes_on(deadline):
    """The future is not cancelled, and can still be set."""
    work = asyncio.get_running_loop().create_future()
    with pytest.raises(DeadlineExceeded):
        await deadline.wait(work)
    work.set_result("late")
    assert await deadline.wait(work) == "late"


async def test_cancelling_ends_the_waits_once():
    """A deadline may be cancelled twice, and while the result comes; later waits for other work end at once."""
    deadline, loop = Deadline(), asyncio.get_running_loop()
    never, soon = loop.create_future(), loop.create_future()
    waits = [asyncio.create_task(deadline.wait(work)) for work in (never, soon)]
    await asyncio.sleep(0)
    deadline.cancel()
    deadline.cancel()
    soon.set_result("just in time")
    failure, result = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(failure, DeadlineExceeded)
    assert result == "just in time"
    with pytest.raises(DeadlineExceeded):
        await deadline.wait(never)
    event = loop.create_future()
    await deadline.wait_event(event)
    assert not event.done()


async def test_a_cancelled_waiter_does_not_cancel_the_work():
    """Others may wait for it."""
    deadline, work = Deadline(), asyncio.get_running_loop().create_future()
    wait = asyncio.create_task(deadline.wait(work))
    await asyncio.sleep(0)
    wait.cancel()
    await asyncio.gather(wait, return_exceptions=True)
    assert not work.cancelled()
