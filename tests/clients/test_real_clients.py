"""The gateway with real programs: GraphQL clients, federation routers, a browser and front-end tools.

They come from npm and are installed when the first test needs them; without Node or a registry the tests are skipped.
The browser is Debian's `chromium`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.schema.build import print_sdl
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from tests.clients.packages import fetch_packages
from tests.effort import thorough_only
from tests.programs import give_up, require

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """The npm packages of this folder."""
    require("node", "nodejs")
    require("npm", "npm")
    if failure := fetch_packages():
        give_up("npm", f"npm ci brought no client packages: {failure}")


def node(script: str, *arguments: str, seconds: float = 300) -> Any:
    """The JSON output of a script of this folder."""
    command = ["node", script, *arguments]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=seconds, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:] + ended.stdout[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


class World:
    """A gateway and its simulator over real sockets."""

    def __init__(self, serve: Any, vehicles: int = 250, statuses: str = "september2026", **behaviours: Any) -> None:
        plan = FleetPlan(vehicles=vehicles, clients=(Client("T7K2M#one", token="client-token"),))
        self.simulator = Simulator([plan], Behaviours(rate_limit_requests=0, **behaviours))
        settings = Settings(
            upstream={"url": serve(self.simulator.app)},
            http={"statuses": statuses},
            log={"level": "error"},
            writes="all",
        )
        self.base = serve(create_app(settings, demo_token="client-token"))
        self.url = f"{self.base}/graphql"

    @property
    def ids(self) -> list[str]:
        return self.simulator.fleets["T7K2M"].ids


def test_every_audit_of_graphql_over_http_passes(serve):
    """All MUST, SHOULD and MAY audits of the draft pass; there are none of the release yet."""
    result = node("audit.mjs", World(serve, statuses="draft").url, "client-token")
    assert result["audits"] > 50
    assert result["short"] == []


@pytest.fixture(scope="module")
def compiled(packages: None) -> None:
    """The output of relay-compiler for the schema and two operations; it checks Relay's connection rules."""
    (HERE / "generated" / "relay").mkdir(parents=True, exist_ok=True)
    command = [HERE / "node_modules" / ".bin" / "relay-compiler"]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "behaviours",
    [pytest.param({}, marks=thorough_only), {"trailing_empty_page": True}],
    ids=["plain", "trailing empty page"],
)
@pytest.mark.parametrize(
    ("client", "way"),
    [
        (c, w)
        for c in ("relay", "apollo", "urql")
        for w in ("forward", "backward", "both")
        if (c, w) != ("urql", "both")
    ],
)
@pytest.mark.usefixtures("compiled")
def test_real_clients_page_through_the_whole_fleet(serve, client, way, behaviours):
    """Each client's own store merges the pages: every vehicle once, in order, and paging ends.

    urql's relayPagination can't page backward from a page with `after`, so that case is left out.
    """
    world = World(serve, **behaviours)
    assert node("paging.mjs", client, way, world.url, "client-token") == world.ids


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("client", ["relay", "apollo", "urql"])
@pytest.mark.usefixtures("compiled")
def test_real_clients_page_through_a_filtered_and_ordered_connection(serve, client, way):
    """To its end: every vehicle that matches once, in the order, missing values last and equal ones by id."""
    world = World(serve)
    found = [world.simulator.fleets["T7K2M"].vehicle(vehicle_id) for vehicle_id in world.ids]
    found = [each for each in found if (each.get("operation_status") or {}).get("value") == "OPERATING"]
    found.sort(key=lambda each: each["id"])
    found.sort(key=brand_of, reverse=True)
    found.sort(key=lambda each: not brand_of(each))
    assert len(found) > 3 * 60  # pages of 60
    asked = {
        "where": {"operationStatus": {"in": ["OPERATING"]}},
        "orderBy": [{"field": "BRAND", "direction": "DESC"}],
    }
    ids = node("paging.mjs", client, way, world.url, "client-token", json.dumps(asked))
    assert ids == [each["id"] for each in found]


def brand_of(vehicle: dict[str, Any]) -> str:
    return ((vehicle.get("master_data") or {}).get("brand") or "").casefold()


@pytest.mark.parametrize("router", ["apollo", pytest.param("hive", marks=thorough_only)])
def test_federation_routers_resolve_over_two_subgraphs(serve, tmp_path, router):
    """Its composition takes our SDL and one that extends Vehicle; 500 entities take one call and five upstream pages."""
    world = World(serve, vehicles=500)
    sdl = tmp_path / "fleet.graphql"
    sdl.write_text(print_sdl(federation=True))
    answer = node("routers.mjs", router, world.url, "client-token", json.dumps(world.ids), str(sdl))
    assert "errors" not in answer
    assert [trip["vehicle"]["vehicleId"] for trip in answer["data"]["trips"]] == world.ids
    assert all(trip["vehicle"]["tripCount"] >= 5 for trip in answer["data"]["trips"])
    assert answer["data"]["vehicles"]["nodes"][0] == {"vehicleId": "JQ7RP", "tripCount": 5}
    assert answer["entityCalls"] == 1
    assert world.simulator.requests.total == 5
    assert set(world.simulator.requests.by_client) == {"T7K2M#one"}


