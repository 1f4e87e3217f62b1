"""Relay pagination over upstream pages, as pure functions: which pages to read and which items form a slice.

Nothing here does I/O. Each function is a generator that yields a `PageRequest` for each page it needs, is sent the
`Page`, and returns its result; its caller reads the pages. The rules are those of the GraphQL Cursor Connections
specification, for an upstream that pages by opaque tokens and has neither item cursors nor a total.

The first page is read with one configured page size, whatever `first` is, so an edge is always on the same page and has
the same cursor. A deleted item is located by its index, an item that moved to a neighbouring page by its id. If the
fleet changes during a scan, no remaining item is skipped, and no slice has an item twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Generic, NamedTuple, TypeVar

from gateway.errors import (
    BackwardPagingUnsupported,
    CursorExpired,
    PageSizeInvalid,
    UpstreamInvalidResponse,
    WalkLimitExceeded,
)
from gateway.schema.cursors import CursorWriter, InPage, Position, fingerprint_of

N = TypeVar("N")
R = TypeVar("R")
P = TypeVar("P")


@dataclass(slots=True, eq=False)
class Page(Generic[N]):
    """The upstream page of a token (None for the first page), with the tokens of other pages.

    `nodes` has the node of each item in this connection, or None. `writer` encodes the cursors of its edges.
    """

    token: str | None
    ids: Sequence[str]
    nodes: Sequence[N | None]
    prev: str | None = None
    next: str | None = None
    last: str | None = None
    writer: CursorWriter | None = None
    has_all_nodes: bool = False  # whether it is known that no node is None

    def index_of(self, item_id: str) -> int | None:
        return next((index for index, known in enumerate(self.ids) if known == item_id), None)

    def position_of(self, index: int) -> Position:
        """The position of the edge at an index."""
        return Position(self.token, *self._in_page(index))

    def cursor_of(self, index: int) -> str:
        """The cursor of the edge at an index."""
        assert self.writer is not None
        known = self.writer.known
        if known is None:
            return self.writer.write(self._in_page(index))
        if index not in known:
            known[index] = self.writer.write(self._in_page(index))
        return known[index]

    def _in_page(self, index: int) -> InPage:
        ids = self.ids
        items_after = len(ids) - index - 1
        next_to = index + 1 if items_after else index - 1
        neighbour = fingerprint_of(ids[next_to]) if next_to >= 0 else None
        return ids[index], index, items_after, neighbour


class PageRequest(NamedTuple):
    """A request for a page; `argument` is the name of the cursor argument that the token comes from, if any."""

    token: str | None
    argument: str | None = None


Steps = Generator[PageRequest, Page[N], R]


@dataclass(frozen=True, slots=True)
class Limits:
    """Page sizes in edges, and the numbers of pages, and of consecutive empty pages, that a scan may read."""

    page_default: int = 50
    page_max: int = 500
    scan_pages_max: int = 100
    empty_pages_max: int = 10


@dataclass(frozen=True, slots=True)
class Window(Generic[P]):
    """Relay's four arguments, with cursors decoded to positions or sort keys."""

    first: int | None = None
    after: P | None = None
    last: int | None = None
    before: P | None = None

    def with_defaults(self, limits: Limits) -> Window[P]:
        """The window with checked sizes and, without `first` and `last`, the default size next to the cursor."""
        for argument, size in (("first", self.first), ("last", self.last)):
            if size is not None and not 0 <= size <= limits.page_max:
                raise PageSizeInvalid(argument, size, limits.page_max)
        if self.first is not None or self.last is not None:
            return self
        if self.before is not None and self.after is None:
            return Window(last=limits.page_default, before=self.before)
        return Window(limits.page_default, self.after, None, self.before)


class Edge(Generic[N]):
    """An edge: a node and its position. The cursor is encoded on access."""

    __slots__ = ("index", "node", "page")

    def __init__(self, node: N, page: Page[Any], index: int) -> None:
        self.node = node
        self.page = page
        self.index = index

    @property
    def position(self) -> Position:
        """The position that its cursor encodes."""
        return self.page.position_of(self.index)

    @property
    def cursor(self) -> str:
        return self.page.cursor_of(self.index)


def _never() -> Steps[N, bool]:
    return False
    yield


def _always() -> Steps[N, bool]:
    return True
    yield


@dataclass(frozen=True, slots=True)
class Slice(Generic[N]):
    """The edges of a slice, in the order of the fleet. Its page info is computed on demand."""

    edges: Sequence[Edge[N]]
    has_next: Callable[[], Steps[N, bool]]
    has_previous: Callable[[], Steps[N, bool]]


