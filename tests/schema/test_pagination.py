"""Relay pagination over upstream pages, compared with the specification's algorithm on a list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    BackwardPagingUnsupported,
    CursorExpired,
    PageSizeInvalid,
    UpstreamInvalidResponse,
    WalkLimitExceeded,
)
from gateway.schema.cursors import Position, fingerprint_of
from gateway.schema.pagination import Limits, Page, Slice, Steps, Window, read_slice

R = TypeVar("R")
LIMITS = Limits(page_default=5, page_max=200, scan_pages_max=500, empty_pages_max=3)


@dataclass
class Upstream:
    """A list that pages by offset tokens; `holes` are boundaries with an empty page."""

    items: list[str]
    page_size: int = 4
    trailing_empty: bool = False
    holes: frozenset[int] = frozenset()
    has_last: bool = True
    has_prev: bool = True
    has_all_nodes: bool = False
    reads: list[str | None] = field(default_factory=list)

    def page(self, token: str | None) -> Page[str]:
        self.reads.append(token)
        if token is not None and token.startswith("hole"):
            at = int(token[4:])
            return Page(token, [], [], str(at - self.page_size) if at else None, str(at), self._last())
        start = int(token or 0)
        shown = self.items[start : start + self.page_size]
        end = start + len(shown)
        more = end < len(self.items) or (self.trailing_empty and bool(shown))
        following = (f"hole{end}" if end in self.holes and end < len(self.items) else str(end)) if more else None
        previous = None
        if start > 0 and self.has_prev:
            previous = (
                f"hole{start}"
                if start in self.holes and start < len(self.items)
                else str(max(0, start - self.page_size))
            )
        of_start = None if start == 0 else str(start)
        return Page(of_start, shown, shown, previous, following, self._last(), has_all_nodes=self.has_all_nodes)

    def _last(self) -> str | None:
        if not self.has_last:
            return None
        if self.trailing_empty and self.items and len(self.items) % self.page_size == 0:
            return str(len(self.items))
        return str(max(0, len(self.items) - 1) // self.page_size * self.page_size)


def drive(steps: Steps[str, R], read: Callable[[str | None], Page[str]]) -> R:
    try:
        request = next(steps)
        while True:
            request = steps.send(read(request.token))
    except StopIteration as done:
        return done.value


@dataclass
class SliceResult:
    """A slice with its page info and the positions of its edges."""

    items: list[str]
    positions: list[Position]
    has_next: bool
    has_previous: bool


def slice_of(upstream: Upstream, window: Window, limits: Limits = LIMITS) -> SliceResult:
    cut: Slice[str] = drive(read_slice(window, limits), upstream.page)
    return SliceResult(
        [edge.node for edge in cut.edges],
        [edge.position for edge in cut.edges],
        drive(cut.has_next(), upstream.page),
        drive(cut.has_previous(), upstream.page),
    )


def slice_of_pages(page: Callable[[str | None], Page[str]], window: Window) -> list[str]:
    """The items of a slice of any pages."""
    return [edge.node for edge in drive(read_slice(window, LIMITS), page).edges]


def cursors_of(upstream: Upstream) -> dict[str, Position]:
    """The position of every edge, from a scan."""
    found: dict[str, Position] = {}
    window = Window(first=50)
    while True:
        result = slice_of(upstream, window)
        found.update(zip(result.items, result.positions, strict=True))
        if not result.has_next:
            return found
        window = Window(first=50, after=result.positions[-1])


def by_the_specification(items: list[str], first: int | None, after: str | None, last: int | None, before: str | None):
    """EdgesToReturn, HasNextPage and HasPreviousPage of the GraphQL Cursor Connections specification."""
    edges = list(items)
    if after in edges:
        edges = edges[edges.index(after) + 1 :]
    if before in edges:
        edges = edges[: edges.index(before)]
    window = len(edges)
    has_next = window > first if first is not None else before is not None
    has_previous = window > last if last is not None else after is not None
    if first is not None:
        edges = edges[:first]
    if last is not None:
        edges = edges[max(0, len(edges) - last) :]
    return edges, has_next, has_previous


@st.composite
def upstreams(draw: st.DrawFn) -> Upstream:
    size = draw(st.integers(0, 30))
    page_size = draw(st.integers(1, 7))
    holes = draw(st.frozensets(st.integers(1, 29).map(lambda n: n * page_size), max_size=3))
    items = [f"v{i}" for i in range(size)]
    return Upstream(items, page_size, draw(st.booleans()), holes, has_all_nodes=draw(st.booleans()))


sizes = st.none() | st.integers(0, 12)


@given(upstreams(), sizes, sizes, st.data())
def test_every_combination_of_arguments_matches_the_specification(upstream, first, last, data):
    """For any first, last, after and before, edges and page info are those of the specification."""
    if first is None and last is None:
        first = 3
    cursors = cursors_of(upstream)
    cursor_items = st.none() | (st.sampled_from(upstream.items) if upstream.items else st.none())
    after, before = data.draw(cursor_items), data.draw(cursor_items)
    window = Window(first, cursors[after] if after else None, last, cursors[before] if before else None)
    upstream.reads.clear()
    result = slice_of(upstream, window)
    assert len(set(upstream.reads)) == len(upstream.reads)  # no page is read twice
    assert (result.items, result.has_next, result.has_previous) == by_the_specification(
        upstream.items, first, after, last, before
    )


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
@pytest.mark.parametrize("first", [1, 2, 3, 7, 50, 100, 101])
def test_a_scan_returns_every_item_once_with_its_only_cursor(size, first):
    """Scans with any page size return the same ids in the same order with the same cursors."""
    upstream = Upstream([f"v{i}" for i in range(size)], page_size=100)
    items, positions, window = [], [], Window(first=first)
    while True:
        result = slice_of(upstream, window)
        items += result.items
        positions += result.positions
        if not result.has_next:
            break
        assert result.items
        window = Window(first=first, after=result.positions[-1])
    assert items == upstream.items
    whole = slice_of(upstream, Window(first=size), Limits(page_max=size)).positions
    assert positions == whole
    assert len(set(positions)) == size


@given(upstreams(), st.integers(1, 9))
def test_a_backward_scan_returns_every_item_once_in_order(upstream, last):
    """Backward slices of any size add up to the whole list, and none is empty."""
    items: list[str] = []
    window = Window(last=last)
    while True:
        result = slice_of(upstream, window)
        items = result.items + items
        if not result.has_previous:
            break
        assert result.items
        window = Window(last=last, before=result.positions[0])
    assert items == upstream.items


def test_a_page_costs_at_most_two_reads():
    """Each slice of 50 over pages of 100 needs at most two upstream reads, including its page info."""
    upstream = Upstream([f"v{i}" for i in range(1000)], page_size=100)
    window = Window(first=50)
    for _ in range(20):
        upstream.reads.clear()
        result = slice_of(upstream, window)
        assert len(upstream.reads) <= 2
        window = Window(first=50, after=result.positions[-1])
    assert not result.has_next


def test_page_info_is_looked_up_only_if_it_is_selected():
    """A slice that ends with its page reads the next page only for hasNextPage."""
    upstream = Upstream([f"v{i}" for i in range(8)], page_size=4)
    cut = drive(read_slice(Window(first=4), LIMITS), upstream.page)
    assert upstream.reads == [None]
    assert drive(cut.has_next(), upstream.page)
    assert upstream.reads == [None, "4"]


def test_a_trailing_empty_page_is_not_a_next_page():
    """If the upstream ends with an empty page, hasNextPage is false on the last page with items."""
    upstream = Upstream([f"v{i}" for i in range(8)], page_size=4, trailing_empty=True)
    result = slice_of(upstream, Window(first=8))
    assert len(result.items) == 8
    assert not result.has_next


@pytest.mark.parametrize("first", [-1, 201, -(2**31)])
def test_an_invalid_size_is_rejected_with_the_maximum(first):
    """The error for first or last below zero or above the maximum names the maximum."""
    for window in (Window(first=first), Window(last=first)):
        with pytest.raises(PageSizeInvalid) as rejected:
            drive(read_slice(window, LIMITS), Upstream([]).page)
        assert rejected.value.extensions()["maximum"] == 200


def test_a_size_of_zero_has_page_info():
    """first: 0 returns no edges and a correct hasNextPage."""
    assert slice_of(Upstream(["a"]), Window(first=0)).has_next
    assert not slice_of(Upstream([]), Window(first=0)).has_next
    assert slice_of(Upstream(["a"]), Window(last=0)).has_previous


def test_the_default_is_a_page_next_to_the_cursor():
    """Without first and last the slice has the default size: from the start, after `after`, or before `before`."""
    upstream = Upstream([f"v{i}" for i in range(20)])
    cursors = cursors_of(upstream)
    assert slice_of(upstream, Window()).items == upstream.items[:5]
    assert slice_of(upstream, Window(after=cursors["v3"])).items == upstream.items[4:9]
    assert slice_of(upstream, Window(before=cursors["v10"])).items == upstream.items[5:10]
    assert slice_of(upstream, Window(after=cursors["v3"], before=cursors["v10"])).items == upstream.items[4:9]


def test_a_cursor_of_a_deleted_item_continues_at_its_index():
    """After its item is deleted, a cursor continues with the items around the gap."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursors = cursors_of(upstream)
    upstream.items.remove("v5")
    assert slice_of(upstream, Window(first=2, after=cursors["v5"])).items == ["v6", "v7"]
    assert slice_of(upstream, Window(last=2, before=cursors["v5"])).items == ["v3", "v4"]


