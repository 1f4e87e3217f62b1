"""Relay connections: reads the pages that `pagination` requests, and provides its slices to GraphQL."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from gateway.errors import CursorExpired, UpstreamRejected
from gateway.schema.context import Context
from gateway.schema.cursors import CursorWriter, Position, decode_cursor, set_of
from gateway.schema.pagination import Edge, Limits, Page, PageRequest, Slice, Steps, Window, read_slice
from gateway.upstream.models import TelematicsUnit, Vehicle
from gateway.upstream.pages import Fragment, VehiclePage

N = TypeVar("N")
R = TypeVar("R")


class ReadPage(Protocol):
    """Reads the page of a token (None for the first page); `bypass_cache` ignores cached pages."""

    def __call__(self, token: str | None, *, bypass_cache: bool = False) -> Awaitable[VehiclePage]: ...


# The members of a vehicle that are decoded; None for all.
Mask = type[Vehicle] | None


def pages_of(context: Context, search: str | None, mask: Mask = None) -> ReadPage:
    """A function that reads the pages of the fleet, or of a search in it."""

    # A cursor contains its search, so only the first page needs it.
    def read(token: str | None, *, bypass_cache: bool = False) -> Awaitable[VehiclePage]:
        return context.loaders.page(token, search if token is None else None, mask, bypass_cache=bypass_cache)

    return read


class TokenRejected(UpstreamRejected):
    """The fleet API rejects a token from a page of the same scan."""


Pick = Callable[[Vehicle], N | None]


class Arguments(NamedTuple):
    """Relay's four arguments as the caller sent them; an empty cursor counts as none."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    def window(self, of: bytes) -> Window[Position]:
        """The arguments with their cursors decoded, which must be cursors of the set `of`."""
        after, before = (
            decode_cursor(text, of, argument) if text else None
            for argument, text in (("after", self.after), ("before", self.before))
        )
        return Window(self.first, after, self.last, before)


class FragmentKey(NamedTuple):
    """The key of a rendered fragment: its first page, and `key` among the fragments that are cached with that page.

    The page is that of `token` or, if it is None, the first page of `search`.
    """

    token: str | None
    search: str | None
    key: Hashable


def fragment_key_of(
    of: bytes, arguments: Arguments, limits: Limits, search: str | None, projection: int
) -> FragmentKey:
    """The fragment key of a projection of a slice. Raises the errors of the slice's arguments."""
    return FragmentKey(next(read_slice(arguments.window(of), limits)).token, search, (projection, of, arguments))


class Edges:
    """What a connection and its page info have in common; `page_info` is the connection itself."""

    edges: Sequence[Any]

    @property
    def nodes(self) -> list[Any]:
        return [edge.node for edge in self.edges]

    @property
    def page_info(self) -> Self:
        return self

    @property
    def start_cursor(self) -> str | None:
        return self.edges[0].cursor if self.edges else None

    @property
    def end_cursor(self) -> str | None:
        return self.edges[-1].cursor if self.edges else None


class Connection(Edges, Generic[N]):
    """A slice of a list that the fleet API pages, and its page info.

    Its first page is read before it is created, the other pages by `ready`, because the fragment of an equal slice may
    be cached with the first page.
    """

    def __init__(self, of: bytes, arguments: Arguments, limits: Limits, pages: _Pages[N], scan: _Started[N]) -> None:
        self._of = of
        self._arguments = arguments
        self._limits = limits
        self._pages = pages
        self._scan = scan
        self._one_at_a_time = asyncio.Lock()
        self.edges: Sequence[Edge[N]] = ()
        # Counts the nodes of all slices; the pages of the fleet API have no total.
        self.total: Callable[[Context], Awaitable[int]] | None = None

    async def ready(self) -> Connection[N]:
        """The connection itself, with its edges."""
        try:
            await self._cut_from(self._scan)
        except TokenRejected:
            await self._restart()
        self.edges = self._cut.edges
        return self

    async def cached_fragment(self, projection: int) -> bytes | None:
        """The fragment that a projection rendered from an equal slice, if none of its pages has changed since."""
        fragment = self._scan.page.fragment((projection, self._of, self._arguments))
        if fragment is None:
            return None
        try:
            for token, page in fragment.others:
                if await self._pages.read(token) is not page():
                    return None
        except UpstreamRejected:
            return None  # the scan handles rejected tokens
        return fragment.rendered

    def cache_fragment(self, projection: int, rendered: bytes) -> None:
        """Caches the fragment that a projection rendered from this slice, with its first page."""
        first, arguments = self._scan.page, self._arguments
        others = tuple((token, weakref.ref(page)) for token, page in self._pages.seen.items() if page is not first)
        cursors = len(arguments.after or "") + len(arguments.before or "")
        first.add_fragment((projection, self._of, arguments), Fragment(rendered, others, cursors))

    @property
    def has_next_page(self) -> bool | Awaitable[bool]:
        known = self.has_next_known()
        return self.has_next_read() if known is None else known

    @property
    def has_previous_page(self) -> bool | Awaitable[bool]:
        known = self.has_previous_known()
        return self.has_previous_read() if known is None else known

    def has_next_known(self) -> bool | None:
        """Whether more edges follow; None if further pages have to be read."""
        return _known(self._cut.has_next)

    def has_previous_known(self) -> bool | None:
        """Whether more edges precede; None if further pages have to be read."""
        return _known(self._cut.has_previous)

    async def has_next_read(self) -> bool:
        """Whether more edges follow, by reading further pages."""
        return await self._read_on(lambda cut: cut.has_next())

    async def has_previous_read(self) -> bool:
        """Whether more edges precede, by reading further pages."""
        return await self._read_on(lambda cut: cut.has_previous())

    async def _read_on(self, lookup: Callable[[Slice[N]], Steps[N, bool]]) -> bool:
        # One at a time, because both continue the scan of the slice.
        async with self._one_at_a_time:
            try:
                return await self._pages.drive(lookup(self._cut))
            except TokenRejected:
                await self._restart()
                return await self._pages.drive(lookup(self._cut))

    async def _restart(self) -> None:
        """Scans without the cache: a page may be cached for longer than the fleet API accepts its tokens."""
        self._pages = self._pages.without_cache()
        self._scan = await self._pages.begin(read_slice(self._arguments.window(self._of), self._limits))
        await self._cut_from(self._scan)

    async def _cut_from(self, scan: _Started[N]) -> None:
        self._cut: Slice[N] = await self._pages.drive(scan.steps, (scan.request, scan.page))


