"""Callers who leave while their operation waits or runs: its waits end, because nobody will read the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from starlette.types import Receive, Scope

from gateway.upstream.fetching import Patience

# The extension of a request's scope that holds whom to call when the caller leaves before the answer is complete.
LEAVING = "gateway.leaving"
# The extension that holds the slots to give back when the answer has gone.
GONE = "gateway.gone"


class HeldSlot(Protocol):
    """A slot that an operation has taken."""

    def leave(self) -> None:
        """Gives it back: the answer has gone, or the connection is closed."""

    def is_unsent(self) -> None:
        """The answer is complete, but its caller has not read it yet."""


def leave_when_gone(scope: Scope, slot: HeldSlot) -> None:
    """Gives a slot back when the answer to a request has gone; at once where the server does not tell that."""
    slots: list[HeldSlot] | None = scope.get("extensions", {}).get(GONE)
    if slots is None:
        slot.leave()
    else:
        slots.append(slot)


class CallerLeft(Exception):
    """The caller closed the connection; nobody is there to be told."""


class WhileThere:
    """A block of work for a caller; if they leave meanwhile, the patience ends, and what fails then is CallerLeft.

    The server tells it at once where it has the extension, as the gateway's own has. Any other is asked for the
    request's next message, by a task.
    """

    __slots__ = ("_listening", "_patience", "_receive", "_told", "has_left")

    def __init__(self, scope: Scope, receive: Receive, patience: Patience) -> None:
        # This is known to the request then, so it must not know the request: a circle.
        self._told: list[Callable[[], Any]] | None = scope.get("extensions", {}).get(LEAVING)
        self._receive = receive if self._told is None else None
        self._patience = patience
        self.has_left = False
        self._listening: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self._told is not None:
            self._told.append(self._leave)
            self._told = None
        elif self._receive is not None:
            self._listening = asyncio.get_running_loop().create_task(self._listen(self._receive))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None  # which knows this
        if self.has_left and isinstance(failure, Exception):
            raise CallerLeft from None

    def _leave(self) -> None:
        self.has_left = True
        self._patience.leave()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._leave()