def test_a_cursor_follows_an_item_that_moved_to_the_next_page():
    """No item is skipped or repeated after an insertion moves an item to the next page."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursors = cursors_of(upstream)
    upstream.items.insert(0, "new")
    assert slice_of(upstream, Window(first=2, after=cursors["v3"])).items == ["v4", "v5"]
    assert slice_of(upstream, Window(last=2, before=cursors["v3"])).items == ["v1", "v2"]


def test_a_cursor_follows_an_item_that_moved_to_the_page_before():
    """No item is skipped or repeated after a deletion moves an item to the previous page."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursors = cursors_of(upstream)
    upstream.items.remove("v1")
    assert slice_of(upstream, Window(last=2, before=cursors["v4"])).items == ["v2", "v3"]
    assert slice_of(upstream, Window(first=2, after=cursors["v4"])).items == ["v5", "v6"]


@given(upstreams(), st.integers(1, 6), st.data())
def test_no_remaining_item_is_skipped_while_the_fleet_changes(upstream, first, data):
    """A forward scan with insertions and deletions returns every item that was present throughout."""
    remaining = set(upstream.items)
    seen: list[str] = []
    window = Window(first=first)
    for number in range(100):
        result = slice_of(upstream, window)
        assert len(set(result.items)) == len(result.items)
        seen += result.items
        if not result.has_next or not result.positions:
            break
        window = Window(first=first, after=result.positions[-1])
        if upstream.items and data.draw(st.booleans()):
            deleted = data.draw(st.sampled_from(upstream.items))
            upstream.items.remove(deleted)
            remaining.discard(deleted)
        elif data.draw(st.booleans()):
            upstream.items.insert(data.draw(st.integers(0, len(upstream.items))), f"new{number}")
    assert remaining <= set(seen)


