"""Connections at work: reads the pages that `pagination` asks for and hands its slices to GraphQL."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from gateway.errors import CursorExpired, UpstreamRejected
from gateway.schema.cursors import CursorWriter, decode_cursor, fleet_of, set_of
from gateway.schema.pagination import Ask, Found, Limits, Page, Slice, Steps, Window, find, read_slice
from gateway.upstream.models import TelematicsUnit, Vehicle
from gateway.upstream.pages import Fragment, VehiclePage

N = TypeVar("N")
R = TypeVar("R")


class ReadPage(Protocol):
    """Reads the page of a token, None for the first; `afresh` where what is kept will not do."""

    def __call__(self, token: str | None, *, afresh: bool = False) -> Awaitable[VehiclePage]: ...


class TokenRefused(UpstreamRejected):
    """The fleet API takes a token no longer that a page of the same walk has told."""


Pick = Callable[[Vehicle], N | None]


class Arguments(NamedTuple):
    """Relay's four arguments as the caller sent them; an empty cursor counts as none."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    def window(self, of: bytes) -> Window:
        """The arguments with their cursors decoded against the set they are used on."""
        after, before = (
            decode_cursor(text, of, argument) if text else None
            for argument, text in (("after", self.after), ("before", self.before))
        )
        return Window(self.first, after, self.last, before)


class FragmentKey(NamedTuple):
    """Where a slice's walk begins (`token` None: at the start, with `search`).

    Under `key` a projection of the slice is kept with the page that is there.
    """

    token: str | None
    search: str | None
    key: Hashable


def fragment_key_of(
    of: bytes, arguments: Arguments, limits: Limits, search: str | None, projection: int
) -> FragmentKey:
    """The place for a slice and the key of its projection; raises what the walk itself would raise at its beginning."""
    return FragmentKey(next(read_slice(arguments.window(of), limits)).token, search, (projection, of, arguments))


class Connection(Generic[N]):
    """A slice with what its page info needs; `page_info` is the connection itself.

    Its first page is read when it is made, the rest when it is made `ready`: what an earlier, equal slice was rendered
    as may have been kept with that page.
    """

    def __init__(self, of: bytes, arguments: Arguments, limits: Limits, pages: _Pages[N], walk: _Scan[N]) -> None:
        self._of = of
        self._arguments = arguments
        self._limits = limits
        self._pages = pages
        self._scan = walk
        self._one_at_a_time = asyncio.Lock()
        self.edges: Sequence[Found[N]] = ()

    async def ready(self) -> Connection[N]:
        """The same, with its edges."""
        try:
            await self._cut_from(self._scan)
        except TokenRefused:
            await self._restart()
        self.edges = self._cut.edges
        return self

    async def kept(self, projection: int) -> bytes | None:
        """What the projection of that key rendered of an equal slice, if each page it was made of is still the same."""
        kept = self._scan.page.kept((projection, self._of, self._arguments))
        if kept is None:
            return None
        try:
            for token, page in kept.others:
                if await self._pages.read(token) is not page():
                    return None
        except UpstreamRejected:
            return None  # the walk finds a way round
        return kept.rendered

    def keep(self, projection: int, rendered: bytes) -> None:
        """Keeps what a projection rendered of this slice, with its first page."""
        first, arguments = self._scan.page, self._arguments
        others = tuple((token, weakref.ref(page)) for token, page in self._pages.seen.items() if page is not first)
        cursors = len(arguments.after or "") + len(arguments.before or "")
        first.keep((projection, self._of, arguments), Fragment(rendered, others, cursors))

    @property
    def nodes(self) -> list[N]:
        return [edge.node for edge in self.edges]

    @property
    def page_info(self) -> Connection[N]:
        return self

    @property
    def start_cursor(self) -> str | None:
        return self.edges[0].cursor if self.edges else None

    @property
    def end_cursor(self) -> str | None:
        return self.edges[-1].cursor if self.edges else None

    @property
    def has_next_page(self) -> bool | Awaitable[bool]:
        known = self.has_next_known()
        return self.has_next_read() if known is None else known

    @property
    def has_previous_page(self) -> bool | Awaitable[bool]:
        known = self.has_previous_known()
        return self.has_previous_read() if known is None else known

    def has_next_known(self) -> bool | None:
        """Whether more follows, if the pages at hand tell."""
        return _known(self._cut.has_next)

    def has_previous_known(self) -> bool | None:
        """Whether more precedes, if the pages at hand tell."""
        return _known(self._cut.has_previous)

    async def has_next_read(self) -> bool:
        """Whether more follows, by reading on."""
        return await self._read_on(lambda cut: cut.has_next())

    async def has_previous_read(self) -> bool:
        """Whether more precedes, by reading on."""
        return await self._read_on(lambda cut: cut.has_previous())

    async def _read_on(self, question: Callable[[Slice[N]], Steps[N, bool]]) -> bool:
        # One at a time, because they go on where the slice ended.
        async with self._one_at_a_time:
            try:
                return await self._pages.drive(question(self._cut))
            except TokenRefused:
                await self._restart()
                return await self._pages.drive(question(self._cut))

    async def _restart(self) -> None:
        """Walks past what is kept: a page may be kept for longer than the fleet API takes the tokens that it tells."""
        self._pages = self._pages.afresh()
        self._scan = await self._pages.begin(read_slice(self._arguments.window(self._of), self._limits))
        await self._cut_from(self._scan)

    async def _cut_from(self, walk: _Scan[N]) -> None:
        self._cut: Slice[N] = await self._pages.drive(walk.steps, (walk.ask, walk.page))


