"""How a call is made: circuit breaker, retries and rate limiter in one generator, and the driver that runs it.

The generator of a read yields what it waits for: `SEND` for the request itself, or an awaitable. While it only sends,
the driver runs it inline, so it starts in the caller's turn of the event loop and completes in the turn in which the
answer arrives. From its first other wait on, it runs in a task.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from gateway.errors import RateLimited, UpstreamError, UpstreamUnavailable
from gateway.telemetry import get_logger
from gateway.upstream.circuit import Circuit, is_outage
from gateway.upstream.http.http1 import Call, Connection, Parts, is_foreign
from gateway.upstream.http.transport import BROKEN, meaning_of
from gateway.upstream.rate_limit import RateLimiter
from gateway.upstream.requests import SEND, Clock, Rate, Steps, UpstreamCall, UpstreamRequest, UpstreamResponse, Wait
from gateway.upstream.retry import RetryPolicy

T = TypeVar("T")
Outcome = UpstreamResponse[T] | BaseException
log = get_logger("gateway.upstream")


class Resilience:
    """The innermost layer. All callers share circuit and retry budget, because an outage affects all of them."""

    def __init__(self, circuit: Circuit, retries: RetryPolicy, limiter: RateLimiter, clock: Clock) -> None:
        self.circuit = circuit
        self._retries = retries
        self._budget = retries.budget
        self._limiter = limiter
        self._clock = clock

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """All attempts of a call, unless the circuit is open."""
        circuit, limiter, client = self.circuit, self._limiter, call.read.scope.caller.client
        if circuit.open_until is not None and (wait := circuit.wait(self._clock())) is not None:
            raise UpstreamUnavailable(retry_after=math.ceil(wait * 10) / 10)
        if not self._budget.is_full:
            self._budget.save()
        failed, outage = 0, None
        try:
            while True:
                try:
                    if limiter.knows(client):
                        yield from self._permission(client, call.read)
                    yield SEND
                    break
                except UpstreamError as failure:
                    failed += 1
                    yield from self._learn(client, failure)
                    # A write that failed may have been carried out, so it is not repeated.
                    is_idempotent = call.read.endpoint.idempotent
                    delay = (
                        self._retries.delay(failed, failure, call.read.deadline.remaining) if is_idempotent else None
                    )
                    if delay is None:
                        outage = is_outage(failure)
                        raise
                yield asyncio.sleep(delay)
            outage = False
            rate = call.reply.rate
            if rate is not None and (updated := limiter.update(client, rate)) is not None:
                yield updated
        finally:
            if circuit.ended(self._clock(), outage=outage):
                log.warning("circuit opened" if circuit.is_open else "circuit closed")

    def _permission(self, client: str, read: UpstreamRequest[Any]) -> Steps:
        """Waits until the rate limiter allows a request, or refuses it if that would be too late."""
        remaining = read.deadline.remaining
        wait = self._limiter.take(client, self._clock(), remaining)
        if not isinstance(wait, float):
            wait = yield wait
        if wait >= remaining:
            raise RateLimited(retry_after=math.ceil(wait))
        if wait > 0:
            yield asyncio.sleep(wait)

    def _learn(self, client: str, failure: UpstreamError) -> Steps:
        """Tells the rate limiter of a failure; a refusal of its own has no problem."""
        waits = []
        if isinstance(failure, RateLimited) and failure.problem is not None and failure.retry_after is not None:
            waits.append(self._limiter.block(client, self._clock() + failure.retry_after))
        if failure.rate is not None:
            waits.append(self._limiter.update(client, Rate(*failure.rate)))
        for wait in waits:
            if wait is not None:
                yield wait


class Sender(Protocol):
    """Sends the request of a read."""

    @property
    def sends_inline(self) -> bool:
        """Whether it can `begin`; else the request has to be sent in a task."""

    def begin(self, read: UpstreamRequest[Any], call: Call) -> None:
        """Sends it without waiting; the call is told the answer."""

    def reply_to(self, read: UpstreamRequest[T], parts: Parts) -> UpstreamResponse[T]:
        """The reply that an answer to such a call means."""

    async def fetch(self, read: UpstreamRequest[T]) -> UpstreamResponse[T]:
        """Sends it and waits for the reply."""


class RunningCall(Struct, Generic[T], eq=False):
    """Drives the steps of one read until they are complete. It is what the transport tells the answer of a request.

    `steps` and `reply` are not there from the beginning.
    """

    read: UpstreamRequest[T]
    sender: Sender
    steps: Steps = None  # type: ignore[assignment] # set before it runs
    reply: UpstreamResponse[T] = None  # type: ignore[assignment] # set by SEND
    task: asyncio.Task[None] | None = None
    connection: Connection | None = None
    ends: float = 0.0
    gives_up: float = 0.0
    head: bytes = b""
    line: str = ""
    at_once: str = ""

    def complete(self, outcome: Outcome[T]) -> None:
        """The steps are over."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether nobody waits for the outcome any more."""
        raise NotImplementedError

    def run(self, failure: BaseException | None = None) -> None:
        """Runs the steps until they have to wait; they go on from a reply, or from a failure."""
        steps = self.steps
        while True:
            try:
                wait = next(steps, None) if failure is None else steps.throw(failure)
            except (Exception, asyncio.CancelledError) as failed:  # noqa: BLE001 - the waiters handle it
                outcome: Outcome[T] = failed
                break
            if wait is None:
                outcome = self.reply
                break
            if wait is not SEND or not self.sender.sends_inline:
                self.task = asyncio.get_running_loop().create_task(self._run_in_task(wait))
                self.task.add_done_callback(self._finished)
                return
            try:
                self.sender.begin(self.read, self)
            except BROKEN as broken:
                failure = meaning_of(broken)
            except Exception as failed:  # noqa: BLE001 - the steps handle it
                failure = failed
            else:
                return
        self.complete(outcome)

    def set_result(self, parts: Parts) -> bool:
        """The answer to the request arrived; returns whether it can be the answer to this request."""
        failure = None
        try:
            self.reply = self.sender.reply_to(self.read, parts)
        except Exception as failed:  # noqa: BLE001 - the steps handle it
            failure = failed
        self.run(failure)
        return failure is None or not is_foreign(failure, parts)

    def set_exception(self, failure: Exception) -> None:
        """There will be no answer to the request."""
        self.run(meaning_of(failure))

    def cancel(self) -> None:
        """Ends the steps, and whatever they wait for, with a CancelledError."""
        if self.task is not None:
            # A task that is cancelled before it has started would leave its steps where they are.
            asyncio.get_running_loop().call_soon(self.task.cancel)
            return
        if self.connection is not None:
            # The answer may still arrive, and belongs to nobody.
            self.connection.close()
        self.run(asyncio.CancelledError())

    async def _run_in_task(self, wait: Wait) -> None:
        """The rest of the steps, from one that has to wait."""
        while True:
            value, failure = None, None
            try:
                if wait is SEND:
                    self.reply = await self.sender.fetch(self.read)
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
        self.complete(asyncio.CancelledError() if task.cancelled() else task.exception() or self.reply)
