"""The cache in a real Redis: shared by processes, private to principals, and never the cause of a failure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis

from gateway.settings import RedisSettings, UpstreamSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.cache import CacheReader, CacheWriter, Entry, MemoryStore
from gateway.upstream.coalescing import SingleFlight
from gateway.upstream.field_masks import vehicle_mask
from gateway.upstream.lease import LeaseCoalescing
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.models import Vehicle, decoded
from gateway.upstream.pages import RawValue, VehiclePage
from gateway.upstream.redis_store import RedisStore, digest_of_answers
from gateway.upstream.requests import now
from tests.upstream.fakes import FakeFetcher, Sending, scope, vehicle_read


class Worker:
    """One worker process: memory of its own, and Redis."""

    def __init__(self, url: str, fleet: FakeFetcher, lease: float = 2.0, **settings: float) -> None:
        memory = MemoryStore(BoundedMemoryCache(entries_max=100, bytes_max=2**20))
        self.store = RedisStore(RedisSettings(url=url, **{"timeout": 2.0, **settings}), UpstreamSettings(), memory)
        leased = LeaseCoalescing(CacheWriter(Sending(), self.store, now), self.store, lease, now)
        self.cache = CacheReader(SingleFlight(leased, fleet, Metrics()), self.store, now, Metrics())


@pytest.fixture
async def workers(redis):
    fleet = FakeFetcher()
    pair = Worker(redis.url, fleet), Worker(redis.url, fleet)
    yield fleet, *pair
    for worker in pair:
        await worker.store.close()


async def test_one_process_reads_for_all(workers):
    """A response that one worker has stored is a cache hit for another."""
    fleet, one, two = workers
    first = await one.cache.fetch(vehicle_read())
    assert (await two.cache.fetch(vehicle_read())).value == first.value
    assert fleet.total == 1


@pytest.mark.parametrize("mask", [None, vehicle_mask({"status": None}), vehicle_mask({"other_members": None})])
async def test_vehicles_are_complete_in_another_process(workers, mask):
    """Read by id or with a page, however that was decoded: all members, also those without a field of their own."""
    _, one, two = workers
    body = b'{"id":"A","status":"NEW","tags":["t"],"telematics_unit":{"id":"U"},"x":{"y":[1]}}'
    page = VehiclePage.of_body(b'{"items":[%b,{"id":"B"}],"cursors":{"next":"n"}}' % body, mask)
    by_id = RawValue(body, lambda raw, _key, mask: decoded(raw, Vehicle))
    entries = [("p:page", page), ("p:A", page.parts()[0]), ("p:A by id", by_id)]
    await one.store.put([(key, Entry(value, now(), len(body)), 60.0) for key, value in entries])
    await asyncio.sleep(0)
    for key in ("p:A", "p:A by id"):
        vehicle = (await two.store.shared(key, Vehicle)).value
        assert vehicle == decoded(body, Vehicle)
        assert (vehicle.other_members, vehicle.telematics_unit.vehicle_id) == ({"x": {"y": [1]}}, "A")
    read = (await two.store.shared("p:page", VehiclePage)).value
    assert (read.ids, read.items[0].other_members, read.cursors.next) == (["A", "B"], {"x": {"y": [1]}}, "n")


async def test_redis_holds_no_token_and_keys_begin_with_the_principal(workers, redis):
    """Keys are namespace, format, upstream, principal and digest; neither keys nor values contain a token."""
    _, one, _ = workers
    await one.cache.fetch(vehicle_read(by=scope("a-very-secret-token")))
    async with Redis.from_url(redis.url) as client:
        keys = await client.keys("*")
        everything = b"".join(keys + [await client.get(key) for key in keys])
    principal = scope("a-very-secret-token").caller.principal
    upstream = digest_of_answers(UpstreamSettings())
    assert [key.split(b":")[:4] for key in keys] == [
        [b"gateway", b"5", upstream.encode(), b"{%s}" % principal.encode()]
    ]
    assert b"secret" not in everything


async def test_entries_in_redis_are_private_to_a_principal(workers):
    """Another caller's equal read is not a hit."""
    fleet, one, two = workers
    mine = await one.cache.fetch(vehicle_read(by=scope("alice")))
    theirs = await two.cache.fetch(vehicle_read(by=scope("bob")))
    assert mine.value != theirs.value
    assert fleet.total == 2


async def test_concurrent_reads_of_processes_share_one_call(workers):
    """Equal reads in two workers are one upstream call."""
    fleet, one, two = workers
    fleet.gate = asyncio.Event()
    calls = [asyncio.create_task(worker.cache.fetch(vehicle_read())) for worker in (one, two) for _ in range(20)]
    await asyncio.sleep(0.05)
    fleet.gate.set()
    responses = await asyncio.gather(*calls)
    assert len({response.value.vehicle_id for response in responses}) == 1
    assert fleet.total == 1


async def test_when_a_leader_dies_one_other_takes_over(redis):
    """The lease of a dead process expires, and then one waiting process calls, not all."""
    fleet = FakeFetcher()
    waiting = [Worker(redis.url, fleet, lease=5.0) for _ in range(4)]
    assert await waiting[0].store.acquire(vehicle_read().key, 0.2)
    responses = await asyncio.gather(*(worker.cache.fetch(vehicle_read()) for worker in waiting))
    assert len({response.value.vehicle_id for response in responses}) == 1
    assert fleet.total == 1
    for worker in waiting:
        await worker.store.close()


