"""The steps of a call: circuit breaker, retries and rate limiter in one generator, and the driver that runs it.

The generator yields what it waits for: `SEND` for the request itself, or an awaitable. While it only sends, the driver
runs it inline: it starts in the caller's event-loop iteration and completes in the one in which the response arrives.
From its first other wait on, it runs in a task.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from gateway.errors import (
    DeadlineExceeded,
    RateLimited,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import (
    CIRCUIT_CHANGES,
    CIRCUIT_OPEN,
    RATE_REMAINING,
    RATE_WAITS,
    RETRIES,
    UPSTREAM_CALLS,
    Metrics,
    Sample,
)
from gateway.telemetry.traces import Span
from gateway.upstream.circuit import Circuit, is_outage
from gateway.upstream.http.http1 import Call, Connection, RawResponse, is_foreign
from gateway.upstream.http.transport import TRANSPORT_ERRORS
from gateway.upstream.rate_limit import RateLimiter
from gateway.upstream.requests import SEND, Clock, Rate, Steps, UpstreamCall, UpstreamRequest, UpstreamResponse, Wait
from gateway.upstream.retry import RetryPolicy

T = TypeVar("T")
Outcome = UpstreamResponse[T] | BaseException
log = get_logger("gateway.upstream")


class Resilience:
    """The innermost layer. All callers share circuit and retry budget, because an outage affects all of them."""

    def __init__(
        self, circuit: Circuit, retries: RetryPolicy, limiter: RateLimiter, clock: Clock, metrics: Metrics
    ) -> None:
        self.circuit = circuit
        self._retries = retries
        self._budget = retries.budget
        self._limiter = limiter
        self._clock = clock
        self._metrics = metrics

    def samples(self) -> Iterator[Sample]:
        """Whether the circuit is open, and what is left of the rate limit."""
        yield CIRCUIT_OPEN, (), self.circuit.is_open
        yield RATE_REMAINING, (), self._limiter.remaining(self._clock())

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """All attempts of a call, unless the circuit is open."""
        circuit, limiter, client = self.circuit, self._limiter, call.request.scope.caller.client
        if circuit.open_until is not None and (wait := circuit.wait(self._clock())) is not None:
            raise _unsent(UpstreamUnavailable(retry_after=math.ceil(wait * 10) / 10))
        if not self._budget.is_full:
            self._budget.save()
        failed, outage, endpoint = 0, None, call.request.endpoint
        try:
            while True:
                try:
                    if limiter.knows(client):
                        yield from self._permission(client, call.request)
                    yield from self._attempt(call, failed)
                    break
                except UpstreamError as failure:
                    failed += 1
                    yield from self._learn(client, failure)
                    # A write that failed may have been carried out, so it is not repeated.
                    remaining = call.request.deadline.remaining
                    delay = self._retries.delay(failed, failure, remaining) if endpoint.idempotent else None
                    if delay is None:
                        # A long time-out may be about one vehicle only.
                        is_long = endpoint.timeout and isinstance(failure, UpstreamTimeout)
                        outage = None if is_long else is_outage(failure)
                        raise
                    self._metrics.count(RETRIES, (endpoint.name,))
                yield asyncio.sleep(delay)
            outage = False
            rate = call.response.rate
            if rate is not None and (updated := limiter.update(client, rate)) is not None:
                yield updated
        finally:
            if circuit.ended(self._clock(), outage=outage):
                self._metrics.count(CIRCUIT_CHANGES, ("open" if circuit.is_open else "closed",))
                log.warning("circuit opened" if circuit.is_open else "circuit closed")

    def _attempt(self, call: UpstreamCall[Any], before: int) -> Steps:
        """One attempt, after so many others, which is counted, traced and, if it fails, logged."""
        attempt = _Attempt(call.request, before, self._metrics)
        try:
            yield SEND
        except asyncio.CancelledError:
            attempt.ended("cancelled", None)
            raise
        except UpstreamError as failure:
            attempt.failed(failure)
            raise
        attempt.ended(str(call.response.status), call.response.flow_id)

    def _permission(self, client: str, request: UpstreamRequest[Any]) -> Steps:
        """Waits until the rate limiter allows a request; raises RateLimited if that would be too late.

        If it is too late already, that is not the limiter's doing, so it raises DeadlineExceeded.
        """
        remaining = request.seconds_to_send
        wait = self._limiter.take(client, self._clock(), remaining)
        if not isinstance(wait, float):
            wait = yield wait
        if wait >= remaining:
            if wait <= 0:
                raise _unsent(DeadlineExceeded())
            raise _unsent(RateLimited(retry_after=math.ceil(wait)))
        if wait > 0:
            self._metrics.observe(RATE_WAITS, (), wait)
            yield asyncio.sleep(wait)

    def _learn(self, client: str, failure: UpstreamError) -> Steps:
        """Reports a failure to the rate limiter; a rejection by the limiter itself has no problem."""
        waits = []
        if isinstance(failure, RateLimited) and failure.problem is not None and failure.retry_after is not None:
            waits.append(self._limiter.block(client, self._clock() + failure.retry_after))
        if failure.rate is not None:
            waits.append(self._limiter.update(client, Rate(*failure.rate)))
        for wait in waits:
            if wait is not None:
                yield wait


class _Attempt:
    """Reports one attempt of a call: its duration and status, its span, and its failure in the log."""

    __slots__ = ("_began", "_endpoint", "_metrics", "_number", "_span")

    def __init__(self, request: UpstreamRequest[Any], before: int, metrics: Metrics) -> None:
        self._endpoint = endpoint = request.endpoint
        self._number = before + 1
        self._metrics = metrics
        self._span: Span | None = None
        if request.span is not None:
            attributes = {"http.request.method": endpoint.method, "url.template": endpoint.path}
            resent: dict[str, int] = {"http.request.resend_count": before} if before else {}
            name = f"{endpoint.method} {endpoint.path}"
            self._span = request.span.child(name, {**attributes, **resent}, is_call=True)
            request.traceparent = self._span.traceparent
        self._began = time.perf_counter()

    def ended(self, status: str, flow_id: str | None, *, failed: bool = False) -> None:
        """Reports its status, or what became of it, and the fleet API's id of the call."""
        self._metrics.observe(UPSTREAM_CALLS, (self._endpoint.name, status), time.perf_counter() - self._began)
        if self._span is not None:
            attributes: dict[str, str | int] = {"gateway.upstream.flow_id": flow_id} if flow_id else {}
            if status.isdecimal():
                attributes["http.response.status_code"] = int(status)
            else:
                attributes["error.type"] = status
            self._span.end(attributes, failed=failed)

    def failed(self, failure: UpstreamError) -> None:
        """Reports its failure."""
        status, problem = _status_of(failure), failure.problem
        flow_id = None if problem is None else problem.flow_id
        self.ended(status, flow_id, failed=True)
        endpoint, number = self._endpoint.name, self._number
        log.debug("upstream call failed", endpoint=endpoint, status=status, attempt=number, flow_id=flow_id)


