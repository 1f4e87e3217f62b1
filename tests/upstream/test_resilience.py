"""Calls through all layers: inline while they only send, in a task from their first other wait on, and never sent twice."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from contextlib import asynccontextmanager

import pytest

from gateway.concurrency.deadline import Deadline
from gateway.errors import (
    GatewayError,
    RateLimited,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.settings import Settings, UpstreamSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.circuit import Circuit
from gateway.upstream.coalescing import SingleFlight
from gateway.upstream.http.transport import HttpTransport
from gateway.upstream.models import Vehicle
from gateway.upstream.rate_limit import LocalRateLimiter
from gateway.upstream.requests import RequestScope, RequestStats, UpstreamResponse
from gateway.upstream.resilience import RunningCall
from gateway.upstream.retry import Budget
from gateway.upstream.stack import build_client
from tests.upstream.fakes import Sending, scope, vehicle_read
from tests.upstream.test_transports import CLOSE, OK, PAUSE, PLAIN, RESET, SILENT, Server


def response_with(status: str, body: bytes = b"{}", fields: bytes = b"") -> list[bytes]:
    return [b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status.encode(), fields, len(body), body)]


@asynccontextmanager
async def client_of(*responses, **groups):
    """A client over a server with these responses and a short retry backoff."""
    server = Server(*responses, names=True)
    async with server.listening() as url:
        groups = {"cache": {"enabled": False}, "retry": {"backoff": 0.001, "attempts": 3}} | groups
        upstream = {"url": url, **groups.pop("upstream", {})}
        async with build_client(Settings(upstream=upstream, **groups)) as client:
            yield client, server


@pytest.fixture
def tasks(monkeypatch):
    """Counts the calls that run in a task."""
    begun = []

    def counted(self, wait):
        begun.append(self.request.path)
        return run_in_task(self, wait)

    run_in_task = RunningCall._run_in_task
    monkeypatch.setattr(RunningCall, "_run_in_task", counted)
    return begun


async def test_a_call_that_only_sends_takes_no_task(tasks):
    """Alone or concurrently, a plain 200 completes in the event-loop iteration in which it arrives."""
    async with client_of([PLAIN]) as (client, server):
        by = scope()
        assert (await client.vehicle(by, "JQ7RP")).vehicle_id == "JQ7RP"
        ids = ["AAAAA", "BBBBB", "CCCCC"]
        assert [vehicle.vehicle_id for vehicle in (await client.vehicles_by_id(by, ids)).values()] == ids
        assert (tasks, by.stats.upstream_calls, len(server.heads), client.under_way()) == ([], 4, 4, 0)


async def test_a_plain_200_takes_the_steps_of_every_layer(monkeypatch):
    """It passes circuit, retry budget and rate limiter before and after the call."""
    seen = []
    for kind, name in [
        (Budget, "save"), (LocalRateLimiter, "knows"), (HttpTransport, "begin"), (Circuit, "ended"),
    ]:  # fmt: skip
        method = getattr(kind, name)

        def noted(self, *args, _method=method, _name=name, **named):
            seen.append(_name)
            return _method(self, *args, **named)

        monkeypatch.setattr(kind, name, noted)
    limit = b"X-Rate-Limit-Limit: 9\r\nX-Rate-Limit-Remaining: 5\r\nX-Rate-Limit-Reset: %d\r\n" % (time.time() + 60)
    async with client_of(response_with("503 Slow Down"), response_with("200 OK", b'{"id":"JQ7RP"}', limit)) as (
        client,
        _,
    ):
        assert await client.vehicle(scope(), "JQ7RP") is not None  # Its retry takes from the budget.
        del seen[:]
        assert await client.vehicle(scope(), "JQ7RP") is not None
    assert seen == ["save", "knows", "begin", "ended"]


@pytest.mark.parametrize("transport", ["builtin", "httpx"])
async def test_another_layer_takes_part_in_every_call(transport):
    """An outer layer gets a plain 200 over each transport, and may replace its response."""

    class Around:
        calls = 0

        def steps(self, call):
            Around.calls += 1
            yield from Sending().steps(call)
            call.response = UpstreamResponse("changed")

    async with Server([PLAIN], names=True).listening() as url:
        http = HttpTransport(UpstreamSettings(url=url, transport=transport))
        flights = SingleFlight(Around(), http, Metrics())
        assert (await flights.fetch(vehicle_read("JQ7RP"))).value == "changed"
        assert Around.calls == 1
        await http.close()


@pytest.mark.parametrize(
    ("response", "calls", "outcome"),
    [
        (response_with("404 Not Found"), 1, None),
        (response_with("403 Forbidden"), 1, UpstreamForbidden),
        (response_with("400 Bad Request"), 1, UpstreamRejected),
        (response_with("200 OK", b"{"), 1, UpstreamInvalidResponse),
        (response_with("200 OK", b"xx", b"Content-Encoding: gzip\r\n"), 1, UpstreamInvalidResponse),
        (response_with("503 Service Unavailable"), 3, UpstreamUnavailable),
        (response_with("429 Too Many Requests"), 3, RateLimited),
        ([PLAIN[:20], CLOSE], 3, UpstreamUnavailable),
    ],
    ids=["404", "403", "400", "malformed", "garbled", "503", "429", "dropped"],
)
async def test_only_temporary_failures_are_retried(response, calls, outcome, tasks):
    """They are sent three times, all others once; only a retry takes a task."""
    async with client_of(response) as (client, server):
        by = scope()
        (result,) = await asyncio.gather(client.vehicle(by, "JQ7RP"), return_exceptions=True)
        assert result is None if outcome is None else type(result) is outcome
        assert (by.stats.upstream_calls, len(server.heads), len(tasks)) == (calls, calls, calls > 1)
        assert client.under_way() == 0


async def test_a_retry_replaces_a_failure():
    """The second attempt's response is the call's."""
    async with client_of(response_with("502 Bad Gateway"), [PLAIN]) as (client, server):
        assert isinstance(await client.vehicle(scope(), "JQ7RP"), Vehicle)
        assert len(server.heads) == 2


async def test_an_outage_opens_the_circuit_and_a_success_closes_it():
    """While it is open no call is sent; a successful probe closes it."""
    settings = {"retry": {"attempts": 1}, "breaker": {"failure_threshold": 3, "open_seconds": 0.2}}
    async with client_of(*[response_with("500 Internal Server Error")] * 3, [PLAIN], **settings) as (client, server):
        for _ in range(5):
            with pytest.raises(UpstreamUnavailable):
                await client.vehicle(scope(), "JQ7RP")
        assert len(server.heads) == 3
        await asyncio.sleep(0.25)
        for _ in range(3):
            assert await client.vehicle(scope(), "JQ7RP") is not None
        assert len(server.heads) == 6


@pytest.mark.parametrize("transport", ["builtin", "httpx"])
async def test_an_ended_connection_is_no_failure(transport):
    """A call that is sent again takes nothing from the retry budget and does not open the circuit; a second end does."""
    settings = {"retry": {"attempts": 1}, "breaker": {"failure_threshold": 1, "failure_rate": 0}}
    responses = [[PLAIN], [CLOSE], [PLAIN], [CLOSE], [CLOSE], [PLAIN]]
    async with client_of(*responses, upstream={"transport": transport}, **settings) as (client, server):
        by = scope()
        for _ in range(2):
            assert (await client.vehicle(by, "JQ7RP")).vehicle_id == "JQ7RP"
            await asyncio.sleep(SILENT)
        resilience = client._fetcher._layer
        assert (len(server.heads), by.stats.upstream_calls) == (3, 3)
        assert (resilience.circuit.is_open, resilience._budget.is_full) == (False, True)
        with pytest.raises(UpstreamUnavailable):
            await client.vehicle(scope(), "JQ7RP")
        assert (len(server.heads), resilience.circuit.is_open) == (5, True)


@pytest.mark.parametrize("transport", ["builtin", "httpx"])
@pytest.mark.parametrize(
    "malformed",
    [
        [b"<html>\r\n\r\n"],
        [OK + b"Content-Length: x\r\n\r\n"],
        [OK + b"nonsense\r\n\r\n"],
        [b"<html>", CLOSE],
        [b"<html>", RESET],
        [OK + b"nonsense\r\n", RESET],
    ],
    ids=range(6),
)
async def test_malformed_responses_are_no_outage(transport, malformed):
    """They are not retried, and no number of them opens the circuit."""
    settings = {"breaker": {"failure_threshold": 2}, "upstream": {"transport": transport}}
    async with client_of(malformed, **settings) as (client, server):
        for calls in range(1, 6):
            with pytest.raises(UpstreamInvalidResponse):
                await client.vehicle(scope(), "JQ7RP")
            assert len(server.heads) == calls


@pytest.mark.parametrize("transport", ["builtin", "httpx"])
async def test_a_call_is_counted_once(transport):
    """Of five remaining calls two may be made at once over either transport: none counts twice."""
    reset = int(time.time()) + 60
    limit = b"X-Rate-Limit-Limit: 100\r\nX-Rate-Limit-Remaining: 5\r\nX-Rate-Limit-Reset: %d\r\n" % reset
    settings = {"upstream": {"transport": transport}, "rate_limit": {"reserve": 3, "share": 0}}
    async with client_of(response_with("200 OK", b'{"id":"JQ7RP"}', limit), [PLAIN], **settings) as (client, server):
        by = RequestScope(scope().caller, RequestStats(), deadline=Deadline.after(5))
        for _ in range(3):
            assert await client.vehicle(by, "JQ7RP") is not None
        with pytest.raises(RateLimited):
            await client.vehicle(by, "JQ7RP")
        assert len(server.heads) == 3


async def test_a_client_s_limit_is_respected():
    """If a response states that no call is left until a time, the next call is made then."""
    reset = int(time.time()) + 2
    limit = b"X-Rate-Limit-Limit: 10\r\nX-Rate-Limit-Remaining: 0\r\nX-Rate-Limit-Reset: %d\r\n" % reset
    async with client_of(response_with("200 OK", b'{"id":"JQ7RP"}', limit), [PLAIN]) as (client, server):
        assert await client.vehicle(scope(), "JQ7RP") is not None
        assert await client.vehicle(scope(), "JQ7RP") is not None
        assert time.time() >= reset
        assert len(server.heads) == 2


@pytest.mark.parametrize("coalescing", [True, False])
async def test_cancelled_reads_leak_no_connection(coalescing):
    """Hundreds of reads over three connections are cancelled at random: all others, and later ones, succeed."""
    groups = {"upstream": {"connections_max": 3, "pool_timeout": 15}, "coalescing": {"enabled": coalescing}}
    async with client_of([OK, PLAIN[len(OK) :]], **groups) as (client, _):
        dice = random.Random(7)
        for _ in range(4):
            requests = [asyncio.create_task(client.vehicle(scope(), f"V{number:04}")) for number in range(60)]
            for left in dice.sample(requests, 40):
                await asyncio.sleep(dice.choice((0, 0, 0.001)))
                left.cancel()
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
            assert sum(isinstance(outcome, Vehicle) for outcome in outcomes) >= 20
            assert all(isinstance(outcome, (Vehicle, asyncio.CancelledError)) for outcome in outcomes)
        assert client.under_way() == 0
        assert await client.vehicle(scope(), "VLAST") is not None


async def test_the_deadline_cancels_the_call():
    """Its connection is closed."""
    async with client_of([PAUSE], [PLAIN]) as (client, server):
        by = RequestScope(scope().caller, RequestStats(), deadline=Deadline.after(0.1))
        with pytest.raises(GatewayError) as late:
            await client.vehicle(by, "JQ7RP")
        assert late.value.code == "DEADLINE_EXCEEDED"
        await asyncio.sleep(0.01)
        assert client.under_way() == 0
        assert await client.vehicle(scope(), "JQ7RP") is not None
        assert server.connections == 2


async def test_late_or_large_responses_fail():
    """The transport's bounds become errors of the gateway."""
    async with client_of([PAUSE], upstream={"read_timeout": 0.1}, retry={"attempts": 1}) as (client, _):
        with pytest.raises(UpstreamTimeout):
            await client.vehicle(scope(), "JQ7RP")
    async with client_of(response_with("200 OK", b" " * 5000), upstream={"response_bytes_max": 1024}) as (client, _):
        with pytest.raises(UpstreamInvalidResponse):
            await client.vehicle(scope(), "JQ7RP")


async def test_a_call_creates_no_reference_cycles():
    """The garbage collector finds nothing of it."""
    async with client_of([PLAIN]) as (client, _):
        await client.vehicles_by_id(scope(), ["AAAAA", "BBBBB"])
        while gc.collect():
            pass
        gc.disable()
        try:
            await client.vehicles_by_id(scope(), ["AAAAA", "BBBBB"])
            await client.vehicle(scope(), "AAAAA")
            assert gc.collect() == 0
        finally:
            gc.enable()
