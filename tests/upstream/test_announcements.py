"""Announcements of writes over Redis."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.errors import WritesUnavailable
from gateway.settings import RedisSettings, UpstreamSettings
from gateway.upstream import announcements
from gateway.upstream.announcements import announcer_over
from gateway.upstream.cache import MemoryStore
from gateway.upstream.changes import Change, Changes
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.redis_store import RedisStore
from tests.waiting import eventually


class Process:
    """The changes that a process knows, and its announcer."""

    def __init__(self, url: str, upstream: str = "https://api.test") -> None:
        self.changes = Changes()
        memory = MemoryStore(BoundedMemoryCache(entries_max=10, bytes_max=2**20), self.changes)
        settings = RedisSettings(url=url, timeout=2.0, cooldown=0.1)
        self.store = RedisStore(settings, UpstreamSettings(url=upstream), memory)

    async def __aenter__(self):
        self._context = announcer_over(self.store, self.changes)
        self.announcer = await self._context.__aenter__()
        await self.is_listening()
        return self

    async def __aexit__(self, *failure):
        await self._context.__aexit__(*failure)
        await self.store.close()
        self.changes.close()

    async def is_listening(self):
        await eventually(lambda: self.announcer._is_listening)


def change(write="w"):
    return Change(write, "A", ("/vehicles/A",), ("",), 60.0)


class LosesCancellation:
    """Channels without messages that lose a cancellation, as a library did that returned a result instead."""

    async def messages(self, *_channels):
        yield None
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def script(self, *_):
        return b"1"


async def test_it_stops_even_if_a_cancellation_is_lost(monkeypatch):
    """The process would not end otherwise."""
    monkeypatch.setattr(announcements, "CANCELLED_AGAIN_AFTER", 0.01)
    changes = Changes()
    async with asyncio.timeout(5):
        async with announcer_over(LosesCancellation(), changes) as announcer:
            await eventually(lambda: announcer._is_listening)
    changes.close()


async def test_a_completed_write_is_known_to_all_processes(redis):
    """When the announcement ends; it has the same number for all, and numbers grow."""
    async with Process(redis.url) as one, Process(redis.url) as other, Process(redis.url, "https://b.test") as foreign:
        await one.announcer.opened(change())
        await eventually(lambda: other.changes.is_stale("p:/vehicles/A", other.changes.latest, ""))
        latest = 0
        for number in range(20):
            process = (one, other)[number % 2]
            await process.announcer.completed(change("w" if not number else f"w{number}"))
            assert one.changes.latest == other.changes.latest > latest
            latest = one.changes.latest
            assert not other.changes.is_stale("p:/vehicles/A", latest, "")
        assert foreign.changes.latest == 0


async def test_a_new_process_knows_that_older_entries_may_be_stale(redis):
    """It has not heard of the writes before; so what was read before the latest one is stale to it."""
    async with Process(redis.url) as one:
        await one.announcer.completed(change())
        async with Process(redis.url) as new:
            assert new.changes.latest == one.changes.latest
            assert new.changes.is_stale("p:/vehicles/B", one.changes.latest - 1, "")


async def test_a_process_without_redis_writes_nothing_and_trusts_nothing(redis, monkeypatch):
    """Until it is back; a write that was completed meanwhile is announced then, with a higher number than any before."""
    monkeypatch.setattr(announcements, "PAUSE", 0.1)
    async with Process(redis.url) as one, Process(redis.url) as other:
        await one.announcer.completed(change("before"))
        before = one.changes.latest
        await one.announcer.opened(change())
        redis.kill()
        await one.announcer.completed(change())
        await eventually(lambda: not one.announcer._is_listening and not other.announcer._is_listening)
        assert other.changes.is_stale("p:/vehicles/B", before, "")
        with pytest.raises(WritesUnavailable):
            await one.announcer.opened(change("another"))
        redis.start()
        await one.is_listening()
        await other.is_listening()
        await eventually(lambda: not one.announcer._retries)
        await eventually(lambda: not other.changes._open)
        assert other.changes.latest > before
        assert not other.changes.is_stale("p:/vehicles/A", other.changes.latest, "")


async def test_a_process_that_hangs_delays_a_write_only_for_a_moment(redis, monkeypatch):
    """Its subscription is there, but it takes no note; that is logged."""
    monkeypatch.setattr(announcements, "KNOWN_WITHIN", 0.2)
    async with Process(redis.url) as one, Process(redis.url) as hanging:
        asked, release = asyncio.Event(), asyncio.Event()

        async def hang(channel, message):
            asked.set()
            await release.wait()

        hanging.announcer._receive = hang
        async with asyncio.timeout(2):
            await one.announcer.completed(change())
        assert asked.is_set()
        release.set()
