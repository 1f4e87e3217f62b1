"""Announces writes to all processes over Redis: each one is published when it is opened and when it is completed.

A process that is not subscribed does not know what other processes write. So it treats everything cached as stale, and
sends no writes. Redis numbers the completed writes, starting at the time in microseconds, so that numbers grow even if
it loses its data.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import msgspec

from gateway.errors import WritesUnavailable
from gateway.telemetry.logs import get_logger
from gateway.upstream.changes import Change, Changes

log = get_logger("gateway.upstream")
CHANNEL = "changes"
# The number of the latest completed write, and the next one; 0 without any.
LATEST = "return redis.call('GET', KEYS[1]) or '0'"
NEXT = """
local number = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', number))
return string.format('%.0f', number)
"""
# Seconds that a completed write waits until all processes know it.
KNOWN_WITHIN = 1.0
# Seconds between attempts to subscribe, and to announce a completed write while Redis is away, and their number.
PAUSE, ATTEMPTS = 1.0, 30
# How often the latter is announced then, because other processes have to subscribe again, too.
REPEATED = 5
# Seconds after which a subscription that goes on in spite of its cancellation is cancelled again.
CANCELLED_AGAIN_AFTER = 0.5


class Channels(Protocol):
    """What this needs of Redis."""

    async def script(self, text: str, key: str, *arguments: str | bytes) -> Any: ...

    async def publish(self, channel: str, message: bytes) -> int | None: ...

    def messages(self, *channels: str) -> AsyncGenerator[tuple[str, bytes] | None, None]: ...


class _Announced(msgspec.Struct):
    """A change, and the channel on which its process learns who knows it."""

    change: Change
    replies: str


class RedisAnnouncer:
    """Announces the writes of this process, and takes note of those of all others."""

    def __init__(self, redis: Channels, changes: Changes) -> None:
        self._redis = redis
        self._changes = changes
        self._replies = f"known:{secrets.token_hex(8)}"
        self._known: Counter[str] = Counter()
        self._awaited: dict[str, tuple[int, asyncio.Future[None]]] = {}
        self._is_listening = False
        self._retries: set[asyncio.Task[None]] = set()
        changes.lose()

    async def opened(self, change: Change) -> None:
        """Announces a write that is about to be sent. Raises WritesUnavailable if that is impossible."""
        if not self._is_listening or await self._publish(change) is None:
            raise WritesUnavailable
        self._changes.apply(change)

    async def completed(self, change: Change) -> None:
        """Announces a write that has ended, and waits until the others know it, or for a moment. Never fails."""
        number = await self._next()
        change.number = self._changes.latest + 1 if number is None else int(number)
        self._changes.apply(change)
        if number is None:
            self._retry(change)
        elif not await self._is_known(change):
            log.warning("write not known to all processes")

    async def listen(self) -> None:
        """Takes note of all changes, and subscribes again whenever the connection fails."""
        while True:
            async with aclosing(self._redis.messages(CHANNEL, self._replies)) as messages:
                async for message in messages:
                    if message is not None:
                        await self._receive(*message)
                    elif not await self._resume():
                        break
            self._changes.lose()
            if self._is_listening:
                log.warning("writes of other processes unknown", reason="redis unavailable")
            self._is_listening = False
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Gives up what is retried."""
        for retry in self._retries:
            retry.cancel()
        if self._retries:
            await asyncio.wait(self._retries)

    async def _next(self) -> bytes | None:
        """The number of the next completed write; None if Redis is unavailable."""
        least = max(self._changes.latest + 1, time.time_ns() // 1000)
        number: bytes | None = await self._redis.script(NEXT, CHANNEL, str(least))
        return number

    async def _resume(self) -> bool:
        """Whether all writes are known from now on."""
        latest = await self._redis.script(LATEST, CHANNEL)
        if latest is not None:
            self._changes.resume(int(latest))
            self._is_listening = True
        return latest is not None

    async def _receive(self, channel: str, message: bytes) -> None:
        if channel == self._replies:
            self._count(message.decode())
            return
        announced = msgspec.json.decode(message, type=_Announced)
        self._changes.apply(announced.change)
        if announced.change.number is not None:
            await self._redis.publish(announced.replies, announced.change.write.encode())

    def _count(self, write: str) -> None:
        self._known[write] += 1
        receivers, waiter = self._awaited.get(write, (0, None))
        if waiter is not None and self._known[write] >= receivers and not waiter.done():
            waiter.set_result(None)

    async def _is_known(self, change: Change) -> bool:
        """Publishes a completed write; whether all subscribers take note of it in time."""
        write = change.write
        try:
            receivers = await self._publish(change)
            if receivers is None:
                self._retry(change)
                return False
            if self._known[write] < receivers:
                waiter = asyncio.get_running_loop().create_future()
                self._awaited[write] = receivers, waiter
                await asyncio.wait((waiter,), timeout=KNOWN_WITHIN)
            return self._known[write] >= receivers
        finally:
            self._awaited.pop(write, None)
            self._known.pop(write, None)

    async def _publish(self, change: Change) -> int | None:
        return await self._redis.publish(CHANNEL, msgspec.json.encode(_Announced(change, self._replies)))

    def _retry(self, change: Change) -> None:
        """Announces a completed write as soon as Redis is back; until then, others treat it as open."""

        async def announce() -> None:
            number, announced = None, 0
            for _ in range(ATTEMPTS):
                await asyncio.sleep(PAUSE)
                number = number or await self._next()
                if number is not None:
                    change.number = int(number)
                    announced += await self._publish(change) is not None
                if announced == REPEATED:
                    return

        retry = asyncio.get_running_loop().create_task(announce())
        self._retries.add(retry)
        retry.add_done_callback(self._retries.discard)


@asynccontextmanager
async def announcer_over(redis: Channels, changes: Changes) -> AsyncIterator[RedisAnnouncer]:
    """An announcer that listens until the block ends."""
    announcer = RedisAnnouncer(redis, changes)
    listening = asyncio.get_running_loop().create_task(announcer.listen())
    try:
        yield announcer
    finally:
        # `asyncio.wait_for` of Python 3.11, which the client uses, may lose a cancellation.
        while not listening.done():
            listening.cancel()
            await asyncio.wait((listening,), timeout=CANCELLED_AGAIN_AFTER)
        await announcer.close()
