"""The steps of a call without any I/O, and the driver over a transport that is played by hand."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import structlog

from gateway.errors import (
    Problem,
    RateLimited,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.settings import BreakerSettings, RetrySettings
from gateway.upstream.circuit import Circuit
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.requests import SEND, Rate, UpstreamResponse
from gateway.upstream.resilience import Resilience
from gateway.upstream.retry import RetryPolicy
from tests.upstream.fakes import Clock, Sending, vehicle_read

RATE = Rate(10, 5, 1_000_060.0)


class Limiter:
    """A rate limiter with one answer, that notes what it is told."""

    def __init__(self, wait: object = None) -> None:
        self.wait, self.reported, self.pending = wait, [], None

    def knows(self, client):
        return self.wait is not None

    def take(self, client, at, wait_max):
        self.reported.append(("take", at, wait_max))
        return self.wait

    def update(self, client, rate):
        self.reported.append(("update", rate))
        return self.pending

    def block(self, client, until):
        self.reported.append(("block", until))
        return self.pending


class Steps:
    """The steps of one call with ten seconds left, taken by hand."""

    def __init__(self, limiter: Limiter | None = None, attempts: int = 1, **breaker: object) -> None:
        self.clock, self.limiter = Clock(), limiter or Limiter()
        self.circuit = Circuit(BreakerSettings(**{"failure_threshold": 1, **breaker}))
        self.retries = RetryPolicy(RetrySettings(attempts=attempts, backoff=1, budget_ratio=0.25), lambda: 1.0)
        self.layer = Resilience(self.circuit, self.retries, self.limiter, self.clock)
        request = vehicle_read()
        self.call = SimpleNamespace(
            request=SimpleNamespace(
                scope=request.scope, endpoint=request.endpoint, deadline=SimpleNamespace(remaining=10)
            )
        )

    def begin(self):
        return self.layer.steps(self.call)


async def slept(wait) -> float:
    """How long a step sleeps."""
    began = asyncio.get_running_loop().time()
    await wait
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("rate", [None, RATE])
def test_a_plain_call_sends_once_and_counts_as_a_success(rate):
    """It has one step; the rate of its reply goes to the limiter, and the circuit counts it."""
    steps = Steps()
    steps.call.response = UpstreamResponse("answer", rate=rate)
    assert list(steps.begin()) == [SEND]
    assert steps.limiter.reported == ([] if rate is None else [("update", rate)])
    assert [(second.calls, second.failed) for second in steps.circuit._recent] == [(1, 0)]


async def test_what_the_limiter_has_to_wait_for_is_a_step():
    """Its permission, and what it is told, are awaited where they are awaitable."""
    limiter = Limiter(wait=asyncio.sleep(0))
    limiter.pending = asyncio.sleep(0)
    steps = Steps(limiter)
    steps.call.response = UpstreamResponse("answer", rate=RATE)
    running = steps.begin()
    assert next(running) is limiter.wait
    assert running.send(0.0) is SEND
    assert next(running) is limiter.pending
    assert next(running, None) is None
    assert limiter.reported == [("take", 1_000_000.0, 10), ("update", RATE)]
    await asyncio.gather(limiter.wait, limiter.pending)


async def test_a_permitted_call_waits_as_long_as_it_has_to():
    """No longer, and not at all where there is no wait."""
    assert next(Steps(Limiter(0.0)).begin()) is SEND
    running = Steps(Limiter(0.05)).begin()
    assert 0.04 < await slept(next(running)) < 1
    assert next(running) is SEND


@pytest.mark.parametrize(("wait", "refused"), [(9.9, None), (10.0, 10), (10.2, 11)])
def test_a_call_that_would_wait_past_its_deadline_is_refused(wait, refused):
    """The refusal names whole seconds, says nothing of the fleet API and blocks nothing."""
    steps = Steps(Limiter(wait))
    if refused is None:
        next(steps.begin()).close()
        return
    with pytest.raises(RateLimited) as failed:
        next(steps.begin())
    assert failed.value.retry_after == refused
    assert [kind for kind, *_ in steps.limiter.reported] == ["take"]
    assert not steps.circuit._recent


@pytest.mark.parametrize(
    ("failure", "reported"),
    [
        (RateLimited(Problem(429), retry_after=7), [("block", 1_000_007.0)]),
        (RateLimited(Problem(429)), []),
        (UpstreamUnavailable(Problem(503), retry_after=7), []),
        (UpstreamTimeout(), []),
    ],
)
@pytest.mark.parametrize("rate", [None, RATE])
def test_the_limiter_learns_from_failures(failure, reported, rate):
    """A 429 blocks until the time that it names; a rate counts whatever it came with."""
    steps = Steps()
    failure.rate = rate
    running = steps.begin()
    next(running)
    with pytest.raises(type(failure)):
        running.throw(failure)
    assert steps.limiter.reported == reported + ([] if rate is None else [("update", rate)])


async def test_what_a_failure_has_to_wait_for_is_a_step():
    """It is awaited before the failure goes on."""
    limiter = Limiter()
    limiter.pending = asyncio.sleep(0)
    running = Steps(limiter).begin()
    next(running)
    assert running.throw(RateLimited(Problem(429), retry_after=7)) is limiter.pending
    with pytest.raises(RateLimited):
        next(running)
    await limiter.pending


async def test_retries_are_sent_after_their_delays():
    """Attempt, delay, attempt: the circuit counts the outcome of all of them as one."""
    steps = Steps(attempts=3)
    steps.retries._settings = RetrySettings(attempts=3, backoff=0.02)
    running = steps.begin()
    assert next(running) is SEND
    assert 0.01 < await slept(running.throw(UpstreamTimeout())) < 1
    assert next(running) is SEND
    running.throw(UpstreamUnavailable()).close()
    assert next(running) is SEND
    with pytest.raises(UpstreamUnavailable):
        running.throw(UpstreamUnavailable())
    assert steps.circuit.is_open


def test_each_read_saves_for_retries_once_the_budget_is_not_full():
    """One read is one share, however many attempts it takes."""
    steps = Steps()
    while steps.retries.budget.spend():
        pass
    for _ in range(4):
        steps.call.response = UpstreamResponse("answer")
        assert not steps.retries.budget.spend()
        list(steps.begin())
    assert steps.retries.budget.spend()


def test_an_open_circuit_refuses_without_a_step():
    """The refusal names the wait in tenths of a second; a probe is sent when it is over."""
    steps = Steps(open_seconds=1)
    running = steps.begin()
    next(running)
    with structlog.testing.capture_logs() as logs, pytest.raises(UpstreamUnavailable):
        running.throw(UpstreamUnavailable())
    assert [log["event"] for log in logs] == ["circuit opened"]
    steps.clock.time += 0.75
    with pytest.raises(UpstreamUnavailable) as refused:
        next(steps.begin())
    assert refused.value.retry_after == 0.3
    steps.clock.time += 0.25
    steps.call.response = UpstreamResponse("answer")
    with structlog.testing.capture_logs() as logs:
        assert list(steps.begin()) == [SEND]
    assert [log["event"] for log in logs] == ["circuit closed"]


@pytest.mark.parametrize("end", [asyncio.CancelledError(), KeyError("a bug")])
def test_a_call_that_is_cancelled_or_breaks_says_nothing(end):
    """Neither is an answer of the fleet API's, nor the lack of one."""
    steps = Steps()
    running = steps.begin()
    next(running)
    with pytest.raises(type(end)):
        running.throw(end)
    assert not steps.circuit._recent


