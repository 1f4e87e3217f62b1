"""Calls that go well, past the layers that see to those that do not.

While the circuit is closed and the caller's turn is now, a plain 200 needs none of what lies between a flight and the
network: its answer is given in the turn in which it comes, without a task. Any other outcome goes through all the
layers as if they had made the call: it is what the first attempt of the read brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar

from gateway.errors import UpstreamRejected
from gateway.upstream.breaker import Circuit
from gateway.upstream.endpoints import Endpoint
from gateway.upstream.fetching import Clock, Fetcher, Read, Reply
from gateway.upstream.http1 import Connection, Parts, is_foreign
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
    line: str = ""
    at_once: str = ""

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, parts: Parts) -> bool:
        try:
            reply = self.calls.reply_to(self.read, parts)
        except Exception as failure:  # noqa: BLE001 - the layers see to it
            self.go_on(failure)
            return not is_foreign(failure, parts)
        if reply.value is None:
            self.go_on(reply)
        else:
            self.calls.went_well(self.read, reply)
            self.land(reply)
        return True

    def set_exception(self, failure: Exception) -> None:
        self.go_on(meaning_of(failure))

    def give_up(self) -> None:
        if self.task is not None:
            self.task.cancel()
            return
        self.land(asyncio.CancelledError())
        if self.connection is not None:
            # What still comes of it is nobody's.
            self.connection.close()

    def go_on(self, outcome: Reply[T] | Exception) -> None:
        """The layers go on from what the first attempt brought."""
        self.read.given = outcome
        self.goes_on_as(asyncio.get_running_loop().create_task(self.calls.following.fetch(self.read)))


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
        kept: Collection[Endpoint[Any]],
    ) -> None:
        self.following = following
        self._transport = transport
        self.reply_to = transport.reply_to
        self._circuit = circuit
        self._budget = budget
        self._paces = paces
        self._clock = clock
        self._kept = kept

    def begin(self, read: Read[T], flights: Flights) -> QuickFlight[T] | None:
        """The flight of a read; None where it is one for the layers."""
        if read.endpoint in self._kept or (self._circuit is not None and self._circuit.open_until is not None):
            return None
        if self._paces is not None and not self._paces.takes_at_once(read.errand.caller.client, self._clock()):
            return None
        flight = QuickFlight(read, flights, calls=self)
        try:
            self._transport.begin(read, flight)
        except BROKEN as broken:
            flight.set_exception(broken)
        except UpstreamRejected as rejected:
            flight.go_on(rejected)
        return flight

    def went_well(self, read: Read[T], reply: Reply[T]) -> None:
        """Tells the layers of a call that they were not asked about."""
        if reply.rate is not None and self._paces is not None:
            self._paces.learn_at_once(read.errand.caller.client, reply.rate)
        budget, circuit = self._budget, self._circuit
        if budget is not None and not budget.is_full:
            budget.save()
        if circuit is not None:
            circuit.went_well(self._clock())
