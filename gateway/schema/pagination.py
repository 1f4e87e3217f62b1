"""Relay arguments to upstream pages, decided purely: which pages to read, which items to keep, what may be promised.

Nothing here does I/O. A decision is a generator that yields an `Ask` for each page it needs, is sent the `Page`, and
returns its result; whoever drives it reads the pages. The rules are those of the GraphQL Cursor Connections
specification, over an upstream that pages by opaque tokens and has neither item cursors nor a total.

The grid: every first read asks for one configured page size, whatever `first` says, so an edge always stands on the
same page and has the same cursor. When an item is gone, its place stands in for it; when it has moved to a
neighbouring page, it is found there. Under changes to the fleet an item that stays is not skipped, and within one
answer none is given twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Generic, NamedTuple, TypeVar

from gateway.errors import (
    BackwardPagingUnsupported,
    CursorExpired,
    CursorForeign,
    PageSizeInvalid,
    UpstreamInvalidResponse,
    WalkLimitExceeded,
)
from gateway.schema.cursors import CursorWriter, InPage, Position, fingerprint_of

N = TypeVar("N")
R = TypeVar("R")


def _no_fleet(_: int) -> bytes | None:
    return None


@dataclass(slots=True, eq=False)
class Page(Generic[N]):
    """An upstream page, as `token` reads it (None: the first page), and the tokens around it.

    `nodes` are what its items show in this connection, None where that is nothing; `fleet_at` tells the fleet of the
    item in a place. `writer` writes its edges' cursors.
    """

    token: str | None
    ids: Sequence[str]
    nodes: Sequence[N | None]
    prev: str | None = None
    next: str | None = None
    last: str | None = None
    fleet_at: Callable[[int], bytes | None] = _no_fleet
    writer: CursorWriter | None = None
    shows_all: bool = False  # known to have no node that is None

    def index_of(self, item_id: str) -> int | None:
        return next((index for index, known in enumerate(self.ids) if known == item_id), None)

    def position_of(self, index: int) -> Position:
        """What the cursor of the edge in a place holds."""
        return Position(self.token, *self._place(index))

    def cursor_of(self, index: int) -> str:
        """The cursor of the edge in a place."""
        assert self.writer is not None
        return self.writer.write(self._place(index))

    def _place(self, index: int) -> InPage:
        ids = self.ids
        behind = len(ids) - index - 1
        neighbour = index + 1 if behind else index - 1
        beside = fingerprint_of(ids[neighbour]) if neighbour >= 0 else None
        return ids[index], index, behind, beside, self.fleet_at(index)


class Ask(NamedTuple):
    """A page that is needed; `argument` names the cursor argument whose token this is, if it is one's."""

    token: str | None
    argument: str | None = None


Steps = Generator[Ask, Page[N], R]


@dataclass(frozen=True, slots=True)
class Limits:
    """Page sizes in edges; how many pages one walk may read, and how many empty ones in a row."""

    page_default: int = 50
    page_max: int = 500
    scan_pages_max: int = 100
    empty_pages_max: int = 10


@dataclass(frozen=True, slots=True)
class Window:
    """Relay's four arguments, cursors decoded."""

    first: int | None = None
    after: Position | None = None
    last: int | None = None
    before: Position | None = None

    def settled(self, limits: Limits) -> Window:
        """Sizes checked, and a default where neither is given: the page next to the cursor, else the first."""
        for argument, asked in (("first", self.first), ("last", self.last)):
            if asked is not None and not 0 <= asked <= limits.page_max:
                raise PageSizeInvalid(argument, asked, limits.page_max)
        if self.first is not None or self.last is not None:
            return self
        if self.before is not None and self.after is None:
            return Window(last=limits.page_default, before=self.before)
        return Window(limits.page_default, self.after, None, self.before)


class Found(Generic[N]):
    """An edge: its node and where it stands. Its cursor is written only when it is read."""

    __slots__ = ("node", "page", "place")

    def __init__(self, node: N, page: Page[Any], place: int) -> None:
        self.node = node
        self.page = page
        self.place = place

    @property
    def position(self) -> Position:
        """What its cursor holds."""
        return self.page.position_of(self.place)

    @property
    def cursor(self) -> str:
        return self.page.cursor_of(self.place)


def _never() -> Steps[N, bool]:
    return False
    yield


