"""Data that the fleet API should not send: whatever is odd costs its own value, not the vehicle or the page."""

from __future__ import annotations

import json
from contextlib import ExitStack

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from gateway.app import create_app
from gateway.settings import Settings
from tests.gateways import TOKENS, serving

NODE = (
    "vehicleId masterData { remark brand } tags latestState { mileageInKilometers { value } properties { name value } }"
)
PAGE = f"{{ vehicles(first: 10) {{ nodes {{ {NODE} }} pageInfo {{ hasNextPage }} }} }}"
IDS = "{ vehicles(first: 10) { nodes { vehicleId } } }"
ONE = f'{{ vehicle(id: "ODD01") {{ {NODE} }} }}'
OTHERS = '{ vehicle(id: "ODD01") { otherMembers } vehicles(first: 10) { nodes { vehicleId otherMembers } } }'

# A member as the fleet API sends it, and what becomes of it.
REMARKS = {
    "a lone high surrogate": (rb'"a\ud83d"', "a\ufffd"),
    "a lone low surrogate": (rb'"\ude00b"', "\ufffdb"),
    "two high surrogates": (rb'"\ud83d\ud83d"', "\ufffd\ufffd"),
    "surrogates in the wrong order": (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
    "a lone surrogate before a letter": (rb'"\ud83d\u0041"', "\ufffdA"),
    "a pair of surrogates": (rb'"\ud83d\ude97"', "🚗"),
    "an escaped backslash": (rb'"\\ud83d"', "\\ud83d"),
    "a surrogate in UTF-8": (b'"a\xed\xa0\xbd"', "a\ufffd\ufffd\ufffd"),
    "half a character in UTF-8": (b'"a\xc3"', "a\ufffd"),
    "Latin-1": ("ü".encode("latin-1").join((b'"', b'"')), "\ufffd"),
    "a control character": (b'"a\x07b"', "a\x07b"),
    "a line break": (b'"a\nb"', "a\nb"),
    "NUL": (rb'"a\u0000b"', "a\0b"),
    "NaN": (b"NaN", None),
    "a negative infinity": (b"-Infinity", None),
    "a number above all floats": (b"1e999", None),
    "a number of many digits": (b"9" * 5000, None),
    "null": (b"null", None),
    "an object": (b"{}", None),
}


class Upstream:
    """A fleet API with one odd vehicle between two others."""

    def __init__(self) -> None:
        self.odd = self.vehicle("ODD01")
        self.start, self.items = b"", [self.vehicle("AAA01"), None, self.vehicle("ZZZ01")]
        self.app = Starlette(routes=[Route("/vehicles", self._list), Route("/vehicles/{id}", self._one)])

    def vehicle(self, vehicle_id: str, remark: bytes = b'"fine"', more: bytes = b"") -> bytes:
        state = b'{"mileage_in_kilometers":{"value":12.5}}'
        return b'{"id":"%b","master_data":{"remark":%b,"brand":"Audi"},"tags":["a"],"latest_state":%b%b}' % (
            vehicle_id.encode(),
            remark,
            state,
            more,
        )

    async def _list(self, request):
        items = b",".join(self.odd if item is None else item for item in self.items)
        return self._response(b'{"items":[%b],"cursors":{"next":null}}' % items)

    async def _one(self, request):
        return self._response(self.odd)

    def _response(self, body: bytes) -> Response:
        return Response(self.start + body, media_type="application/json")


@pytest.fixture(scope="module")
def upstream():
    return Upstream()


@pytest.fixture(scope="module", params=[True, False], ids=["compiled", "generic"])
def ask(request, upstream):
    with ExitStack() as stack:
        settings = Settings(
            upstream={"url": stack.enter_context(serving(upstream.app))}, cache={"enabled": False},
            graphql={"projection": request.param}, log={"level": "error"},
        )  # fmt: skip
        url = stack.enter_context(serving(create_app(settings))) + "/graphql"
        http = stack.enter_context(httpx.Client(headers={"Authorization": f"Bearer {TOKENS['alice']}"}, verify=False))
        yield lambda query: http.post(url, json={"query": query}).json()


def test_an_odd_value_costs_no_more_than_itself(upstream, ask):
    """The other members of the vehicle and the other vehicles are complete, by id and in the list."""
    for name, (sent, expected) in REMARKS.items():
        upstream.odd = upstream.vehicle("ODD01", sent)
        answer = ask(PAGE)
        assert "errors" not in answer, (name, answer["errors"])
        first, odd, last = answer["data"]["vehicles"]["nodes"]
        for vehicle, remark in ((first, "fine"), (odd, expected), (last, "fine")):
            assert vehicle["masterData"] == {"remark": remark, "brand": "Audi"}, name
            assert (vehicle["tags"], vehicle["latestState"]["mileageInKilometers"]) == (["a"], {"value": 12.5}), name
        assert ask(ONE)["data"]["vehicle"] == odd, name
        assert len(ask(IDS)["data"]["vehicles"]["nodes"]) == 3, name


def test_odd_state_values_cost_their_property(upstream, ask):
    """As well as odd names, and numbers that JSON allows but a float does not hold."""
    states = b',"latest_state":{"odd":{"value":NaN},"\\ud800":{"value":1},"big":{"value":%b},"mileage_in_kilometers":{"value":12.5}}'
    upstream.odd = upstream.vehicle("ODD01", more=states % (b"9" * 40))
    state = ask(ONE)["data"]["vehicle"]["latestState"]
    assert state["mileageInKilometers"] == {"value": 12.5}
    values = {each["name"]: each["value"] for each in state["properties"]}
    assert values == {"odd": None, "\ufffd": 1, "big": int("9" * 40), "mileage_in_kilometers": 12.5}


@pytest.mark.parametrize("levels", [150, 500, *range(950, 1010, 5), 100_000])
def test_endless_levels_cost_their_value(upstream, ask, levels):
    """Whether they can be decoded but not encoded, or neither, and wherever they are."""
    deep = b"[" * levels + b"]" * levels
    places = (
        b',"x":%b' % deep,
        b',"custom_fields":{"a":"b","c":%b}' % deep,
        b',"latest_state":{"odd":{"value":%b},"mileage_in_kilometers":{"value":12.5}}' % deep,
    )
    everything = f"{NODE} customFields {{ key value }} otherMembers"
    for more in places:
        upstream.odd = upstream.vehicle("ODD01", more=more)
        for query in (PAGE, ONE, IDS, f'{{ vehicle(id: "ODD01") {{ {everything} }} }}', PAGE.replace(NODE, everything)):
            answer = ask(query)
            codes = {error["extensions"]["code"] for error in answer.get("errors", ())}
            assert codes <= {"UPSTREAM_INVALID_RESPONSE"}, (more[:30], query)
            found = answer["data"].get("vehicle") or answer["data"]["vehicles"]["nodes"][1]
            assert found["vehicleId"] == "ODD01"
            if query != IDS:
                assert (found["tags"], found["masterData"]["brand"]) == (["a"], "Audi")
                assert found["latestState"]["mileageInKilometers"] == {"value": 12.5}


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", b" \r\n\t"])
def test_a_byte_order_mark_is_no_part_of_the_json(upstream, ask, start):
    """Nor is white space around it."""
    upstream.odd, upstream.start = upstream.vehicle("ODD01"), start
    try:
        assert len(ask(PAGE)["data"]["vehicles"]["nodes"]) == 3
        assert ask(ONE)["data"]["vehicle"]["vehicleId"] == "ODD01"
    finally:
        upstream.start = b""


@pytest.mark.parametrize(
    "item", [b"null", b"1", b'"text"', b"[]", b"{}", b'{"id":null}', b'{"id":5}', b'{"brand":"Audi"}']
)
def test_an_item_that_is_no_vehicle_is_left_out(upstream, ask, item):
    """Also beside odd values; the list keeps its order and its other vehicles."""
    for rest in (b'"fine"', b"NaN"):
        upstream.odd = item
        upstream.items[2] = upstream.vehicle("ZZZ01", rest)
        nodes = ask(PAGE)["data"]["vehicles"]["nodes"]
        assert [node["vehicleId"] for node in nodes] == ["AAA01", "ZZZ01"]
        assert [node["vehicleId"] for node in ask(IDS)["data"]["vehicles"]["nodes"]] == ["AAA01", "ZZZ01"]
    upstream.items[2] = upstream.vehicle("ZZZ01")


def test_members_without_a_field_are_other_members(upstream, ask):
    """By id and in the list, also those of objects, with any value."""
    upstream.odd = upstream.vehicle(
        "ODD01",
        more=b',"charging":{"plug":[1,{"type":null}]},"note":"x","n":1.5,"yes":true,"nothing":null'
        b',"telematics_unit":{"id":"U","firmware":"7"},"life_status":{"value":"ONLINE","since":"today"}',
    )
    expected = {
        "charging": {"plug": [1, {"type": None}]}, "note": "x", "n": 1.5, "yes": True, "nothing": None,
        "telematics_unit": {"firmware": "7"}, "life_status": {"since": "today"},
    }  # fmt: skip
    data = ask(OTHERS)["data"]
    assert data["vehicle"] == {"otherMembers": expected}
    assert [node["otherMembers"] for node in data["vehicles"]["nodes"]] == [{}, expected, {}]
    data = ask(
        '{ a: vehicle(id: "ODD01") { otherMembers tags } vehicles(first: 10) { edges { node { tags otherMembers status } } } }'
    )["data"]
    assert data["a"] == {"otherMembers": expected, "tags": ["a"]}
    assert data["vehicles"]["edges"][1]["node"] == {"tags": ["a"], "otherMembers": expected, "status": None}
    upstream.odd = upstream.vehicle("ODD01", b"NaN", b',"note":"\\ud83d"')
    assert ask(OTHERS)["data"]["vehicles"]["nodes"][1]["otherMembers"] == {"note": "\ufffd"}


def test_what_a_state_has_no_place_for_is_in_other_members(upstream, ask):
    """Members of a property, and properties that are no objects; the vehicle's own names are no exceptions."""
    state = b'{"mileage_in_kilometers":{"value":1,"unit":"km"},"odd":5,"list":[1],"none":null}'
    upstream.odd = upstream.vehicle("ODD01", more=b',"$body":"x","status":null,"latest_state":%b' % state)
    expected = {"$body": "x", "latest_state": {"mileage_in_kilometers": {"unit": "km"}, "odd": 5, "list": [1]}}
    data = ask(OTHERS)["data"]
    assert data["vehicle"] == {"otherMembers": expected}
    assert data["vehicles"]["nodes"][1]["otherMembers"] == expected


def test_a_time_that_is_none_costs_its_field(upstream, ask):
    """The fleet API's text is not passed on as a DateTime; the error names the field."""
    for text in ("2024-05-14T08:41:12", "2024-13-45T99:99:99Z", "yesterday"):
        upstream.odd = upstream.vehicle(
            "ODD01", more=b',"created_at":%b,"modified_at":"2024-05-14T08:41:12Z"' % json.dumps(text).encode()
        )
        answer = ask('{ vehicle(id: "ODD01") { createdAt modifiedAt } }')
        assert answer["data"]["vehicle"] == {"createdAt": None, "modifiedAt": "2024-05-14T08:41:12Z"}
        (error,) = answer["errors"]
        assert (error["path"], error["extensions"]["code"]) == (["vehicle", "createdAt"], "UPSTREAM_INVALID_RESPONSE")
