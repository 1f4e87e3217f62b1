"""Answers that leave together, at the end of the event loop's turn.

Sent one by one, each would wake the callers' machine; together only the first does, and the others find it awake. It
pays for answers that are at hand, of which many are given in a turn; those that were read for leave at once.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Sender(Protocol):
    """A connection with something that has not been sent."""

    def send_unsent(self) -> None: ...


class Outbox:
    """The connections of one event loop that have something to send."""

    def __init__(self) -> None:
        self._senders: list[Sender] = []

    def put(self, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        """Has a connection send when the turn ends; it may do so before."""
        if not self._senders:
            loop.call_soon(self._send)
        self._senders.append(sender)

    def _send(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.send_unsent()
