"""Calls that go well, past the layers that see to those that do not.

While the circuit is closed and the caller's turn is now, a plain 200 needs none of what lies between a flight and the
network: its answer is given in the turn in which it comes, without a task. Any other outcome goes through all the
layers as if they had made the call: it is what the first attempt of the read brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from gateway.upstream.breaker import Circuit
from gateway.upstream.fetching import Clock, Fetcher, Reply, Resource
from gateway.upstream.http1 import Call, Parts
from gateway.upstream.pacing import LocalPaces
from gateway.upstream.retrying import Budget
from gateway.upstream.single_flight import Flight
from gateway.upstream.transport import BROKEN, HttpTransport, meaning_of


class QuickCall(Call):
    """A flight's call; `task` is what goes on from it, if it takes more than the call."""

    __slots__ = ("_calls", "flight", "task")

    def __init__(self, calls: QuickCalls, flight: Flight[Any]) -> None:
        self._calls = calls
        self.flight = flight
        self.task: asyncio.Task[Reply[Any]] | None = None

    def done(self) -> bool:
        return self.flight.outcome is not None

    def set_result(self, parts: Parts) -> None:
        self._calls.answered(self, parts)

    def set_exception(self, failure: Exception) -> None:
        self._calls.go_on(self, meaning_of(failure))

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self.task is not None:
            self.task.cancel()
            return
        self.flight.land(asyncio.CancelledError())
        if self.connection is not None:
            # What still comes of it is nobody's.
            self.connection.close()


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

    def begin(self, flight: Flight[Any]) -> Callable[[], object] | None:
        """Begins a flight, and tells what gives it up; None where its read is one for the layers."""
        read = flight.read
        if read.resource in self._kept or (self._circuit is not None and self._circuit.is_open):
            return None
        if self._paces is not None and not self._paces.takes_at_once(read.errand.caller.client, self._clock()):
            return None
        quick = QuickCall(self, flight)
        try:
            self._transport.begin(read, quick)
        except BROKEN as broken:
            quick.set_exception(broken)
        return quick.cancel

    def answered(self, quick: QuickCall, parts: Parts) -> None:
        """The answer is there."""
        flight = quick.flight
        read = flight.read
        try:
            outcome: Any = self._transport.reply_to(read, parts)
        except Exception as failure:  # noqa: BLE001 - the layers see to it
            self.go_on(quick, failure)
            return
        if outcome.value is None:
            self.go_on(quick, outcome)
            return
        if self._paces is not None and outcome.rate is not None:
            self._paces.learn_at_once(read.errand.caller.client, outcome.rate)
        if self._budget is not None:
            self._budget.save()
        if self._circuit is not None:
            self._circuit.ended(self._clock(), outage=False)
        flight.land(outcome)

    def go_on(self, quick: QuickCall, outcome: Reply[Any] | Exception) -> None:
        """The layers go on from what the first attempt brought."""
        flight = quick.flight
        flight.read.given = outcome
        quick.task = self._loop.create_task(self._following.fetch(flight.read))
        quick.task.add_done_callback(flight.ended)
