"""Global ids: every vehicle and unit has one, and other text is rejected."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GlobalIdInvalid
from gateway.schema.global_ids import LENGTH_MAX, UnitKey, parse_global_id, unit_global_id, vehicle_global_id

parts = st.none() | st.text(min_size=1, max_size=20)


@given(st.text(min_size=1, max_size=50))
def test_a_vehicles_global_id_round_trips(vehicle_id):
    """Any vehicle id round-trips, with any characters."""
    assert parse_global_id(vehicle_global_id(vehicle_id)) == vehicle_id


@given(parts, parts, st.text(min_size=1, max_size=20))
def test_a_units_global_id_round_trips(manufacturer, brand, unit_id):
    """Manufacturer, brand and unit id round-trip, including separators and missing parts."""
    key = UnitKey(manufacturer, brand, unit_id)
    assert parse_global_id(unit_global_id(*key)) == key


def test_a_global_id_has_relays_usual_form():
    """It is base64 of type and id."""
    assert base64.b64decode(vehicle_global_id("JQ7RP")) == b"Vehicle:JQ7RP"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    ["", "JQ7RP", "é", "Vm=", encoded("Vehicle:"), encoded("Trip:1"), encoded("TelematicsUnit:a/b"),
     encoded("TelematicsUnit:a/b/"), encoded("TelematicsUnit:a/b/c/d"), "A" * 4000],
)  # fmt: skip
def test_other_text_is_rejected(text):
    """Text that is no global id, other types and incomplete keys raise a coded error."""
    with pytest.raises(GlobalIdInvalid):
        parse_global_id(text)


@pytest.mark.parametrize("unit_id", ["a/b", "50%25", "é", "a b", "A1", "a:b"])
def test_the_parts_of_a_unit_may_have_separators(unit_id):
    """They are percent-encoded."""
    key = UnitKey("x/y", "50%", unit_id)
    assert parse_global_id(unit_global_id(*key)) == key
    assert base64.b64decode(unit_global_id("A", "B", "1")) == b"TelematicsUnit:A/B/1"


def test_the_length_of_a_global_id_is_limited():
    """The longest one is accepted."""
    longest = "x" * (LENGTH_MAX // 4 * 3 - len("Vehicle:"))
    assert len(vehicle_global_id(longest)) == LENGTH_MAX
    assert parse_global_id(vehicle_global_id(longest)) == longest
    with pytest.raises(GlobalIdInvalid):
        parse_global_id(vehicle_global_id(longest + "x"))
