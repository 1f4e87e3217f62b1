"""Connections over the simulated fleet API, for all of its paging behaviours, and while the fleet changes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import BackwardPagingUnsupported, CursorExpired, UpstreamInvalidResponse
from gateway.schema.pagination import Limits, Page, Window, read_slice
from gateway.simulator import Behaviours, CursorRejected, Fleet, list_page
from tests.schema.test_pagination import SliceResult, by_the_specification, drive

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
    """Reads slices of a simulated fleet, as connections do."""

    def __init__(self, fleet: Fleet, behaviours: Behaviours, page_size: int) -> None:
        self.fleet, self.behaviours, self.page_size = fleet, behaviours, page_size
        self.reads = 0
        self.now = 0.0

    def page(self, token: str | None) -> Page[str]:
        self.reads += 1
        limit = None if token else self.page_size
        ids, members = list_page(self.fleet, self.behaviours, limit=limit, cursor=token, now=self.now)
        cursors = members["cursors"]
        first = token is None or token == cursors.get("first")
        previous = None if first else cursors.get("prev")
        return Page(None if first else token, ids, ids, previous, cursors.get("next"), cursors.get("last"))

    def slice_of(self, window: Window) -> SliceResult:
        cut = drive(read_slice(window, LIMITS), self.page)
        return SliceResult(
            [edge.node for edge in cut.edges],
            [edge.position for edge in cut.edges],
            drive(cut.has_next(), self.page),
            drive(cut.has_previous(), self.page),
        )

    def scan(self, size: int) -> tuple[list[str], list]:
        items, positions, window = [], [], Window(first=size)
        while True:
            result = self.slice_of(window)
            items += result.items
            positions += result.positions
            if not result.has_next:
                return items, positions
            assert result.items
            window = Window(first=size, after=result.positions[-1])

    def scan_back(self, size: int) -> list[str]:
        items, window = [], Window(last=size)
        while True:
            result = self.slice_of(window)
            items = result.items + items
            if not result.has_previous:
                return items
            assert result.items
            window = Window(last=size, before=result.positions[0])


apis = st.builds(Api, st.builds(Fleet, st.just("T7K2M"), st.integers(0, 40)), behaviours, st.integers(1, 12))


@given(apis, st.integers(1, 15))
def test_scans_in_both_directions_return_every_vehicle_once_in_order(api, size):
    """For all paging behaviours, forward and backward scans return the whole fleet in its order."""
    assert api.scan(size)[0] == api.fleet.ids
    assert api.scan_back(size) == api.fleet.ids


@given(apis, st.integers(1, 15), st.integers(1, 15))
def test_an_edge_has_one_cursor(api, size, other):
    """If the upstream's cursors are stable, an edge has the same cursor for every `first`."""
    api.behaviours.cursor_tokens = "stable"
    assert api.scan(size)[1] == api.scan(other)[1]


@given(apis, st.none() | st.integers(0, 12), st.none() | st.integers(0, 12), st.data())
def test_every_combination_of_arguments_matches_the_specification(api, first, last, data):
    """For any first, last, after and before, edges and page info are those of the specification."""
    if first is None and last is None:
        last = 4
    ids, positions = api.scan(7)
    cursors = dict(zip(ids, positions, strict=True))
    cursor_items = st.none() | (st.sampled_from(ids) if ids else st.none())
    after, before = data.draw(cursor_items), data.draw(cursor_items)
    result = api.slice_of(Window(first, cursors.get(after), last, cursors.get(before)))
    assert (result.items, result.has_next, result.has_previous) == by_the_specification(ids, first, after, last, before)


@given(apis, st.integers(1, 8), st.booleans(), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_remaining_vehicle_is_skipped_while_the_fleet_changes(api, size, forward, data):
    """Scans during changes return each vehicle that was present throughout, and no slice has one twice.

    Where the place of a cursor can't be found again, an error says so and the scan has to start again.
    """
    remaining = set(api.fleet.ids)
    seen: list[str] = []
    window = Window(first=size) if forward else Window(last=size)
    for _ in range(60):
        try:
            result = api.slice_of(window)
        except CursorExpired:
            return
        assert len(set(result.items)) == len(result.items)
        seen += result.items
        if not (result.has_next if forward else result.has_previous) or not result.positions:
            break
        window = (
            Window(first=size, after=result.positions[-1]) if forward else Window(last=size, before=result.positions[0])
        )
        change = data.draw(st.sampled_from(["insert", "delete", "nothing"]))
        if change == "insert":
            api.fleet.insert(data.draw(st.integers(0, len(api.fleet))))
        elif change == "delete" and api.fleet.ids:
            deleted = data.draw(st.sampled_from(api.fleet.ids))
            api.fleet.delete(deleted)
            remaining.discard(deleted)
    assert remaining <= set(seen)


def test_every_edge_is_a_valid_after_and_before():
    """A scan can start at every edge, in both directions."""
    api = Api(Fleet("T7K2M", 60), Behaviours(), 7)
    ids, positions = api.scan(50)
    for index, position in enumerate(positions):
        assert api.slice_of(Window(first=5, after=position)).items == ids[index + 1 : index + 6]
        assert api.slice_of(Window(last=5, before=position)).items == ids[max(0, index - 5) : index]


@pytest.mark.parametrize("endless", [{"endless_empty_pages": True}, {"cursor_loop": True}])
def test_endless_lists_end_in_an_error_after_few_reads(endless):
    """Endless empty pages and a loop of pages are an error."""
    api = Api(Fleet("T7K2M", 30), Behaviours(**endless), 10)
    with pytest.raises(UpstreamInvalidResponse):
        api.scan(25)
    assert api.reads < 20


def test_paging_backward_needs_last_and_prev_cursors():
    """Without `last` or `prev` cursors a backward scan is rejected."""
    with pytest.raises(BackwardPagingUnsupported):
        Api(Fleet("T7K2M", 30), Behaviours(last_cursor=False), 10).scan_back(5)
    with pytest.raises(BackwardPagingUnsupported):
        Api(Fleet("T7K2M", 30), Behaviours(prev_cursor=False), 10).scan_back(5)


def test_the_fleet_api_rejects_an_expired_cursor():
    """The simulator rejects a cursor after its lifetime, and CURSOR_EXPIRED asks the client to start again."""
    api = Api(Fleet("T7K2M", 30), Behaviours(cursor_ttl=60), 10)
    position = api.slice_of(Window(first=15)).positions[-1]
    api.now = 61.0
    with pytest.raises(CursorRejected):
        api.slice_of(Window(first=5, after=position))
    assert CursorExpired("after").extensions()["restart"] is True