def _always() -> Steps[N, bool]:
    return True
    yield


@dataclass(frozen=True, slots=True)
class Slice(Generic[N]):
    """The edges asked for, in the fleet's order; the page info is worked out when it is asked for."""

    edges: Sequence[Found[N]]
    has_next: Callable[[], Steps[N, bool]]
    has_previous: Callable[[], Steps[N, bool]]


def read_slice(window: Window, limits: Limits) -> Steps[N, Slice[N]]:
    """The slice of the whole list that the arguments describe."""
    window = window.settled(limits)
    walk: Walk[N] = Walk(limits)
    if window.first is not None:
        return (yield from _forward(walk, window, window.first))
    assert window.last is not None
    if window.after is not None and window.before is not None:
        return (yield from _between(walk, window.after, window.before, window.last))
    return (yield from _backward(walk, window, window.last))


def find(limits: Limits) -> Steps[N, N | None]:
    """The first item that has a node, walking from the start."""
    walk: Walk[N] = Walk(limits)
    scan = Scan(walk, (yield from walk.page(None)), 0, forward=True)
    yield from scan.take(1)
    return scan.found[0].node if scan.found else None


def _forward(walk: Walk[N], window: Window, first: int) -> Steps[N, Slice[N]]:
    scan = yield from _scan_from(walk, window.after)
    if window.before is not None:
        scan.stop = yield from walk.item_at(window.before)
    last = window.last
    yield from scan.take(max(first, last or 0))
    edges = scan.found[:first]
    if last is None:
        return Slice(edges, lambda: scan.exceeds(first), _always if window.after else _never)
    return Slice(edges[max(0, len(edges) - last) :], lambda: scan.exceeds(first), lambda: scan.exceeds(last))


def _backward(walk: Walk[N], window: Window, last: int) -> Steps[N, Slice[N]]:
    if window.before is not None:
        page, end = yield from walk.locate(window.before, "before")
    else:
        page = yield from walk.tail()
        end = len(page.ids)
    scan = Scan(walk, page, end - 1, forward=False)
    if window.before is not None:
        scan.seen.add(window.before.item_id)
    if window.after is not None:
        scan.stop = yield from walk.item_before(window.after)
    yield from scan.take(last)
    has_next = _always if window.before else _never
    return Slice(scan.found[:last][::-1], has_next, lambda: scan.exceeds(last))


def _between(walk: Walk[N], after: Position, before: Position, last: int) -> Steps[N, Slice[N]]:
    # The last of what lies between two cursors. Only a walk tells how they lie: opaque tokens have no order.
    scan = yield from _scan_from(walk, after)
    scan.stop = yield from walk.item_at(before)
    while not scan.ended:
        yield from scan.take(len(scan.found) + 1)
    edges = scan.found[max(0, len(scan.found) - last) :]
    return Slice(edges, _always, lambda: scan.exceeds(last))


def _scan_from(walk: Walk[N], after: Position | None) -> Steps[N, Scan[N]]:
    if after is None:
        return Scan(walk, (yield from walk.page(None)), 0, forward=True)
    page, start = yield from walk.locate(after, "after")
    return Scan(walk, page, start, forward=True, seen={after.item_id})


