"""Guards on counts, which are the same on every machine: use of the generic executor, and of the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.engine.documents import Documents
from gateway.schema.build import build_schema
from gateway.schema.execution import Execution
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.upstream.pages import DECODED_MAX
from gateway.web.explorer import examples

QUERIES = Path(__file__).resolve().parents[2] / "docs" / "queries"
LIST = "{ vehicles(first: 50) { edges { cursor node { id vehicleId lastContactAt } } pageInfo { hasNextPage } } }"


def test_every_documented_query_has_a_plan():
    """No documented query needs the generic executor; mutations have no plans."""
    schema = build_schema()
    documents, execution = Documents(schema.core), Execution(schema)
    shelf = list(examples())
    assert len(shelf) == len(list(QUERIES.glob("*.graphql")))
    for example in shelf:
        variables = json.loads(example.variables) if example.variables else {}
        document = documents.read(example.query)
        if document.info(None).kind == "query":
            assert execution.prepared(document, None, variables), example.name


def test_validation_leaves_no_more_to_the_collector_if_a_document_is_larger():
    """What the rules remember of a document is freed with them, so that no collection takes long."""
    documents = Documents(build_schema().core)

    def left_by(fields: int) -> int:
        fields_text = " ".join(f"a{n}: vehicles(first: 1) {{ nodes {{ id tags }} }}" for n in range(fields))
        while gc.collect():
            pass
        gc.disable()
        try:
            assert not documents.read(f"{{ {fields_text} }}").errors
            return gc.collect()
        finally:
            gc.enable()

    left_by(1)
    assert left_by(300) <= left_by(3) + 100


@pytest.mark.parametrize("cached", [True, False])
async def test_a_plain_request_leaves_nothing_to_the_collector(cached):
    """All objects of a request are freed by reference counting; none is in a reference cycle."""
    simulator = Simulator(
        [FleetPlan(vehicles=200, clients=(Client("T7K2M#1", token="token"),))], Behaviours(rate_limit_requests=0)
    )
    settings = Settings(
        upstream={"url": "http://fleet.test"}, cache={"enabled": cached}, coalescing={"enabled": cached},
        log={"level": "error"},
    )  # fmt: skip
    app = create_app(settings, Canned(simulator))
    body = json.dumps({"query": LIST}).encode()
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/graphql", "query_string": b"", "headers": [
            (b"host", b"gateway.test"), (b"content-type", b"application/json"), (b"authorization", b"Bearer token"),
        ], "state": {},
    }  # fmt: skip
    answers = []

    def receiving():
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return messages.pop() if messages else await asyncio.Event().wait()

        return receive

    async def send(message):
        answers.append(message)

    async with app.lifespan():
        # Afterwards the plan is made, the page is known, and no decoded page of an earlier test is cached.
        for _ in range(2 + DECODED_MAX):
            await app(dict(scope), receiving(), send)
        assert b'"errors"' not in answers[-1]["body"]
        answers.clear()
        # Garbage of an earlier test may refer to objects that become garbage only after it.
        while gc.collect():
            pass
        gc.disable()
        try:
            for _ in range(5):
                await app(dict(scope), receiving(), send)
            answers.clear()
            assert gc.collect() == 0
        finally:
            gc.enable()


class Canned(httpx.AsyncBaseTransport):
    """Responds at once with the first page of a simulated fleet."""

    def __init__(self, simulator: Simulator) -> None:
        fleet = simulator.fleets["T7K2M"]
        items = [fleet.shown(vehicle_id, Behaviours()) for vehicle_id in fleet.ids[:100]]
        self._body = json.dumps({"items": items, "cursors": {"next": "n"}}).encode()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=self._body)
