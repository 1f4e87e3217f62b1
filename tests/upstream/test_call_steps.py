"""The steps of a call without any I/O, and their driver over a fake transport."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
import structlog

from gateway.errors import (
    DeadlineExceeded,
    Problem,
    RateLimited,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.settings import BreakerSettings, RetrySettings
from gateway.telemetry.metrics import (
    CIRCUIT_CHANGES,
    CIRCUIT_OPEN,
    RATE_REMAINING,
    RATE_WAITS,
    RETRIES,
    UPSTREAM_CALLS,
    Metrics,
)
from gateway.upstream.circuit import Circuit
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.requests import SEND, Rate, UpstreamResponse
from gateway.upstream.resilience import Resilience
from gateway.upstream.retry import RetryPolicy
from tests.upstream.fakes import Clock, Sending, vehicle_read

RATE = Rate(10, 5, 1_000_060.0)


class Limiter:
    """A rate limiter with one wait, that records its calls."""

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


class Reported(Metrics):
    """The metrics that were reported, with their labels and, except for durations, their values."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[tuple[object, ...]] = []

    def count(self, metric, labels=(), number=1) -> None:
        self.reported.append((metric, *labels))

    def observe(self, metric, labels, value) -> None:
        self.reported.append((metric, *labels) if metric is UPSTREAM_CALLS else (metric, value))
        assert value >= 0


class Span:
    """A span that records its children."""

    def __init__(self, name: str = "batch", attributes: dict[str, object] | None = None) -> None:
        self.name, self.attributes, self.children = name, attributes or {}, []
        self.traceparent, self.failed = f"of {name}", None

    def child(self, name, attributes, *, is_call):
        assert is_call
        self.children.append(Span(name, attributes))
        return self.children[-1]

    def end(self, attributes, *, failed) -> None:
        self.attributes, self.failed = {**self.attributes, **attributes}, failed


