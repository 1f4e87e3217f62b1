"""The stack between the client and the network: cache, coalescing, lease, cache writer, resilience, transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from gateway.settings import CacheSettings, Settings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.announcements import announcer_over
from gateway.upstream.cache import CacheReader, CacheWriter, MemoryStore, Store
from gateway.upstream.changes import Announcer, Changes, LocalAnnouncer, WriteAnnouncement
from gateway.upstream.circuit import Circuit
from gateway.upstream.client import FleetClient
from gateway.upstream.coalescing import SingleFlight, Uncoalesced
from gateway.upstream.endpoints import FleetEndpoints
from gateway.upstream.http.network import check as check_network
from gateway.upstream.http.transport import HttpTransport, Network
from gateway.upstream.lease import LeaseCoalescing
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.rate_limit import LocalRateLimiter, RateLimiter
from gateway.upstream.rate_limit_redis import RedisRateLimiter
from gateway.upstream.requests import Clock, Layer, ManyFetcher, now
from gateway.upstream.resilience import Resilience
from gateway.upstream.retry import RetryPolicy
from gateway.upstream.traced_batches import TracedBatches
from gateway.upstream.write_records import MemoryRecords, Records, RedisRecords
from gateway.upstream.writes import Writer

if TYPE_CHECKING:
    from gateway.upstream.redis_store import RedisStore


def check(settings: Settings) -> None:
    """Raises Misconfigured for settings of the fleet API or of Redis that can't be used."""
    check_network(settings.upstream)
    if settings.redis.url is not None:
        from gateway.upstream import redis_store  # noqa: PLC0415 - redis takes seven megabytes and is optional

        redis_store.check(settings.redis)


@asynccontextmanager
async def build_client(
    settings: Settings,
    network: Network | None = None,
    clock: Clock = now,
    metrics: Metrics | None = None,
    *,
    traced: bool = False,
) -> AsyncIterator[FleetClient]:
    """A client over the configured stack; on exit, waits for the calls in progress and closes all connections."""
    metrics = metrics or Metrics()
    async with AsyncExitStack() as closing:
        endpoints = FleetEndpoints(settings.upstream, settings.cache)
        transport = HttpTransport(settings.upstream, network)
        closing.push_async_callback(transport.close)
        changes = Changes()
        closing.callback(changes.close)
        redis = _redis_of(settings, closing, changes)
        resilience = _resilience_of(settings, redis, clock, metrics)
        layer: Layer = resilience
        if settings.writes != "off":
            announcer: Announcer = LocalAnnouncer(changes)
            if redis is not None:
                announcer = await closing.enter_async_context(announcer_over(redis, changes))
            layer = WriteAnnouncement(layer, announcer, settings.upstream.total_timeout)
        store: Store | None = None
        if settings.cache.enabled:
            store = redis or _memory_of(settings.cache, changes)
            layer = CacheWriter(layer, store, clock)
        if redis is not None and settings.cache.enabled and settings.coalescing.enabled:
            layer = LeaseCoalescing(layer, redis, settings.coalescing.lease, clock)
        flights = (
            SingleFlight(layer, transport, metrics, changes)
            if settings.coalescing.enabled
            else Uncoalesced(layer, transport, metrics)
        )
        closing.push_async_callback(flights.settle)
        cache = None
        if store is not None:
            cache = CacheReader(flights, store, clock, metrics)
            metrics.samplers.append(store.samples)
            closing.push_async_callback(cache.settle)
        fetcher: ManyFetcher = cache or flights
        if traced:
            fetcher = TracedBatches(fetcher)
        records: Records = MemoryRecords() if redis is None else RedisRecords(redis)
        writer = Writer(fetcher, endpoints, settings, records, metrics, clock)
        closing.push_async_callback(writer.settle)
        client = FleetClient(
            fetcher,
            settings.upstream,
            endpoints,
            cache,
            writer=writer,
            changes=changes,
            prefetch=settings.cache.prefetch,
            under_way=flights.__len__,
            is_circuit_open=lambda: resilience.circuit.is_open,
            is_redis_away=None if redis is None else redis.is_away,
            calls_max=settings.limits.upstream_calls,
        )
        closing.push_async_callback(client.settle)
        metrics.samplers += (transport.samples, resilience.samples)
        yield client


def _resilience_of(settings: Settings, redis: RedisStore | None, clock: Clock, metrics: Metrics) -> Resilience:
    limiter: RateLimiter = LocalRateLimiter(settings.rate_limit)
    if redis is not None and settings.rate_limit.enabled:
        limiter = RedisRateLimiter(settings.rate_limit, redis)
    return Resilience(Circuit(settings.breaker), RetryPolicy(settings.retry), limiter, clock, metrics)


def _memory_of(settings: CacheSettings, changes: Changes) -> MemoryStore:
    return MemoryStore(BoundedMemoryCache(entries_max=settings.entries_max, bytes_max=settings.bytes_max), changes)


def _redis_of(settings: Settings, closing: AsyncExitStack, changes: Changes) -> RedisStore | None:
    if settings.redis.url is None:
        return None
    from gateway.upstream.redis_store import RedisStore  # noqa: PLC0415 - redis takes seven megabytes and is optional

    redis = RedisStore(settings.redis, settings.upstream, _memory_of(settings.cache, changes))
    closing.push_async_callback(redis.close)
    return redis