def read_slice(window: Window[Position], limits: Limits) -> Steps[N, Slice[N]]:
    """The slice of the list that a window describes."""
    window = window.with_defaults(limits)
    pager: Pager[N] = Pager(limits)
    if window.first is not None:
        return (yield from _forward(pager, window, window.first))
    assert window.last is not None
    if window.after is not None and window.before is not None:
        return (yield from _between(pager, window.after, window.before, window.last))
    return (yield from _backward(pager, window, window.last))


def _forward(pager: Pager[N], window: Window[Position], first: int) -> Steps[N, Slice[N]]:
    scan = yield from _scan_from(pager, window.after)
    if window.before is not None:
        scan.stop = yield from pager.item_at(window.before)
    last = window.last
    yield from scan.take(max(first, last or 0))
    edges = scan.found[:first]
    if last is None:
        return Slice(edges, lambda: scan.exceeds(first), _always if window.after else _never)
    return Slice(edges[max(0, len(edges) - last) :], lambda: scan.exceeds(first), lambda: scan.exceeds(last))


def _backward(pager: Pager[N], window: Window[Position], last: int) -> Steps[N, Slice[N]]:
    if window.before is not None:
        page, end = yield from pager.locate(window.before, "before")
    else:
        page = yield from pager.tail()
        end = len(page.ids)
    scan = Scan(pager, page, end - 1, forward=False)
    if window.before is not None:
        scan.seen.update((window.before.item_id, *page.ids[end:]))  # the page before may overlap this one
    if window.after is not None:
        scan.stop = yield from pager.item_before(window.after)
    yield from scan.take(last)
    has_next = _always if window.before else _never
    return Slice(scan.found[:last][::-1], has_next, lambda: scan.exceeds(last))


def _between(pager: Pager[N], after: Position, before: Position, last: int) -> Steps[N, Slice[N]]:
    # The last items between two cursors. Opaque tokens have no order, so everything between them is scanned.
    scan = yield from _scan_from(pager, after)
    scan.stop = yield from pager.item_at(before)
    while not scan.ended:
        yield from scan.take(len(scan.found) + 1)
    edges = scan.found[max(0, len(scan.found) - last) :]
    return Slice(edges, _always, lambda: scan.exceeds(last))


def _scan_from(pager: Pager[N], after: Position | None) -> Steps[N, Scan[N]]:
    if after is None:
        return Scan(pager, (yield from pager.page(None)), 0, forward=True)
    page, start = yield from pager.locate(after, "after")
    return Scan(pager, page, start, forward=True, seen={after.item_id})


class Pager(Generic[N]):
    """Steps through the pages of a list; each page is read once."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pages: dict[str | None, Page[N]] = {}

    def page(self, token: str | None, argument: str | None = None) -> Steps[N, Page[N]]:
        """The page of a token; raises WalkLimitExceeded."""
        if (known := self._pages.get(token)) is not None:
            return known
        if len(self._pages) >= self.limits.scan_pages_max:
            raise WalkLimitExceeded(self.limits.scan_pages_max)
        page = yield PageRequest(token, argument)
        self._pages[token] = page
        return page

    def step(self, page: Page[N], *, forward: bool) -> Steps[N, Page[N] | None]:
        """The next page that is not empty; None at the end of the list."""
        passed = {page.token}
        for _ in range(self.limits.empty_pages_max + 1):
            token = page.next if forward else page.prev
            if token is None:
                return None if forward else (yield from self._before_start(page))
            if token in passed:
                raise UpstreamInvalidResponse
            passed.add(token)
            page = yield from self.page(token)
            if page.ids:
                return page
        raise UpstreamInvalidResponse

    def tail(self) -> Steps[N, Page[N]]:
        """The last page, by the upstream's `last` cursor, which every page has."""
        page = yield from self.page(None)
        if page.next is None:
            return page
        if page.last is None:
            raise BackwardPagingUnsupported
        page = yield from self.page(page.last)
        # More pages follow it if the fleet has grown since, or the list ends with an empty page.
        while (following := (yield from self.step(page, forward=True))) is not None:
            page = following
        if not page.ids:
            page = (yield from self.step(page, forward=False)) or page
        return page

    def locate(self, position: Position, argument: str) -> Steps[N, tuple[Page[N], int]]:
        """The current page and index of a cursor; for `after` the index of the next item."""
        offset = 1 if argument == "after" else 0
        page = yield from self.page(position.token, argument)
        if (index := page.index_of(position.item_id)) is not None:
            return page, index + offset
        for forward in (True, False):
            if (page.next if forward else page.prev) is None:
                continue
            neighbour = yield from self.step(page, forward=forward)
            if neighbour is not None and (index := neighbour.index_of(position.item_id)) is not None:
                return neighbour, index + offset
        if position.index > len(page.ids) and page.next is not None:
            raise CursorExpired(argument)
        return page, _gap_of(page, position, argument)

    def item_at(self, before: Position) -> Steps[N, str | None]:
        """The id of the first item that `before` excludes; None if it excludes none."""
        page: Page[N] | None
        page, index = yield from self.locate(before, "before")
        if index == len(page.ids):
            page, index = (yield from self.step(page, forward=True)), 0
        return page.ids[index] if page is not None else None

    def item_before(self, after: Position) -> Steps[N, str | None]:
        """The id of the last item that `after` excludes; None if it excludes none."""
        page, index = yield from self.locate(after, "after")
        if index > 0:
            return page.ids[index - 1]
        previous = yield from self.step(page, forward=False)
        return previous.ids[-1] if previous is not None else None

    def _before_start(self, page: Page[N]) -> Steps[N, Page[N] | None]:
        # A page without `prev` is the first, or the upstream has no `prev` cursors. The first page shows which.
        if page.token is None:
            return None
        head = yield from self.page(None)
        if not head.ids:
            return None
        if not page.ids:
            raise BackwardPagingUnsupported
        index = head.index_of(page.ids[0])
        if index is None:
            raise BackwardPagingUnsupported
        return head if index > 0 else None


