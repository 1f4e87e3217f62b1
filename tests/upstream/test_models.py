"""The REST API's responses as structs: early names mapped, unknown members ignored, absent ones null."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from gateway.upstream.models import TOLERATED_MAX, MasterData, State, Vehicle, decoded
from gateway.upstream.pages import VehiclePage


def test_all_but_the_id_may_be_missing():
    """A bare id is a vehicle; its state is then unknown, not empty."""
    vehicle = msgspec.json.decode(b'{"id":"JQ7RP","new_member":{"a":1}}', type=Vehicle)
    assert (vehicle.vehicle_id, vehicle.status, vehicle.latest_state) == ("JQ7RP", None, UNSET)


@pytest.mark.parametrize(
    ("members", "transmission", "raw"),
    [
        ({"transmission": "AUTOMATIC"}, "AUTOMATIC", "AUTOMATIC"),
        ({"gear_box": "MANUAL_SHIFT"}, "MANUAL", "MANUAL_SHIFT"),
        ({"transmission": "AUTOMATIC", "gear_box": "MANUAL_SHIFT"}, "AUTOMATIC", "AUTOMATIC"),
        ({"transmission": None, "gear_box": "CVT"}, "CVT", "CVT"),
        ({}, None, None),
    ],
)
def test_the_early_gear_box_is_a_transmission(members, transmission, raw):
    """gear_box replaces an absent transmission, and its early value gets the current name."""
    data = msgspec.convert(members, MasterData)
    assert (data.transmission, data.transmission_raw) == (transmission, raw)


def test_a_struct_survives_being_stored():
    """Encoding and decoding a page, as a cache does, changes nothing."""
    body = b"""{"items":[{"id":"A","master_data":{"gear_box":"MANUAL_SHIFT","year_of_production":2019},
      "telematics_unit":{"id":"U","manufacturer":"NIU"},"latest_state":{"x":{"value":[1,{"a":null}]}}},{"id":"B"}],
      "cursors":{"next":"n"}}"""
    page = VehiclePage.of_body(body)
    assert VehiclePage.of_body(page.body).items == page.items
    assert page.items[0].telematics_unit.vehicle_id == "A"
    assert page.items[0].master_data.year_of_production == "2019"


def test_a_unit_without_an_id_is_no_unit():
    """A unit that can't be identified is left out."""
    assert msgspec.json.decode(b'{"id":"A","telematics_unit":{"brand":"NIU"}}', type=Vehicle).telematics_unit is None


def test_tolerant_decoding_is_bounded():
    """A page with too many vehicles, or too large for decoding by member, is an error."""
    vehicles = [{"id": str(number), "tags": 1} for number in range(TOLERATED_MAX + 1)]
    for items in (
        vehicles,
        [{"id": vehicle["id"]} for vehicle in vehicles],
        [{"id": "a", "tags": 1, "x": "y" * 2**22}],
    ):
        with pytest.raises(msgspec.ValidationError):
            VehiclePage.of_body(msgspec.json.encode({"items": items}))
    page = VehiclePage.of_body(msgspec.json.encode({"items": vehicles[:-1]}))
    assert (len(page), page.items[7].tags) == (TOLERATED_MAX, None)


def test_a_vehicle_is_not_decoded_as_a_state():
    """Nor is a list of vehicles, although their members could be."""
    for other in ({"id": "JQ7RP", "rental_status": {"value": "IN_RENTAL"}}, {"items": [], "cursors": {"next": None}}):
        with pytest.raises(msgspec.ValidationError):
            decoded(msgspec.json.encode(other), State)
    assert decoded(b'{"id": {"value": 1}, "door": 5}', State)["id"].value == 1


def test_null_is_kept_where_another_member_is_invalid():
    """A vehicle without a state (null) stays one; a state that is missing in the response can be read on its own."""
    body = {"id": "JQ7RP", "tags": 7, "latest_state": None}
    assert decoded(msgspec.json.encode(body), Vehicle).latest_state is None
    del body["latest_state"]
    assert decoded(msgspec.json.encode(body), Vehicle).latest_state is msgspec.UNSET


def test_an_invalid_member_costs_only_itself():
    """At any depth: in the structs of a vehicle, which may all be null, and in the properties of its state."""
    body = {
        "id": "JQ7RP",
        "status": 7,
        "master_data": {"brand": 7, "model": "ID.3"},
        "rental_status": {"value": "FREE", "modified_at": 7},
        "latest_state": {"door": {"value": 1, "timestamp": "t"}, "lock": {"value": 2, "timestamp": 7}},
    }
    vehicle = decoded(msgspec.json.encode(body), Vehicle)
    assert vehicle.status is None
    assert vehicle.master_data == MasterData(model="ID.3")
    assert (vehicle.rental_status.value, vehicle.rental_status.modified_at) == ("FREE", None)
    assert {name: property_.value for name, property_ in vehicle.latest_state.items()} == {"door": 1, "lock": 2}
