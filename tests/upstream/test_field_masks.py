"""Field masks: every decoded member equals that of the full vehicle."""

from __future__ import annotations

from operator import attrgetter

import msgspec
import pytest

from gateway.upstream.field_masks import COMPUTED_FROM, PARTS, check_computed, decode_masked, vehicle_mask
from gateway.upstream.models import StateProperty, Vehicle, decoded

STATUS = {"value": "A", "modified_at": "2024-05-14T08:41:12Z"}
VEHICLE = {
    **{name: f"a {name}" for name in ("id", "status", "fleet_id", "created_at", "modified_at", "attached_at")},
    "last_contact_at": "2024-05-14T08:41:12Z",
    "vehicle_model_id": "a model",
    "custom_fields": {"a": 1},
    "tags": ["a tag"],
    "master_data": {
        **{name: f"a {name}" for name in ("vin", "license_plate", "brand", "model", "custom_name", "remark")},
        "fuel_type": "DIESEL",
        "vehicle_type": "CAR",
        "year_of_production": 2020,
        "gear_box": "MANUAL_SHIFT",
    },
    **dict.fromkeys(("life_status", "operation_status", "rental_status", "setup_status"), STATUS),
    "capabilities": {"commands": ["A"], "vehicle_state": ["B"]},
    "telematics_unit": {
        name: f"a {name}"
        for name in ("id", "brand", "model", "manufacturer", "type", "fleet_id", "created_at", "modified_at")
    },
    "sharing": {
        **{part: {name: f"a {name}" for name in ("fleet_id", "name")} for part in ("owner", "partner")},
        **{name: f"a {name}" for name in ("starts_at", "ends_at")},
    },
    "new_member": {"nested": [1]},
    "latest_state": {"ignition": {"value": "ON", "timestamp": "2024-05-14T08:41:12Z"}},
}
# No GraphQL field reads the first; the second is a number until it is serialised.
NO_FIELDS = ("gear_box", "year_of_production")
BODY = msgspec.json.encode(VEHICLE)


def members_of(model: type) -> list[str]:
    properties = [name for name, member in vars(model).items() if isinstance(member, property)]
    return [*properties, *(known.name for known in msgspec.structs.fields(model))]


@pytest.mark.parametrize("member", [member for member in members_of(Vehicle) if member != "rendered"])
def test_a_masked_member_equals_the_full_one(member):
    """A mask of one member has its value, computed members included, and the vehicle's id."""
    whole, mask = decoded(BODY, Vehicle), decode_masked(BODY, vehicle_mask({member: None}))
    assert getattr(whole, member) is not None
    assert getattr(mask, member) == getattr(whole, member)
    assert mask.vehicle_id == whole.vehicle_id


@pytest.mark.parametrize(
    ("part", "member"),
    [(part, member) for part, model in PARTS.items() for member in members_of(model) if member not in NO_FIELDS],
)
def test_a_masked_member_of_a_part_equals_the_full_one(part, member):
    """Even if it is computed from members that are not requested."""
    path, needs = [part], {part: {member: None}}
    if part in ("owner", "partner"):
        path, needs = ["sharing", part], {"sharing": needs}
    value_of = attrgetter(".".join([*path, member]))
    whole, mask = decoded(BODY, Vehicle), decode_masked(BODY, vehicle_mask(needs))
    assert value_of(whole) is not None
    assert value_of(mask) == value_of(whole)


def test_a_masked_state_property_equals_the_full_one():
    """A mask of the state has the requested properties, and no others."""
    state = decode_masked(BODY, vehicle_mask({"latest_state": {"ignition": None, "speed": None}})).latest_state
    assert state.get("ignition") == StateProperty("ON", "2024-05-14T08:41:12Z")
    assert state.get("speed") is None


# Decoded under its own name as well.
FOLDED = "transmission"


@pytest.mark.parametrize(
    ("model", "member"), [(m, name) for m, names in COMPUTED_FROM.items() for name in names if name != FOLDED]
)
def test_a_computed_member_that_is_forgotten_fails_at_start(model, member):
    """The check names the model and the member."""
    known = {name: sources for name, sources in COMPUTED_FROM[model].items() if name != member}
    with pytest.raises(TypeError, match=f"{model.__name__} has .*: {member}[.]"):
        check_computed({**COMPUTED_FROM, model: known})
