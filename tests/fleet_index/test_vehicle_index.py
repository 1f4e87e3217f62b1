"""The index re-indexes only what changed, survives odd data, rejects bad input by its path, and can be interrupted."""

from __future__ import annotations

import json
import threading
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import CursorInvalid, FilterUnsupported, InputInvalid
from gateway.fleet_index.vehicle_index import QueryInterrupted, Stats, VehicleIndex
from gateway.schema.filters import KNOWN_WORDS
from gateway.timestamps import is_date_time, microseconds_of
from gateway.upstream.pages import VehiclePage

NOW = 1796032800.0


def page_of(*vehicles):
    return VehiclePage.of_body(json.dumps({"items": [{"latest_state": {}} | each for each in vehicles]}).encode())


def index_of(*vehicles):
    index = VehicleIndex(KNOWN_WORDS)
    index.put(page_of(*vehicles))
    return index


def ids(index, where=None, order_by=None, **arguments):
    arguments = {"now": NOW, "limit": 100} | arguments
    return [vehicle_id for vehicle_id, _ in index.select(where, order_by, **arguments)]


def state_of(**values):
    return {"latest_state": {name: {"value": value} for name, value in values.items()}}


def test_only_changed_vehicles_are_indexed_again():
    """A page that is known, or equal to one that is, costs nothing; of another one, what differs is indexed."""
    one, other = {"id": "A", "tags": ["x"]}, {"id": "B", "tags": ["x"]}
    index = VehicleIndex(KNOWN_WORDS)
    page = page_of(one, other)
    assert index.put(page) == 2
    assert index.put(page) == 0
    assert index.put(page_of(one, other)) == 0
    assert index.put(page_of(one, other | {"tags": ["y"]})) == 1
    assert ids(index, {"tags": {"any": ["y"]}}) == ["B"]
    assert ids(index, {"tags": {"any": ["x"]}}) == ["A"]
    assert index.put(page) == 1
    assert ids(index, {"tags": {"any": ["x"]}}) == ["A", "B"]


def test_pages_without_vehicles_are_let_go():
    """The index keeps the pages that its vehicles are in, and counts their bytes."""
    index = VehicleIndex(KNOWN_WORDS)
    empty = index.bytes
    page = page_of({"id": "A", "master_data": {"remark": "x" * 10_000}})
    index.put(page)
    assert index.bytes > empty + len(page.body)
    assert index.retain({"B"}) == 1
    assert len(index) == 0
    assert index.bytes < empty + 10_000
    assert index.vehicle("A", None) is None
    assert index.put(page) == 1


def test_a_vehicle_that_is_listed_twice_counts_once():
    """The last one read is right, within a page and over pages."""
    index = index_of({"id": "A", "status": "OLD"}, {"id": "A", "status": "NEW"})
    assert len(index) == index.count(None, now=NOW) == 1
    assert ids(index, {"status": {"rawIn": ["NEW"]}}) == ["A"]
    index.put(page_of({"id": "A", "status": "NEWEST"}, {"id": "B"}))
    assert ids(index, {"status": {"rawIn": ["NEWEST"]}}) == ["A"]
    index.remove("A")
    index.remove("A")
    assert ids(index) == ["B"]


def test_units_are_found_by_their_key():
    """Parts of the key that are missing in the fleet API are missing in the key."""
    index = index_of(
        {"id": "A", "telematics_unit": {"id": "U", "manufacturer": "M", "brand": "B"}},
        {"id": "B", "telematics_unit": {"id": "U"}},
    )
    assert index.unit("M", "B", "U") == "A"
    assert index.unit(None, None, "U") == "B"
    assert index.unit("M", None, "U") is None


def test_vehicles_are_counted_by_groups():
    """Case does not matter, missing values are a group, and a vehicle counts once for each of its tags."""
    audi, other = {"master_data": {"brand": "Audi"}}, {"master_data": {"brand": "AUDI"}}
    index = index_of(
        {"id": "A", "tags": ["x", "y"], **audi}, {"id": "B", "tags": ["x", "x"], **other}, {"id": "C"}, {"id": "D", **audi}
    )  # fmt: skip
    assert index.groups(["BRAND"], None, now=NOW, limit=10) == [(("AUDI",), 3), ((None,), 1)]
    assert index.groups(["TAG", "STATUS"], None, now=NOW, limit=10) == [
        (("x", None), 2),
        ((None, None), 2),
        (("y", None), 1),
    ]
    assert index.groups(["TAG"], {"tags": {"any": ["y"]}}, now=NOW, limit=1) == [(("x",), 1)]


