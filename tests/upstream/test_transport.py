"""One call to the fleet API: what is sent, and what each kind of response becomes."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    RateLimited,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.identity import Caller
from gateway.settings import CacheSettings, UpstreamSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.client import FleetClient
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.endpoints import FleetEndpoints
from gateway.upstream.http.transport import WAIT_MAX, HttpTransport, rate_of, wait_of
from gateway.upstream.requests import RequestScope, RequestStats, UpstreamRequest
from tests.upstream.fakes import Sending

SETTINGS = UpstreamSettings(url="http://fleet.test/", response_bytes_max=2048)
SCOPE = RequestScope(Caller("secret-token"), RequestStats())
ENDPOINTS = FleetEndpoints(SETTINGS, CacheSettings())
READ = UpstreamRequest.of(SCOPE, ENDPOINTS.vehicle, item_id="JQ7RP")


def transport_over(fake: httpx.Response | Exception, settings: UpstreamSettings = SETTINGS) -> HttpTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if isinstance(fake, Exception):
            raise fake
        return fake

    requests: list[httpx.Request] = []
    transport = HttpTransport(settings, httpx.MockTransport(handle))
    transport.requests = requests  # type: ignore[attr-defined]
    return transport


async def test_a_call_carries_the_token_and_the_required_headers():
    """The token is forwarded as received, with a content type even on a GET, and the configured fleet."""
    transport = transport_over(
        httpx.Response(200, json={"id": "JQ7RP"}), UpstreamSettings(url="http://fleet.test/", fleet_id="T7K2M")
    )
    await transport.fetch(READ)
    (request,) = transport.requests
    assert str(request.url) == "http://fleet.test/vehicles/JQ7RP"
    assert request.headers["Authorization"] == "Bearer secret-token"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["X-INVERS-Fleet-Id"] == "T7K2M"


async def test_a_404_is_none():
    """It is not an error."""
    assert (await transport_over(httpx.Response(404, json={})).fetch(READ)).value is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamRejected),
        (401, UpstreamUnauthenticated),
        (403, UpstreamForbidden),
        (409, UpstreamRejected),
        (429, RateLimited),
        (500, UpstreamUnavailable),
        (503, UpstreamUnavailable),
        (204, UpstreamInvalidResponse),
        (302, UpstreamInvalidResponse),
    ],
)
async def test_each_status_has_its_error(status, error):
    """An error has the problem's type and flow id, and no other text of the response."""
    problem = {"type": "/problems/some-error", "detail": "secret detail", "flow_id": "body-flow"}
    fake = httpx.Response(status, json=problem, headers={"X-INVERS-Flow-ID": "flow-1"})
    with pytest.raises(error) as failed:
        await transport_over(fake).fetch(READ)
    extensions = failed.value.extensions()
    assert extensions["upstream"] == {"status": status, "type": "/problems/some-error", "flowId": "flow-1"}
    assert "secret" not in repr(extensions) + str(failed.value)


@pytest.mark.parametrize(
    "said", ["/problems/Bearer abc.def https://x", "/problems/" + "x" * 100, "/elsewhere", "Bearer t"]
)
async def test_malformed_problem_types_and_flow_ids_are_dropped(said):
    """They may contain anything that the fleet API received."""
    transport = transport_over(httpx.Response(500, json={"type": said, "flow_id": said}))
    with pytest.raises(UpstreamUnavailable) as failed:
        await transport.fetch(READ)
    assert failed.value.extensions()["upstream"] == {"status": 500, "type": None, "flowId": None}


@pytest.mark.parametrize("etag", [b'"caf\xe9"', b'"\x01"', b'"a\tb"', b""])
async def test_an_etag_that_can_not_be_sent_back_is_dropped(etag):
    """With a letter outside ASCII or a control character; the response is valid without it."""
    transport = transport_over(httpx.Response(200, json={"id": "JQ7RP"}, headers=[(b"etag", etag)]))
    response = await transport.fetch(READ)
    assert response.value is not None
    assert response.etag is None