def _unsent(failure: UpstreamError) -> UpstreamError:
    failure.is_unsent = True
    return failure


def _status_of(failure: UpstreamError) -> str:
    """The HTTP status of a failure, or its kind if there was no readable response."""
    if failure.problem is not None:
        return str(failure.problem.status)
    kinds: dict[type[UpstreamError], str] = {UpstreamTimeout: "timeout", UpstreamInvalidResponse: "invalid"}
    return kinds.get(type(failure), "unavailable")


class Sender(Protocol):
    """Sends requests."""

    @property
    def sends_inline(self) -> bool:
        """Whether it supports `begin`; else requests have to be sent in a task."""

    def begin(self, request: UpstreamRequest[Any], call: Call) -> None:
        """Sends a request without waiting; the response completes the call."""

    def response_to(self, request: UpstreamRequest[T], raw: RawResponse) -> UpstreamResponse[T]:
        """The decoded response of such a call."""

    def may_resend(self, request: UpstreamRequest[Any]) -> bool:
        """Whether such a request may be sent once more, if its kept connection ends without a response."""

    def error_of(self, failure: Exception) -> UpstreamError:
        """The gateway's error for a failure to send such a request, or to receive its response."""

    async def fetch(self, request: UpstreamRequest[T]) -> UpstreamResponse[T]:
        """Sends a request and waits for the response."""


