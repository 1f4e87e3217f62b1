"""The simulator's pages and cursors, for all paging behaviours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import Behaviours, CursorRejected, Fleet, list_page

behaviours = st.builds(
    Behaviours,
    ends=st.sampled_from(["null", "absent"]),
    trailing_empty_page=st.booleans(),
    empty_page_every=st.sampled_from([0, 1, 2, 3]),
    short_pages=st.sampled_from([0, 1, 2]),
    last_page=st.sampled_from(["head", "tail"]),
    cursor_style=st.sampled_from(["keyset", "offset"]),
    cursor_tokens=st.sampled_from(["stable", "fresh"]),
)


@given(st.integers(0, 60), st.integers(1, 20), behaviours)
def test_following_cursors_returns_every_item_once(size, limit, behaviours):
    """next from the start and prev from the last page return the whole list; self returns the same page."""
    fleet = Fleet("T7K2M", size)
    forward, pages, cursor = [], 0, None
    while True:
        ids, members = list_page(fleet, behaviours, limit=limit, cursor=cursor, now=0)
        assert list_page(fleet, behaviours, cursor=members["cursors"]["self"], now=0)[0] == ids
        forward += ids
        last = members["cursors"]["last"]
        cursor = members["cursors"].get("next")
        pages += 1
        if cursor is None:
            break
        assert pages < 300
    assert forward == fleet.ids
    back, cursor = [], last
    while cursor:
        ids, members = list_page(fleet, behaviours, cursor=cursor, now=0)
        back = ids + back
        cursor = members["cursors"].get("prev")
    assert back == fleet.ids


def test_ends_are_null_or_absent():
    """`ends` decides whether the cursor of a missing page is null or absent."""
    fleet = Fleet("T7K2M", 3)
    assert list_page(fleet, Behaviours())[1]["cursors"]["next"] is None
    assert "next" not in list_page(fleet, Behaviours(ends="absent"))[1]["cursors"]


def test_tokens_are_stable_or_fresh():
    """`cursor_tokens` decides whether the cursors of a page are always equal."""
    fleet = Fleet("T7K2M", 30)
    stable, fresh = Behaviours(), Behaviours(cursor_tokens="fresh")
    assert list_page(fleet, stable, limit=10) == list_page(fleet, stable, limit=10)
    one, two = (list_page(fleet, fresh, limit=10)[1]["cursors"]["next"] for _ in range(2))
    assert one != two
    assert list_page(fleet, fresh, cursor=one)[0] == list_page(fleet, fresh, cursor=two)[0]


@pytest.mark.parametrize("cursor", ["", "x", "e30=", "eyJ2IjoxLCJjIjp7fX0="])
def test_an_invalid_cursor_is_rejected(cursor):
    """Malformed, foreign and expired cursors are rejected."""
    fleet, behaviours = Fleet("T7K2M", 30), Behaviours(cursor_ttl=10)
    if cursor:
        with pytest.raises(CursorRejected):
            list_page(fleet, behaviours, cursor=cursor)
    good = list_page(fleet, behaviours, limit=10, now=0)[1]["cursors"]["next"]
    with pytest.raises(CursorRejected):
        list_page(Fleet("EXFL29", 30, number=1), behaviours, cursor=good, now=0)
    with pytest.raises(CursorRejected):
        list_page(fleet, behaviours, cursor=good, now=11)


def test_a_keyset_cursor_survives_changes_and_an_offset_cursor_shifts():
    """After an insertion at the front, a keyset page starts at the same item, an offset page one item earlier."""
    for style, shift in (("keyset", 0), ("offset", 1)):
        fleet, behaviours = Fleet("T7K2M", 30), Behaviours(cursor_style=style)
        second = list_page(fleet, behaviours, limit=10)[1]["cursors"]["next"]
        before = list_page(fleet, behaviours, cursor=second)[0]
        fleet.insert(0)
        after = list_page(fleet, behaviours, cursor=second)[0]
        assert after[shift] == before[0]


def test_the_fleet_is_seeded_and_its_ids_are_unique():
    """Equal plans make equal fleets; ids are unique within and across fleets."""
    one, two, other = Fleet("A", 5000, 7), Fleet("A", 5000, 7), Fleet("B", 5000, 7, number=1)
    assert one.ids == two.ids
    assert one.vehicle(one.ids[40]) == two.vehicle(two.ids[40])
    assert len({*one.ids, *other.ids}) == 10_000


def test_every_special_case_of_the_contract_occurs():
    """In a few hundred vehicles each optional member is null somewhere and missing somewhere, and so on."""
    fleet = Fleet("T7K2M", 200)
    vehicles = [fleet.vehicle(vehicle_id) for vehicle_id in fleet.ids]
    for member in (
        "status",
        "master_data",
        "telematics_unit",
        "capabilities",
        "tags",
        "custom_fields",
        "rental_status",
    ):
        assert any(member not in vehicle for vehicle in vehicles), member
        assert any(vehicle.get(member, 0) is None for vehicle in vehicles), member
    data = [vehicle["master_data"] for vehicle in vehicles if vehicle.get("master_data")]
    assert any("gear_box" in d and "transmission" in d for d in data)
    assert any("gear_box" in d and "transmission" not in d for d in data)
    assert any(vehicle["latest_state"] == {} for vehicle in vehicles)
    assert any("new_member" in vehicle for vehicle in vehicles)
    units = [vehicle["telematics_unit"] for vehicle in vehicles if vehicle.get("telematics_unit")]
    makers: dict[str, set[str | None]] = {}
    for unit in units:
        makers.setdefault(unit["id"], set()).add(unit.get("manufacturer"))
    assert sum(len(each) > 1 for each in makers.values()) > 2