class ByHand:
    """A transport whose answers a test gives."""

    def __init__(self, *, inline: bool = True, broken: Exception | None = None) -> None:
        self.sends_inline, self.broken, self.calls, self.gate = inline, broken, [], asyncio.Event()

    def begin(self, request, call):
        if self.broken is not None:
            raise self.broken
        self.calls.append(call)

    def response_to(self, request, parts):
        if isinstance(parts[2], Exception):
            raise parts[2]
        return UpstreamResponse(parts[2])

    async def fetch(self, request):
        await self.gate.wait()
        return UpstreamResponse("fetched")


@pytest.mark.parametrize(
    ("answer", "is_its"),
    [
        ("answer", True),
        (UpstreamForbidden(), True),
        (UpstreamInvalidResponse(), False),
        (KeyError("a bug"), True),
    ],
)
async def test_an_answer_completes_the_call_in_its_turn(answer, is_its):
    """Reply or failure, it is there without a task; the connection is told whether the answer can be the call's."""
    sender = ByHand()
    flights = Uncoalesced(Sending(), sender)
    flight = flights.flight_of(vehicle_read())
    assert (flight.done(), len(flights)) == (False, 1)
    assert sender.calls[0].set_result((200, {}, answer)) is is_its
    assert flight.outcome is answer or flight.outcome.value == answer
    assert (flight.done(), len(flights), flight.task) == (True, 0, None)