@pytest.mark.parametrize("client", ["apollo", "relay"])
@pytest.mark.usefixtures("compiled")
def test_real_clients_update_their_stores_from_a_payload(serve, client):
    """By the id of the changed vehicle, without another request; the version is the new one, too."""
    world = World(serve)
    seen = node("mutations.mjs", client, world.url, "client-token", "JQ7RP")
    assert (seen["outcome"], seen["requests"]) == ("EXECUTED", 2)
    assert seen["before"]["tags"] != seen["after"]["tags"] == ["from the payload"]
    assert None not in (versions := {seen["before"]["version"], seen["after"]["version"]})
    assert len(versions) == 2


@pytest.mark.parametrize("router", ["apollo", pytest.param("hive", marks=thorough_only)])
def test_federation_routers_pass_mutations_on(serve, tmp_path, router):
    """Once, and the other subgraph adds its fields to the payload's vehicle."""
    world, sdl = World(serve), tmp_path / "fleet.graphql"
    sdl.write_text(print_sdl(federation=True))
    mutation = """mutation { updateVehicle(input: { vehicleId: "JQ7RP", idempotencyKey: "k", tags: ["routed"] }) {
      outcome vehicle { vehicleId tags tripCount } } }"""
    queries = json.dumps([(mutation, "client-token")])
    (answer,) = node("routers.mjs", router, world.url, "client-token", json.dumps(world.ids[:2]), str(sdl), queries)
    assert answer["data"]["updateVehicle"] == {
        "outcome": "EXECUTED",
        "vehicle": {"vehicleId": "JQ7RP", "tags": ["routed"], "tripCount": 5},
    }
    assert world.simulator.executions.as_dict()["total"] == 1


PARTIAL = '{ good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicles(first: -1) { nodes { vehicleId } } }'
TOO_MUCH = "{" + " ".join(f"a{n}: vehicles(first: 500) {{ nodes {{ vehicleId }} }}" for n in range(45)) + "}"
INVALID = "{ nope }"
# Queries, their tokens, the status and the code.
ERRORS = [
    (PARTIAL, "client-token", 294, "PAGE_SIZE_INVALID"),
    (TOO_MUCH, "client-token", 422, "LIMIT_EXCEEDED"),
    (PARTIAL, "", 401, "UNAUTHENTICATED"),
    (INVALID, "client-token", 422, "GRAPHQL_VALIDATION_FAILED"),
]


def requests_of(world: World, errors: list[tuple[str, str, int, str]]) -> str:
    """The queries and tokens as JSON; each has its status."""
    for query, token, status, _ in errors:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        assert httpx.post(world.url, json={"query": query}, headers=headers, verify=False).status_code == status
    return json.dumps([(query, token) for query, token, _, _ in errors])


@pytest.mark.parametrize("client", ["apollo", "urql", "relay"])
def test_errors_reach_the_callers_of_real_clients(serve, client):
    """With each status of the specification: the codes, and the data beside them."""
    world = World(serve)
    answers = node("errors.mjs", client, world.url, requests_of(world, ERRORS))
    assert [answer["codes"] for answer in answers] == [[code] for *_, code in ERRORS]
    assert answers[0]["data"]["good"]["vehicleId"] == "JQ7RP"
    assert not any((answer["data"] or {}).get("good") for answer in answers[1:])


@pytest.mark.parametrize("router", ["apollo", pytest.param("hive", marks=thorough_only)])
def test_errors_reach_the_callers_of_federation_routers(serve, tmp_path, router):
    """The router passes the gateway's errors on; Apollo's those of a 4xx in an error of its own."""
    world = World(serve)
    sdl = tmp_path / "fleet.graphql"
    sdl.write_text(print_sdl(federation=True))
    sent = requests_of(world, ERRORS[:-1])  # a router sends nothing that is invalid
    partial, too_much, without_token = node("routers.mjs", router, world.url, "client-token", "[]", str(sdl), sent)
    assert partial["data"]["good"] == {"vehicleId": "JQ7RP"}
    if router == "apollo":
        assert too_much["errors"][0]["extensions"]["response"]["status"] == 422
        too_much = too_much["errors"][0]["extensions"]["response"]["body"]
    for answer, (*_, code) in zip((partial, too_much, without_token), ERRORS, strict=False):
        assert code in [error["extensions"]["code"] for error in answer["errors"]]


@thorough_only
def test_front_end_tools_accept_the_schema(serve):
    """graphql-codegen's TypeScript compiles, also by introspection, and graphql-eslint's Relay rules report nothing."""
    (HERE / "generated").mkdir(exist_ok=True)
    command = ["node", "schema.mjs", str(ROOT / "schema.graphql"), World(serve).url, "client-token"]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
