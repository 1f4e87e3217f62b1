"""The generic executor yields to other requests, and stops at its deadline."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from gateway.simulator import Behaviours, Simulator
from tests.effort import thorough_only
from tests.gateways import PLANS, serving
from tests.hostile.attacked import VALID_TOKEN_CPU_MAX, AttackedGateway
from tests.hostile.documents import fields_times_nodes

BODIES = fields_times_nodes(Simulator(PLANS, Behaviours()).fleets["T7K2M"].ids)
DEAR = (
    "60 aliases of 1000 ids",
    pytest.param("types of 1000 ids", marks=thorough_only),
    pytest.param("60 aliases of 1000 ids and an error", marks=thorough_only),
)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A gateway without projection, so that graphql-core executes everything."""
    with ExitStack() as stack:
        one = AttackedGateway(
            tmp_path_factory.mktemp("attacked"),
            lambda app: stack.enter_context(serving(app)),
            graphql_projection="false",
        )
        stack.callback(one.stop)
        yield one


@pytest.mark.parametrize("name", DEAR)
def test_a_costly_execution_yields_to_others(attacked, name):
    """Health checks get responses meanwhile, and the response is complete."""
    with attacked.measured() as harm:
        status, body = attacked.post(BODIES[name], "alice")
    assert status == (294 if "errors" in json.loads(body) else 200)
    assert len(json.loads(body)["data"]["nodes"]) == 1000
    assert harm.cpu <= VALID_TOKEN_CPU_MAX / 2, harm


@pytest.mark.parametrize("name", DEAR)
def test_a_costly_execution_stops_at_its_deadline(attacked, name):
    """Fields that are not done by then have DEADLINE_EXCEEDED."""
    attacked.post(BODIES[name], "alice")  # reads the vehicles, so that only execution is left
    with attacked.measured() as harm:
        status, body = attacked.post(BODIES[name], "alice", X_Gateway_Timeout="0.05")
    answer = json.loads(body)
    codes = {error["extensions"]["code"] for error in answer["errors"]}
    assert status == 294
    assert "DEADLINE_EXCEEDED" in codes
    assert len(answer["errors"]) <= 2001
    assert harm.cpu <= VALID_TOKEN_CPU_MAX, harm
