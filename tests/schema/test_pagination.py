"""The mapping of Relay's arguments onto upstream pages, against the specification's own algorithm on a list."""

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
from gateway.schema.cursors import Position
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
        return Page(None if start == 0 else str(start), shown, shown, previous, following, self._last())

    def _last(self) -> str | None:
        if not self.has_last:
            return None
        if self.trailing_empty and self.items and len(self.items) % self.page_size == 0:
            return str(len(self.items))
        return str(max(0, len(self.items) - 1) // self.page_size * self.page_size)


def drive(steps: Steps[str, R], read: Callable[[str | None], Page[str]]) -> R:
    try:
        ask = next(steps)
        while True:
            ask = steps.send(read(ask.token))
    except StopIteration as done:
        return done.value


@dataclass
class Answer:
    """A slice with all its promises kept, and the cursors of its edges."""

    items: list[str]
    positions: list[Position]
    has_next: bool
    has_previous: bool


def ask(upstream: Upstream, window: Window, limits: Limits = LIMITS) -> Answer:
    cut: Slice[str] = drive(read_slice(window, limits), upstream.page)
    return Answer(
        [edge.node for edge in cut.edges],
        [edge.position for edge in cut.edges],
        drive(cut.has_next(), upstream.page),
        drive(cut.has_previous(), upstream.page),
    )


def cursors_of(upstream: Upstream) -> dict[str, Position]:
    """The cursor of every edge, from a walk."""
    found: dict[str, Position] = {}
    window = Window(first=50)
    while True:
        answer = ask(upstream, window)
        found.update(zip(answer.items, answer.positions, strict=True))
        if not answer.has_next:
            return found
        window = Window(first=50, after=answer.positions[-1])


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
    return Upstream([f"v{i}" for i in range(size)], page_size, draw(st.booleans()), holes)


sizes = st.none() | st.integers(0, 12)


@given(upstreams(), sizes, sizes, st.data())
def test_every_combination_of_arguments_gives_what_the_specification_says(upstream, first, last, data):
    """first, last, after and before in any mix give the specification's edges and page info."""
    if first is None and last is None:
        first = 3
    cursors = cursors_of(upstream)
    places = st.none() | (st.sampled_from(upstream.items) if upstream.items else st.none())
    after, before = data.draw(places), data.draw(places)
    window = Window(first, cursors[after] if after else None, last, cursors[before] if before else None)
    answer = ask(upstream, window)
    assert (answer.items, answer.has_next, answer.has_previous) == by_the_specification(
        upstream.items, first, after, last, before
    )


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
@pytest.mark.parametrize("first", [1, 2, 3, 7, 50, 100, 101])
def test_a_walk_gives_every_item_once_with_the_cursor_it_always_has(size, first):
    """Walks with any page size give the same ids in the same order under the same cursors."""
    upstream = Upstream([f"v{i}" for i in range(size)], page_size=100)
    items, positions, window = [], [], Window(first=first)
    while True:
        answer = ask(upstream, window)
        items += answer.items
        positions += answer.positions
        if not answer.has_next:
            break
        assert answer.items
        window = Window(first=first, after=answer.positions[-1])
    assert items == upstream.items
    whole = ask(upstream, Window(first=size), Limits(page_max=size)).positions
    assert positions == whole
    assert len(set(positions)) == size


@given(upstreams(), st.integers(1, 9))
def test_a_backward_walk_gives_every_item_once_in_order(upstream, last):
    """Backward from the end by any size the whole list comes together, and no page is empty."""
    items: list[str] = []
    window = Window(last=last)
    while True:
        answer = ask(upstream, window)
        items = answer.items + items
        if not answer.has_previous:
            break
        assert answer.items
        window = Window(last=last, before=answer.positions[0])
    assert items == upstream.items


def test_a_page_costs_at_most_two_reads():
    """Forward by 50 over pages of 100, each GraphQL page costs at most two upstream reads, page info included."""
    upstream = Upstream([f"v{i}" for i in range(1000)], page_size=100)
    window = Window(first=50)
    for _ in range(20):
        upstream.reads.clear()
        answer = ask(upstream, window)
        assert len(upstream.reads) <= 2
        window = Window(first=50, after=answer.positions[-1])
    assert not answer.has_next


def test_promises_are_not_looked_up_unless_asked_for():
    """A slice that ends with its page reads no further page until hasNextPage is asked."""
    upstream = Upstream([f"v{i}" for i in range(8)], page_size=4)
    cut = drive(read_slice(Window(first=4), LIMITS), upstream.page)
    assert upstream.reads == [None]
    assert drive(cut.has_next(), upstream.page)
    assert upstream.reads == [None, "4"]


def test_a_trailing_empty_page_is_never_promised():
    """Where the upstream ends with an empty page, hasNextPage is false on the last page that holds anything."""
    upstream = Upstream([f"v{i}" for i in range(8)], page_size=4, trailing_empty=True)
    answer = ask(upstream, Window(first=8))
    assert len(answer.items) == 8
    assert not answer.has_next


@pytest.mark.parametrize("first", [-1, 201, -(2**31)])
def test_a_size_outside_its_bounds_is_refused_with_the_maximum(first):
    """First and last below zero or above the maximum are an error that names the maximum."""
    for window in (Window(first=first), Window(last=first)):
        with pytest.raises(PageSizeInvalid) as refused:
            drive(read_slice(window, LIMITS), Upstream([]).page)
        assert refused.value.extensions()["maximum"] == 200


def test_a_size_of_zero_still_tells_whether_there_is_more():
    """first: 0 gives no edges and an honest hasNextPage."""
    assert ask(Upstream(["a"]), Window(first=0)).has_next
    assert not ask(Upstream([]), Window(first=0)).has_next
    assert ask(Upstream(["a"]), Window(last=0)).has_previous


def test_without_sizes_a_default_page_is_given():
    """Neither first nor last gives the default page: the first one, behind `after`, or ahead of `before`."""
    upstream = Upstream([f"v{i}" for i in range(20)])
    cursors = cursors_of(upstream)
    assert ask(upstream, Window()).items == upstream.items[:5]
    assert ask(upstream, Window(after=cursors["v3"])).items == upstream.items[4:9]
    assert ask(upstream, Window(before=cursors["v10"])).items == upstream.items[5:10]


def test_a_cursor_whose_item_is_gone_goes_on_where_it_stood():
    """After its item is deleted, a cursor goes on with the items around the gap."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursors = cursors_of(upstream)
    upstream.items.remove("v5")
    assert ask(upstream, Window(first=2, after=cursors["v5"])).items == ["v6", "v7"]
    assert ask(upstream, Window(last=2, before=cursors["v5"])).items == ["v3", "v4"]


def test_a_cursor_follows_an_item_that_moved_to_the_next_page():
    """Insertions that push an item to the next page make the walk neither skip nor repeat."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursors = cursors_of(upstream)
    upstream.items.insert(0, "new")
    assert ask(upstream, Window(first=2, after=cursors["v3"])).items == ["v4", "v5"]
    assert ask(upstream, Window(last=2, before=cursors["v3"])).items == ["v1", "v2"]


def test_a_cursor_follows_an_item_that_moved_to_the_page_before():
    """Deletions that pull an item to the page before make a backward walk neither skip nor repeat."""
    upstream = Upstream([f"v{i}" for i in range(12)])
    cursors = cursors_of(upstream)
    upstream.items.remove("v1")
    assert ask(upstream, Window(last=2, before=cursors["v4"])).items == ["v2", "v3"]
    assert ask(upstream, Window(first=2, after=cursors["v4"])).items == ["v5", "v6"]


@given(upstreams(), st.integers(1, 6), st.data())
def test_while_the_fleet_changes_an_item_that_stays_is_not_skipped(upstream, first, data):
    """A forward walk with an insertion or deletion between pages gives every item that was there all along."""
    there_all_along = set(upstream.items)
    seen: list[str] = []
    window = Window(first=first)
    for turn in range(100):
        answer = ask(upstream, window)
        assert len(set(answer.items)) == len(answer.items)
        seen += answer.items
        if not answer.has_next or not answer.positions:
            break
        window = Window(first=first, after=answer.positions[-1])
        if upstream.items and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(upstream.items))
            upstream.items.remove(gone)
            there_all_along.discard(gone)
        elif data.draw(st.booleans()):
            upstream.items.insert(data.draw(st.integers(0, len(upstream.items))), f"new{turn}")
    assert there_all_along <= set(seen)


