"""Calls that go well, past the layers that see to those that do not.

While the circuit is closed and the caller's turn is now, a plain 200 needs none of what lies between a flight and the
network: its answer is given in the turn in which it comes, without a task. Any other outcome goes through all the
layers as if they had made the call: it is what the first attempt of the read brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from gateway.upstream.breaker import Circuit
from gateway.upstream.fetching import Clock, Fetcher, Read, Reply, Resource
from gateway.upstream.http1 import Call, Parts
from gateway.upstream.pacing import LocalPaces
from gateway.upstream.retrying import Budget
from gateway.upstream.single_flight import Begun
from gateway.upstream.transport import BROKEN, HttpTransport, meaning_of

T = TypeVar("T")


class QuickCall:
    """A read under way; the wire tells it the answer's parts or the failure, as it would a future."""

    __slots__ = ("_calls", "call", "future", "read", "task")

    def __init__(self, calls: QuickCalls, read: Read[Any], future: asyncio.Future[Reply[Any]]) -> None:
        self._calls = calls
        self.read = read
        self.future = future
        self.call: Call | None = None
        self.task: asyncio.Task[Reply[Any]] | None = None

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, parts: Parts) -> None:
        self.call = None  # which knows this object: a circle
        self._calls.answered(self, parts)

    def set_exception(self, failure: Exception) -> None:
        self.call = None
        self._calls.broken(self, failure)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        call, self.call = self.call, None
        if self.task is not None:
            self.task.cancel()
        elif self.future.cancel() and call is not None and call.connection is not None:
            # What still comes of it is nobody's.
            call.connection.close()


class QuickCalls:
    """Begins reads whose answers are not kept; `following` are the layers, down to the same transport."""

    def __init__(
        self,
        following: Fetcher,
        transport: HttpTransport,
        circuit: Circuit | None,
        budget: Budget | None,
        paces: LocalPaces | None,
        clock: Clock,
        kept: Collection[Resource],
    ) -> None:
        self._following = following
        self._transport = transport
        self._circuit = circuit
        self._budget = budget
        self._paces = paces
        self._clock = clock
        self._kept = kept
        # Asked for once: in Python 3.11 it costs a system call each time.
        self._loop = asyncio.get_running_loop()

    def begin(self, read: Read[T]) -> Begun[T] | None:
        """The read under way; None where it is one for the layers."""
        if read.resource in self._kept or (self._circuit is not None and self._circuit.is_open):
            return None
        if not self._transport.begins(read):
            return None
        if self._paces is not None and not self._paces.takes_at_once(read.errand.caller.client, self._clock()):
            return None
        quick = QuickCall(self, read, self._loop.create_future())
        try:
            quick.call = self._transport.begin(read, quick)
        except BROKEN as broken:
            quick.set_exception(broken)
        return quick.future, quick.cancel

    def answered(self, quick: QuickCall, parts: Parts) -> None:
        """The answer is there."""
        try:
            outcome: Any = self._transport.reply_to(quick.read, parts)
        except Exception as failure:  # noqa: BLE001 - the layers see to it
            outcome = failure
        if quick.future.done():
            return
        if outcome.__class__ is not Reply or outcome.value is None:
            self._go_on(quick, outcome)
            return
        if outcome.rate is not None and self._paces is not None:
            self._paces.learn_at_once(quick.read.errand.caller.client, outcome.rate)
        if self._budget is not None:
            self._budget.save()
        if self._circuit is not None:
            self._circuit.ended(self._clock(), outage=False)
        quick.future.set_result(outcome)

    def broken(self, quick: QuickCall, failure: Exception) -> None:
        """There is no answer."""
        if not quick.future.done():
            self._go_on(quick, meaning_of(failure))

    def _go_on(self, quick: QuickCall, outcome: Reply[Any] | Exception) -> None:
        quick.read.given = outcome
        quick.task = self._loop.create_task(self._following.fetch(quick.read))
        quick.task.add_done_callback(_into(quick.future))


def _into(future: asyncio.Future[Reply[Any]]) -> Callable[[asyncio.Task[Reply[Any]]], None]:
    """What gives a task's end to a future."""

    def done(task: asyncio.Task[Reply[Any]]) -> None:
        if task.cancelled():
            future.cancel()
        elif future.done():
            task.exception()
        elif (failure := task.exception()) is not None:
            future.set_exception(failure)
        else:
            future.set_result(task.result())

    return done
