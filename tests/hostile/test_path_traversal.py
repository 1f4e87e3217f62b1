"""Impossible vehicle ids are never sent upstream, wherever they are given."""

from __future__ import annotations

import json

import pytest

from gateway.schema.global_ids import unit_global_id, vehicle_global_id

IDS = [
    "../vehicles",
    "..",
    ".",
    "a/../b",
    "%2e%2e/x",
    "..\\x",
    "a/latest-state",
    "x?limit=1",
    "x#y",
    "x;y",
    "x\ny",
    "ä",
    "",
]


@pytest.mark.parametrize("impossible", IDS)
def test_an_impossible_id_is_never_requested(attacked, impossible):
    """As an id, a global id, one of many or an entity it is null, and no upstream call is made for it."""
    unit = unit_global_id("M", "B", impossible or "/")
    queries = [
        ("query($i: ID!) { vehicle(id: $i) { vehicleId } }", impossible, [None]),
        ("query($i: ID!) { node(id: $i) { id } }", vehicle_global_id(impossible or "/"), [None]),
        ("query($i: [ID!]!) { nodes(ids: $i) { id } }", [vehicle_global_id(impossible or "/")] * 2, [[None, None]]),
        (
            "query($i: [_Any!]!) { _entities(representations: $i) { __typename } }",
            [{"__typename": "Vehicle", "vehicleId": impossible}],
            [[None]],
        ),
    ]
    attacked.simulator.requests.by_path.clear()
    for query, given, expected in queries:
        status, body = attacked.post({"query": query, "variables": {"i": given}}, "alice")
        response = json.loads(body)
        assert (status, list((response["data"] or {}).values())) == (200, expected), response
    status, body = attacked.post({"query": "query($i: ID!) { node(id: $i) { id } }", "variables": {"i": unit}}, "alice")
    assert (status, json.loads(body)["data"]) == (200, {"node": None})
    assert set(attacked.simulator.requests.by_path) <= {"/vehicles"}
