"""With writes off no request but a GET leaves the gateway, and with `vehicles` no command does, whatever is asked."""

from __future__ import annotations

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from tests.effort import effort
from tests.gateways import PLANS, TOKENS, serving
from tests.journeys.test_fuzz import CORPUS
from tests.writes.mutations import document, mutation

RELAXED = settings(
    max_examples=effort(40, 80, 1000),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
AUTHORIZED = {"Authorization": f"Bearer {TOKENS['alice']}"}
FIELDS = {
    "updateVehicle": {"vehicleId": "JQ7RP", "tags": ["fuzz"]},
    "sendVehicleCommand": {"vehicleId": "JQ7RP", "command": "UNLOCK_CENTRAL_LOCK"},
    "archiveVehicle": {"vehicleId": "JQ7RP"},
    "shareVehicle": {"vehicleId": "JQ7RP", "partnerFleetId": "EXFL29", "endsAt": "2099-01-01T00:00:00Z"},
    "addVehicle": {"telematicsBrand": "CLOUDBOXX", "telematicsUnitId": "UNIT1", "vehicleModelId": "01HX"},
}


class World:
    """A gateway with some writes on, and its simulator."""

    def __init__(self, http: httpx.Client, simulator: Simulator, writes: str) -> None:
        self.http, self.simulator, self.writes = http, simulator, writes
        self.schema = schemathesis.graphql.from_url(str(http.base_url.join("/graphql")), headers=AUTHORIZED)

    def post(self, body: object) -> dict:
        response = self.http.post("/graphql", json=body)
        assert response.status_code < 500, response.text
        answer = response.json()
        for error in answer.get("errors", ()):
            assert error["extensions"]["code"] != "INTERNAL", error
        return answer

    def check(self) -> None:
        """What must not have reached the fleet API has not."""
        counts = self.simulator.requests
        if self.writes == "off":
            assert counts.by_method.keys() <= {"GET"}, counts.by_method
            assert self.simulator.executions.by_kind.total() == 0
        commands = [path for path in counts.by_path if "/commands/" in path]
        assert commands == [] or self.writes in ("commands", "all"), commands
        if self.writes == "commands":
            assert all(path in commands for path in counts.by_path if " " in path), counts.by_path


@pytest.fixture(scope="module", params=["off", "vehicles", "commands"])
def world(request):
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as upstream:
        settings = Settings(
            upstream={"url": upstream}, writes=request.param, limits={"tokens": 4000}, log={"level": "error"}
        )
        with serving(create_app(settings)) as url, httpx.Client(base_url=url, timeout=30, headers=AUTHORIZED) as http:
            yield World(http, simulator, request.param)


@RELAXED
@given(data=st.data())
def test_generated_operations_write_nothing_that_is_off(world, data):
    """Queries and mutations that schemathesis makes of the schema."""
    world.post({"query": data.draw(world.schema.as_strategy()).body})
    world.check()


FIELD = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda name: st.dictionaries(
        st.sampled_from([*FIELDS[name], "nope", "ifVersion", "clientMutationId"]),
        st.none() | st.text(max_size=8) | st.integers() | st.booleans() | st.lists(st.text(max_size=3), max_size=2),
        max_size=2,
    ).map(lambda members: mutation(name, **FIELDS[name] | members))
)


@RELAXED
@given(
    fields=st.lists(FIELD, min_size=1, max_size=3),
    form=st.sampled_from(["alone", "after a query", "in a fragment", "by get", "with a variable"]),
)
def test_mutations_write_nothing_that_is_off(world, fields, form):
    """Sound and unsound ones, in every form in which a document can have them."""
    fields = [f"f{n}: {field}" for n, field in enumerate(fields)]
    text = document(*fields)
    if form == "alone":
        world.post({"query": text})
    elif form == "after a query":
        world.post(
            {"query": f"query q {{ __typename }} {text.replace('mutation', 'mutation m', 1)}", "operationName": "m"}
        )
    elif form == "in a fragment":
        world.post({"query": f"mutation {{ ...f }} fragment f on Mutation {{ {' '.join(fields)} }}"})
    elif form == "by get":
        assert world.http.get("/graphql", params={"query": text}).status_code < 500
    else:
        body = {"query": text.replace("mutation", "mutation($on: Boolean! = true)", 1), "variables": {"on": True}}
        world.post(json.loads(json.dumps(body).replace(") {", ") @include(if: $on) {", 1)))
    world.check()


def test_the_fuzz_corpus_writes_nothing_that_is_off(world):
    """The hostile documents of the fuzz tests."""
    for text in CORPUS.values():
        world.post({"query": text})
    world.check()


def test_sound_mutations_reach_the_fleet_api_only_if_they_are_on(world):
    """Those that are off have a coded error that says how to switch them on."""
    for name, members in FIELDS.items():
        answer = world.post({"query": document(mutation(name, **members))})
        kind = "commands" if name == "sendVehicleCommand" else "vehicles"
        if world.writes != kind:
            (error,) = answer["errors"]
            assert error["extensions"]["code"] == "WRITES_DISABLED"
            assert "GATEWAY_WRITES" in error["message"]
        else:
            assert "errors" not in answer or error_codes(answer) == set(), answer
    world.check()
    assert (world.writes == "off") == (world.simulator.executions.by_kind.total() == 0)


def error_codes(answer: dict) -> set[str]:
    return {error["extensions"]["code"] for error in answer["errors"]}
