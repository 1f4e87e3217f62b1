"""Connections over the simulated fleet API, under every switch of its paging, also while the fleet changes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import BackwardPagingUnsupported, CursorExpired, UpstreamInvalidResponse
from gateway.schema.pagination import Limits, Page, Window, read_slice
from gateway.simulator import Behaviours, CursorRefused, Fleet, list_page
from tests.schema.test_pagination import Answer, by_the_specification, drive

LIMITS = Limits(page_default=5, page_max=500, scan_pages_max=500, empty_pages_max=10)

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


class Api:
    """Pages of a simulated fleet, as the gateway's connections read them."""

    def __init__(self, fleet: Fleet, behaviours: Behaviours, page_size: int) -> None:
        self.fleet, self.behaviours, self.page_size = fleet, behaviours, page_size
        self.reads = 0
        self.now = 0.0

    def page(self, token: str | None) -> Page[str]:
        self.reads += 1
        limit = None if token else self.page_size
        ids, beside = list_page(self.fleet, self.behaviours, limit=limit, cursor=token, now=self.now)
        cursors = beside["cursors"]
        first = token is None or token == cursors.get("first")
        previous = None if first else cursors.get("prev")
        return Page(None if first else token, ids, ids, previous, cursors.get("next"), cursors.get("last"))

    def ask(self, window: Window) -> Answer:
        cut = drive(read_slice(window, LIMITS), self.page)
        return Answer(
            [edge.node for edge in cut.edges],
            [edge.position for edge in cut.edges],
            drive(cut.has_next(), self.page),
            drive(cut.has_previous(), self.page),
        )

    def walk(self, size: int) -> tuple[list[str], list]:
        items, positions, window = [], [], Window(first=size)
        while True:
            answer = self.ask(window)
            items += answer.items
            positions += answer.positions
            if not answer.has_next:
                return items, positions
            assert answer.items
            window = Window(first=size, after=answer.positions[-1])

    def walk_back(self, size: int) -> list[str]:
        items, window = [], Window(last=size)
        while True:
            answer = self.ask(window)
            items = answer.items + items
            if not answer.has_previous:
                return items
            assert answer.items
            window = Window(last=size, before=answer.positions[0])


apis = st.builds(Api, st.builds(Fleet, st.just("T7K2M"), st.integers(0, 40)), behaviours, st.integers(1, 12))


@given(apis, st.integers(1, 15))
def test_walks_both_ways_give_every_vehicle_once_in_order(api, size):
    """Whatever the upstream's paging is like, forward and backward walks give the whole fleet in its order."""
    assert api.walk(size)[0] == api.fleet.ids
    assert api.walk_back(size) == api.fleet.ids


@given(apis, st.integers(1, 15), st.integers(1, 15))
def test_an_edge_has_one_cursor(api, size, other):
    """Where the upstream's cursors are stable, the same edge has the same cursor for every `first`."""
    api.behaviours.cursor_tokens = "stable"
    assert api.walk(size)[1] == api.walk(other)[1]


@given(apis, st.none() | st.integers(0, 12), st.none() | st.integers(0, 12), st.data())
def test_any_mix_of_arguments_gives_what_the_specification_says(api, first, last, data):
    """first, last, after and before, as in the specification's own algorithm."""
    if first is None and last is None:
        last = 4
    ids, positions = api.walk(7)
    cursors = dict(zip(ids, positions, strict=True))
    places = st.none() | (st.sampled_from(ids) if ids else st.none())
    after, before = data.draw(places), data.draw(places)
    answer = api.ask(Window(first, cursors.get(after), last, cursors.get(before)))
    assert (answer.items, answer.has_next, answer.has_previous) == by_the_specification(ids, first, after, last, before)


@given(apis, st.integers(1, 8), st.booleans(), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_while_the_fleet_changes_no_vehicle_that_stays_is_skipped(api, size, forward, data):
    """Vehicles come and go between any two pages: those that were there all along are all given, none twice at once."""
    stayed = set(api.fleet.ids)
    seen: list[str] = []
    window = Window(first=size) if forward else Window(last=size)
    for _ in range(60):
        answer = api.ask(window)
        assert len(set(answer.items)) == len(answer.items)
        seen += answer.items
        if not (answer.has_next if forward else answer.has_previous) or not answer.positions:
            break
        window = (
            Window(first=size, after=answer.positions[-1]) if forward else Window(last=size, before=answer.positions[0])
        )
        change = data.draw(st.sampled_from(["insert", "delete", "nothing"]))
        if change == "insert":
            api.fleet.insert(data.draw(st.integers(0, len(api.fleet))))
        elif change == "delete" and api.fleet.ids:
            gone = data.draw(st.sampled_from(api.fleet.ids))
            api.fleet.delete(gone)
            stayed.discard(gone)
    assert stayed <= set(seen)


def test_every_edge_is_a_valid_after_and_before():
    """Not only page ends: from every single edge the walk goes on, in both directions."""
    api = Api(Fleet("T7K2M", 60), Behaviours(), 7)
    ids, positions = api.walk(50)
    for index, position in enumerate(positions):
        assert api.ask(Window(first=5, after=position)).items == ids[index + 1 : index + 6]
        assert api.ask(Window(last=5, before=position)).items == ids[max(0, index - 5) : index]


@pytest.mark.parametrize("trap", [{"endless_empty_pages": True}, {"cursor_loop": True}])
def test_traps_end_in_an_error_after_few_reads(trap):
    """Empty pages for ever, or a page that leads to itself, are an error and not a hang."""
    api = Api(Fleet("T7K2M", 30), Behaviours(**trap), 10)
    with pytest.raises(UpstreamInvalidResponse):
        api.walk(25)
    assert api.reads < 20


def test_an_upstream_without_a_way_back_says_so():
    """Without `last` there is no tail; without `prev` there is no way back across a page."""
    with pytest.raises(BackwardPagingUnsupported):
        Api(Fleet("T7K2M", 30), Behaviours(last_cursor=False), 10).walk_back(5)
    with pytest.raises(BackwardPagingUnsupported):
        Api(Fleet("T7K2M", 30), Behaviours(prev_cursor=False), 10).walk_back(5)


def test_an_expired_upstream_cursor_is_refused_upstream():
    """A cursor kept too long is refused; what reads the pages turns that into CURSOR_EXPIRED."""
    api = Api(Fleet("T7K2M", 30), Behaviours(cursor_ttl=60), 10)
    position = api.ask(Window(first=15)).positions[-1]
    api.now = 61.0
    with pytest.raises(CursorRefused):
        api.ask(Window(first=5, after=position))
    assert CursorExpired("after").extensions()["restart"] is True