async def test_a_lease_is_released_by_its_holder_only(redis):
    """Nobody else gets the lease before it is released or ends, and one that has ended is not released."""
    worker = Worker(redis.url, FakeFetcher())
    ends = await worker.store.acquire("k", 5)
    assert ends
    assert await worker.store.acquire("k", 5) is None
    await worker.store.release("k", ends)
    await asyncio.sleep(0.01)
    assert await worker.store.acquire("k", 5)
    await worker.store.release("k", time.monotonic() - 0.1)
    await asyncio.sleep(0.01)
    assert await worker.store.acquire("k", 5) is None
    await worker.store.close()


async def test_a_lease_is_released_when_its_call_is_cancelled(redis):
    """A process that is granted a lease after its callers have left does not keep it."""
    worker = Worker(redis.url, FakeFetcher())
    async with Redis.from_url(redis.url) as client:
        await client.client_pause(10_000, all=False)  # all writes wait
        read = asyncio.create_task(worker.cache.fetch(vehicle_read()))
        async with asyncio.timeout(5):
            while not (await client.info("clients"))["blocked_clients"]:  # noqa: ASYNC110 - Redis does not report it
                await asyncio.sleep(0.005)
        read.cancel()
        await asyncio.wait((read,))
        await client.client_unpause()
        await asyncio.sleep(0.1)
        assert await client.keys("*") == []
    await worker.store.close()


async def test_entries_survive_redis_unchanged(redis):
    """A vehicle with every kind of value is equal afterwards, and so is a 404."""
    worker = Worker(redis.url, FakeFetcher())
    state = '{"x": {"value": [1, {"a": null}], "timestamp": "2024-05-14T08:41:12Z"}, "y": {"value": 1.5}}'
    body = f'{{"id": "Ä", "latest_state": {state}, "custom_fields": {{"seats": 4}}}}'.encode()
    entry = Entry(decoded(body, Vehicle), 7.5, 100, '"tag"', 9e9)
    await worker.store.put([("p:a", entry, 60.0), ("p:none", Entry(None, 7.5, 0), 60.0)])
    assert await worker.store.shared("p:a", Vehicle) == entry
    assert (await worker.store.shared("p:none", Vehicle)).value is None
    await worker.store.close()


async def test_undecodable_entries_are_ignored(workers, redis):
    """Entries of another version count as absent."""
    fleet, one, _ = workers
    async with Redis.from_url(redis.url) as client:
        principal, _, digest = vehicle_read().key.partition(":")
        name = f"gateway:4:{digest_of_answers(UpstreamSettings())}:{{{principal}}}:{digest}"
        await client.set(name, b"\xc1 no entry")
    assert (await one.cache.fetch(vehicle_read())).value is not None
    assert fleet.total == 1


async def test_entries_expire_in_redis(redis):
    """Every key in Redis has a time to live."""
    worker = Worker(redis.url, FakeFetcher())
    await worker.cache.fetch(vehicle_read())
    async with Redis.from_url(redis.url) as client:
        times = [await client.pttl(key) for key in await client.keys("*")]
    assert times
    assert all(0 < milliseconds <= 110_000 for milliseconds in times)
    await worker.store.close()


async def test_a_dead_redis_fails_no_read(redis):
    """Redis is killed and restarted under load, and used again afterwards."""
    fleet = FakeFetcher()
    worker = Worker(redis.url, fleet, cooldown=0.1)
    failed, number = [], 0

    async def load() -> None:
        nonlocal number
        while not ended.is_set():
            number += 1
            try:
                await worker.cache.fetch(vehicle_read(str(number)))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not happen
                failed.append(error)
            await asyncio.sleep(0.001)

    ended = asyncio.Event()
    loads = [asyncio.create_task(load()) for _ in range(5)]
    await asyncio.sleep(0.2)
    redis.kill()
    await asyncio.sleep(0.4)
    await asyncio.to_thread(redis.start)
    await asyncio.sleep(0.4)
    ended.set()
    await asyncio.gather(*loads)
    assert failed == []
    await asyncio.sleep(0.15)
    await worker.cache.fetch(vehicle_read("after"))
    assert await worker.store.shared(vehicle_read("after").key, Vehicle) is not None
    await worker.store.close()


def test_a_redis_that_resets_connections_fails_nothing():
    """Not even on uvloop, on which such a connection can fail with an error that is not the client's own."""

    def reset() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    async def main() -> list[Any]:
        worker = Worker(f"redis://127.0.0.1:{server.getsockname()[1]}/0", FakeFetcher(), cooldown=0.001)
        results = []
        for _ in range(10):
            results += await asyncio.gather(*(worker.store.script("return 1", "key") for _ in range(5)))
            await asyncio.sleep(0.002)
        await worker.store.close()
        return results

    with socket.create_server(("127.0.0.1", 0)) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        resetting = threading.Thread(target=reset)
        resetting.start()
        assert set(runner.run(main())) == {None}
        server.shutdown(socket.SHUT_RDWR)
        resetting.join()


async def test_a_slow_redis_costs_a_short_timeout_once():
    """A Redis that never responds delays one read by its time-out, and is then not used for a while."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = Worker(f"redis://127.0.0.1:{port}/0", FakeFetcher(), timeout=0.1, cooldown=60)
    began = time.monotonic()
    for number in range(100):
        assert (await worker.cache.fetch(vehicle_read(str(number)))).value is not None
    assert time.monotonic() - began < 5.0  # a hundred time-outs would be ten seconds, and twice that for writes
    await worker.store.close()
    server.close()