def _known(lookup: Callable[[], Steps[N, bool]]) -> bool | None:
    try:
        next(lookup())
    except StopIteration as known:
        return bool(known.value)
    return None


class _Started(NamedTuple, Generic[N]):
    """A scan that has requested its first page, and that page."""

    steps: Steps[N, Slice[N]]
    request: PageRequest
    page: VehiclePage


class _Pages(Generic[N]):
    """The pages of one set of vehicles; `pick` returns the node of a vehicle."""

    def __init__(self, of: bytes, read: ReadPage, pick: Pick[N] | None, mask: type[Vehicle] | None = None) -> None:
        self.read = read
        self._of = of
        self._pick = pick
        self._mask = mask
        self.seen: dict[str | None, VehiclePage] = {}

    def without_cache(self) -> _Pages[N]:
        """The same pages, without the cache."""
        return _Pages(self._of, partial(self.read, bypass_cache=True), self._pick, self._mask)

    async def begin(self, steps: Steps[N, Slice[N]]) -> _Started[N]:
        """Reads the first page that a scan requests."""
        request = next(steps)
        return _Started(steps, request, await self._read_page(request))

    async def drive(self, steps: Steps[N, R], started: tuple[PageRequest, VehiclePage] | None = None) -> R:
        """The result of a scan; `started` is the page that it has requested already."""
        try:
            request, page = started or (next(steps), None)
            while True:
                request, page = steps.send(self._page(request, page or await self._read_page(request))), None
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _read_page(self, request: PageRequest) -> VehiclePage:
        try:
            page = self.seen[request.token] = await self.read(request.token)
        except UpstreamRejected as rejected:
            if request.token is None:
                raise
            if request.argument is not None:
                raise CursorExpired(request.argument) from rejected
            raise TokenRejected(rejected.problem) from rejected
        return page

    def _page(self, request: PageRequest, read: VehiclePage) -> Page[N]:
        vehicles, cursors = read.items_as(self._mask), read.cursors
        is_first = request.token is None or (cursors is not None and request.token == cursors.first)
        token = None if is_first else request.token
        nodes: Sequence[Any] = vehicles if self._pick is None else [self._pick(vehicle) for vehicle in vehicles]
        page: Page[N] = Page(token, [vehicle.vehicle_id for vehicle in vehicles], nodes)
        page.writer = CursorWriter(self._of, token, read.cursors_of_set((self._of, token)))
        page.has_all_nodes = self._pick is None
        if cursors is not None:
            page.prev = None if is_first else cursors.prev or None
            page.next, page.last = cursors.next or None, cursors.last or None
        return page


def vehicle_set(search: str | None, fleet: str | None) -> bytes:
    """The fingerprint of a set of vehicles."""
    # Searches are not cached, because callers choose them and they may be long.
    return _known_set("vehicles", None, fleet) if search is None else set_of("vehicles", search, fleet)


def unit_set(fleet: str | None) -> bytes:
    """The fingerprint of the set of telematics units."""
    return _known_set("telematicsUnits", fleet)


_known_set = lru_cache(1024)(set_of)


async def vehicle_connection(
    read: ReadPage,
    limits: Limits,
    arguments: Arguments,
    search: str | None,
    fleet: str | None,
    mask: type[Vehicle] | None = None,
) -> Connection[Vehicle]:
    """A slice of the vehicles that `search` finds, or of all; `fleet` is the caller's fleet, if it is verified."""
    of = vehicle_set(search, fleet)
    return await _connection(of, _Pages(of, read, None, mask), limits, arguments)


async def unit_connection(
    read: ReadPage, limits: Limits, arguments: Arguments, fleet: str | None, mask: type[Vehicle] | None = None
) -> Connection[TelematicsUnit]:
    """A slice of the fleet's telematics units, in the order of their vehicles."""
    of = unit_set(fleet)
    return await _connection(of, _Pages(of, read, lambda v: v.telematics_unit, mask), limits, arguments)


async def _connection(of: bytes, pages: _Pages[N], limits: Limits, arguments: Arguments) -> Connection[N]:
    return Connection(of, arguments, limits, pages, await pages.begin(read_slice(arguments.window(of), limits)))
