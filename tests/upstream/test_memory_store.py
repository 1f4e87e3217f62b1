"""The memory cache: bounds by entries and bytes, and what it holds of each resource."""

from __future__ import annotations

from typing import Any

from gateway.upstream.cache import OVERHEAD, Entry
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import RawValue, VehiclePage

BODY = b"x" * (1000 - OVERHEAD)


def raw() -> Entry[Any]:
    """An entry of 1000 bytes for a vehicle."""
    return Entry(RawValue(BODY, bytes), 0, len(BODY))


def page() -> Entry[VehiclePage]:
    return Entry(VehiclePage(items=[Vehicle(vehicle_id="A")]), 0, 10)


def parts_of(cache: BoundedMemoryCache) -> dict[str, tuple[int, int, int]]:
    """The entries, bytes and evictions of each resource that has any."""
    parts = {name: (part.entries, part.bytes, part.evictions) for name, part in cache.parts().items()}
    return {name: part for name, part in parts.items() if any(part)}


async def test_entries_are_set_read_and_deleted():
    """Alone or many at a time, with aiocache's methods."""
    cache, first, second = BoundedMemoryCache(entries_max=9, bytes_max=10**6), raw(), raw()
    await cache.set("a", first)
    await cache.set("b", second)
    assert await cache.get("a") is cache.peek("a") is first
    assert await cache.get("x") is cache.peek("x") is None
    assert await cache.multi_get(["b", "x", "a"]) == cache.peek_many(["b", "x", "a"]) == [second, None, first]
    assert (len(cache), cache.bytes) == (2, 2000)
    assert await cache.delete("a") == 1
    assert await cache.delete("a") == 0
    assert (len(cache), cache.bytes) == (1, 1000)


async def test_all_entries_or_those_of_a_namespace_are_cleared():
    """Their memory is free again."""
    cache = BoundedMemoryCache(entries_max=9, bytes_max=10**6)
    for key in ("alice:1", "alice:2", "bob:1"):
        await cache.set(key, raw())
    assert await cache.clear("alice:")
    assert [cache.peek(key) is not None for key in ("alice:1", "alice:2", "bob:1")] == [False, False, True]
    assert await cache.clear()
    assert (len(cache), cache.bytes, parts_of(cache)) == (0, 0, {})


async def test_entries_are_counted_by_resource():
    """Pages and states by the type of their values; all others are vehicles. Replaced ones count once."""
    cache, stored, state = BoundedMemoryCache(entries_max=9, bytes_max=10**6), page(), Entry({"a": {}}, 0, 100)
    for _ in range(2):
        await cache.set("page", stored)
        await cache.set("state", state)
        await cache.set("vehicle", raw())
        await cache.set("missing", Entry(None, 0, 0))
    assert parts_of(cache) == {
        "vehicles": (1, stored.size, 0),
        "latest_state": (1, state.size, 0),
        "vehicle": (2, 1000 + OVERHEAD, 0),
    }
    await cache.delete("page")
    await cache.delete("vehicle")
    assert parts_of(cache) == {"latest_state": (1, state.size, 0), "vehicle": (1, OVERHEAD, 0)}


async def test_evictions_are_counted_by_resource():
    """But not entries that are replaced or deleted, and an entry that is too large evicts nothing."""
    stored = page()
    cache = BoundedMemoryCache(entries_max=2, bytes_max=stored.size + 1000)
    await cache.set("page", stored)
    await cache.set("a", raw())
    await cache.set("b", raw())
    assert parts_of(cache) == {"vehicles": (0, 0, 1), "vehicle": (2, 2000, 0)}
    await cache.set("page", stored)
    assert parts_of(cache) == {"vehicles": (1, stored.size, 1), "vehicle": (1, 1000, 1)}
    await cache.set("page", Entry(stored.value, 0, 10**9))
    assert parts_of(cache) == {"vehicles": (0, 0, 1), "vehicle": (1, 1000, 1)}