def test_statistics_are_of_numbers_only():
    """Words, booleans and missing values don't count."""
    index = index_of(*({"id": str(n), **state_of(level=value)} for n, value in enumerate([1, 2.5, "3", True, None])))
    assert index.stats("level", None, now=NOW) == Stats(1, 2.5, 1.75, 2)
    assert index.stats("level", {"vehicleId": {"in": []}}, now=NOW) == Stats(None, None, None, 0)


def test_a_list_without_states_answers_nothing_about_states():
    """A filter that would be wrong is an error, and others are not."""
    index = VehicleIndex(KNOWN_WORDS)
    index.put(VehiclePage.of_body(b'{"items": [{"id": "A"}]}'))
    for where in ({"state": {"property": "x", "isNull": True}}, {"not": {"position": {"isNull": False}}}):
        with pytest.raises(FilterUnsupported):
            index.count(where, now=NOW)
    with pytest.raises(FilterUnsupported):
        ids(index, None, [{"distanceFrom": {"lat": 0, "lon": 0}}])
    with pytest.raises(FilterUnsupported):
        index.stats("x", None, now=NOW)
    assert ids(index, {"tags": {"isNull": True}}) == ["A"]
    index.put(page_of({"id": "A"}))
    assert index.count({"state": {"property": "x", "isNull": True}}, now=NOW) == 1


@given(
    st.floats(-1e299, 1e299)
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
)
def test_sort_keys_are_exact(value):
    """A vehicle is neither before nor after its own key, whatever the value: no digit is lost."""
    index = index_of({"id": "A", **state_of(level=value)})
    order = [{"stateProperty": "level"}]
    ((_, key),) = index.select(None, order, now=NOW, limit=1)
    assert (key, type(key[0])) == ((value, "A"), type(value))
    assert ids(index, None, order, after=key) == ids(index, None, order, before=key) == []


def test_odd_data_is_indexed():
    """Numbers beyond all bounds, deep values and control characters break nothing."""
    index = VehicleIndex(KNOWN_WORDS)
    deep = "[" * 90 + "]" * 90
    body = (
        '{"items": [{"id": "A\\u0000", "latest_state": {"a": {"value": 1e999}, "b": {"value": 1'
        + "0" * 400
        + '}, "c": '
        '{"value": "\\ud800"}, "d": {"value": '
        + deep
        + ', "timestamp": "0000-01-01T00:00:00Z"}, "position": {"value": '
        '{"lat": 1e400, "lon": NaN}}}, "custom_fields": {"x": '
        + deep
        + ', "y": 1e999, "": null}, "tags": ["\\u0000"]}]}'
    )
    assert index.put(VehiclePage.of_body(body.encode())) == 1
    assert ids(index, {"tags": {"any": ["\x00"]}, "position": {"isNull": True}}) == ["A\x00"]
    assert ids(index, {"state": {"property": "d", "timestamp": {"before": "0001-01-01T00:00:00Z"}}}) == ["A\x00"]
    assert ids(
        index, {"customField": {"key": "x", "contains": "[["}}, [{"stateProperty": "d"}, {"customField": "x"}]
    ) == ["A\x00"]


TOO_DEEP = {"tags": {"any": []}}
for _ in range(10):
    TOO_DEEP = {"not": TOO_DEEP}


@pytest.mark.parametrize(
    ("where", "path"),
    [
        ({"and": [{}, {"position": {"circle": {"lat": 91, "lon": 0, "radiusInMeters": 1}}}]}, "where.and[1].position.circle.lat"),
        ({"position": {"circle": {"lat": 0, "lon": float("nan"), "radiusInMeters": 1}}}, "where.position.circle.lon"),
        ({"position": {"circle": {"lat": 0, "lon": 0, "radiusInMeters": float("inf")}}}, "where.position.circle.radiusInMeters"),
        ({"position": {"circle": {"lat": 0, "lon": 0, "radiusInMeters": 0}}}, "where.position.circle.radiusInMeters"),
        ({"position": {"box": {"south": 2, "north": 1, "west": 0, "east": 0}}}, "where.position.box.south"),
        ({"position": {"polygon": {"points": [{"lat": 0, "lon": 0}] * 2}}}, "where.position.polygon.points"),
        ({"position": {"polygon": {"points": [{"lat": 0, "lon": 0}] * 201}}}, "where.position.polygon.points"),
        ({"position": {"polygon": {"points": [{"lat": 80, "lon": n} for n in (-120, 0, 120)]}}}, "where.position.polygon"),
        ({"or": [{"vehicleId": {"eq": None}}]}, "where.or[0].vehicleId.eq"),
        ({"lastContactAt": {"ageAtMost": "2 hours"}}, "where.lastContactAt.ageAtMost"),
        ({"lastContactAt": {"ageAtLeast": "-PT2H"}}, "where.lastContactAt.ageAtLeast"),
        ({"lastContactAt": {"ageAtLeast": "P999999999D"}}, "where.lastContactAt.ageAtLeast"),
        ({"createdAt": {"before": "2024"}}, "where.createdAt.before"),
        ({"tags": {"any": ["\ud800"]}}, "where.tags.any"),
        ({"and": [{"tags": {"any": []}}] * 60}, "where.and[40].tags.any"),
        (TOO_DEEP, "where.not.not.not.not.not.not.not.not.not.not"),
    ],
)  # fmt: skip
def test_an_invalid_filter_is_an_error_with_its_path(where, path):
    """The message names the input, and the error the argument."""
    with pytest.raises(InputInvalid, match=r"`where") as error:
        index_of({"id": "A"}).count(where, now=NOW)
    assert f"`{path}`" in str(error.value)
    assert error.value.argument == "where"


