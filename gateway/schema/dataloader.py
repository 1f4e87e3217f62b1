"""Batches the keys that are requested in one event-loop iteration, and reads each key once in a request.

Like Strawberry's DataLoader, but for many keys at a time: a list of a thousand ids is one wait, not a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from gateway.upstream.coalescing import retrieve_exception

V = TypeVar("V")
Outcomes = dict[str, V | BaseException]
# Reads distinct keys, and returns their values or errors in order.
ReadMany = Callable[[list[str]], Awaitable[Sequence[V | BaseException]]]


class DataLoader(Generic[V]):
    """Loads values by key, for one request."""

    def __init__(self, read: ReadMany[V]) -> None:
        self._read = read
        self._batch_of: dict[str, asyncio.Future[Outcomes[V]]] = {}
        self._next: asyncio.Future[Outcomes[V]] | None = None
        self._scheduled: dict[str, None] = {}

    async def load(self, key: str, *, immediate: bool = False) -> V:
        """The value of a key; raises its error."""
        (value,) = await self.load_many((key,), immediate=immediate)
        if isinstance(value, BaseException):
            raise value
        return value

    async def load_many(self, keys: Sequence[str], *, immediate: bool = False) -> list[V | BaseException]:
        """The values or errors of keys, in order; `immediate` reads them now, without waiting for other keys."""
        known = self._batch_of
        if immediate and not known:
            batch: asyncio.Future[Outcomes[V]] = asyncio.get_running_loop().create_future()
            known.update(dict.fromkeys(keys, batch))
            await _fill(batch, list(known), self._read)
            return list(map(batch.result().__getitem__, keys))
        unknown = [key for key in keys if key not in known] if known else keys
        if unknown:
            known.update(dict.fromkeys(unknown, self._schedule(unknown)))
        batches = set(map(known.__getitem__, keys))
        for batch in batches:
            if not batch.done():
                await asyncio.shield(batch)  # shared with other callers
        if len(batches) == 1:
            return list(map(batches.pop().result().__getitem__, keys))
        return [known[key].result()[key] for key in keys]

    def _schedule(self, keys: Sequence[str]) -> asyncio.Future[Outcomes[V]]:
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next, self._scheduled = loop.create_future(), {}
            # Callbacks that are already scheduled may request more keys.
            loop.call_soon(loop.call_soon, self._begin)
        self._scheduled.update(dict.fromkeys(keys))
        return self._next

    def _begin(self) -> None:
        batch, self._next = self._next, None
        assert batch is not None
        task = asyncio.get_running_loop().create_task(_fill(batch, list(self._scheduled), self._read))
        task.add_done_callback(retrieve_exception)


async def _fill(batch: asyncio.Future[Outcomes[V]], keys: list[str], read: ReadMany[V]) -> None:
    try:
        values = await read(keys)
    except BaseException as failed:
        if not batch.done():
            batch.set_result(dict.fromkeys(keys, failed))
        raise
    batch.set_result(dict(zip(keys, values, strict=True)))
