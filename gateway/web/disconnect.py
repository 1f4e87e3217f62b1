"""Client disconnects: work for a client that has closed the connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from starlette.types import Receive, Scope

from gateway.asgi import ON_DISCONNECT, SLOTS
from gateway.concurrency.deadline import Deadline


class HeldSlot(Protocol):
    """A slot that an operation has taken."""

    def release(self) -> None:
        """Gives it back: the response has left, or the connection is closed."""

    def mark_unsent(self) -> None:
        """The response is complete, but the client has not read it yet."""


def release_when_sent(scope: Scope, slot: HeldSlot) -> None:
    """Gives a slot back when the response to a request has left; at once if the server does not tell that."""
    slots: list[HeldSlot] | None = scope.get("extensions", {}).get(SLOTS)
    if slots is None:
        slot.release()
    else:
        slots.append(slot)


class ClientDisconnected(Exception):
    """The client closed the connection; there is nobody to respond to."""


class CancelOnDisconnect:
    """A block of work for a client. A disconnect ends its deadline; what fails then raises ClientDisconnected.

    The gateway's own server calls back at once. Any other server is asked for the request's next message, by a task.
    """

    __slots__ = ("_callbacks", "_deadline", "_listener", "_receive", "is_disconnected")

    def __init__(self, scope: Scope, receive: Receive, deadline: Deadline) -> None:
        # The request will hold this object, so this object must not hold the request: that would be a cycle.
        self._callbacks: list[Callable[[], Any]] | None = scope.get("extensions", {}).get(ON_DISCONNECT)
        self._receive = receive if self._callbacks is None else None
        self._deadline = deadline
        self.is_disconnected = False
        self._listener: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self._callbacks is not None:
            self._callbacks.append(self._cancel)
            self._callbacks = None
        elif self._receive is not None:
            self._listener = asyncio.get_running_loop().create_task(self._listen(self._receive))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None  # which holds this object
        if self.is_disconnected and isinstance(failure, Exception):
            raise ClientDisconnected from None

    def _cancel(self) -> None:
        self.is_disconnected = True
        self._deadline.cancel()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()