def page_at(*items: str) -> Callable[[str | None], Page[str]]:
    """A list with one page, whatever its token is."""
    return lambda token: Page(token, items, items)


def test_the_position_of_an_edge_has_its_neighbour():
    """The next item or, at the end of the page, the previous one."""
    page = page_at("a", "b", "c")("t")
    assert [page.position_of(index) for index in range(3)] == [
        Position("t", "a", 0, 2, fingerprint_of("b")),
        Position("t", "b", 1, 1, fingerprint_of("c")),
        Position("t", "c", 2, 0, fingerprint_of("b")),
    ]
    assert page_at("a", "b")("t").position_of(1) == Position("t", "b", 1, 0, fingerprint_of("a"))
    assert page_at("a")("t").position_of(0) == Position("t", "a", 0, 0, None)


@pytest.mark.parametrize(
    ("deleted", "now", "before", "after"),
    [
        ("b", "acde", "a", "cde"),
        ("b", "zacd", "za", "cd"),
        ("a", "bcd", "", "bcd"),
        ("a", "zbcd", "z", "bcd"),
        ("a", "yzbcd", "yz", "bcd"),
        ("d", "abc", "abc", ""),
        ("d", "zabc", "zabc", ""),
        ("d", "bc", "bc", ""),
        ("b", "yzad", "yz", "zad"),
        ("b", "adef", "ad", "def"),
        ("b", "", "", ""),
    ],
)
def test_the_gap_of_a_deleted_item_is_found_by_its_neighbour(deleted, now, before, after):
    """Wherever the page has moved; if the neighbour is deleted, too, an item may be repeated, but none is skipped."""
    cursor = page_at(*"abcd")("t").position_of("abcd".index(deleted))
    page = page_at(*now)
    assert "".join(slice_of_pages(page, Window(first=9, after=cursor))) == after
    assert "".join(slice_of_pages(page, Window(first=9, before=cursor))) == before
    assert "".join(slice_of_pages(page, Window(last=9, before=cursor))) == before
    assert "".join(slice_of_pages(page, Window(last=9, after=cursor))) == after


