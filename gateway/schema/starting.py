"""Coroutines begun at once: what need not wait for anything is done without a task and without a turn of the loop.

As tasks with `eager_start` do it, which Python has from 3.12 on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T], awaited: Any) -> T:
    """What becomes of a coroutine that was begun by `send(None)` and waits for `awaited` now."""
    return await _Rest(work, awaited)  # type: ignore[no-any-return]


def start(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Runs a coroutine until it first waits; the rest goes on in a task."""
    try:
        awaited = work.send(None)
    except StopIteration as done:
        finished: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        finished.set_result(done.value)
        return finished
    except Exception as failed:  # noqa: BLE001 - whoever awaits is told
        finished = asyncio.get_running_loop().create_future()
        finished.set_exception(failed)
        return finished
    return asyncio.ensure_future(finish(work, awaited))


class _Rest:
    """A coroutine that was begun, and what it waits for."""

    def __init__(self, work: Coroutine[Any, Any, Any], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        work, awaited = self._work, self._awaited
        while True:
            if isinstance(awaited, asyncio.Future):
                # What `await` says to the task; somebody else who awaits it, too, may have taken it back meanwhile.
                awaited._asyncio_future_blocking = True  # noqa: SLF001 - the protocol of asyncio's futures
            try:
                sent = yield awaited
            except BaseException as thrown:  # noqa: BLE001 - it is the coroutine's to handle
                step = partial(work.throw, thrown)
            else:
                step = partial(work.send, sent)
            try:
                awaited = step()
            except StopIteration as done:
                return done.value
