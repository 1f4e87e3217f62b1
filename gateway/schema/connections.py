"""Connections at work: reads the pages that `pagination` asks for and hands its slices to GraphQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.errors import CursorExpired, UpstreamRejected
from gateway.schema.cursors import Position, decode_cursor, encode_cursor, fleet_of, set_of
from gateway.schema.pagination import Ask, Entry, Found, Limits, Page, Slice, Steps, Window, find, read_slice
from gateway.upstream.models import TelematicsUnit, Vehicle, VehiclePage

N = TypeVar("N")
R = TypeVar("R")
ReadPage = Callable[[str | None], Awaitable[VehiclePage]]
Pick = Callable[[Vehicle], N | None]


@dataclass(frozen=True, slots=True)
class Arguments:
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


class Edge(Generic[N]):
    """A node and its cursor, which is written only when it is read."""

    __slots__ = ("_of", "_position", "node")

    def __init__(self, of: bytes, found: Found[N]) -> None:
        self._of = of
        self._position: Position = found.position
        self.node = found.node

    @property
    def cursor(self) -> str:
        return encode_cursor(self._of, self._position)


class Connection(Generic[N]):
    """A slice with what its page info needs; `page_info` is the connection itself."""

    def __init__(self, of: bytes, cut: Slice[N], pages: _Pages[N]) -> None:
        self.edges: Sequence[Edge[N]] = [Edge(of, found) for found in cut.edges]
        self._cut = cut
        self._pages = pages
        self._one_at_a_time = asyncio.Lock()

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
        return self._promise(self._cut.has_next)

    @property
    def has_previous_page(self) -> bool | Awaitable[bool]:
        return self._promise(self._cut.has_previous)

    def _promise(self, question: Callable[[], Steps[N, bool]]) -> bool | Awaitable[bool]:
        try:
            next(question())
        except StopIteration as known:
            return bool(known.value)
        return self._read_on(question)

    async def _read_on(self, question: Callable[[], Steps[N, bool]]) -> bool:
        async with self._one_at_a_time:
            return await self._pages.drive(question())


class _Pages(Generic[N]):
    """The pages of one set of vehicles, each vehicle turned into the node it stands for."""

    def __init__(self, read: ReadPage, pick: Pick[N]) -> None:
        self._read = read
        self._pick = pick

    async def drive(self, steps: Steps[N, R]) -> R:
        try:
            ask = next(steps)
            while True:
                ask = steps.send(await self._page(ask))
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _page(self, ask: Ask) -> Page[N]:
        try:
            answer = await self._read(ask.token)
        except UpstreamRejected as refused:
            if ask.argument is not None and ask.token is not None:
                raise CursorExpired(ask.argument) from refused
            raise
        entries = [Entry(v.vehicle_id, self._pick(v), fleet_of(v.fleet_id)) for v in answer.items]
        cursors = answer.cursors
        if cursors is None:
            return Page(ask.token, entries)
        if ask.token is None or ask.token == cursors.first:
            return Page(None, entries, None, cursors.next or None, cursors.last or None)
        return Page(ask.token, entries, cursors.prev or None, cursors.next or None, cursors.last or None)


async def vehicle_connection(
    read: ReadPage, limits: Limits, arguments: Arguments, search: str | None, fleet: str | None
) -> Connection[Vehicle]:
    """The slice of the fleet, or of what `search` finds in it; `fleet` is the caller's, where that is verified."""
    return await _connection(set_of("vehicles", search, fleet), read, lambda vehicle: vehicle, limits, arguments)


async def unit_connection(
    read: ReadPage, limits: Limits, arguments: Arguments, fleet: str | None
) -> Connection[TelematicsUnit]:
    """The slice of the fleet's telematics units, in the order of their vehicles."""
    return await _connection(set_of("telematicsUnits", fleet), read, lambda v: v.telematics_unit, limits, arguments)


async def find_unit(
    read: ReadPage, limits: Limits, manufacturer: str | None, brand: str | None, unit_id: str
) -> TelematicsUnit | None:
    """The unit of that key, by a walk over the vehicles that `read` gives."""

    def pick(vehicle: Vehicle) -> TelematicsUnit | None:
        unit = vehicle.telematics_unit
        if unit is None or (unit.manufacturer, unit.brand, unit.unit_id) != (manufacturer, brand, unit_id):
            return None
        return unit

    return await _Pages(read, pick).drive(find(limits))


async def _connection(of: bytes, read: ReadPage, pick: Pick[N], limits: Limits, arguments: Arguments) -> Connection[N]:
    pages = _Pages(read, pick)
    return Connection(of, await pages.drive(read_slice(arguments.window(of), limits)), pages)