@pytest.mark.parametrize("deleted", ["v0", "v3", "v4", "v7", "v8", "v11"])
def test_a_deleted_item_at_the_edge_of_a_page_bounds_a_slice(deleted):
    """In both directions, at the start and the end of a page and of the list."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursor, index = cursors_of(upstream)[deleted], upstream.items.index(deleted)
    upstream.items.remove(deleted)
    for size in ({"first": 50}, {"last": 50}):
        assert slice_of(upstream, Window(after=cursor, **size)).items == upstream.items[index:]
        assert slice_of(upstream, Window(before=cursor, **size)).items == upstream.items[:index]


def test_a_cursor_at_the_end_of_a_shorter_page_has_not_expired():
    """It continues with the next page, and at the end of the list with nothing."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    assert slice_of(upstream, Window(first=2, after=Position(None, "deleted", 4))).items == ["v4", "v5"]
    assert slice_of_pages(page_at("a", "b"), Window(first=2, after=Position(None, "deleted", 40))) == []


def test_a_cursor_beyond_the_end_of_its_page_has_expired():
    """A cursor whose position no longer exists is an error, not another page."""
    upstream = Upstream([f"v{i}" for i in range(20)], page_size=10)
    cursor = Position(None, "deleted", 40)
    with pytest.raises(CursorExpired):
        slice_of(upstream, Window(first=1, after=cursor))


def test_endless_empty_pages_end_in_an_error():
    """An endless list of empty pages is an error after a bounded number of reads."""
    reads = 0

    def endless(token: str | None) -> Page[str]:
        nonlocal reads
        reads += 1
        return Page(token, [], [], None, f"t{reads}")

    with pytest.raises(UpstreamInvalidResponse):
        drive(read_slice(Window(first=1), LIMITS), endless)
    assert reads < 10


def test_a_loop_of_pages_is_an_error():
    """A page whose next cursor is its own is an error."""

    def itself(token: str | None) -> Page[str]:
        return Page(token, ["a"], ["a"], None, "t")

    with pytest.raises(UpstreamInvalidResponse):
        drive(read_slice(Window(first=3), LIMITS), itself)


def test_a_scan_is_bounded():
    """A slice may need as many pages as the limit; one more is an error."""
    upstream, limits = Upstream([f"v{i}" for i in range(100)], 1), Limits(page_max=100, scan_pages_max=20)
    assert len(drive(read_slice(Window(first=20), limits), upstream.page).edges) == len(upstream.reads) == 20
    with pytest.raises(WalkLimitExceeded):
        drive(read_slice(Window(first=21), limits), upstream.page)


@pytest.mark.parametrize("empty", [2, 3, 4, 5])
def test_a_few_empty_pages_are_passed_over(empty):
    """As many in a row as the limit; one more is an error."""

    def page(token: str | None) -> Page[str]:
        number = int(token or 0)
        items = [f"v{number}"] if number in (0, empty + 1) else []
        return Page(token, items, items, None, str(number + 1) if number <= empty else None)

    if empty > LIMITS.empty_pages_max:
        with pytest.raises(UpstreamInvalidResponse):
            drive(read_slice(Window(first=2), LIMITS), page)
    else:
        assert slice_of_pages(page, Window(first=2)) == ["v0", f"v{empty + 1}"]