class Walk(Generic[N]):
    """Pages and the steps between them; each page is read once in a walk."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pages: dict[str | None, Page[N]] = {}

    def page(self, token: str | None, argument: str | None = None) -> Steps[N, Page[N]]:
        """The page of a token."""
        if (known := self._pages.get(token)) is not None:
            return known
        if len(self._pages) >= self.limits.scan_pages_max:
            raise WalkLimitExceeded(self.limits.scan_pages_max)
        page = yield Ask(token, argument)
        self._pages[token] = page
        return page

    def step(self, page: Page[N], *, forward: bool) -> Steps[N, Page[N] | None]:
        """The next page that holds anything; None at the end of the list."""
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
        """The last page, by the upstream's `last` cursor, which any page tells."""
        page = yield from self.page(None)
        if page.next is None:
            return page
        if page.last is None:
            raise BackwardPagingUnsupported
        page = yield from self.page(page.last)
        # Only if the fleet has grown since, or a trailing empty page closes the list, is there more behind it.
        while (behind := (yield from self.step(page, forward=True))) is not None:
            page = behind
        if not page.ids:
            page = (yield from self.step(page, forward=False)) or page
        return page

    def locate(self, position: Position, argument: str) -> Steps[N, tuple[Page[N], int]]:
        """Where a cursor points now: for `after` the index behind it, for `before` the index of it."""
        behind = 1 if argument == "after" else 0
        page = yield from self.page(position.token, argument)
        if (index := page.index_of(position.item_id)) is not None:
            return page, index + behind
        for forward in (True, False):
            if (page.next if forward else page.prev) is None:
                continue
            neighbour = yield from self.step(page, forward=forward)
            if neighbour is not None and (index := neighbour.index_of(position.item_id)) is not None:
                return neighbour, index + behind
        if position.fleet is not None and page.ids and position.fleet not in map(page.fleet_at, range(len(page.ids))):
            raise CursorForeign(argument)
        if position.index > len(page.ids) and page.next is not None:
            raise CursorExpired(argument)
        return page, _gap_of(page, position, argument)

    def item_at(self, before: Position) -> Steps[N, str | None]:
        """The id of the first item that `before` shuts out; None if that is nothing."""
        page: Page[N] | None
        page, index = yield from self.locate(before, "before")
        if index == len(page.ids):
            page, index = (yield from self.step(page, forward=True)), 0
        return page.ids[index] if page is not None else None

    def item_before(self, after: Position) -> Steps[N, str | None]:
        """The id of the last item that `after` shuts out; None if that is nothing."""
        page, index = yield from self.locate(after, "after")
        if index > 0:
            return page.ids[index - 1]
        previous = yield from self.step(page, forward=False)
        return previous.ids[-1] if previous is not None else None

    def _before_start(self, page: Page[N]) -> Steps[N, Page[N] | None]:
        # No `prev` means the start, or an upstream that has none. The first page tells which.
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
    """Items from one place on, in one direction, until `stop` (an item's id, shut out) or the end of the list."""

    walk: Walk[N]
    page: Page[N]
    index: int
    forward: bool
    stop: str | None = None
    ended: bool = False
    found: list[Found[N]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def take(self, count: int) -> Steps[N, None]:
        """Goes on until `count` edges are found, or the end."""
        stale = 0
        while True:
            before = len(self.seen)
            self._take_here(count)
            if len(self.found) >= count or self.ended:
                return
            # Pages that only repeat themselves are no better than empty ones.
            stale = 0 if len(self.seen) > before else stale + 1
            if stale > self.walk.limits.empty_pages_max:
                raise UpstreamInvalidResponse
            following = yield from self.walk.step(self.page, forward=self.forward)
            if following is None:
                self.ended = True
                return
            self.page, self.index = following, 0 if self.forward else len(following.ids) - 1

    def _take_at_once(self, count: int) -> None:
        """The same where nothing has to be looked at one by one, except for an id that a page has twice."""
        page, index = self.page, self.index
        ids = page.ids[index : index + count]
        seen = set(ids)
        if len(seen) < len(ids):
            page.shows_all = False
            self._take_here(count)
            return
        end = index + len(ids)
        self.seen, self.index = seen, end
        nodes: Sequence[Any] = page.nodes[index:end]
        self.found.extend(map(Found, nodes, repeat(page), range(index, end)))

    def exceeds(self, count: int) -> Steps[N, bool]:
        """Whether there are more than `count` edges; reads on only if this page can't tell."""
        yield from self.take(count + 1)
        return len(self.found) > count

    def _take_here(self, count: int) -> None:
        if self.forward and self.stop is None and not self.seen and self.page.shows_all:
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
                    found.append(Found(node, page, index))
            index += step
        self.index = index


def _gap_of(page: Page[N], position: Position, argument: str) -> int:
    """Where in its page an item stood that is gone.

    Pages that are counted from their start close the gap from behind, those counted from their end from ahead. The
    neighbour tells which; where it can't, the guess that may give an item twice is taken, never one that may skip one.
    """
    size = len(page.ids)
    guesses = [min(position.index, size), max(0, size - position.behind)]
    for guess in guesses:
        neighbour = guess if position.behind else guess - 1
        if 0 <= neighbour < size and fingerprint_of(page.ids[neighbour]) == position.beside:
            return guess
    return min(guesses) if argument == "after" else max(guesses)
