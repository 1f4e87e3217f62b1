"""Records of writes by their idempotency keys, so that each is sent at most once.

A record is made before the write is sent. If its process ends before it has recorded the outcome, the record stays as
it is, and the outcome is unknown. Records hold digests and outcomes, but no data of vehicles.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from gateway.errors import WritesUnavailable

# Seconds for which a record is kept, and how many there are at most in memory.
KEPT = 86_400.0
RECORDS_MAX = 200_000
# Seconds between attempts to change a record while Redis is away, their number, and the seconds that a stopping process
# waits for them.
PAUSE, ATTEMPTS, SETTLED_WITHIN = 1.0, 60, 5.0


class WriteError(Struct, array_like=True):
    """A reason for which a write was not carried out; `field` is the path of an input field."""

    code: str
    message: str
    field: list[str] | None = None


class WriteResult(Struct, array_like=True):
    """The outcome of a write."""

    outcome: str
    errors: list[WriteError]
    vehicle_id: str | None = None
    flow_id: str | None = None


class Record(Struct, array_like=True):
    """A write of one `owner`, which is sent at most until `ends` (epoch seconds); its `result` once that is known."""

    digest: str
    owner: str
    ends: float
    result: WriteResult | None = None


class Records(Protocol):
    """Records by name."""

    async def begin(self, name: str, record: Record) -> Record | None:
        """Stores a record unless there is one, which is then returned. Raises WritesUnavailable."""

    async def find(self, name: str) -> Record | None:
        """A stored record. Raises WritesUnavailable."""

    async def finish(self, name: str, record: Record) -> None:
        """Stores the result of a write; never fails."""

    async def release(self, name: str, record: Record) -> None:
        """Removes the record of a write that was certainly not carried out; never fails."""

    async def settle(self) -> None:
        """Waits for what is being stored."""


class MemoryRecords:
    """Records in this process, for a gateway that has no other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # In the order in which they expire.
        self._records: dict[str, tuple[Record, float]] = {}

    async def begin(self, name: str, record: Record) -> Record | None:
        known = await self.find(name)
        if known is not None:
            return known
        if len(self._records) >= RECORDS_MAX:
            raise WritesUnavailable
        self._records[name] = record, self._clock() + KEPT
        return None

    async def find(self, name: str) -> Record | None:
        now = self._clock()
        while self._records and self._records[oldest := next(iter(self._records))][1] <= now:
            del self._records[oldest]
        known = self._records.get(name)
        return None if known is None else known[0]

    async def finish(self, name: str, record: Record) -> None:
        self._records.pop(name, None)
        self._records[name] = record, self._clock() + KEPT

    async def release(self, name: str, record: Record) -> None:
        self._records.pop(name, None)

    async def settle(self) -> None:
        """Nothing is being stored."""


BEGIN = """
local known = redis.call('GET', KEYS[1])
if known then return known end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
"""
FIND = "return redis.call('GET', KEYS[1]) or ''"
FINISH = "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return ''"
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return ''"


class Scripts(Protocol):
    """Runs scripts in Redis."""

    async def script(self, text: str, key: str, *arguments: str | bytes) -> Any: ...


class RedisRecords:
    """Records in Redis, for all processes. It has to keep them: with a policy that evicts them, keys may run again."""

    def __init__(self, redis: Scripts) -> None:
        self._redis = redis
        self._retries: set[asyncio.Task[None]] = set()

    async def begin(self, name: str, record: Record) -> Record | None:
        try:
            known = _decoded(await self._redis.script(BEGIN, name, _encoded(record), _milliseconds()))
        except WritesUnavailable:
            # It may have been stored nevertheless.
            self._retry(lambda: self._redis.script(RELEASE, name, _encoded(record)))
            raise
        # The client repeats commands whose connection has failed, so that it may find its own record.
        return None if known is None or known.owner == record.owner else known

    async def find(self, name: str) -> Record | None:
        return _decoded(await self._redis.script(FIND, name))

    async def finish(self, name: str, record: Record) -> None:
        stored = _encoded(record)
        await self._try(lambda: self._redis.script(FINISH, name, stored, _milliseconds()))

    async def release(self, name: str, record: Record) -> None:
        stored = _encoded(record)
        await self._try(lambda: self._redis.script(RELEASE, name, stored))

    async def settle(self) -> None:
        """Waits for what is being stored, if that is soon."""
        if self._retries:
            _, late = await asyncio.wait(self._retries, timeout=SETTLED_WITHIN)
            for retry in late:
                retry.cancel()

    async def _try(self, change: Callable[[], Awaitable[Any]]) -> None:
        if await change() is None:
            self._retry(change)

    def _retry(self, change: Callable[[], Awaitable[Any]]) -> None:
        """Makes a change as soon as Redis is back, if that is soon."""

        async def again() -> None:
            for _ in range(ATTEMPTS):
                await asyncio.sleep(PAUSE)
                if await change() is not None:
                    return

        retry = asyncio.get_running_loop().create_task(again())
        self._retries.add(retry)
        retry.add_done_callback(self._retries.discard)


def _encoded(record: Record) -> bytes:
    return msgspec.msgpack.encode(record)


def _decoded(stored: bytes | None) -> Record | None:
    if stored is None:
        raise WritesUnavailable
    return msgspec.msgpack.decode(stored, type=Record) if stored else None


def _milliseconds() -> str:
    return str(int(KEPT * 1000))
