"""Global ids: every vehicle and unit has one, and nothing else reads as one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GlobalIdInvalid
from gateway.schema.global_ids import UnitKey, parse_global_id, unit_global_id, vehicle_global_id

parts = st.none() | st.text(min_size=1, max_size=20)


@given(st.text(min_size=1, max_size=50))
def test_a_vehicles_global_id_leads_back_to_its_id(vehicle_id):
    """Any vehicle id survives, whatever characters it has."""
    assert parse_global_id(vehicle_global_id(vehicle_id)) == vehicle_id


@given(parts, parts, st.text(min_size=1, max_size=20))
def test_a_units_global_id_leads_back_to_its_key(manufacturer, brand, unit_id):
    """Manufacturer, brand and unit id survive, separators and absent parts included."""
    key = UnitKey(manufacturer, brand, unit_id)
    assert parse_global_id(unit_global_id(*key)) == key


def test_a_vehicles_global_id_is_what_relay_clients_expect():
    """It is base64 of type and id."""
    assert base64.b64decode(vehicle_global_id("JQ7RP")) == b"Vehicle:JQ7RP"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    ["", "JQ7RP", "é", "Vm=", encoded("Vehicle:"), encoded("Trip:1"), encoded("TelematicsUnit:a/b"),
     encoded("TelematicsUnit:a/b/"), encoded("TelematicsUnit:a/b/c/d"), "A" * 4000],
)  # fmt: skip
def test_what_is_no_global_id_is_refused(text):
    """Other text, other types and incomplete keys are a coded error."""
    with pytest.raises(GlobalIdInvalid):
        parse_global_id(text)
