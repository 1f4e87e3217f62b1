"""Endpoints: paths, parameters and lifetimes; and how requests that are not idempotent pass the stack."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import GatewayError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import CacheSettings, Settings, UpstreamSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.cache import CacheReader, CacheWriter, MemoryStore
from gateway.upstream.changes import Changes, LocalAnnouncer, WriteAnnouncement
from gateway.upstream.client import FleetClient
from gateway.upstream.coalescing import SingleFlight
from gateway.upstream.endpoints import NOT_STORED, Endpoint, FleetEndpoints, Lifetime
from gateway.upstream.http.transport import HttpTransport
from gateway.upstream.lease import LeaseCoalescing
from gateway.upstream.memory_store import BoundedMemoryCache
from gateway.upstream.models import Cursors, Vehicle
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope, UpstreamRequest, UpstreamResponse
from gateway.upstream.stack import build_client
from tests.upstream.fakes import ENDPOINTS, Clock, FakeFetcher, Sending, calls_over, scope, vehicle_read
from tests.upstream.test_transports import CLOSE, TRANSPORTS, coded

TAG = Endpoint(
    "tag",
    "/vehicles/{id}/tags",
    dict,
    lambda body, key, mask: {"body": body.decode()},
    method="POST",
    success=frozenset((200, 204)),
    idempotent=False,
    invalidates=(ENDPOINTS.vehicle, ENDPOINTS.latest_state),
)


def write(vehicle_id: str = "JQ7RP", by: Any = None, body: bytes = b'{"tag": "blue"}') -> UpstreamRequest[dict]:
    """A request that is not idempotent."""
    return UpstreamRequest.of(by or scope(), TAG, item_id=vehicle_id, body=body)


@pytest.mark.parametrize(
    ("path", "vehicle_id", "expected"),
    [
        ("/vehicles/{id}", "JQ7RP", "/vehicles/JQ7RP"),
        ("/v/{id}/latest-state", "a-b", "/v/a-b/latest-state"),
        ("/v/{id}/of/{id}", "A", "/v/A/of/A"),
        ("/v/{id}", "a@b=", "/v/a%40b%3D"),
        ("/v", "A", "/v"),
    ],
)
def test_an_id_is_part_of_the_path(path, vehicle_id, expected):
    """Wherever the path has `{id}`, percent-encoded."""
    endpoint = Endpoint("tested", path, dict, lambda body, key, mask: {})
    assert endpoint.paths([vehicle_id]) == [expected]
    assert UpstreamRequest.of(scope(), endpoint, item_id=vehicle_id).path == expected


def test_the_settings_name_paths_and_parameters():
    """Each path and each parameter is the configured one."""
    settings = UpstreamSettings(
        vehicles_path="/list", vehicle_path="/one/{id}", latest_state_path="/state/{id}", page_size=7,
        limit_parameter="size", cursor_parameter="at", search_parameter="find", page_token_parameter="token",
    )  # fmt: skip
    endpoints = FleetEndpoints(settings, CacheSettings())
    assert endpoints.vehicles.path == "/list"
    assert endpoints.vehicle.paths(["A", "B"]) == ["/one/A", "/one/B"]
    assert endpoints.latest_state.paths(["A"]) == ["/state/A"]
    assert endpoints.page_parameters(None, None) == (("size", "7"),)
    assert endpoints.page_parameters(None, "blue") == (("size", "7"), ("find", "blue"))
    assert endpoints.page_parameters("abc", "blue") == (("at", "abc"),)
    assert endpoints.page_parameters("page_token\nxyz", None) == (("token", "xyz"),)


def test_the_settings_name_lifetimes():
    """Each endpoint has its own three; a 404 has its own, except of the list, where it is an error."""
    cache = CacheSettings(
        vehicles_ttl=1, vehicles_stale_while_revalidate=2, vehicles_stale_if_error=3,
        vehicle_ttl=4, vehicle_stale_while_revalidate=5, vehicle_stale_if_error=6,
        latest_state_ttl=7, latest_state_stale_while_revalidate=8, latest_state_stale_if_error=9, negative_ttl=10,
    )  # fmt: skip
    endpoints = FleetEndpoints(UpstreamSettings(), cache)
    page, vehicle = VehiclePage(items=[], cursors=Cursors()), Vehicle(vehicle_id="A")
    assert endpoints.vehicles.lifetime_of(page) == Lifetime(1, 2, 3)
    assert endpoints.vehicle.lifetime_of(vehicle) == Lifetime(4, 5, 6)
    assert endpoints.latest_state.lifetime_of({}) == Lifetime(7, 8, 9)
    assert endpoints.vehicle.lifetime_of(None) == endpoints.latest_state.lifetime_of(None) == Lifetime(10)
    assert endpoints.vehicles.missing is None
    assert endpoints.vehicles.lifetime_of(None) == NOT_STORED


def test_nothing_is_stored_without_a_lifetime():
    """With a time to live of 0 for that endpoint, without a cache for all."""
    endpoints = FleetEndpoints(UpstreamSettings(), CacheSettings(vehicle_ttl=0))
    assert [each.lifetime.store_seconds > 0 for each in (endpoints.vehicles, endpoints.vehicle)] == [True, False]
    endpoints = FleetEndpoints(UpstreamSettings(), CacheSettings(enabled=False))
    assert endpoints.vehicles.lifetime == endpoints.latest_state.lifetime == NOT_STORED
    assert endpoints.vehicle.lifetime_of(None) == NOT_STORED


def test_entries_are_stored_for_their_longest_use():
    """Until the later bound for stale use; an entry that is never fresh is not stored."""
    assert Lifetime(10, 5, 100).store_seconds == 110
    assert Lifetime(10, 50, 1).store_seconds == 60
    assert Lifetime(0, 50, 100).store_seconds == 0


def test_an_unchanged_page_is_decoded_once():
    """Equal bytes of the same key give the same page, unless that is turned off."""
    body = b'{"items": [{"id": "A"}]}'
    decode = FleetEndpoints(UpstreamSettings(), CacheSettings(enabled=False)).vehicles.decode
    assert decode(body, "alice:1", None) is decode(body, "alice:1", None)
    decode = FleetEndpoints(UpstreamSettings(page_dedup_bytes_max=0), CacheSettings(enabled=False)).vehicles.decode
    assert decode(body, "alice:1", None) is not decode(body, "alice:1", None)


@dataclass
class Recorder:
    """A server that records requests, and responds by its steps."""

    steps: list[bytes | object] = field(default_factory=lambda: coded(b"identity", b"{}"))
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Responds to one connection's requests."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(fields.get(b"content-length", 0)))
                self.requests.append(head + body)
                for step in self.steps:
                    if step is CLOSE:
                        return
                    writer.write(step)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def recorder():
    """A server and its URL."""
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    yield recorder, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
    server.close()


@pytest.fixture(params=TRANSPORTS)
async def recorded(request, recorder):
    """A transport and its server, over a real socket."""
    server, url = recorder
    transport = HttpTransport(UpstreamSettings(url=url, transport=request.param, read_timeout=0.3))
    yield transport, server
    await transport.close()


@pytest.mark.parametrize("body", [b"", b'{"tag": "blue"}', b"\r\n\r\nGET /x HTTP/1.1\r\n\r\n", b"x" * 300_000])
async def test_a_body_is_sent_completely(recorded, body):
    """Method, path, length and body are sent once each, and the connection is reused."""
    transport, recorder = recorded
    for _ in range(2):
        response = await transport.fetch(write(body=body))
        assert response.value == {"body": "{}"}
    assert len(recorder.requests) == 2
    for request in recorder.requests:
        head, _, sent = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /api/vehicles/JQ7RP/tags HTTP/1.1\r\n")
        assert head.lower().count(b"content-length: %d" % len(body)) == 1
        assert b"Authorization: Bearer alice" in head
        assert sent == body


async def test_a_read_has_no_body(recorded):
    """A GET is sent without a length."""
    transport, recorder = recorded
    recorder.steps = coded(b"identity", b'{"id": "JQ7RP"}')
    await transport.fetch(vehicle_read("JQ7RP"))
    (request,) = recorder.requests
    assert request.startswith(b"GET /api/vehicles/JQ7RP HTTP/1.1\r\n")
    assert b"content-length" not in request.lower()


async def test_an_endpoint_lists_its_success_statuses(recorded):
    """A 204 is a success if listed; a 404 is an error without a lifetime for it."""
    transport, recorder = recorded
    recorder.steps = [b"HTTP/1.1 204 No Content\r\n\r\n"]
    assert (await transport.fetch(write())).value == {"body": ""}
    recorder.steps = [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]
    with pytest.raises(UpstreamRejected):
        await transport.fetch(write())


@pytest.mark.parametrize("steps", [[CLOSE], [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], []])
async def test_a_write_is_never_retried(recorded, steps):
    """After any failure: neither a transport nor a retry sends it again."""
    transport, recorder = recorded
    await transport.fetch(write())
    await asyncio.sleep(0.01)
    recorder.steps = steps
    with pytest.raises((UpstreamUnavailable, UpstreamTimeout)):
        await calls_over(transport, retry={"attempts": 3, "backoff": 0.001}).fetch(write())
    assert len(recorder.requests) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("coalescing", [True, False])
async def test_a_write_passes_the_whole_stack_once(recorder, transport, coalescing):
    """The whole stack sends a write once, whatever its outcome."""
    server, url = recorder
    settings = Settings(
        upstream={"url": url, "transport": transport}, retry={"backoff": 0.001}, coalescing={"enabled": coalescing}
    )
    async with build_client(settings) as client:
        responses = await asyncio.gather(*(client._fetcher.fetch(write()) for _ in range(3)))
        assert [response.value for response in responses] == [{"body": "{}"}] * 3
        await asyncio.sleep(0.01)
        server.steps = [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
        with pytest.raises(UpstreamUnavailable):
            await client._fetcher.fetch(write())
        server.steps = [CLOSE]
        with pytest.raises(UpstreamUnavailable):
            await client._fetcher.fetch(write())
    assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b'{"tag": "blue"}'] * 5


class NoLeases:
    """Leases that fail when used."""

    async def acquire(self, key: str, seconds: float) -> str | None:
        """Fails."""
        raise AssertionError(key)


@dataclass
class Stack:
    """All layers that store or share responses, over a fake fleet API."""

    fleet: FakeFetcher
    leases: Any = None

    def __post_init__(self) -> None:
        self.memory = BoundedMemoryCache(entries_max=100, bytes_max=2**20)
        changes, clock = Changes(), Clock()
        store = MemoryStore(self.memory, changes)
        filling = CacheWriter(WriteAnnouncement(Sending(), LocalAnnouncer(changes), 1.0), store, clock)
        leased = filling if self.leases is None else LeaseCoalescing(filling, self.leases, 1, clock)
        self.cache = CacheReader(SingleFlight(leased, self.fleet, Metrics(), changes), store, clock, Metrics())


async def test_equal_writes_are_not_shared():
    """No write is shared, stored or leased, alone or in a batch, even if an equal one is in progress."""
    stack = Stack(FakeFetcher(lambda request: {}), NoLeases())
    stack.fleet.gate = asyncio.Event()
    by = scope()
    calls = [asyncio.create_task(stack.cache.fetch(write(by=by))) for _ in range(2)]
    batch = asyncio.create_task(stack.cache.fetch_all([write(by=by), write(by=by)], 2))
    await asyncio.sleep(0.01)
    assert stack.fleet.total == 4
    stack.fleet.gate.set()
    assert [response.value for response in [*await asyncio.gather(*calls), *await batch]] == [{}] * 4
    assert (by.stats.cache_hits, by.stats.coalesced, by.stats.fresh_until) == (0, 0, None)
    assert len(stack.memory) == 0
    await stack.cache.fetch(write(by=by))
    assert stack.fleet.total == 5


@pytest.mark.parametrize("failure", [None, UpstreamTimeout()])
async def test_a_write_invalidates_entries(failure):
    """All callers' entries of the vehicle are stale, even if the write's outcome is unknown; those of others stay."""
    stack = Stack(FakeFetcher(lambda request: {} if request.endpoint is TAG else Vehicle(vehicle_id=request.item_id)))
    requests = [("A", "alice"), ("B", "alice"), ("A", "bob")]
    for vehicle_id, name in requests:
        await stack.cache.fetch(vehicle_read(vehicle_id, scope(name)))
    stack.fleet.failure = failure
    try:
        outcome: object = await stack.cache.fetch(write("A", scope("alice")))
    except GatewayError as failed:
        outcome = failed
    assert outcome is failure or isinstance(outcome, UpstreamResponse)
    stack.fleet.failure = None
    for vehicle_id, name in requests:
        await stack.cache.fetch(vehicle_read(vehicle_id, scope(name)))
    assert (stack.fleet.calls["/vehicles/A"], stack.fleet.calls["/vehicles/B"]) == (4, 1)


TRIPS = Endpoint(
    "trips", "/vehicles/{id}/trips", list, lambda body, key, mask: [], lifetime=Lifetime(10), missing=Lifetime(10)
)


class MoreClient(FleetClient):
    """A client with one more endpoint."""

    async def trips(self, by: RequestScope, vehicle_id: str) -> list[Any] | None:
        """The trips of a vehicle."""
        return (await self._fetcher.fetch(UpstreamRequest.of(by, TRIPS, item_id=vehicle_id))).value


async def test_a_new_endpoint_needs_an_entry_and_a_method():
    """Every layer takes it as it is: its response is shared and cached for its lifetime, for each principal."""
    stack = Stack(FakeFetcher(lambda read: [read.caller.principal]))
    client = MoreClient(stack.cache, UpstreamSettings(), ENDPOINTS)
    alice, bob = scope("alice"), scope("bob")
    first, second = await asyncio.gather(client.trips(alice, "A"), client.trips(alice, "A"))
    assert first == second == await client.trips(alice, "A") == [alice.caller.principal]
    assert await client.trips(bob, "A") == [bob.caller.principal]
    assert stack.fleet.calls == {"/vehicles/A/trips": 2}


def test_the_documentation_says_where_a_new_endpoint_is_declared(pytestconfig):
    """It names the two files."""
    text = (pytestconfig.rootpath / "docs/architecture.md").read_text()
    (sentence,) = (part for part in text.split("\n\n") if part.startswith("A new upstream endpoint:"))
    assert "`upstream/endpoints.py`" in sentence
    assert "`upstream/client.py`" in sentence