def test_a_filter_names_at_most_fifty_state_properties_and_custom_fields():
    """With eight others in the order, which is what SQLite can join."""
    index = index_of({"id": "A", "master_data": {"vin": "x"}, **state_of(**{f"p{n}": n for n in range(70)})})
    named = [{"state": {"property": f"p{n}", **({"gte": n} if n > 10 else {})}} for n in range(51)]
    order = [{"stateProperty": f"p{n}"} for n in range(60, 68)]
    assert ids(index, {"masterData": {"vin": {"eq": "X"}}, "and": named[:50]}, order) == ["A"]
    with pytest.raises(InputInvalid, match="more than 50 state properties and custom fields"):
        ids(index, {"and": named}, order)


@pytest.mark.parametrize(
    "order_by",
    [
        [{}],
        [{"field": "VIN", "customField": "x"}],
        [{"field": "VIN"}] * 9,
        [{"distanceFrom": {"lat": 0, "lon": 181}}],
    ],
)
def test_an_invalid_order_is_an_error(order_by):
    """Each item has one source, and there are at most eight."""
    with pytest.raises(InputInvalid) as error:
        ids(index_of({"id": "A"}), None, order_by)
    assert error.value.argument == "orderBy"


@pytest.mark.parametrize("key", [(), ("A",), (1, "A"), ("x", 1), ([], "A"), ("x", "y", "A"), (True, "A"), (1.5, "A")])
def test_a_sort_key_of_another_order_is_an_invalid_cursor(key):
    """The types of a key are checked before it reaches SQL."""
    with pytest.raises(CursorInvalid):
        ids(index_of({"id": "A"}), None, [{"field": "VIN"}], after=key)
    with pytest.raises(CursorInvalid):
        ids(index_of({"id": "A"}), None, [{"stateProperty": "x"}], before=(2**70, "A"))


def test_a_query_can_be_interrupted():
    """It ends soon, with an error of its own, and the index still works."""
    index = index_of(*({"id": f"V{n}", **state_of(position={"lat": n / 100, "lon": n / 100})} for n in range(5000)))
    points = [{"lat": (-80.0 if n % 2 else 80.0) + n / 100, "lon": n * 0.5} for n in range(200)]
    slow = {"or": [{"position": {"polygon": {"points": points}}, "vehicleId": {"isNull": False}} for _ in range(20)]}
    done = threading.Event()

    def interrupt():
        while not done.wait(0.01):
            index.interrupt()

    index.interrupt()  # nothing is running
    thread = threading.Thread(target=interrupt)
    thread.start()
    started = monotonic()
    try:
        with pytest.raises(QueryInterrupted):
            index.count(slow, now=NOW)
    finally:
        done.set()
        thread.join()
    assert monotonic() - started < 5
    assert index.count(None, now=NOW) == 5000


def test_nothing_is_written_to_disk():
    """Neither the database nor what is sorted; temporary files would contain personal data."""
    index = index_of({"id": "A"})
    assert index._database.execute("PRAGMA temp_store").fetchone() == (2,)
    assert index._database.execute("PRAGMA database_list").fetchall() == [(0, "main", "")]


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.0000019z", 1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.5Z", -500_000),
        ("2017-01-01T00:00:00Z", 1_483_228_800_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2016-12-31T23:59:60.25Z", 1_483_228_800_250_000),
        ("0000-03-01T00:00:00Z", -62_162_035_200_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000_000),
        ("2024-02-30T00:00:00Z", None),
        ("2024-05-14T24:00:00Z", None),
        ("2024-05-14", None),
    ],
)
def test_times_are_microseconds(text, microseconds):
    """In any zone, in years that Python does not know, and for leap seconds."""
    assert microseconds_of(text) == microseconds
    assert is_date_time(text) == (microseconds is not None)


@given(
    st.from_regex(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9])",
        fullmatch=True,
    )
)
def test_a_text_has_a_time_exactly_if_it_is_a_timestamp(text):
    """The common and the rare forms are judged alike."""
    assert (microseconds_of(text) is not None) == is_date_time(text)