class Steps:
    """The steps of one call with ten seconds left, run by tests."""

    def __init__(self, limiter: Limiter | None = None, attempts: int = 1, **breaker: object) -> None:
        self.clock, self.limiter = Clock(), limiter or Limiter()
        self.circuit = Circuit(BreakerSettings(**{"failure_threshold": 1, **breaker}))
        self.retries = RetryPolicy(RetrySettings(attempts=attempts, backoff=1, budget_ratio=0.25), lambda: 1.0)
        self.metrics = Reported()
        self.layer = Resilience(self.circuit, self.retries, self.limiter, self.clock, self.metrics)
        request = vehicle_read()
        self.call = SimpleNamespace(
            request=SimpleNamespace(
                scope=request.scope,
                endpoint=request.endpoint,
                deadline=SimpleNamespace(remaining=10),
                seconds_to_send=10,
                span=None,
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
    """It has one step; its response's rate goes to the limiter, and the circuit counts it."""
    steps = Steps()
    steps.call.response = UpstreamResponse("response", rate=rate)
    assert list(steps.begin()) == [SEND]
    assert steps.limiter.reported == ([] if rate is None else [("update", rate)])
    assert [(second.calls, second.failed) for second in steps.circuit._recent] == [(1, 0)]


async def test_awaitables_of_the_limiter_are_steps():
    """Those of its permission and of its updates."""
    limiter = Limiter(wait=asyncio.sleep(0))
    limiter.pending = asyncio.sleep(0)
    steps = Steps(limiter)
    steps.call.response = UpstreamResponse("response", rate=RATE)
    running = steps.begin()
    assert next(running) is limiter.wait
    assert running.send(0.0) is SEND
    assert next(running) is limiter.pending
    assert next(running, None) is None
    assert limiter.reported == [("take", 1_000_000.0, 10), ("update", RATE)]
    await asyncio.gather(limiter.wait, limiter.pending)


async def test_a_call_waits_for_the_limiter():
    """No longer than needed, and not at all without a wait."""
    assert next(Steps(Limiter(0.0)).begin()) is SEND
    running = Steps(Limiter(0.05)).begin()
    assert 0.04 < await slept(next(running)) < 1
    assert next(running) is SEND


@pytest.mark.parametrize(("wait", "rejected"), [(9.9, None), (10.0, 10), (10.2, 11)])
def test_a_call_that_would_wait_past_its_deadline_is_rejected(wait, rejected):
    """The error states whole seconds, does not count for the circuit and blocks nothing."""
    steps = Steps(Limiter(wait))
    if rejected is None:
        next(steps.begin()).close()
        return
    with pytest.raises(RateLimited) as failed:
        next(steps.begin())
    assert failed.value.retry_after == rejected
    assert [kind for kind, *_ in steps.limiter.reported] == ["take"]
    assert not steps.circuit._recent


def test_a_call_whose_deadline_has_passed_does_not_blame_the_limiter():
    """It is not sent, and does not count for the circuit."""
    steps = Steps(Limiter(0.0))
    steps.call.request.seconds_to_send = 0.0
    with pytest.raises(DeadlineExceeded) as failed:
        next(steps.begin())
    assert failed.value.is_unsent
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
    """A 429 blocks until the stated time; a rate counts with any response."""
    steps = Steps()
    failure.rate = rate
    running = steps.begin()
    next(running)
    with pytest.raises(type(failure)):
        running.throw(failure)
    assert steps.limiter.reported == reported + ([] if rate is None else [("update", rate)])


async def test_awaitables_after_a_failure_are_steps():
    """They are awaited before the failure is raised."""
    limiter = Limiter()
    limiter.pending = asyncio.sleep(0)
    running = Steps(limiter).begin()
    next(running)
    assert running.throw(RateLimited(Problem(429), retry_after=7)) is limiter.pending
    with pytest.raises(RateLimited):
        next(running)
    await limiter.pending


async def test_retries_are_sent_after_their_delays():
    """Attempt, delay, attempt: the circuit counts all of them as one call."""
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


def test_each_call_refills_the_retry_budget():
    """By one share, however many attempts it takes."""
    steps = Steps()
    while steps.retries.budget.spend():
        pass
    for _ in range(4):
        steps.call.response = UpstreamResponse("response")
        assert not steps.retries.budget.spend()
        list(steps.begin())
    assert steps.retries.budget.spend()


def test_an_open_circuit_rejects_without_a_step():
    """The error states the wait in tenths of a second; a probe is sent after it."""
    steps = Steps(open_seconds=1)
    running = steps.begin()
    next(running)
    with structlog.testing.capture_logs() as logs, pytest.raises(UpstreamUnavailable):
        running.throw(UpstreamUnavailable())
    assert [log["event"] for log in logs if log["log_level"] != "debug"] == ["circuit opened"]
    steps.clock.time += 0.75
    with pytest.raises(UpstreamUnavailable) as rejected:
        next(steps.begin())
    assert rejected.value.retry_after == 0.3
    steps.clock.time += 0.25
    steps.call.response = UpstreamResponse("response")
    with structlog.testing.capture_logs() as logs:
        assert list(steps.begin()) == [SEND]
    assert [log["event"] for log in logs] == ["circuit closed"]


@pytest.mark.parametrize("end", [asyncio.CancelledError(), KeyError("a bug")])
def test_a_cancelled_or_buggy_call_is_inconclusive(end):
    """The circuit counts neither."""
    steps = Steps()
    running = steps.begin()
    next(running)
    with pytest.raises(type(end)):
        running.throw(end)
    assert not steps.circuit._recent


def test_a_write_is_not_repeated():
    """It may have been carried out."""
    steps = Steps(attempts=3)
    steps.call.request.endpoint = replace(steps.call.request.endpoint, idempotent=False)
    running = steps.begin()
    next(running)
    with pytest.raises(UpstreamTimeout):
        running.throw(UpstreamTimeout())
    assert RETRIES not in [metric for metric, *_ in steps.metrics.reported]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (UpstreamUnavailable(Problem(503, flow_id="f1")), "503"),
        (UpstreamRejected(Problem(400)), "400"),
        (UpstreamTimeout(), "timeout"),
        (UpstreamInvalidResponse(), "invalid"),
        (UpstreamUnavailable(), "unavailable"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_a_failed_attempt_is_reported_by_its_status(failure, status):
    """Or by what became of it without a response: in metrics, in its span, and in the log."""
    steps = Steps()
    span = steps.call.request.span = Span()
    running = steps.begin()
    next(running)
    with structlog.testing.capture_logs() as logs, pytest.raises(type(failure)):
        running.throw(failure)
    assert steps.metrics.reported[0] == (UPSTREAM_CALLS, "vehicle", status)
    (attempt,) = span.children
    known = {"http.response.status_code": int(status)} if status.isdecimal() else {"error.type": status}
    flow_id = {"gateway.upstream.flow_id": "f1"} if status == "503" else {}
    assert attempt.attributes == {
        "http.request.method": "GET",
        "url.template": "/vehicles/{id}",
        **known,
        **flow_id,
    }
    assert attempt.failed is (status != "cancelled")
    logged = [log for log in logs if log["event"] == "upstream call failed"]
    assert [(log["status"], log["attempt"]) for log in logged] == ([] if status == "cancelled" else [(status, 1)])


async def test_each_attempt_is_reported():
    """A retry with the number of attempts before it, and as the parent of the call."""
    steps = Steps(attempts=2)
    span = steps.call.request.span = Span()
    steps.call.response = UpstreamResponse("response", flow_id="f2", status=201)
    running = steps.begin()
    next(running)
    running.throw(UpstreamTimeout()).close()
    assert next(running) is SEND
    assert steps.call.request.traceparent == "of GET /vehicles/{id}"
    assert next(running, None) is None
    assert steps.metrics.reported == [
        (UPSTREAM_CALLS, "vehicle", "timeout"),
        (RETRIES, "vehicle"),
        (UPSTREAM_CALLS, "vehicle", "201"),
    ]
    assert ["http.request.resend_count" in attempt.attributes for attempt in span.children] == [False, True]
    assert span.children[1].attributes["http.request.resend_count"] == 1
    assert span.children[1].attributes["gateway.upstream.flow_id"] == "f2"
    assert span.children[1].attributes["http.response.status_code"] == 201


def test_the_circuit_and_the_limit_are_sampled():
    """And changes of the circuit are counted, each once."""
    steps = Steps(open_seconds=1)
    steps.limiter.remaining = lambda at: at / 4_000_000
    assert list(steps.layer.samples()) == [(CIRCUIT_OPEN, (), False), (RATE_REMAINING, (), 0.25)]
    running = steps.begin()
    next(running)
    with pytest.raises(UpstreamUnavailable):
        running.throw(UpstreamUnavailable())
    assert next(iter(steps.layer.samples())) == (CIRCUIT_OPEN, (), True)
    steps.clock.time += 1
    steps.call.response = UpstreamResponse("response")
    for _ in range(2):
        list(steps.begin())
    changes = [reported for reported in steps.metrics.reported if reported[0] is CIRCUIT_CHANGES]
    assert changes == [(CIRCUIT_CHANGES, "open"), (CIRCUIT_CHANGES, "closed")]


async def test_waits_for_the_limiter_are_measured():
    """But not calls that need none."""
    for wait, reported in ((0.0, []), (0.5, [(RATE_WAITS, 0.5)])):
        steps = Steps(Limiter(wait))
        step = next(steps.begin())
        if step is not SEND:
            step.close()
        assert steps.metrics.reported == reported


class FakeTransport:
    """A transport whose responses are set by tests."""

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

    def error_of(self, failure):
        return UpstreamTimeout() if isinstance(failure, TimeoutError) else UpstreamUnavailable()

    async def fetch(self, request):
        await self.gate.wait()
        return UpstreamResponse("fetched")


@pytest.mark.parametrize(
    ("response", "matches"),
    [
        ("response", True),
        (UpstreamForbidden(), True),
        (UpstreamInvalidResponse(), False),
        (KeyError("a bug"), True),
    ],
)
async def test_a_response_completes_the_call_at_once(response, matches):
    """Without a task, with a response or an error; the connection learns whether the response matches the call."""
    sender = FakeTransport()
    flights = Uncoalesced(Sending(), sender, Metrics())
    flight = flights.flight_of(vehicle_read())
    assert (flight.done(), len(flights)) == (False, 1)
    assert sender.calls[0].set_result((200, {}, response)) is matches
    assert flight.outcome is response or flight.outcome.value == response
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
    """The call is complete before it is awaited, and others of its batch start."""
    flights = Uncoalesced(Sending(), FakeTransport(broken=broken), Metrics())
    outcomes = await flights.fetch_all([vehicle_read(name) for name in "ABC"], 1)
    assert [type(each) for each in outcomes] == [outcome] * 3
    assert len(flights) == 0


async def test_a_lost_connection_becomes_a_gateway_error():
    """Errors of the transport never reach the waiters."""
    sender = FakeTransport()
    flight = Uncoalesced(Sending(), sender, Metrics()).flight_of(vehicle_read())
    sender.calls[0].set_exception(OSError())
    assert type(flight.outcome) is UpstreamUnavailable


async def test_a_transport_that_has_to_wait_is_awaited_in_a_task():
    """The task ends with the response, and no reference to it remains."""
    sender = FakeTransport(inline=False)
    flights = Uncoalesced(Sending(), sender, Metrics())
    flight = flights.flight_of(vehicle_read())
    assert flight.task is not None
    sender.gate.set()
    await flights.settle()
    assert (flight.outcome.value, flight.task, sender.calls) == ("fetched", None, [])


class Cleaning:
    """A layer that has to wait at its end."""

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
@pytest.mark.parametrize("iterations", [0, 3])
async def test_a_cancelled_call_runs_its_cleanup(inline, iterations):
    """At any time, inline or in a task; its connection is closed."""
    layer, sender = Cleaning(), FakeTransport(inline=inline)
    flights = Uncoalesced(layer, sender, Metrics())
    flight = flights.flight_of(vehicle_read())
    closed = []
    if inline:
        flight.connection = SimpleNamespace(close=lambda: closed.append(1))
    for _ in range(iterations):
        await asyncio.sleep(0)
    flight.waiters = 1
    flight.leave()
    assert flight.done()
    await flights.settle()
    assert (layer.cleaned, len(closed)) == (1, inline)
    assert isinstance(flight.outcome, asyncio.CancelledError)


async def test_a_failure_in_a_task_runs_the_cleanup():
    """The layers get it where they wait."""
    layer, sender = Cleaning(), FakeTransport(inline=False)
    sender.fetch = failing
    flights = Uncoalesced(layer, sender, Metrics())
    with pytest.raises(UpstreamTimeout):
        await flights.fetch(vehicle_read())
    assert layer.cleaned == 1


async def failing(request):
    raise UpstreamTimeout
