"""Entries in Redis, shared by all processes, as a second tier below memory.

After a failure or time-out Redis is not used for a while; it never fails a request. It may be a Cluster, a replica or a
proxy, or its user may lack permissions: entries and leases need MGET and SET, and rate limits need EVAL. Writes need
EVAL, PUBLISH and SUBSCRIBE.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from aiocache.backends.redis import RedisCache
from aiocache.serializers import NullSerializer
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from gateway.settings import Misconfigured, RedisSettings, UpstreamSettings
from gateway.telemetry.logs import get_logger
from gateway.telemetry.metrics import Sample
from gateway.upstream.cache import Entry, MemoryStore
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.models import Vehicle, decoded
from gateway.upstream.pages import IDS, DecodedPages, VehiclePage

T = TypeVar("T")
log = get_logger("gateway.upstream")

# Incremented whenever the stored form changes, so that entries of older versions are not found.
FORMAT = 5
# Upstream settings that do not affect responses. All others, including new ones, are part of a key.
HOW = frozenset(
    (
        "transport",
        "http2",
        "ca_file",
        "page_dedup_bytes_max",
        "parallel_reads_max",
        "connect_timeout",
        "read_timeout",
        "write_timeout",
        "pool_timeout",
        "total_timeout",
        "connections_max",
        "keepalive_expiry",
        "response_bytes_max",
        "command_timeout",
        "add_vehicle_path",
        "update_vehicle_path",
        "archive_vehicle_path",
        "share_vehicle_path",
        "command_path",
    )
)
# The commands, and what is not used for a while after one of them has failed.
MGET, SET, DEL, EVAL, PUBLISH = "MGET", "SET", "DEL", "EVAL", "PUBLISH"
USES = {MGET: "entries", SET: "entries", DEL: "removals", EVAL: "scripts", PUBLISH: "messages"}
# Seconds without a message after which a subscription's connection is checked, and again until it counts as lost.
SILENCE = 1.0
TIMEOUTS = (TimeoutError, RedisTimeout)
# uvloop raises a RuntimeError if the client writes to a connection that has been closed meanwhile.
FAILURES = (RedisError, OSError, TimeoutError, RuntimeError)


class Stored(msgspec.Struct, Generic[T], array_like=True):
    """An entry in Redis, in MessagePack."""

    value: T | None
    stored_at: float
    body: int
    etag: str | None
    token_expires_at: float | None
    number: int
    group: str


class RedisStore:
    """Two tiers: memory first, then Redis.

    Gateways may share a Redis. They share entries and leases if all settings that affect responses are equal, and rate
    limits if the upstream is the same.
    """

    def __init__(self, settings: RedisSettings, upstream: UpstreamSettings, memory: MemoryStore) -> None:
        self._memory = memory
        self.changes = memory.changes
        self._settings = settings
        start = f"{settings.namespace}:{FORMAT}"
        self._redis = _redis_of(settings, f"{start}:{digest_of_answers(upstream)}")
        self._scripts_namespace = f"{start}:{digest_of_url(upstream)}"
        self._unused_until = dict.fromkeys(USES.values(), -math.inf)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoded_pages = DecodedPages()
        self._decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}

    def peek_undecoded(self, key: str) -> Entry[Any] | None:
        """An entry in memory, as it is stored."""
        return self._memory.peek_undecoded(key)

    def peek(self, key: str) -> Entry[Any] | None:
        """An entry in memory."""
        return self._memory.peek(key)

    def samples(self) -> Iterator[Sample]:
        """The entries in memory, by resource."""
        return self._memory.samples()

    async def get_many(self, keys: Sequence[str], model: type[T], mask: type | None = None) -> list[Entry[T] | None]:
        entries = await self._memory.get_many(keys, model, mask)
        missing = [index for index, entry in enumerate(entries) if entry is None]
        if not missing:
            return entries
        raw = await self._run(MGET, self._redis.multi_get([_slotted(keys[index]) for index in missing]))
        arrived = []
        for index, body in zip(missing, raw or (), strict=False):
            entry = self._decoded(keys[index], body, model)
            if entry is not None:
                entries[index] = entry
                arrived.append((keys[index], entry, 0.0))
        await self._memory.put(arrived)
        return entries

    async def shared(self, key: str, model: type[T]) -> Entry[T] | None:
        """An entry in Redis, regardless of memory."""
        raw = await self._run(MGET, self._redis.multi_get([_slotted(key)]))
        return self._decoded(key, raw[0], model) if raw else None

    async def put(self, entries: Sequence[tuple[str, Entry[Any], float]]) -> None:
        await self._memory.put(entries)
        if self._is_unused(SET):
            return
        # No transaction: entries are independent of each other, and proxies do not support them.
        commands = self._redis.client.pipeline(transaction=False)
        for key, undecoded, seconds in entries:
            entry = undecoded.decoded_value()
            if entry is None:
                continue
            value = _stored_form(entry.value)
            stored = Stored(
                value, entry.stored_at, entry.body, entry.etag, entry.token_expires_at, entry.number, entry.group
            )
            commands.set(self._name(key), self._encoder.encode(stored), px=_milliseconds(seconds))
        if len(commands):
            await self._run(SET, commands.execute())

    async def drop(self, key: str) -> None:
        await self._memory.drop(key)
        if not self._is_unused(SET):
            await self._remove(self._name(key))

    async def acquire(self, key: str, seconds: float) -> float | None:
        """Acquires the lease on a key for its call; None if another process has it.

        Returns the time (`time.monotonic`) at which the lease ends, or 0 if Redis is unavailable.
        """
        if self._is_unused(SET):
            return 0.0
        name, ends = self._name(key, "lease:"), time.monotonic() + seconds
        command = asyncio.ensure_future(self._redis.client.set(name, b"", nx=True, px=_milliseconds(seconds)))
        try:
            return ends if await self._sent(SET, command) else None
        except ResponseError:
            return 0.0
        except FAILURES:
            return ends  # Redis may have executed the command, or may yet.
        except asyncio.CancelledError:
            await asyncio.wait((command,))
            if command.cancelled() or command.exception() is not None or command.result():
                await self._remove(name)
            raise

    async def release(self, key: str, ends: float) -> None:
        """Releases a lease, also in the cooldown; one that has ended may be another process's."""
        if time.monotonic() < ends:
            await self._remove(self._name(key, "lease:"))

    async def script(self, text: str, key: str, *arguments: str | bytes) -> Any:
        """The result of a Lua script on one key of the upstream's URL; None if Redis is unavailable."""
        whole = self._redis.build_key(key, namespace=self._scripts_namespace)
        return await self._run(EVAL, self._redis.raw("eval", text, 1, whole, *arguments))

    async def publish(self, channel: str, message: bytes) -> int | None:
        """Sends a message to the subscribers of a channel of the upstream's URL, and returns their number.

        None if Redis is unavailable.
        """
        name = self._redis.build_key(channel, namespace=self._scripts_namespace)
        receivers: int | None = await self._run(PUBLISH, self._redis.client.publish(name, message))
        return receivers

    async def messages(self, *channels: str) -> AsyncGenerator[tuple[str, bytes] | None, None]:
        """None once the channels are subscribed to; then each message with its channel, until the connection fails."""
        names = {self._redis.build_key(each, namespace=self._scripts_namespace): each for each in channels}
        subscription, subscribed, is_checked = self._redis.client.pubsub(), 0, False
        try:
            await subscription.subscribe(*names)
            while True:
                message = await subscription.get_message(timeout=SILENCE)
                if message is None:
                    if is_checked:
                        return
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    subscribed += 1
                    if subscribed == len(names):
                        yield None
                    elif subscribed > len(names):
                        return  # the client has reconnected, so messages may be lost
                elif message["type"] == "message":
                    yield names[message["channel"].decode()], message["data"]
                is_checked = message is None
        except FAILURES:
            return
        finally:
            with contextlib.suppress(*FAILURES):
                await subscription.aclose()

    async def close(self) -> None:
        """Closes the connections."""
        with contextlib.suppress(*FAILURES):
            await self._redis.client.aclose()
            await self._redis.client.connection_pool.disconnect()

    def _name(self, key: str, kind: str = "") -> str:
        return f"{self._redis.namespace}:{kind}{_slotted(key)}"

    async def _remove(self, name: str) -> None:
        """Removes a key; if Redis refuses that, the key is made to expire at once by the command that created it."""
        with contextlib.suppress(*FAILURES):
            try:
                if not self._is_unused(DEL):
                    await self._sent(DEL, self._redis.client.delete(name))
                    return
            except TIMEOUTS:
                raise
            except FAILURES:
                pass
            await self._sent(SET, self._redis.client.set(name, b"", xx=True, px=1))

    def is_away(self) -> bool:
        """Whether Redis is in a cooldown after a failure, for any of its uses."""
        return any(map(self._is_unused, USES))

    def _is_unused(self, command: str) -> bool:
        return time.monotonic() < self._unused_until[USES[command]]

    async def _run(self, command: str, call: Awaitable[Any]) -> Any:
        """A command's result, or None if Redis fails, times out or is in its cooldown."""
        if self._is_unused(command):
            if asyncio.iscoroutine(call):
                call.close()
            return None
        with contextlib.suppress(*FAILURES):
            return await self._sent(command, call)
        return None

    async def _sent(self, command: str, call: Awaitable[Any]) -> Any:
        """A command's result. A failure begins a cooldown and is raised; the first one is logged."""
        # A cancelled command would lose its connection, so it is completed even if the client disconnects.
        result = asyncio.ensure_future(call)
        result.add_done_callback(retrieve_exception)
        try:
            return await asyncio.shield(result)
        except FAILURES as failed:
            cooldown = self._settings.cooldown
            if not self._is_unused(command):
                log.warning("redis unavailable", command=command, seconds=cooldown, kind=type(failed).__name__)
            # A time-out delays every command, other failures may be of this one only.
            uses = self._unused_until if isinstance(failed, TIMEOUTS) else (USES[command],)
            self._unused_until.update(dict.fromkeys(uses, time.monotonic() + cooldown))
            raise

    def _decoded(self, key: str, body: bytes | None, model: type[T]) -> Entry[T] | None:
        if body is None:
            return None
        decoder = self._decoders.get(model)
        if decoder is None:
            form: Any = bytes if model in (Vehicle, VehiclePage) else model
            decoder = self._decoders[model] = msgspec.msgpack.Decoder(Stored[form])
        try:
            stored = decoder.decode(body)
            if self.changes.is_stale(key, stored.number, stored.group):
                return None
            value = stored.value
            if isinstance(value, bytes):
                is_page = model is VehiclePage
                value = VehiclePage.of_body(value, IDS, self._decoded_pages) if is_page else decoded(value, Vehicle)
        except msgspec.MsgspecError:
            return None
        return Entry(
            value, stored.stored_at, stored.body, stored.etag, stored.token_expires_at, stored.number, stored.group
        )


