"""GraphiQL in a real browser, which can reach nothing but this machine. The browser is Debian's `chromium`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.web.explorer import GRAPHIQL
from tests.clients.test_real_clients import World, node, packages
from tests.effort import effort, thorough_only
from tests.gateway_process import GatewayProcess
from tests.issuer import FakeIssuer, LoginIssuer
from tests.programs import give_up, require
from tests.waiting import waits_until

__all__ = ["packages"]
ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "canary-of-a-client-token"
CLIENT = "T7K2M#one"
PLAN = FleetPlan(vehicles=120, clients=(Client(CLIENT, token=TOKEN),))
# What a build in the background may take.
BUNDLED_WITHIN = 120


@pytest.fixture(autouse=True)
def chromium(monkeypatch) -> None:
    """Chromium, and a build with GraphiQL."""
    monkeypatch.setenv("CHROMIUM", require("chromium", "chromium"))
    is_building = GRAPHIQL.parent.joinpath("graphiql.log").is_file()
    if not waits_until(GRAPHIQL.joinpath("index.html").is_file, BUNDLED_WITHIN if is_building else 0):
        give_up("npm", "this build is without GraphiQL: node .ci/explorer/build.mjs bundles it")


def clean(seen: dict[str, Any]) -> dict[str, Any]:
    """What was seen, if the browser had no complaint and asked no other host."""
    assert (seen["console"], seen["policy"], seen["foreign"]) == ([], [], [])
    return seen


def test_graphiql_works_in_a_browser_without_a_network(serve, tmp_path):
    """The first example by keyboard, its cost and price, the shelf, a cursor, the builder, the documentation."""
    world = World(serve)
    seen = clean(node("explorer.mjs", world.base, str(tmp_path / "explorer.png")))
    assert json.loads(seen["answer"])["data"]["vehicles"]["nodes"][0]["vehicleId"] == "JQ7RP"
    assert seen["cost"].startswith("Upstream calls: 1 ")
    assert "oldest data" in seen["cost"]
    assert json.loads(seen["price"])["extensions"]["cost"]["estimatedUpstreamCalls"] == 1
    assert seen["priceLine"] == "Not run. Upstream calls: at most 1"
    assert len(seen["examples"]) == len(list((ROOT / "docs/queries").glob("*.graphql")))
    following = json.loads(seen["next"])["data"]["vehicles"]["edges"]
    assert [edge["node"]["vehicleId"] for edge in following] == world.ids[10:35]
    assert len(json.loads(seen["units"])["data"]["telematicsUnits"]["nodes"]) == 50
    assert "telematicsUnits" in seen["docs"]
    assert "client-token" not in seen["storage"]
    assert "client-token" not in str(seen["addresses"])
    assert seen["address"] == world.url


def without_token(serve: Any, introspection: str = "authenticated") -> str:
    """A gateway that is not the demo; gives its URL."""
    simulator = Simulator([PLAN], Behaviours(rate_limit_requests=0))
    settings = Settings(
        upstream={"url": serve(simulator.app)}, log={"level": "error"}, graphql={"introspection": introspection}
    )
    return serve(create_app(settings))


@thorough_only
def test_a_pasted_token_stays_in_memory(serve):
    """Each wrong token has a sentence, the query is kept, and the schema is fetched with each new token."""
    expired = FakeIssuer().token(exp=int(time.time()) - 60)
    seen = node("explorer_token.mjs", without_token(serve), TOKEN, expired)
    assert (seen["policy"], seen["foreign"]) == ([], [])
    assert seen["none"] == "A token is needed: paste one."
    assert "Paste another one; your query is kept." in seen["expired"]
    assert seen["wrong"] == "The token was rejected. Paste another one; your query is kept."
    assert "Mine" in seen["kept"]
    assert seen["source"] == "Pasted token"
    assert list(dict.fromkeys(seen["introspections"])) == [f"Bearer {token}" for token in (expired, "wrong", TOKEN)]
    assert "vehicleId" in seen["answer"]
    assert "vehicleId" in seen["other"]
    assert [place for place in ("address", "addresses", "storage", "storedAfter") if TOKEN in str(seen[place])] == []
    assert seen["before"]["found"] == 1
    assert seen["after"]["found"] == 0


class LoginWorld:
    """A gateway with an issuer for logins, as three servers."""

    def __init__(self, serve: Any, folder: Path, **issuer: Any) -> None:
        simulator = Simulator([PLAN], Behaviours(rate_limit_requests=0))
        self.issuer = LoginIssuer(lambda token: simulator.accept(token, CLIENT), **issuer)
        self.issuer.served_at(serve(self.issuer.app()))
        self.gateway = GatewayProcess(
            folder, upstream_url=serve(simulator.app), oidc_issuer=self.issuer.url, oidc_leeway="0",
            explorer_oidc_client_id="explorer", log_level="debug",
        )  # fmt: skip
        self.gateway.wait_until_ready()

    def hides_tokens(self, seen: dict[str, Any]) -> bool:
        """Whether no token is in a URL, a referrer, the history, storage, the console or the log."""
        places = [seen[name] for name in ("addresses", "history", "storage", "storedAfter", "console")]
        text = str(places) + self.gateway.output
        assert self.issuer.issued
        return not any(token in text for token in self.issuer.issued)


@pytest.fixture
def login_world(serve, tmp_path) -> Iterator[Callable[..., LoginWorld]]:
    """Starts such worlds."""
    worlds: list[LoginWorld] = []

    def started(**issuer: Any) -> LoginWorld:
        worlds.append(LoginWorld(serve, tmp_path, **issuer))
        return worlds[-1]

    yield started
    for world in worlds:
        world.gateway.stop()


@thorough_only
@pytest.mark.parametrize("claimed", [None, 900], ids=["by time", "after a 401"])
def test_a_login_lasts_longer_than_its_tokens(login_world, claimed):
    """Queries go on while tokens expire, whether or not the page knows when; a logout forgets and revokes all."""
    lifetime = effort(4, 4, 15) if claimed is None else 4
    seconds = effort(14, 14, 120) if claimed is None else 14
    world = login_world(seconds=lifetime, claimed=claimed)
    seen = node("explorer_login.mjs", world.gateway.url, str(seconds), seconds=seconds + 400)
    assert (seen["policy"], seen["foreign"]) == ([], [])
    assert seen["source"] == "Logged in"
    assert world.issuer.grants[0] == "authorization_code"
    assert world.issuer.grants.count("refresh_token") >= seconds // lifetime - 1
    assert seen["answers"] >= seconds / 4
    if claimed is not None:
        assert seen["statuses"]["401"] >= seconds // lifetime - 1
    assert seen["before"]["found"] == 2
    assert seen["after"]["found"] == 0
    assert seen["tokens"] == len(world.issuer.issued)
    assert world.issuer.refresh_tokens == set()
    assert world.hides_tokens(seen)


@thorough_only
def test_a_login_that_ended_says_so_and_keeps_the_query(login_world):
    """The issuer refuses to refresh: the page asks to log in again, with the query as it was."""
    world = login_world(seconds=3, refreshes=1)
    seen = node("explorer_login.mjs", world.gateway.url, "20", "ends")
    assert (seen["policy"], seen["foreign"]) == ([], [])
    assert seen["problem"] == "The login has ended. Log in again; your query is kept."
    assert "vehicles(first:" in seen["kept"]
    assert "vehicleId" in seen["again"]
    assert seen["after"]["found"] == 0
    assert world.hides_tokens(seen)


def test_a_mutation_is_sent_after_a_confirmation_only(serve):
    """Cancel has the focus, Escape cancels, a price needs no confirmation; subscriptions are server-sent events."""
    seen = clean(node("explorer_stub.mjs", World(serve).base))
    assert "Send unlock?" in seen["question"]
    assert "JQ7RP" in seen["question"]
    assert (seen["sentThen"], seen["sentStill"]) == (0, 0)
    price, command, subscription = seen["sent"]
    assert (price["cost"], command["cost"]) == ("validate", "report")
    assert "text/event-stream" in subscription["accept"]


@thorough_only
def test_graphiql_is_accessible_and_fits_every_screen(serve, tmp_path):
    """axe-core has no serious finding, wide and on a phone, light and dark; a link opens a query; errors are explained."""
    folder = Path(os.environ.get("EXPLORER_PICTURES", tmp_path))
    seen = node("explorer_views.mjs", World(serve).base, str(folder), seconds=300)
    assert [one for one in seen["findings"] if one["impact"] in ("serious", "critical")] == []
    assert (seen["wider"], seen["complaints"]) == ([], [])
    operation, variables, address = seen["linked"]
    assert "Linked" in operation
    assert json.loads(variables) == {"n": 3}
    assert "#" not in address
    assert "query=query+Linked" in seen["copied"]
    assert seen["documented"] == "PAGE_SIZE_INVALID"
    assert seen["bytes"] < 2_000_000