@pytest.mark.parametrize(
    "body", [b"<html>busy</html>", b"", b'{"type": 5}', b"\xff", b'{"type":"https://evil.test/x"}']
)
async def test_a_failure_without_a_problem_is_mapped_by_its_status(body):
    """HTML, nothing or nonsense under a 502 becomes an error without a problem type."""
    with pytest.raises(UpstreamUnavailable) as failed:
        await transport_over(httpx.Response(502, content=body)).fetch(READ)
    assert failed.value.extensions()["upstream"] == {"status": 502, "type": None, "flowId": None}


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (httpx.ConnectError("refused"), UpstreamUnavailable),
        (httpx.RemoteProtocolError("cut"), UpstreamUnavailable),
        (httpx.ReadError("cut"), UpstreamUnavailable),
        (httpx.ConnectTimeout("slow"), UpstreamTimeout),
        (httpx.ReadTimeout("slow"), UpstreamTimeout),
        (httpx.PoolTimeout("busy"), UpstreamTimeout),
    ],
)
async def test_each_failure_of_the_network_has_its_error(raised, error):
    """No connection is unavailable, no response in time is a time-out."""
    with pytest.raises(error):
        await transport_over(raised).fetch(READ)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"{}", b'{"id": null}', b'{"id": 7}'])
async def test_a_response_that_is_no_vehicle_is_an_error(body):
    """Malformed JSON, another type, or a vehicle without an id."""
    with pytest.raises(UpstreamInvalidResponse):
        await transport_over(httpx.Response(200, content=body)).fetch(READ)


async def test_a_response_larger_than_the_limit_is_an_error():
    """However it is framed."""
    with pytest.raises(UpstreamInvalidResponse):
        await transport_over(httpx.Response(200, content=b'{"id":"' + b"x" * 3000 + b'"}')).fetch(READ)


@pytest.mark.parametrize(
    "body", [b"not gzip at all", gzip.compress(b'{"id":"%s"}' % (b"x" * 2**20))], ids=["garbled", "bomb"]
)
async def test_a_compressed_response_has_the_same_limit(body):
    """A body that can't be decompressed, or is too large afterwards, is an error."""

    async def compressed():
        yield body

    fake = httpx.Response(200, content=compressed(), headers={"Content-Encoding": "gzip"})
    with pytest.raises(UpstreamInvalidResponse):
        await transport_over(fake).fetch(READ)


async def test_a_slow_response_is_a_timeout():
    """The total time is bounded although each byte arrives in time."""

    async def drip():
        for _ in range(100):
            await asyncio.sleep(0.01)
            yield b" "

    settings = UpstreamSettings(url="http://fleet.test", total_timeout=0.05)
    with pytest.raises(UpstreamTimeout):
        await transport_over(httpx.Response(200, content=drip()), settings).fetch(READ)


async def test_a_member_of_a_wrong_type_is_dropped():
    """The vehicle and its other members remain."""
    odd = {"id": "JQ7RP", "status": 7, "tags": {}, "fleet_id": "T7K2M", "master_data": {"vin": [], "brand": "Audi"},
           "latest_state": {"ignition": {"value": "ON"}, "position": 5}, "telematics_unit": "none"}  # fmt: skip
    vehicle = (await transport_over(httpx.Response(200, json=odd)).fetch(READ)).value
    assert vehicle is not None
    assert (vehicle.status, vehicle.tags, vehicle.fleet_id, vehicle.telematics_unit) == (None, None, "T7K2M", None)
    assert (vehicle.master_data.vin, vehicle.master_data.brand) == (None, "Audi")
    assert list(vehicle.latest_state) == ["ignition"]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": email.utils.formatdate(1_000_009, usegmt=True)}, 9),
        ({"Retry-After": email.utils.formatdate(999_000, usegmt=True)}, 0),
        ({"X-Rate-Limit-Reset": "1000030", "X-Rate-Limit-Remaining": "0"}, 30),
        ({"Retry-After": "7", "X-Rate-Limit-Reset": "1000030"}, 7),
        ({"Retry-After": "86400"}, 3600),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600),
        ({"X-Rate-Limit-Reset": "999999999999", "X-Rate-Limit-Remaining": "0"}, 3600),
        ({"Retry-After": "soon", "X-Rate-Limit-Reset": "1000030"}, 30),
        ({"X-Rate-Limit-Reset": "soon"}, None),
        ({}, None),
    ],
)
def test_both_forms_of_429_state_the_wait(headers, seconds):
    """Retry-After comes first, in seconds or as a date, then the reset time in epoch seconds."""
    assert wait_of(httpx.Headers(headers), now=1_000_000) == seconds