def _known(question: Callable[[], Steps[N, bool]]) -> bool | None:
    try:
        next(question())
    except StopIteration as known:
        return bool(known.value)
    return None


class _Scan(NamedTuple, Generic[N]):
    """A walk that waits for the first page it asked for, and that page."""

    steps: Steps[N, Slice[N]]
    ask: Ask
    page: VehiclePage


class _Pages(Generic[N]):
    """The pages of one set of vehicles, each vehicle turned into the node it stands for."""

    def __init__(self, of: bytes, read: ReadPage, pick: Pick[N] | None, mask: type[Vehicle] | None = None) -> None:
        self.read = read
        self._of = of
        self._pick = pick
        self._mask = mask
        self.seen: dict[str | None, VehiclePage] = {}

    def afresh(self) -> _Pages[N]:
        """The same pages as they are now; none is seen so far."""
        return _Pages(self._of, partial(self.read, afresh=True), self._pick, self._mask)

    async def begin(self, steps: Steps[N, Slice[N]]) -> _Scan[N]:
        """Reads the first page that a walk asks for."""
        ask = next(steps)
        return _Scan(steps, ask, await self._answer(ask))

    async def drive(self, steps: Steps[N, R], begun: tuple[Ask, VehiclePage] | None = None) -> R:
        """The result of a walk; if it was begun, from the page that it waits for."""
        try:
            ask, page = begun or (next(steps), None)
            while True:
                ask, page = steps.send(self._page(ask, page or await self._answer(ask))), None
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _answer(self, ask: Ask) -> VehiclePage:
        try:
            answer = self.seen[ask.token] = await self.read(ask.token)
        except UpstreamRejected as refused:
            if ask.token is None:
                raise
            if ask.argument is not None:
                raise CursorExpired(ask.argument) from refused
            raise TokenRefused(refused.problem) from refused
        return answer

    def _page(self, ask: Ask, answer: VehiclePage) -> Page[N]:
        vehicles, cursors = answer.items_as(self._mask), answer.cursors
        is_first = ask.token is None or (cursors is not None and ask.token == cursors.first)
        token = None if is_first else ask.token
        nodes: Sequence[Any] = vehicles if self._pick is None else [self._pick(vehicle) for vehicle in vehicles]
        page: Page[N] = Page(token, [vehicle.vehicle_id for vehicle in vehicles], nodes)
        page.fleet_at = lambda index: fleet_of(vehicles[index].fleet_id)
        page.writer = CursorWriter(self._of, token)
        page.shows_all = self._pick is None
        if cursors is not None:
            page.prev = None if is_first else cursors.prev or None
            page.next, page.last = cursors.next or None, cursors.last or None
        return page


def vehicle_set(search: str | None, fleet: str | None) -> bytes:
    """What a connection of vehicles walks."""
    # Callers make the words that are searched for, and may make them long.
    return _known_set("vehicles", None, fleet) if search is None else set_of("vehicles", search, fleet)


def unit_set(fleet: str | None) -> bytes:
    """What a connection of telematics units walks."""
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
    """The slice of the fleet, or of what `search` finds in it; `fleet` is the caller's, where that is verified."""
    of = vehicle_set(search, fleet)
    return await _connection(of, _Pages(of, read, None, mask), limits, arguments)


async def unit_connection(
    read: ReadPage, limits: Limits, arguments: Arguments, fleet: str | None, mask: type[Vehicle] | None = None
) -> Connection[TelematicsUnit]:
    """The slice of the fleet's telematics units, in the order of their vehicles."""
    of = unit_set(fleet)
    return await _connection(of, _Pages(of, read, lambda v: v.telematics_unit, mask), limits, arguments)


async def find_unit(
    read: ReadPage, limits: Limits, manufacturer: str | None, brand: str | None, unit_id: str
) -> TelematicsUnit | None:
    """The unit of that key, by a walk over the vehicles that `read` gives."""

    def pick(vehicle: Vehicle) -> TelematicsUnit | None:
        unit = vehicle.telematics_unit
        if unit is None or (unit.manufacturer, unit.brand, unit.unit_id) != (manufacturer, brand, unit_id):
            return None
        return unit

    pages = _Pages(b"", read, pick)
    try:
        return await pages.drive(find(limits))
    except TokenRefused:
        return await pages.afresh().drive(find(limits))


async def _connection(of: bytes, pages: _Pages[N], limits: Limits, arguments: Arguments) -> Connection[N]:
    return Connection(of, arguments, limits, pages, await pages.begin(read_slice(arguments.window(of), limits)))
