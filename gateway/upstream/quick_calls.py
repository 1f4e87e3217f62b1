"""Calls that go well, past the layers that see to those that do not.

While the circuit is closed and the caller's turn is now, a plain 200 needs none of what lies between a flight and the
network: its answer is given in the turn in which it comes, without a task. Any other outcome goes through all the
layers as if they had made the call: it is what the first attempt of the read brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar

from gateway.upstream.breaker import Circuit
from gateway.upstream.fetching import Clock, Fetcher, Read, Reply, Resource
from gateway.upstream.http1 import Connection, Parts
from gateway.upstream.pacing import LocalPaces
from gateway.upstream.retrying import Budget
from gateway.upstream.single_flight import Flight, Flights
from gateway.upstream.transport import BROKEN, HttpTransport, meaning_of

T = TypeVar("T")


class QuickFlight(Flight[T], eq=False, kw_only=True):
    """A flight that is its own call, as long as all goes well."""

    calls: QuickCalls
    connection: Connection | None = None
    ends: float = 0.0
    gives_up: float = 0.0
    head: bytes = b""

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, parts: Parts) -> None:
        self.calls.answered(self, parts)

    def set_exception(self, failure: Exception) -> None:
        self.calls.go_on(self, meaning_of(failure))

    def give_up(self) -> None:
        if self.task is not None:
            self.task.cancel()
            return
        self.land(asyncio.CancelledError())
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

    def begin(self, read: Read[T], flights: Flights) -> QuickFlight[T] | None:
        """The flight of a read; None where it is one for the layers."""
        if read.resource in self._kept or (self._circuit is not None and self._circuit.open_until is not None):
            return None
        if self._paces is not None and not self._paces.takes_at_once(read.errand.caller.client, self._clock()):
            return None
        flight = QuickFlight(read, flights, calls=self)
        try:
            self._transport.begin(read, flight)
        except BROKEN as broken:
            flight.set_exception(broken)
        return flight

    def answered(self, flight: QuickFlight[Any], parts: Parts) -> None:
        """The answer is there."""
        read = flight.read
        try:
            reply: Reply[Any] = self._transport.reply_to(read, parts)
        except Exception as failure:  # noqa: BLE001 - the layers see to it
            self.go_on(flight, failure)
            return
        if reply.value is None:
            self.go_on(flight, reply)
            return
        if reply.rate is not None and self._paces is not None:
            self._paces.learn_at_once(read.errand.caller.client, reply.rate)
        if self._budget is not None:
            self._budget.save()
        if self._circuit is not None:
            self._circuit.went_well(self._clock())
        flight.land(reply)

    def go_on(self, flight: Flight[Any], outcome: Reply[Any] | Exception) -> None:
        """The layers go on from what the first attempt brought."""
        flight.read.given = outcome
        flight.goes_on_as(asyncio.get_running_loop().create_task(self._following.fetch(flight.read)))