def test_a_cursor_into_a_page_that_shrank_beyond_it_has_expired():
    """A cursor that can't be placed at all is an error, not some other page."""
    upstream = Upstream([f"v{i}" for i in range(20)], page_size=10)
    cursor = Position(None, "gone", 40)
    with pytest.raises(CursorExpired):
        ask(upstream, Window(first=1, after=cursor))


def test_endless_empty_pages_end_in_an_error():
    """An upstream whose pages are empty for ever is an error, within a bounded number of reads."""
    reads = 0

    def endless(token: str | None) -> Page[str]:
        nonlocal reads
        reads += 1
        return Page(token, [], [], None, f"t{reads}")

    with pytest.raises(UpstreamInvalidResponse):
        drive(read_slice(Window(first=1), LIMITS), endless)
    assert reads < 10


def test_a_page_that_leads_back_to_itself_ends_in_an_error():
    """A next cursor that names its own page, or pages in a circle, is an error."""

    def itself(token: str | None) -> Page[str]:
        return Page(token, ["a"], ["a"], None, "t")

    with pytest.raises(UpstreamInvalidResponse):
        drive(read_slice(Window(first=3), LIMITS), itself)


def test_a_walk_is_bounded():
    """A field that would read more pages than its limit is refused."""
    with pytest.raises(WalkLimitExceeded):
        ask(Upstream([f"v{i}" for i in range(100)], 1), Window(first=50), Limits(page_max=100, scan_pages_max=20))


def test_the_tail_without_a_last_cursor_is_refused():
    """Last alone over an upstream without a last cursor is refused, unless one page holds everything."""
    upstream = Upstream([f"v{i}" for i in range(20)], has_last=False)
    with pytest.raises(BackwardPagingUnsupported):
        ask(upstream, Window(last=2))
    assert ask(Upstream(["a", "b", "c"], has_last=False), Window(last=2)).items == ["b", "c"]


def test_going_back_without_prev_cursors_is_refused():
    """Backward over a forward-only upstream is refused where it would cross a page, and works within one."""
    upstream = Upstream([f"v{i}" for i in range(20)], has_prev=False)
    cursors = cursors_of(upstream)
    cut = drive(read_slice(Window(last=2, before=cursors["v7"]), LIMITS), upstream.page)
    assert [edge.node for edge in cut.edges] == ["v5", "v6"]
    with pytest.raises(BackwardPagingUnsupported):
        ask(upstream, Window(last=9, before=cursors["v7"]))
