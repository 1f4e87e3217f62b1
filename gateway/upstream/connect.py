"""The stack of fetchers between the client and the network, outermost first: the whole resilience story."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from gateway.settings import CacheSettings, Settings
from gateway.upstream.bounded_memory import BoundedMemoryCache
from gateway.upstream.breaker import Breaker
from gateway.upstream.cache import Cache, Filling, MemoryStore, Store
from gateway.upstream.client import FleetClient
from gateway.upstream.endpoints import FleetEndpoints
from gateway.upstream.fetching import Clock, Fetcher, now
from gateway.upstream.lease import Leased
from gateway.upstream.pacing import LocalPaces, Pacing
from gateway.upstream.quick_calls import QuickCalls
from gateway.upstream.retrying import Retrying
from gateway.upstream.shared_pacing import SharedPaces
from gateway.upstream.single_flight import OwnFlight, SingleFlight
from gateway.upstream.transport import HttpTransport, Network

if TYPE_CHECKING:
    from gateway.upstream.redis_store import RedisStore


@asynccontextmanager
async def connect(settings: Settings, network: Network | None = None, clock: Clock = now) -> AsyncIterator[FleetClient]:
    """A client over the configured stack; leaving it waits for the calls under way and closes all connections."""
    async with AsyncExitStack() as closing:
        endpoints = FleetEndpoints(settings.upstream, settings.cache)
        transport = HttpTransport(settings.upstream, network)
        closing.push_async_callback(transport.close)
        redis = _redis_of(settings, closing)
        paces: LocalPaces | None = None
        retrying: Retrying | None = None
        breaker: Breaker | None = None
        store: Store | None = None
        fetcher: Fetcher = transport
        if settings.pacing.enabled:
            paces = LocalPaces(settings.pacing)
            shared = None if redis is None else SharedPaces(settings.pacing, redis)
            fetcher = Pacing(fetcher, shared or paces, clock)
        if settings.retry.attempts > 1:
            fetcher = retrying = Retrying(fetcher, settings.retry)
        if settings.breaker.enabled:
            fetcher = breaker = Breaker(fetcher, settings.breaker, clock)
        if settings.cache.enabled:
            store = redis or _memory_of(settings.cache)
            fetcher = Filling(fetcher, store, clock)
        if redis is not None and settings.cache.enabled and settings.coalescing.enabled:
            fetcher = Leased(fetcher, redis, settings.coalescing.lease, clock)
        quick = QuickCalls(
            fetcher,
            transport,
            None if breaker is None else breaker.circuit,
            None if retrying is None else retrying.budget,
            paces,
            clock,
            endpoints.kept,
        )
        kind = SingleFlight if settings.coalescing.enabled else OwnFlight
        # What other processes share needs waiting for.
        flights = kind(fetcher, quick) if redis is None and transport.is_quick else kind(fetcher)
        closing.push_async_callback(flights.settle)
        cache = None
        if store is not None:
            cache = Cache(flights, store, clock)
            closing.push_async_callback(cache.settle)
        client = FleetClient(
            cache or flights,
            settings.upstream,
            endpoints,
            cache,
            prefetch=settings.cache.prefetch,
            under_way=flights.__len__,
            calls_max=settings.limits.upstream_calls,
        )
        closing.push_async_callback(client.settle)
        yield client


def _memory_of(settings: CacheSettings) -> MemoryStore:
    return MemoryStore(BoundedMemoryCache(entries_max=settings.entries_max, bytes_max=settings.bytes_max))


def _redis_of(settings: Settings, closing: AsyncExitStack) -> RedisStore | None:
    if settings.redis.url is None:
        return None
    from gateway.upstream.redis_store import RedisStore  # noqa: PLC0415 - redis is seven megabytes, and seldom used

    redis = RedisStore(settings.redis, settings.upstream, _memory_of(settings.cache))
    closing.push_async_callback(redis.close)
    return redis
