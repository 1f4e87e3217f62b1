"""Guards on counts, which are the same on every machine: each header and form of request adds only its own cost."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import sys
import tracemalloc
from typing import NamedTuple
from urllib.parse import urlencode

import httpx
import pytest

from gateway.app import create_app
from gateway.asgi import ON_DISCONNECT, SLOTS, WHOLE_RESPONSE
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator

PAGE = "query($n: Int) { vehicles(first: $n) { edges { cursor node { vehicleId lastContactAt } } } }", {"n": 50}
VEHICLE = "query($id: ID!) { vehicle(id: $id) { vehicleId lastContactAt } }", {"id": "JQ7RP"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = {
    "request id": {"x-request-id": "0192a7d4-5b1c-7e0a-9f4d-1c2b3a4d5e6f"},
    "trace": {"traceparent": TRACE},
    "origin": {"origin": "https://app.test"},
    "timeout": {"x-gateway-timeout": "5"},
    "browser": {
        "origin": "https://app.test",
        "referer": "https://app.test/",
        "accept": "application/graphql-response+json,application/json;q=0.9",
        "accept-language": "en-GB,en;q=0.9,de;q=0.8",
        "accept-encoding": "gzip, deflate, br, zstd",
        "sec-fetch-mode": "cors",
        "user-agent": "Mozilla/5.0",
    },
    "router": {
        "traceparent": TRACE,
        "x-request-id": "a",
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-proto": "https",
    },
}
GZIP = b"\x1f\x8b"  # the first bytes of a member
# More than a plain request's: function calls, in Python and C, and bytes at the peak.
MORE_CALLS, MORE_BYTES = 30, 1024


class Request(NamedTuple):
    """A request as the ASGI application receives it."""

    scope: dict
    body: bytes


def request(method="POST", headers=None, body=b"", query_string=b"") -> Request:
    own = [(b"host", b"gateway.test"), (b"authorization", b"Bearer token")]
    own += [(b"content-type", b"application/json")] if method == "POST" else []
    own += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request(
        {"type": "http", "http_version": "1.1", "method": method, "path": "/graphql", "query_string": query_string,
         "headers": own},
        body,
    )  # fmt: skip


def forms(query: str, variables: dict) -> dict[str, Request]:
    """The same operation in every form."""
    named = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(query.encode()).hexdigest()}}
    body = json.dumps({"query": query, "variables": variables}).encode()
    parameters = urlencode({"query": query, "variables": json.dumps(variables)}).encode()
    return {
        "plain": request(body=body),
        **{name: request(headers=headers, body=body) for name, headers in HEADERS.items()},
        "registered": request(body=json.dumps({"query": query, "variables": variables, "extensions": named}).encode()),
        "hash alone": request(body=json.dumps({"variables": variables, "extensions": named}).encode()),
        "GET": request("GET", query_string=parameters),
    }


async def ask(app, form: Request) -> bytes:
    """The body of the response with status 200, as it is sent."""
    bodies = []

    def send_whole(scope, lines, parts, *, together):
        bodies.append(b"".join(parts))
        return True

    async def receive():
        return {"type": "http.request", "body": form.body, "more_body": False}

    async def send(message):
        raise AssertionError(message)

    slots = []
    extensions = {WHOLE_RESPONSE: {"send": send_whole}, ON_DISCONNECT: [], SLOTS: slots}
    await app({**form.scope, "state": {}, "extensions": extensions}, receive, send)
    for slot in slots:
        slot.release()
    (body,) = bodies
    return body


async def calls_of(app, form: Request) -> int:
    """How many functions a request calls."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        await ask(app, form)
    finally:
        sys.setprofile(None)
    return calls


async def bytes_of(app, form: Request) -> int:
    """How many bytes a request takes at its peak."""
    tracemalloc.start()
    try:
        await ask(app, form)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await ask(app, form)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("origins", ["", "https://app.test"], ids=["one origin", "two origins"])
@pytest.mark.parametrize("operation", [PAGE, VEHICLE], ids=["page", "vehicle"])
async def test_every_form_of_request_costs_about_the_same(operation, origins):
    """Headers that proxies, routers and browsers add cost a few calls, and responses are the same when decoded."""
    simulator = Simulator(
        [FleetPlan(vehicles=100, clients=(Client("T7K2M#1", token="token"),))], Behaviours(rate_limit_requests=0)
    )
    settings = Settings(
        upstream={"url": "http://fleet.test"}, cache={"vehicles_ttl": 600, "vehicle_ttl": 600},
        http={"cors_origins": origins}, log={"level": "info", "format": "json"},
    )  # fmt: skip
    app = create_app(settings, httpx.ASGITransport(simulator.app))
    every = forms(*operation)
    async with app.lifespan():
        for form in (every["plain"], every["plain"], every["registered"]):
            await ask(app, form)
        for form in every.values():  # fills all caches
            for _ in range(2):
                await ask(app, form)
        expected = await ask(app, every["plain"])
        calls = await calls_of(app, every["plain"])
        gc.collect()
        peak = await bytes_of(app, every["plain"])
        for name, form in every.items():
            sent = await ask(app, form)
            assert (gzip.decompress(sent) if sent.startswith(GZIP) else sent) == expected, name
            assert await calls_of(app, form) <= calls + MORE_CALLS, name
            assert await bytes_of(app, form) <= peak + MORE_BYTES, name
    assert b'"errors"' not in expected