class RunningCall(Struct, Generic[T], eq=False):
    """Runs the steps of one call until they are complete. The transport reports the response to it.

    `steps` and `response` are set later.
    """

    request: UpstreamRequest[T]
    sender: Sender
    steps: Steps = None  # type: ignore[assignment] # set before it runs
    response: UpstreamResponse[T] = None  # type: ignore[assignment] # set by SEND
    task: asyncio.Task[None] | None = None
    connection: Connection | None = None
    ends: float = 0.0
    queued_until: float = 0.0
    seconds: float = 0.0
    send_until: float | None = None
    head: bytes = b""
    tenant: str = ""
    reuse_key: str = ""

    def complete(self, outcome: Outcome[T]) -> None:
        """Called with the outcome when the steps are complete."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether the outcome is no longer needed."""
        raise NotImplementedError

    def run(self, failure: BaseException | None = None) -> None:
        """Runs the steps until they have to wait, after a response or a failure."""
        steps = self.steps
        while True:
            try:
                wait = next(steps, None) if failure is None else steps.throw(failure)
            except (Exception, asyncio.CancelledError) as failed:  # noqa: BLE001 - the waiters handle it
                outcome: Outcome[T] = failed
                break
            if wait is None:
                outcome = self.response
                break
            if wait is not SEND or not self.sender.sends_inline:
                self.task = asyncio.get_running_loop().create_task(self._run_in_task(wait))
                self.task.add_done_callback(self._finished)
                return
            try:
                self.sender.begin(self.request, self)
            except TRANSPORT_ERRORS as failed:
                failure = self.sender.error_of(failed)
            except Exception as failed:  # noqa: BLE001 - the steps handle it
                failure = failed
            else:
                return
        self.complete(outcome)

    def set_result(self, raw: RawResponse) -> bool:
        """Takes the response; returns whether it can be the response to this request."""
        failure = None
        try:
            self.response = self.sender.response_to(self.request, raw)
        except Exception as failed:  # noqa: BLE001 - the steps handle it
            failure = failed
        self.run(failure)
        return failure is None or not is_foreign(failure, raw)

    def set_exception(self, failure: Exception) -> None:
        """Takes a failure in place of a response."""
        self.run(self.sender.error_of(failure))

    def may_resend(self) -> bool:
        """Whether the request may be sent once more."""
        return self.sender.may_resend(self.request)

    def cancel(self) -> None:
        """Ends the steps, and their current wait, with a CancelledError."""
        if self.task is not None:
            # A task that is cancelled before it has started would leave its steps where they are.
            asyncio.get_running_loop().call_soon(self.task.cancel)
            return
        if self.connection is not None:
            # The response may still arrive, and no other call may get it.
            self.connection.close()
        self.run(asyncio.CancelledError())

    async def _run_in_task(self, wait: Wait) -> None:
        """Runs the remaining steps, from one that has to wait."""
        while True:
            value, failure = None, None
            try:
                if wait is SEND:
                    self.response = await self.sender.fetch(self.request)
                else:
                    value = await wait
            except BaseException as failed:  # noqa: BLE001 - the steps handle it, cancellation too
                failure = failed
            try:
                wait = self.steps.send(value) if failure is None else self.steps.throw(failure)
            except StopIteration:
                return

    def _finished(self, task: asyncio.Task[None]) -> None:
        self.task = None  # The task refers to this object, which would be a reference cycle.
        self.complete(asyncio.CancelledError() if task.cancelled() else task.exception() or self.response)
