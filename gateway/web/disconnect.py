"""Client disconnects: work for a client that has closed its connection is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from starlette.types import Receive, Scope

from gateway.asgi import ON_DISCONNECT, SLOTS
from gateway.concurrency.deadline import Deadline


class HeldSlot(Protocol):
    """The slot of an operation."""

    def release(self) -> None:
        """Releases the slot, because the response was sent or the connection is closed."""

    def mark_unsent(self) -> None:
        """Records that the response is complete but has not been read."""


def release_when_sent(scope: Scope, slot: HeldSlot) -> None:
    """Releases a slot when the response was sent; at once if the server does not support that."""
    slots: list[HeldSlot] | None = scope.get("extensions", {}).get(SLOTS)
    if slots is None:
        slot.release()
    else:
        slots.append(slot)


class ClientDisconnected(Exception):
    """The client closed the connection, so no response can be sent."""


class CancelOnDisconnect:
    """Cancels a block's deadline when the client disconnects; an exception then becomes ClientDisconnected.

    The gateway's own server calls back at once. With other servers a task waits for the disconnect message.
    """

    __slots__ = ("_callbacks", "_deadline", "_listener", "_receive", "is_disconnected")

    def __init__(self, scope: Scope, receive: Receive, deadline: Deadline) -> None:
        # Not the scope itself, which will refer to this object: that would be a reference cycle.
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
            self._listener = None  # it refers to this object
        if self.is_disconnected and isinstance(failure, Exception):
            raise ClientDisconnected from None

    def _cancel(self) -> None:
        self.is_disconnected = True
        self._deadline.cancel()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()
