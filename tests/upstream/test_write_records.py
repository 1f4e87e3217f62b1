"""Records of writes: in memory and in Redis."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import WritesUnavailable
from gateway.settings import RedisSettings, UpstreamSettings
from gateway.upstream import write_records
from gateway.upstream.cache import MemoryStore
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.redis_store import RedisStore
from gateway.upstream.write_records import MemoryRecords, Record, RedisRecords, WriteError, WriteResult

RESULT = WriteResult("REJECTED", [WriteError("INVALID", "Because.", ["tags"])], "A", "flow")


def record(owner="one", **more):
    return Record("digest", owner, 1e9, **more)


@pytest.fixture(params=["memory", "redis"])
async def records(request):
    if request.param == "memory":
        yield MemoryRecords()
        return
    url = request.getfixturevalue("redis").url
    memory = MemoryStore(BoundedMemoryCache(entries_max=10, bytes_max=2**20))
    store = RedisStore(RedisSettings(url=url, timeout=2.0, cooldown=0.0), UpstreamSettings(), memory)
    yield RedisRecords(store)
    await store.close()


async def test_a_record_is_begun_once(records):
    """Another owner gets it as it is."""
    found = await asyncio.gather(*(records.begin("n", record(str(owner))) for owner in range(5)))
    assert found.count(None) == 1
    first = record(str(found.index(None)))
    assert found.count(first) == 4
    assert await records.find("n") == first
    assert await records.find("another") is None


async def test_a_result_is_kept(records):
    """Completely."""
    await records.begin("n", record())
    await records.finish("n", record(result=RESULT))
    assert await records.begin("n", record("two")) == record(result=RESULT)


async def test_a_released_record_is_free(records):
    """If it is still the owner's."""
    await records.begin("n", record())
    await records.release("n", record())
    assert await records.begin("n", record("two")) is None


async def test_records_in_memory_end_after_a_day():
    """And if there are too many, further writes are rejected, because no record may be forgotten before."""
    now = 0.0
    records = MemoryRecords(lambda: now)
    await records.begin("n", record())
    now = write_records.KEPT - 1
    assert await records.begin("n", record("two")) == record()
    now = write_records.KEPT
    assert await records.begin("n", record("two")) is None


async def test_records_in_memory_are_bounded(monkeypatch):
    """A further write is rejected: no record may be forgotten too early."""
    monkeypatch.setattr(write_records, "RECORDS_MAX", 1)
    records = MemoryRecords()
    await records.begin("a", record())
    with pytest.raises(WritesUnavailable):
        await records.begin("b", record())


class Scripts:
    """Redis that is away at first; it may store what it does not confirm."""

    def __init__(self, *, failures: int, stores: bool = False) -> None:
        self.failures, self.stores, self.stored, self.calls = failures, stores, {}, []

    async def script(self, text, key, *arguments):
        self.calls.append(text)
        self.failures -= 1
        if self.failures >= 0 and not self.stores:
            return None
        known = self.stored.get(key, b"")
        if text == write_records.BEGIN and not known:
            self.stored[key] = arguments[0]
        elif text == write_records.RELEASE and known == arguments[0]:
            del self.stored[key]
        elif text == write_records.FINISH:
            self.stored[key] = arguments[0]
        return None if self.failures >= 0 else known


async def test_a_record_that_may_have_been_stored_is_released(monkeypatch):
    """If Redis does not confirm it, nothing is sent, so the key has to be free."""
    monkeypatch.setattr(write_records, "PAUSE", 0.01)
    scripts = Scripts(failures=1, stores=True)
    records = RedisRecords(scripts)
    with pytest.raises(WritesUnavailable):
        await records.begin("n", record())
    assert scripts.stored
    await records.settle()
    assert not scripts.stored


async def test_a_result_is_stored_once_redis_is_back(monkeypatch):
    """Until then, the record says that the write has begun."""
    monkeypatch.setattr(write_records, "PAUSE", 0.01)
    scripts = Scripts(failures=0)
    records = RedisRecords(scripts)
    assert await records.begin("n", record()) is None
    scripts.failures = 3
    await records.finish("n", record(result=RESULT))
    assert await records.find("n") == record() if scripts.failures <= 0 else True
    await records.settle()
    assert await records.find("n") == record(result=RESULT)


async def test_a_repeated_command_finds_its_own_record():
    """The Redis client repeats a command whose connection has failed: then the record is there already."""
    scripts = Scripts(failures=0)
    records = RedisRecords(scripts)
    await records.begin("n", record())
    assert await records.begin("n", record()) is None