@dataclass(slots=True)
class Scan(Generic[N]):
    """Items from an index on, in one direction, up to the end of the list or the item with the id `stop`."""

    pager: Pager[N]
    page: Page[N]
    index: int
    forward: bool
    stop: str | None = None
    ended: bool = False
    found: list[Edge[N]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def take(self, count: int) -> Steps[N, None]:
        """Reads on until `count` edges are found, or up to the end."""
        stale = 0
        while True:
            before = len(self.seen)
            self._take_here(count)
            if len(self.found) >= count or self.ended:
                return
            # Pages without new items count as empty.
            stale = 0 if len(self.seen) > before else stale + 1
            if stale > self.pager.limits.empty_pages_max:
                raise UpstreamInvalidResponse
            following = yield from self.pager.step(self.page, forward=self.forward)
            if following is None:
                self.ended = True
                return
            self.page, self.index = following, 0 if self.forward else len(following.ids) - 1

    def _take_at_once(self, count: int) -> None:
        """As `_take_here`, without checks of single items, unless the page has an id twice."""
        page, index = self.page, self.index
        ids = page.ids[index : index + count]
        seen = set(ids)
        if len(seen) < len(ids):
            page.has_all_nodes = False
            self._take_here(count)
            return
        end = index + len(ids)
        self.seen, self.index = seen, end
        nodes: Sequence[Any] = page.nodes[index:end]
        self.found.extend(map(Edge, nodes, repeat(page), range(index, end)))

    def exceeds(self, count: int) -> Steps[N, bool]:
        """Whether there are more than `count` edges; reads further pages only if necessary."""
        yield from self.take(count + 1)
        return len(self.found) > count

    def _take_here(self, count: int) -> None:
        if self.forward and self.stop is None and not self.seen and self.page.has_all_nodes:
            self._take_at_once(count)
            return
        page, index, step = self.page, self.index, 1 if self.forward else -1
        ids, nodes, found, seen, stop = page.ids, page.nodes, self.found, self.seen, self.stop
        while len(found) < count and 0 <= index < len(ids):
            item_id = ids[index]
            if item_id == stop:
                self.ended = True
                break
            if item_id not in seen:
                seen.add(item_id)
                node = nodes[index]
                if node is not None:
                    found.append(Edge(node, page, index))
            index += step
        self.index = index


def _gap_of(page: Page[N], position: Position, argument: str) -> int:
    """The index at which a deleted item was in its page.

    If a page is bounded by its start, the items after the gap move up; if it is bounded by its end, the items before it
    move down. The neighbour shows which of the two happened. Otherwise the result is the index that may repeat an item,
    never the one that may skip an item.
    """
    size = len(page.ids)
    guesses = [min(position.index, size), max(0, size - position.items_after)]
    for guess in guesses:
        neighbour = guess if position.items_after else guess - 1
        if 0 <= neighbour < size and fingerprint_of(page.ids[neighbour]) == position.neighbour:
            return guess
    return min(guesses) if argument == "after" else max(guesses)
