"""Writes: each is sent at most once for its idempotency key, and its outcome is recorded, even if the caller leaves.

The record is made before the write is sent. Another write with the key gets the outcome of the first one; it waits for
that until its deadline. What is not known to be carried out or rejected is UNKNOWN, and is never sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from gateway.concurrency.deadline import Deadline
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    IdempotencyKeyReused,
    Overloaded,
    Problem,
    RateLimited,
    UpstreamError,
    UpstreamForbidden,
    UpstreamRejected,
    UpstreamUnauthenticated,
)
from gateway.settings import Settings
from gateway.telemetry.logs import PRINCIPAL_DIGITS, get_logger
from gateway.telemetry.metrics import WRITES, Metrics
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.endpoints import Endpoint, FleetEndpoints
from gateway.upstream.models import Vehicle, fleets_of
from gateway.upstream.requests import Clock, ManyFetcher, RequestScope, UpstreamRequest, UpstreamResponse
from gateway.upstream.write_records import Record, Records, WriteError, WriteResult

log = get_logger("gateway.upstream")
EXECUTED, REJECTED, UNKNOWN = "EXECUTED", "REJECTED", "UNKNOWN"
# What a metric and the log say of a write that was not sent, or that the fleet API did not let the caller make.
NOT_MADE = "NOT_MADE"
# Statuses of the fleet API, or of a proxy, after which a write may still be carried out.
REQUEST_TIMEOUT = 408
# Failures after which a write was certainly not carried out, but may be later, with the same key.
NOT_CARRIED_OUT = (UpstreamUnauthenticated, UpstreamForbidden, RateLimited)
# Seconds between look-ups of a record whose write is made by another process.
POLL_SECONDS, POLL_SECONDS_MAX = 0.02, 0.25
KEY_DIGITS = 12

# The codes and messages of rejections, by problem type or by status.
OF_TYPE = {
    "/problems/validation-error": ("INVALID", "The fleet API finds a value invalid."),
    "/problems/invalid-json": ("INVALID", "The fleet API finds a value invalid."),
    "/problems/referenced-resource-not-found": ("REFERENCE_NOT_FOUND", "Something in the input does not exist."),
    "/problems/unique-identifier-already-exists": ("ALREADY_EXISTS", "Another vehicle has this identifier."),
    "/problems/vehicle/command-not-supported": ("COMMAND_NOT_SUPPORTED", "The vehicle does not support the command."),
    "/problems/vehicle/conflicting-state": ("STATE_CONFLICT", "The state of the vehicle does not allow the command."),
    "/problems/vehicle/conflicting-command": ("COMMAND_IN_PROGRESS", "The vehicle is processing another command."),
    "/problems/vehicle/conflicting-setup-status": ("SETUP_INCOMPLETE", "The setup of the vehicle is not complete."),
    "/problems/vehicle/shared-with-partner": ("SHARED_WITH_PARTNER", "The vehicle is shared with a partner."),
    "/problems/resource-modified": ("CONFLICT", "The vehicle has changed since this version was read."),
}  # fmt: skip
OF_STATUS = {
    400: ("INVALID", "The fleet API finds a value invalid."),
    404: ("NOT_FOUND", "There is no such vehicle."),
    409: ("RESOURCE_CONFLICT", "It conflicts with another resource, or with the state of this one."),
    412: ("CONFLICT", "The vehicle has changed since this version was read."),
    422: ("INVALID", "The fleet API finds a value invalid."),
}
OTHERWISE = ("REJECTED", "The fleet API rejected it.")
MAY_BE_DONE = WriteError(
    "OUTCOME_UNKNOWN",
    "It may have been carried out, or may be yet. Read the vehicle before trying again with a new key.",
)


def rejection(code: str, message: str, *path: str) -> WriteError:
    """A reason for which the gateway does not send a write."""
    return WriteError(code, message, list(path) or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write to be made with an idempotency `key`.

    `given` is all of its input, by which equal writes are recognised. `check` may read, and returns why it is not sent
    and the vehicle. Nothing is sent after `expires_at` (epoch seconds).
    """

    kind: str
    endpoint: Endpoint[Any]
    key: str
    given: Any
    vehicle_id: str | None = None
    body: Any = None
    if_match: str | None = None
    expires_at: float | None = None
    check: Callable[[], Awaitable[tuple[Sequence[WriteError], Vehicle | None]]] | None = None