@pytest.mark.parametrize(
    ("broken", "outcome"),
    [
        (OSError(), UpstreamUnavailable),
        (TimeoutError(), UpstreamTimeout),
        (UpstreamRejected(), UpstreamRejected),
        (KeyError("a bug"), KeyError),
    ],
)
async def test_a_request_that_cannot_be_sent_fails_at_once(broken, outcome):
    """The call is complete before it is waited for, and others of its batch start."""
    flights = Uncoalesced(Sending(), ByHand(broken=broken))
    outcomes = await flights.fetch_all([vehicle_read(name) for name in "ABC"], 1)
    assert [type(each) for each in outcomes] == [outcome] * 3
    assert len(flights) == 0


async def test_a_lost_connection_is_told_as_our_error():
    """What the transport raises never reaches the waiters."""
    sender = ByHand()
    flight = Uncoalesced(Sending(), sender).flight_of(vehicle_read())
    sender.calls[0].set_exception(OSError())
    assert type(flight.outcome) is UpstreamUnavailable


async def test_a_transport_that_has_to_wait_is_awaited_in_a_task():
    """The task ends with the reply, and nothing refers to it any more."""
    sender = ByHand(inline=False)
    flights = Uncoalesced(Sending(), sender)
    flight = flights.flight_of(vehicle_read())
    assert flight.task is not None
    sender.gate.set()
    await flights.settle()
    assert (flight.outcome.value, flight.task, sender.calls) == ("fetched", None, [])


class Cleaning:
    """A layer that has to wait before it ends, whatever ended it."""

    def __init__(self) -> None:
        self.cleaned = 0

    def steps(self, call):
        try:
            yield SEND
        finally:
            yield self.clean()

    async def clean(self):
        await asyncio.sleep(0)
        self.cleaned += 1


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("turns", [0, 3])
async def test_a_cancelled_call_takes_its_last_steps(inline, turns):
    """However early it is cancelled, and whether it runs inline or in a task; its connection is closed."""
    layer, sender = Cleaning(), ByHand(inline=inline)
    flights = Uncoalesced(layer, sender)
    flight = flights.flight_of(vehicle_read())
    closed = []
    if inline:
        flight.connection = SimpleNamespace(close=lambda: closed.append(1))
    for _ in range(turns):
        await asyncio.sleep(0)
    flight.waiters = 1
    flight.leave()
    assert flight.done()
    await flights.settle()
    assert (layer.cleaned, len(closed)) == (1, inline)
    assert isinstance(flight.outcome, asyncio.CancelledError)


async def test_a_failure_in_a_task_takes_the_last_steps():
    """The layers see it where they wait."""
    layer, sender = Cleaning(), ByHand(inline=False)
    sender.fetch = failing
    flights = Uncoalesced(layer, sender)
    with pytest.raises(UpstreamTimeout):
        await flights.fetch(vehicle_read())
    assert layer.cleaned == 1


async def failing(request):
    raise UpstreamTimeout
