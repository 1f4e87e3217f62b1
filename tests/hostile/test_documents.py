"""No GraphQL request blocks the gateway or fills its memory, whoever the caller is."""

from __future__ import annotations

import json

import pytest

from gateway.simulator import Behaviours, Simulator
from tests.gateways import PLANS
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, VALID_TOKEN_CPU_MAX
from tests.hostile.documents import bodies

BODIES = bodies(Simulator(PLANS, Behaviours()).fleets["T7K2M"].ids)


@pytest.mark.parametrize("token", ["x", "alice"], ids=["invented", "valid"])
@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_document_takes_bounded_time_and_memory(attacked, name, token):
    """The response is GraphQL, each error has a code, and other requests get responses meanwhile."""
    cpu_max = INVALID_TOKEN_CPU_MAX if token == "x" else VALID_TOKEN_CPU_MAX
    for _ in range(2):  # nothing is kept for an invented token, and a busy machine can only add time
        with attacked.measured() as harm:
            status, body = attacked.post(BODIES[name], token)
        if token != "x" or harm.cpu <= cpu_max:
            break
    assert status in (200, 294, 400, 401, 422), body[:300]
    codes = {error["extensions"]["code"] for error in json.loads(body).get("errors", ())}
    assert "INTERNAL" not in codes
    assert harm.failed == 0
    assert harm.cpu <= cpu_max, harm
    assert harm.memory <= MEMORY_MAX, harm