# 2026-11-29T12:00:00Z
NOON = 1_795_953_600


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request, monkeypatch):
    """Time zones of the process, east and west of Greenwich."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 29 Nov 2026 12:01:30 GMT", 90),
        ("Sunday, 29-Nov-26 12:01:30 GMT", 90),
        ("Sun Nov 29 12:01:30 2026", 90),
        ("Tue Dec  1 12:00:00 2026", 3600),
        ("Sun, 29 Nov 2026 12:01:30", 90),
        ("Sun, 29 Nov 2026 12:01:30 -0000", 90),
        ("Sun, 29 Nov 2026 12:01:30 UTC", 90),
        ("Sun, 29 Nov 2026 13:01:30 +0100", 90),
        ("Sunday, 29-Nov-26 12:01:30", 90),
        ("sun, 29 nov 2026 12:01:30 gmt", 90),
        ("sunday, 29-nov-26 12:01:30 gmt", 90),
        ("SUN NOV 29 12:01:30 2026", 90),
        ("  Sun,  29  Nov 2026   12:01:30  GMT ", 90),
        ("Sun Nov 29 12:00:60 2026", 60),
        ("Sun, 29 Nov 2026 11:59:59 GMT", 0),
        ("Sun Nov 29 11:59:59 2026", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        # Two-digit years: at most fifty years ahead.
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sunday, 29-Nov-76 12:00:00 GMT", 3600),
        ("Monday, 30-Nov-76 12:00:00 GMT", 0),
        ("Saturday, 29-Nov-70 12:00:00 GMT", 3600),
        ("Monday, 29-Nov-77 12:00:00 GMT", 0),
        ("Sun, 99 Nov 2026 12:01:30 GMT", None),
        ("Sun, 29 Nov 2026 12:00:61 GMT", None),
        ("Sun, 29 Nov \u0662\u0660\u0662\u0667 12:01:30 GMT", None),
        ("2026-11-29T12:01:30Z", None),
    ],
)
def test_dates_are_in_utc_whatever_the_process_s_zone(date, seconds):
    """All three forms of RFC 9110, in any case, with more blanks, a leap second or no zone."""
    assert wait_of(httpx.Headers({"Retry-After": date.encode()}), now=NOON) == seconds


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        (["7"], 7),
        ([" \t7  "], 7),
        (["0"], 0),
        (["007"], 7),
        (["7", "9"], 9),
        (["9, 7"], 9),
        (["-7"], None),
        (["+7"], None),
        (["7.5"], None),
        (["7e2"], None),
        (["7s"], None),
        ([""], None),
        (["7,"], None),
        (["\u0667"], None),
        (["\u00b2"], None),
        (["9" * 13], None),
    ],
)
def test_retry_after_in_seconds_is_a_plain_number(fields, seconds):
    """Digits with blanks around them; of several fields the longest wait counts."""
    headers = httpx.Headers([(b"Retry-After", field.encode()) for field in fields])
    assert wait_of(headers, now=NOON) == seconds


@pytest.mark.parametrize("number", ["\u0667", "-7", "7.0", "", "7, 9"])
def test_a_rate_limit_of_other_digits_is_none(number):
    """Only ASCII digits are numbers."""
    fields = {"X-Rate-Limit-Limit": "100", "X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": number}
    headers = httpx.Headers({name.encode(): value.encode() for name, value in fields.items()})
    assert (rate_of(headers), wait_of(headers, now=NOON)) == (None, None)


def test_a_window_ends_within_an_hour():
    """An implausible reset time does not block calls for ever."""
    fields = {"X-Rate-Limit-Limit": "100", "X-Rate-Limit-Remaining": "1", "X-Rate-Limit-Reset": "999999999999"}
    rate = rate_of(httpx.Headers(fields))
    assert rate is not None
    assert rate.reset <= time.time() + WAIT_MAX


TOLD = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=30) | st.integers().map(str)


@given(after=TOLD, reset=TOLD, remaining=TOLD)
def test_any_headers_give_a_valid_wait(after, reset, remaining):
    """A wait is not negative, or there is none."""
    fields = {"Retry-After": after, "X-Rate-Limit-Reset": reset, "X-Rate-Limit-Remaining": remaining}
    headers = httpx.Headers({name.encode(): value.encode("latin-1") for name, value in fields.items()})
    seconds = wait_of(headers, now=1_000_000)
    assert seconds is None or 0 <= seconds < 10**12


@pytest.mark.parametrize("kind", ["builtin", "httpx"])
async def test_cancelled_calls_do_not_exhaust_connections(kind):
    """After many cancelled calls over two connections, the next calls succeed."""
    connections = []

    async def slow(reader, writer):
        connections.append(asyncio.current_task())
        try:
            while await reader.readline():
                while (await reader.readline()).strip():
                    pass
                await asyncio.sleep(0.01)
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"id":"JQ7RP"}')
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    http = HttpTransport(UpstreamSettings(url=f"http://127.0.0.1:{port}", transport=kind, connections_max=2))
    transport = Uncoalesced(Sending(), http, Metrics())
    for _ in range(20):
        calls = [asyncio.create_task(transport.fetch(READ)) for _ in range(10)]
        await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    responses = await asyncio.wait_for(asyncio.gather(*(transport.fetch(READ) for _ in range(5))), 10)
    assert [response.value.vehicle_id for response in responses] == ["JQ7RP"] * 5
    await transport.settle()
    await http.close()
    server.close()
    await asyncio.wait(connections)


IMPOSSIBLE = [
    "",
    ".",
    "..",
    "a.b",
    "a/b",
    "../vehicles",
    "a\\b",
    "a%2Fb",
    "a?b",
    "a#b",
    "a;b",
    "a b",
    "a\nb",
    "a\0b",
    "ä",
]
IMPOSSIBLE += ["\u2025", "\uff0f", "a\u200bb", "a" * 257, "a+b", "a,b", "a&b", "a'b", "<a>", "a\t", "a\x7f"]


@pytest.mark.parametrize("impossible", IMPOSSIBLE)
async def test_impossible_ids_are_never_sent(impossible):
    """There is no such vehicle, alone or among others, and no state of it, without a call."""
    transport = transport_over(httpx.Response(404))
    client = FleetClient(Uncoalesced(Sending(), transport, Metrics()), SETTINGS, ENDPOINTS)
    assert await client.vehicle(SCOPE, impossible) is None
    assert await client.vehicles_by_id(SCOPE, [impossible]) == {impossible: None}
    assert await client.latest_states(SCOPE, [impossible]) == [None]
    assert transport.requests == []


@pytest.mark.parametrize("possible", ["JQ7RP", "f8c2958312f1", "a_b-c~d", "urn:uuid:1", "a@b", "MQ==", "a" * 256])
async def test_possible_ids_are_sent(possible):
    """Ids are opaque: any text that is safe in a path is sent."""
    transport = transport_over(httpx.Response(404))
    assert (
        await FleetClient(Uncoalesced(Sending(), transport, Metrics()), SETTINGS, ENDPOINTS).vehicle(SCOPE, possible)
        is None
    )
    assert len(transport.requests) == 1


async def test_lists_with_a_page_token_are_followed():
    """If a list has next_page_token instead of cursors, the next page is requested with page_token."""
    transport = transport_over(httpx.Response(200, json={"items": [], "next_page_token": "t2"}))
    client = FleetClient(transport, SETTINGS, ENDPOINTS)
    page = await client.vehicles(SCOPE)
    await client.vehicles(SCOPE, cursor=page.cursors.next)
    assert dict(transport.requests[1].url.params) == {"page_token": "t2"}


async def test_a_cursor_is_sent_alone():
    """Limit and search are sent for the first page only: a cursor contains both."""
    transport = transport_over(httpx.Response(200, json={"items": []}))
    client = FleetClient(transport, SETTINGS, ENDPOINTS)
    await client.vehicles(SCOPE, search="audi")
    await client.vehicles(SCOPE, cursor="abc==")
    assert [dict(request.url.params) for request in transport.requests] == [
        {"limit": "100", "q": "audi"},
        {"cursor": "abc=="},
    ]


async def test_a_configured_path_is_sent_percent_encoded():
    """Characters that a request line can't contain are encoded once; encoded ones stay."""
    settings = UpstreamSettings(url=SETTINGS.url, vehicle_path="/fahrzeuge für%20alle/{id}")
    transport = transport_over(httpx.Response(404), settings)
    await FleetClient(transport, settings, FleetEndpoints(settings, CacheSettings())).vehicle(SCOPE, "V1")
    assert transport.requests[0].url.raw_path == b"/fahrzeuge%20f%C3%BCr%20alle/V1"