@pytest.mark.parametrize("repeated", [2, 3, 4, 5])
def test_pages_that_repeat_items_count_as_empty(repeated):
    """An upstream that repeats its items under new tokens ends in an error, after a few such pages."""

    def page(token: str | None) -> Page[str]:
        number = int(token or 0)
        items = ["a"] if number <= repeated else ["b"]
        return Page(token, items, items, None, str(number + 1) if number <= repeated else None)

    if repeated > LIMITS.empty_pages_max:
        with pytest.raises(UpstreamInvalidResponse):
            drive(read_slice(Window(first=2), LIMITS), page)
    else:
        assert slice_of_pages(page, Window(first=2)) == ["a", "b"]


@pytest.mark.parametrize("has_all_nodes", [False, True])
def test_an_item_that_is_on_a_page_twice_is_one_edge(has_all_nodes):
    """Its first position counts."""

    def page(token: str | None) -> Page[str]:
        items = ["a", "a", "b", "c"]
        return Page(token, items, items, has_all_nodes=has_all_nodes)

    assert slice_of_pages(page, Window(first=2)) == ["a", "b"]
    assert slice_of_pages(page, Window(first=9)) == ["a", "b", "c"]


def test_items_without_a_node_are_no_edges():
    """They are passed over in both directions."""

    def page(token: str | None) -> Page[str]:
        return Page(token, ["a", "b", "c", "d"], [None, "B", None, "D"])

    assert slice_of_pages(page, Window(first=1)) == slice_of_pages(page, Window(last=9))[:1] == ["B"]
    assert slice_of_pages(page, Window(last=1)) == ["D"]


def test_last_needs_a_last_cursor():
    """Last alone is rejected if the upstream has no last cursor and more than one page."""
    upstream = Upstream([f"v{i}" for i in range(20)], has_last=False)
    with pytest.raises(BackwardPagingUnsupported):
        slice_of(upstream, Window(last=2))
    assert slice_of(Upstream(["a", "b", "c"], has_last=False), Window(last=2)).items == ["b", "c"]


def test_paging_backward_needs_prev_cursors():
    """Without prev cursors a backward slice works within a page, and is rejected across pages."""
    upstream = Upstream([f"v{i}" for i in range(20)], has_prev=False)
    cursors = cursors_of(upstream)
    cut = drive(read_slice(Window(last=2, before=cursors["v7"]), LIMITS), upstream.page)
    assert [edge.node for edge in cut.edges] == ["v5", "v6"]
    with pytest.raises(BackwardPagingUnsupported):
        slice_of(upstream, Window(last=9, before=cursors["v7"]))


@pytest.mark.parametrize(
    ("of_token", "before", "items"),
    [("abc", "c", "ab"), ("abc", "a", ""), ("cde", "e", "abcd"), ("cde", "c", "ab")],
)
def test_a_page_without_prev_may_overlap_the_first(of_token, before, items):
    """Then the first page has what is before it, if anything."""

    def page(token: str | None) -> Page[str]:
        shown = "abcd" if token is None else of_token
        return Page(token, [*shown], [*shown], None, "t" if token is None else None)

    cursor = page("t").position_of(of_token.index(before))
    cut = drive(read_slice(Window(last=9, before=cursor), LIMITS), page)
    assert "".join(edge.node for edge in cut.edges) == items
    assert not drive(cut.has_previous(), page)


def test_backward_slices_of_a_list_that_became_empty():
    """A page without `prev` and items is the end of an empty list, and otherwise shows that there are no cursors."""
    cursor = Position("t", "a", 0)
    assert slice_of_pages(page_at(), Window(last=1, before=cursor)) == []
    empty = {None: Page(None, [], [], None, "t", "t"), "t": Page("t", [], [])}
    assert slice_of_pages(empty.__getitem__, Window(last=1)) == []

    def page(token: str | None) -> Page[str]:
        shown = ["a"] if token is None else []
        return Page(token, shown, shown)

    with pytest.raises(BackwardPagingUnsupported):
        slice_of_pages(page, Window(last=1, before=cursor))
