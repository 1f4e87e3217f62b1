"""Any body of a write gets a problem of the contract or a success from the simulated API, never a failure of its own."""

from __future__ import annotations

import json

import httpx
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.simulator.problems import TITLES

NAMES = ["master_data", "custom_fields", "tags", "operation_status", "rental_status", "vin", "license_plate", "value", "partner",
         "partner_fleet_id", "fleet_id", "starts_at", "ends_at", "telematics_brand", "telematics_unit_id", "vehicle_model_id",
         "credentials_id", "password", "vehicle", "telematics_unit", "brand", "id"]  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["GARAGE", "PARTN", "2099-01-01T00:00:00Z", "TESLA", "x" * 300])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
TARGETS = [("PATCH", "/vehicles/JQ7RP"), ("PUT", "/vehicles/JQ7RP/operation-status"), ("PATCH", "/vehicles/JQ7RP/tags"),
           ("POST", "/vehicles"), ("POST", "/vehicles/JQ7RP/sharing"), ("POST", "/vehicles/JQ7RP/commands/draw-attention"),
           ("POST", "/vehicles/JQ7RP/commands/lock-central-lock")]  # fmt: skip


@given(
    target=st.sampled_from(TARGETS),
    body=VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30),
    behaviours=st.builds(
        Behaviours,
        edit_method=st.sampled_from(["PATCH", "PUT"]),
        sub_resources=st.sampled_from([(), ("operation_status", "tags")]),
        body_wrapper=st.booleans(),
        unit_form=st.sampled_from(["flat", "nested"]),
        early_names=st.booleans(),
        write_answers=st.sampled_from(["vehicle", "empty"]),
    ),
)
async def test_any_body_gets_a_response_of_the_contract(target, body, behaviours):
    """Its status is that of its problem, and the vehicle stays readable."""
    simulator = Simulator([FleetPlan("T7K2M", 5, clients=(Client("T7K2M#one", token="one"),))], behaviours)
    transport = httpx.ASGITransport(simulator.app)
    headers = {"Authorization": "Bearer one", "Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://fleet.test", headers=headers) as http:
        response = await http.request(*target, content=body)
        if response.status_code >= 400:
            problem = response.json()
            assert TITLES[problem["type"]] == (response.status_code, problem["title"])
            assert simulator.executions.by_kind.total() == 0
        else:
            assert simulator.executions.by_kind.total() == 1
        assert (await http.get("/vehicles/JQ7RP")).json()["id"] == "JQ7RP"
