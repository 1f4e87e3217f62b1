"""Callers that share a browser: its HTTP cache gives no caller another's response."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from tests.clients.test_real_clients import node, packages
from tests.gateways import PLANS, TOKENS
from tests.programs import require

__all__ = ["packages"]  # pytest finds the fixture here, too

HERE = Path(__file__).resolve().parent
QUERY = "{ vehicles(first: 3) { nodes { vehicleId } } }"
ALICE, EVE = ({"authorization": f"Bearer {TOKENS[name]}"} for name in ("alice", "eve"))


class Counted:
    """An application that counts GET requests to its endpoint."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/graphql"
        await self.app(scope, receive, send)


@pytest.fixture
def page(serve, monkeypatch) -> str:
    """The URL of a page that has urql."""
    monkeypatch.setenv("CHROMIUM", require("chromium", "chromium"))
    modules = Mount("/modules", StaticFiles(directory=HERE / "node_modules"))
    return serve(Starlette(routes=[Route("/", lambda _: FileResponse(HERE / "browser_cache.html")), modules]))


def test_callers_that_share_a_browser_get_their_own_responses(serve, page):
    """With urql's GET requests each caller gets its own fleet, none gets 401, and a repeated request is a cache hit."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    url = serve(simulator.app)
    gateway = Counted(create_app(Settings(upstream={"url": url}, http={"cors_origins": page}, log={"level": "error"})))
    cost = {**ALICE, "x-gateway-cost": "report"}
    plain = {**ALICE, "accept": "application/json"}
    requests = [ALICE, ALICE, EVE, EVE, {}, cost, cost, plain, {}, ALICE]
    answers = node("browser_cache.mjs", page, f"{serve(gateway)}/graphql", QUERY, json.dumps(requests))

    def fleet(name: str) -> dict[str, object]:
        return {"vehicles": {"nodes": [{"vehicleId": vehicle} for vehicle in simulator.fleets[name].ids[:3]]}}

    alice, eve, none = (200, fleet("T7K2M")), (200, fleet("EXFL29")), (401, None)
    given = [(answer["status"], answer.get("data")) for answer in answers]
    assert given == [alice, alice, eve, eve, none, alice, alice, alice, none, alice]
    assert [answer.get("errors") for answer in answers if answer["status"] == 401] == [["UNAUTHENTICATED"]] * 2
    assert ["cost" in (answer.get("extensions") or {}) for answer in answers] == [how is cost for how in requests]
    assert [answer["type"].startswith("application/json") for answer in answers] == [how is plain for how in requests]
    # A repeated request gets the browser's cached response, with that one's request id.
    ids = [answer["id"] for answer in answers]
    assert [ids[0], ids[2], ids[5]] == [ids[1], ids[3], ids[6]]
    assert gateway.requests == len(set(ids)) == 7