def _slotted(key: str) -> str:
    """A key with its principal as hash tag: a Cluster keeps all entries and leases of a principal in one slot."""
    principal, _, rest = key.partition(":")
    return f"{{{principal}}}:{rest}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _stored_form(value: Any) -> Any:
    """Pages and vehicles are stored as the JSON that they were decoded from."""
    if isinstance(value, VehiclePage):
        return value.body
    return bytes(value.body) or msgspec.json.encode(value) if isinstance(value, Vehicle) else value


def digest_of_answers(upstream: UpstreamSettings) -> str:
    """A digest of all settings that affect the response to a request of a caller."""
    rest = upstream.model_dump(exclude=set(HOW)) | {"fleet_id": upstream.fleet_id or None}
    return _digest(sorted(rest.items()))


def digest_of_url(upstream: UpstreamSettings) -> str:
    """A digest of the fleet API's URL: its rate limits are the same for every gateway in front of it."""
    return _digest(upstream.url)


def _digest(parts: object) -> str:
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=8).hexdigest()


def check(settings: RedisSettings) -> None:
    """Raises Misconfigured if the URL's parameters can't be used, without connecting."""
    try:
        connection = _redis_of(settings, "").client.connection_pool.make_connection()
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except (RedisError, TypeError, ValueError, ssl.SSLError) as invalid:
        raise Misconfigured(
            "redis.url", "A parameter of the URL has an invalid value or names an unusable file"
        ) from invalid
    except OSError as failure:
        raise Misconfigured("redis.url", f"A file that the URL names can't be used: {failure.strerror}") from failure


def _redis_of(settings: RedisSettings, namespace: str) -> RedisCache:
    assert settings.url is not None
    parts: dict[str, Any] = {**parse_url(settings.url.get_secret_value())}
    if "ssl_keyfile" in parts or "ssl_certfile" in parts:
        parts.setdefault("ssl_password", "")  # without one, OpenSSL would prompt for that of an encrypted key
    return RedisCache(
        serializer=NullSerializer(encoding=None),
        namespace=namespace,
        # The Redis client closes a connection that times out; aiocache's time-out cancels, which loses connections.
        timeout=None,
        endpoint=parts.pop("host", "127.0.0.1"),
        port=parts.pop("port", 6379),
        db=parts.pop("db", 0),
        password=parts.pop("password", None),
        pool_max_size=settings.connections_max,
        create_connection_timeout=settings.timeout,
        connection_pool_class=BlockingConnectionPool,
        connection_pool_kwargs={**parts, "timeout": settings.timeout, "socket_timeout": settings.timeout},
    )
