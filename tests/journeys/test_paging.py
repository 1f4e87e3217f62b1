"""Clients page through a fleet, forward and backward, as Relay's connections allow."""

from __future__ import annotations

import base64
import dataclasses

import httpx
import pytest

from gateway.app import create_app
from gateway.schema.cursors import Position, encode_cursor, set_of
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from tests.effort import effort
from tests.gateways import PLANS

FORWARD = """query($n: Int, $c: String) { vehicles(first: $n, after: $c) {
  edges { cursor node { vehicleId } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
BACKWARD = """query($n: Int, $c: String) { vehicles(last: $n, before: $c) {
  edges { cursor node { vehicleId } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""

SHARING = """{ vehicle(id: "JQ7RP") { fleetId
  sharing { owner { fleetId name } partner { fleetId name } startsAt endsAt } } }"""


def test_a_whole_fleet_both_ways_over_real_sockets(serve):
    """By 50 forward and back: every vehicle once, in order, at most two upstream reads a page, one cursor an edge."""
    plan = FleetPlan(vehicles=effort(2_000, 4_000, 10_000), clients=(Client("T7K2M#cl1", token="token"),))
    simulator = Simulator([plan], Behaviours(rate_limit_requests=0))
    settings = Settings(upstream={"url": serve(simulator.app)}, cache={"enabled": False}, log={"level": "error"})
    url = serve(create_app(settings)) + "/graphql"
    most = 0
    with httpx.Client(headers={"Authorization": "Bearer token"}, timeout=30, verify=False) as http:

        def page(query: str, size: int, cursor: str | None) -> dict:
            nonlocal most
            before = simulator.requests.total
            answer = http.post(url, json={"query": query, "variables": {"n": size, "c": cursor}}).json()
            most = max(most, simulator.requests.total - before) if size == 50 else most
            assert "errors" not in answer, answer
            return answer["data"]["vehicles"]

        def page_through(query: str, size: int, more: str, end: str) -> list[tuple[str, str]]:
            found, cursor = [], None
            while True:
                answer = page(query, size, cursor)
                edges = [(edge["node"]["vehicleId"], edge["cursor"]) for edge in answer["edges"]]
                found = found + edges if more == "hasNextPage" else edges + found
                assert answer["pageInfo"]["startCursor"] == edges[0][1]
                assert answer["pageInfo"]["endCursor"] == edges[-1][1]
                if not answer["pageInfo"][more]:
                    return found
                cursor = answer["pageInfo"][end]

        forward = page_through(FORWARD, 50, "hasNextPage", "endCursor")
        back = page_through(BACKWARD, 50, "hasPreviousPage", "startCursor")
        ids = simulator.fleets["T7K2M"].ids
        assert [vehicle_id for vehicle_id, _ in forward] == ids
        assert [vehicle_id for vehicle_id, _ in back] == ids
        assert most <= 2
        assert page_through(FORWARD, 333, "hasNextPage", "endCursor") == forward


async def test_page_info_is_honest_at_both_ends(gateway):
    """The first page has no previous, the last no next, in either direction."""
    first = (await gateway.data(FORWARD, n=250))["vehicles"]["pageInfo"]
    assert (first["hasPreviousPage"], first["hasNextPage"]) == (False, False)
    last = (await gateway.data(BACKWARD, n=249))["vehicles"]["pageInfo"]
    assert (last["hasPreviousPage"], last["hasNextPage"]) == (True, False)
    empty = (await gateway.data(FORWARD, n=1, c=first["endCursor"]))["vehicles"]
    assert empty == {
        "edges": [],
        "pageInfo": {"hasNextPage": False, "hasPreviousPage": True, "startCursor": None, "endCursor": None},
    }


async def test_empty_cursors_count_as_none(gateway):
    """An empty string, as Apollo Client sends it, counts as no cursor; so does null."""
    assert (
        await gateway.data(FORWARD, n=3, c="")
        == await gateway.data(FORWARD, n=3, c=None)
        == await gateway.data(FORWARD, n=3)
    )


@pytest.mark.parametrize("argument", ["first", "last"])
@pytest.mark.parametrize("size", [-1, 501])
async def test_sizes_out_of_bounds_are_rejected(gateway, argument, size):
    """Neither negative nor too large sizes are accepted; the error names argument and maximum."""
    answer = await gateway.ask(f"{{ vehicles({argument}: {size}) {{ nodes {{ id }} }} }}")
    (error,) = answer["errors"]
    assert answer["data"] == {"vehicles": None}
    assert error["path"] == ["vehicles"]
    assert error["extensions"] == {
        "code": "PAGE_SIZE_INVALID",
        "retryable": False,
        "argument": argument,
        "maximum": 500,
    }


async def test_two_sizes_in_one_operation_share_their_pages(gateway):
    """Aliases of one connection with different `first` read each upstream page once."""
    query = "{ a: vehicles(first: 10) { nodes { id } } b: vehicles(first: 40) { nodes { id } } c: vehicles(first: 100) { nodes { id } } }"
    assert await gateway.calls(query) == 1


async def test_page_info_is_read_only_if_selected(gateway):
    """A page that ends with its upstream page is one read, and two if hasNextPage is selected."""
    assert await gateway.calls("{ vehicles(first: 100) { edges { cursor } } }") == 1
    assert await gateway.calls("{ vehicles(first: 100) { pageInfo { hasNextPage } } }") == 2
    assert await gateway.calls("{ vehicles(first: 99) { pageInfo { hasNextPage endCursor } } }") == 1


@pytest.mark.parametrize("kind", ["nonsense", "truncated", "tampered", "future", "base64"])
async def test_an_invalid_cursor_is_rejected(gateway, kind):
    """Any invalid cursor is an error with a code that names the argument, never page one."""
    good = (await gateway.data(FORWARD, n=1))["vehicles"]["pageInfo"]["endCursor"]
    bad = {
        "nonsense": "nonsense",
        "truncated": good[:-3],
        "tampered": good[:10] + ("A" if good[10] != "A" else "B") + good[11:],
        "future": "AAAA" + good,
        "base64": base64.b64encode(b"arrayconnection:1").decode(),
    }[kind]
    for argument in ("after", "before"):
        answer = await gateway.ask(f'{{ vehicles(first: 2, {argument}: "{bad}") {{ nodes {{ id }} }} }}')
        (error,) = answer["errors"]
        assert (error["path"], error["extensions"]["code"]) == (["vehicles"], "CURSOR_INVALID")
        assert error["extensions"]["argument"] == argument


async def test_a_cursor_of_another_connection_or_fleet_is_foreign(gateway):
    """Cursors of units are not for vehicles; the fleet API rejects the page tokens in those of another fleet."""
    unit = (await gateway.data("{ telematicsUnits(first: 1) { pageInfo { endCursor } } }"))["telematicsUnits"][
        "pageInfo"
    ]["endCursor"]
    answer = await gateway.ask(FORWARD, n=1, c=unit)
    assert answer["errors"][0]["extensions"]["code"] == "CURSOR_FOREIGN"
    behind = (await gateway.data(FORWARD, n=150))["vehicles"]["pageInfo"]["endCursor"]
    answer = await gateway.ask(FORWARD, by="eve", n=1, c=behind)
    assert answer["errors"][0]["extensions"]["code"] == "CURSOR_EXPIRED"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("at", [0, 1, 49, 99, 100, 119, 120])
async def test_a_sharing_that_ends_does_not_break_the_borrowers_pages(start, backward, at):
    """The cursor of a shared vehicle stays valid: the pages go on after its place, although it is another fleet's."""
    gateway = await start()
    owner, borrower = (gateway.simulator.fleets[name] for name in ("T7K2M", "EXFL29"))
    own_ids = list(borrower.ids)
    owner.share("JQ7RP", borrower, at)
    query = BACKWARD if backward else FORWARD
    page = (await gateway.data(query, by="eve", n=120 - at + 1 if backward else at + 1))["vehicles"]
    edge = page["edges"][0 if backward else -1]
    shared = (await gateway.data(SHARING, by="eve"))["vehicle"]
    assert edge["node"]["vehicleId"] == "JQ7RP"
    assert (shared["fleetId"], shared["sharing"]["partner"]["fleetId"]) == ("T7K2M", "EXFL29")
    owner.end_sharing("JQ7RP")
    assert (await gateway.data(SHARING, by="eve"))["vehicle"] is None
    rest = (await gateway.data(query, by="eve", n=500, c=edge["cursor"]))["vehicles"]["edges"]
    assert [each["node"]["vehicleId"] for each in rest] == (own_ids[:at] if backward else own_ids[at:])


async def test_a_borrower_of_nothing_but_shared_vehicles_pages_through_them(start):
    """No item on any page has the caller's fleet, and sharings end during the scan."""
    gateway = await start(plans=(PLANS[0], dataclasses.replace(PLANS[1], vehicles=0)), upstream__page_size=3)
    owner, borrower = (gateway.simulator.fleets[name] for name in ("T7K2M", "EXFL29"))
    lent = owner.ids[:12]
    for vehicle_id in lent:
        owner.share(vehicle_id, borrower)
    seen, cursor, has_more = [], None, True
    while has_more:
        page = (await gateway.data(FORWARD, by="eve", n=2, c=cursor))["vehicles"]
        seen += [edge["node"]["vehicleId"] for edge in page["edges"]]
        cursor, has_more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
        owner.end_sharing(seen[-1])
    assert seen == lent


async def test_a_cursor_rejected_upstream_has_expired(gateway):
    """The error tells the client to start again."""
    behind = (await gateway.data(FORWARD, n=150))["vehicles"]["pageInfo"]["endCursor"]
    gateway.fault("expired_cursor")
    answer = await gateway.ask(FORWARD, n=1, c=behind)
    assert answer["errors"][0]["extensions"] == {
        "code": "CURSOR_EXPIRED", "retryable": False, "argument": "after", "restart": True,
    }  # fmt: skip


async def test_paging_continues_after_a_cached_page_with_expired_cursors(start):
    """A page may be cached for longer than its upstream cursors are valid; paging on from it still works."""
    gateway = await start(cache__enabled=True)
    fleet = gateway.simulator.fleets["T7K2M"].ids
    await gateway.data(FORWARD, n=50)
    gateway.fault("expired_cursor", times=1)
    walked = (await gateway.data(FORWARD, n=150))["vehicles"]
    assert [edge["node"]["vehicleId"] for edge in walked["edges"]] == fleet[:150]
    assert await gateway.calls(FORWARD, n=150) == 0
    gateway.fault("expired_cursor", times=1)
    unit = "query($c: String) { telematicsUnits(last: 1, before: $c) { nodes { id } } }"
    (last,) = (await gateway.data(unit))["telematicsUnits"]["nodes"]
    gateway.fault("expired_cursor", times=1)
    assert (await gateway.data("query($id: ID!) { node(id: $id) { id } }", id=last["id"]))["node"] == last


async def test_page_info_works_with_expired_upstream_cursors(start):
    """hasNextPage is looked up after the slice; an upstream cursor that has expired by then is no caller's error."""
    gateway = await start(cache__enabled=True)
    first = await gateway.data("{ vehicles(first: 100) { nodes { telematicsUnit { id } } } }")
    units = [one["telematicsUnit"] for one in first["vehicles"]["nodes"] if one["telematicsUnit"] is not None]
    gateway.fault("expired_cursor", times=1)
    query = f"{{ telematicsUnits(first: {len(units)}) {{ nodes {{ id }} pageInfo {{ hasNextPage }} }} }}"
    found = (await gateway.data(query))["telematicsUnits"]
    assert (found["nodes"], found["pageInfo"]["hasNextPage"]) == (units, True)
    assert gateway.simulator.faults.rules[0].times == 0


async def test_a_fleet_api_that_rejects_its_own_cursors_is_an_error_after_one_retry(start):
    """Its pages are not read again and again."""
    gateway = await start(cache__enabled=True)
    gateway.fault("expired_cursor")
    before = gateway.simulator.requests.total
    answer = await gateway.ask(FORWARD, n=150)
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["UPSTREAM_REJECTED"]
    assert gateway.simulator.requests.total - before == 4


async def test_a_forged_page_token_gets_nothing_but_an_error(gateway):
    """A forged cursor with a valid checksum gives no access beyond the caller's own."""
    forged = encode_cursor(set_of("vehicles", None, None), Position("bm90IGEgdG9rZW4=", "JQ7RP", 0))
    answer = await gateway.ask(FORWARD, n=1, c=forged)
    assert answer["errors"][0]["extensions"]["code"] == "CURSOR_EXPIRED"


@pytest.mark.parametrize(
    "behaviours",
    [
        {"trailing_empty_page": True},
        {"empty_page_every": 1},
        {"short_pages": 2},
        {"last_page": "tail"},
        {"cursor_tokens": "fresh"},
        {"ends": "absent"},
        {"cursor_style": "offset"},
        {"limit_with_cursor": "ignored"},
        {"cursor_parameter": "page"},
    ],
    ids=str,
)
async def test_paging_is_complete_under_each_behaviour(start, behaviours):
    """Both ways over the pages of two fleets, with each behaviour of the simulator."""
    setting_infos = {"upstream__cursor_parameter": "page"} if "cursor_parameter" in behaviours else {}
    gateway = await start(behaviours=Behaviours(rate_limit_requests=0, **behaviours), **setting_infos)
    for query, more, end in ((FORWARD, "hasNextPage", "endCursor"), (BACKWARD, "hasPreviousPage", "startCursor")):
        found, cursor = [], None
        while True:
            page = (await gateway.data(query, n=40, c=cursor))["vehicles"]
            ids = [edge["node"]["vehicleId"] for edge in page["edges"]]
            found = found + ids if query is FORWARD else ids + found
            if not page["pageInfo"][more]:
                break
            assert ids
            cursor = page["pageInfo"][end]
        assert found == gateway.simulator.fleets["T7K2M"].ids


async def test_lists_with_page_tokens_are_paged_forward(start):
    """With next_page_token in place of cursors paging works forward, and is an error backward."""
    gateway = await start(behaviours=Behaviours(rate_limit_requests=0, next_page_token=True))
    found, cursor = [], None
    while True:
        page = (await gateway.data(FORWARD, n=70, c=cursor))["vehicles"]
        found += [edge["node"]["vehicleId"] for edge in page["edges"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        cursor = page["pageInfo"]["endCursor"]
    assert found == gateway.simulator.fleets["T7K2M"].ids
    answer = await gateway.ask(BACKWARD, n=5)
    assert answer["errors"][0]["extensions"]["code"] == "BACKWARD_PAGING_UNSUPPORTED"


@pytest.mark.parametrize("trap", [{"endless_empty_pages": True}, {"cursor_loop": True}], ids=str)
async def test_endless_paging_is_an_error(start, trap):
    """Endless empty pages and loops are an error with a code after a bounded number of reads."""
    gateway = await start(behaviours=Behaviours(rate_limit_requests=0, **trap))
    answer = await gateway.ask(FORWARD, n=150)
    assert answer["errors"][0]["extensions"]["code"] == "UPSTREAM_INVALID_RESPONSE"
    assert gateway.simulator.requests.total < 20