@dataclass(slots=True)
class Written:
    """The result of a write; its response and the vehicle that was read before it, unless another process made it."""

    result: WriteResult
    response: UpstreamResponse[Any] | None = None
    vehicle: Vehicle | None = None


class _Running(NamedTuple):
    digest: str
    task: asyncio.Task[Written]


@dataclass(slots=True)
class Writer:
    """Makes writes over the stack, in tasks of their own."""

    fetcher: ManyFetcher
    endpoints: FleetEndpoints
    settings: Settings
    records: Records
    metrics: Metrics
    clock: Clock
    _running: dict[str, _Running] = field(default_factory=dict)

    async def write(self, scope: RequestScope, write: Write, request_id: str) -> Written:
        """The outcome of a write, which is made now, was made before with the same key, or is being made.

        Raises IdempotencyKeyReused, and the errors after which it was certainly not carried out.
        """
        name = f"write:{scope.caller.principal}:{_digest(write.key)}"
        # Keyed, because the input may have a password, which could be guessed by its digest.
        given = msgspec.json.encode((write.kind, write.given), order="deterministic")
        digest = hmac.new(write.key.encode(), given, hashlib.sha256).hexdigest()
        while True:
            running = self._running.get(name)
            if running is None or running.task.done():
                self._check_load(scope.caller.principal)
                running = self._start(name, digest, self._made(name, digest, scope, write, request_id))
            elif running.digest != digest:
                raise IdempotencyKeyReused
            try:
                return await scope.deadline.wait(running.task)
            except DeadlineExceeded:
                if not running.task.done():
                    return _unknown(write)
                scope.deadline.check()
            except _Released:
                pass
            # The other one was not sent, so this one can be.

    def _check_load(self, principal: str) -> None:
        """Raises Overloaded if too many writes are under way, for which operations wait a long time."""
        limits, own = self.settings.limits, sum(name.startswith(f"write:{principal}:") for name in self._running)
        if len(self._running) >= limits.writes or own >= limits.principal_writes:
            raise Overloaded

    def _start(self, name: str, digest: str, making: Coroutine[Any, Any, Written]) -> _Running:
        task = asyncio.get_running_loop().create_task(making)
        running = self._running[name] = _Running(digest, task)

        def ended(_: asyncio.Task[Written]) -> None:
            if self._running.get(name) is running:
                del self._running[name]

        task.add_done_callback(retrieve_exception)
        task.add_done_callback(ended)
        return running

    async def settle(self) -> None:
        """Waits for the writes under way."""
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])
        await self.records.settle()

    async def _made(self, name: str, digest: str, scope: RequestScope, write: Write, request_id: str) -> Written:
        """Makes a write, unless there is a record of it."""
        limit = (write.endpoint.timeout or self.settings.upstream.total_timeout) + min(scope.deadline.remaining, 600.0)
        record = Record(digest, secrets.token_hex(8), self.clock() + limit)
        known = await self.records.begin(name, record)
        if known is not None:
            return await self._recorded(name, digest, known, scope, write)
        outcome, flow_id, vehicle_id = UNKNOWN, None, write.vehicle_id
        try:
            written = await self._sent(scope, write)
            result = written.result
            outcome, flow_id, vehicle_id = result.outcome, result.flow_id, result.vehicle_id
        except GatewayError as failure:
            problem = failure.problem if isinstance(failure, UpstreamError) else None
            outcome, flow_id = NOT_MADE, None if problem is None else problem.flow_id
            await self.records.release(name, record)
            raise
        finally:
            self._report(scope, write, request_id, outcome, flow_id, vehicle_id)
        await self.records.finish(name, msgspec.structs.replace(record, result=written.result))
        return written

    async def _recorded(self, name: str, digest: str, known: Record, scope: RequestScope, write: Write) -> Written:
        """The outcome that another process, or this one before, has recorded or is going to record."""
        pause = POLL_SECONDS
        while True:
            if known.digest != digest:
                raise IdempotencyKeyReused
            if known.result is not None:
                return Written(known.result)
            remaining = min(known.ends - self.clock(), scope.deadline.remaining)
            if remaining <= 0:
                return _unknown(write)
            await asyncio.sleep(min(pause, remaining))
            pause = min(2 * pause, POLL_SECONDS_MAX)
            found = await self.records.find(name)
            if found is None:
                raise _Released
            known = found

    async def _sent(self, scope: RequestScope, write: Write) -> Written:
        """Sends a write. Raises an error only if it was certainly not carried out."""
        errors, vehicle = ((), None) if write.check is None else await write.check()
        if not errors and write.expires_at is not None and self.clock() >= write.expires_at:
            errors = [rejection("EXPIRED", "`expiresAt` has passed.", "expiresAt")]
        if errors:
            return Written(WriteResult(REJECTED, list(errors), write.vehicle_id), vehicle=vehicle)
        scope.deadline.check()
        outcome = await self._outcome(self._request(scope, write, vehicle))
        if isinstance(outcome, UpstreamResponse):
            value = outcome.value
            vehicle_id = value.vehicle_id if isinstance(value, Vehicle) else write.vehicle_id
            return Written(WriteResult(EXECUTED, [], vehicle_id, outcome.flow_id), outcome, vehicle)
        problem = outcome.problem if isinstance(outcome, UpstreamError) else None
        flow_id = None if problem is None else problem.flow_id
        if isinstance(outcome, UpstreamRejected) and problem is not None and problem.status != REQUEST_TIMEOUT:
            return Written(WriteResult(REJECTED, [_rejected(problem)], write.vehicle_id, flow_id))
        return Written(WriteResult(UNKNOWN, [MAY_BE_DONE], write.vehicle_id, flow_id))

    async def _outcome(self, request: UpstreamRequest[Any]) -> UpstreamResponse[Any] | BaseException:
        """The response, or the failure after which the write may have been carried out; raises any other failure."""
        try:
            return await self.fetcher.fetch(request)
        except UpstreamError as failure:
            expired = request.send_by is not None and time.monotonic() >= request.send_by
            if failure.is_unsent and expired and not isinstance(failure, RateLimited):
                raise DeadlineExceeded from failure
            if failure.is_unsent or (isinstance(failure, NOT_CARRIED_OUT) and failure.problem is not None):
                raise
            return failure
        except GatewayError:
            raise  # it could not be announced, so it was not sent
        except Exception as failure:
            log.error("write failed", exc_info=failure)  # noqa: TRY400 - as above
            return failure

    def _request(self, scope: RequestScope, write: Write, vehicle: Vehicle | None) -> UpstreamRequest[Any]:
        body = b"" if write.body is None else msgspec.json.encode(write.body)
        request = UpstreamRequest.of(scope, write.endpoint, item_id=write.vehicle_id, body=body)
        # The caller's deadline ends the caller's wait, not the write. But nothing is sent after it.
        request.deadline = Deadline()
        request.if_match = write.if_match
        request.concerns = frozenset() if vehicle is None else frozenset(fleets_of(vehicle))
        seconds = scope.deadline.remaining
        if write.expires_at is not None:
            seconds = min(seconds, write.expires_at - self.clock())
        request.send_by = time.monotonic() + seconds
        return request

    def _report(
        self,
        scope: RequestScope,
        write: Write,
        request_id: str,
        outcome: str,
        flow_id: str | None,
        vehicle_id: str | None,
    ) -> None:
        """Counts a write, and logs it for audits."""
        self.metrics.count(WRITES, (write.kind, outcome.lower()))
        members = {
            "kind": write.kind,
            "outcome": outcome.lower(),
            "vehicle": vehicle_id,
            "principal": scope.caller.principal[:PRINCIPAL_DIGITS],
            "key": _digest(write.key)[:KEY_DIGITS],
            "request_id": request_id,
            "flow_id": flow_id,
        }
        log.info("write", **{name: value for name, value in members.items() if value is not None})


class _Released(Exception):
    """Another write with the same key was certainly not carried out."""


def _rejected(problem: Problem) -> WriteError:
    code, message = OF_TYPE.get(problem.type or "") or OF_STATUS.get(problem.status) or OTHERWISE
    return WriteError(code, message)


def _unknown(write: Write) -> Written:
    return Written(WriteResult(UNKNOWN, [MAY_BE_DONE], write.vehicle_id))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
