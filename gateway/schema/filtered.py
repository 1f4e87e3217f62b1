"""Connections that are filtered, ordered or counted, which an index of the vehicles answers.

The index is that of the whole fleet. If it is not fresh, and the filter names ids, a license plate or a VIN, or the
field has a search, only those vehicles are read, and the same question is put to an index of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from gateway.errors import WalkLimitExceeded
from gateway.fleet_index.fleet_indexes import page_of
from gateway.fleet_index.vehicle_index import VehicleIndex
from gateway.schema.connections import Arguments, Edges, Mask, pages_of
from gateway.schema.context import Context
from gateway.schema.cursors import SortKey, decode_key, encode_key, set_of
from gateway.schema.global_ids import UnitKey
from gateway.schema.pagination import Window
from gateway.upstream.models import TelematicsUnit, Vehicle
from gateway.upstream.pages import VehiclePage

T = TypeVar("T")
Where = Mapping[str, Any] | None
# Pages that a search for an exact license plate or VIN may have; with more, the whole fleet is read.
SEARCH_PAGES_MAX = 3


class Filter(NamedTuple):
    """What a field asks about: vehicles, or their `units`, that `where` and `search` select, and their order."""

    where: Where
    order_by: Sequence[Mapping[str, Any]] = ()
    search: str | None = None
    units: bool = False

    @property
    def is_all(self) -> bool:
        """Whether nothing is filtered or ordered, so that the pages of the fleet API are the answer."""
        return self.where is None and not self.order_by

    def set_for(self, fleet: str | None) -> bytes:
        """The fingerprint of the ordered set for a fleet."""
        name = "telematicsUnits" if self.units else "vehicles"
        return set_of(name, self.search, fleet, self.where, self.order_by)


class KeyEdge(NamedTuple):
    """A node with its sort key in the ordered set `of`."""

    node: Any
    key: SortKey
    of: bytes

    @property
    def cursor(self) -> str:
        return encode_key(self.of, self.key)


@dataclass(frozen=True, slots=True)
class FilteredConnection(Edges):
    """A slice of an ordered set, with the same members as a `Connection`."""

    edges: Sequence[KeyEdge]
    has_next_page: bool
    has_previous_page: bool
    total: Callable[[Context], Awaitable[int]]

    async def ready(self) -> FilteredConnection:
        return self

    def has_next_known(self) -> bool:
        return self.has_next_page

    def has_previous_known(self) -> bool:
        return self.has_previous_page


async def filtered_connection(
    context: Context, wanted: Filter, arguments: Arguments, mask: Mask = None
) -> FilteredConnection:
    """A slice of the vehicles or units that a filter selects, in its order. Raises the errors of the arguments."""
    of, length = wanted.set_for(context.scope.caller.fleet), len(wanted.order_by) + 1
    after, before = (
        decode_key(text, of, length, argument) if text else None
        for argument, text in (("after", arguments.after), ("before", arguments.before))
    )
    window: Window[SortKey] = Window(arguments.first, after, arguments.last, before).with_defaults(context.limits)
    now = context.indexes.now()

    def cut(rows: VehicleIndex) -> tuple[list[tuple[Vehicle | None, SortKey]], bool, bool]:
        first, last = window.first, window.last
        limit = 1 + max(first or 0, last or 0)
        found = rows.select(
            wanted.where, wanted.order_by, limit=limit, after=after, before=before,
            backward=first is None, units=wanted.units, now=now,
        )  # fmt: skip
        more = last is not None and len(found) > last
        if first is None:
            assert last is not None
            edges, has_next, has_previous = found[max(0, len(found) - last) :], before is not None, more
        else:
            edges, has_next = found[:first], len(found) > first
            has_previous = after is not None if last is None else more
            edges = edges if last is None else edges[max(0, len(edges) - last) :]
        return [(rows.vehicle(vehicle_id, mask), key) for vehicle_id, key in edges], has_next, has_previous

    found, has_next, has_previous = await ask(context, wanted, cut)
    edges = [
        KeyEdge(vehicle.telematics_unit if wanted.units else vehicle, key, of)
        for vehicle, key in found
        if vehicle is not None
    ]
    return FilteredConnection(edges, has_next, has_previous, counter_of(wanted))


def counter_of(wanted: Filter) -> Callable[[Context], Awaitable[int]]:
    """A function that counts the vehicles or units that a filter selects."""

    async def count(context: Context) -> int:
        now = context.indexes.now()
        return await ask(context, wanted, lambda rows: rows.count(wanted.where, units=wanted.units, now=now))

    return count


async def unit_of(context: Context, key: UnitKey) -> TelematicsUnit | None:
    """The unit of a key."""

    def find(rows: VehicleIndex) -> Vehicle | None:
        vehicle_id = rows.unit(*key)
        return None if vehicle_id is None else rows.vehicle(vehicle_id, None)

    vehicle = await ask(context, Filter(None, search=key.unit_id if context.unit_search else None), find)
    return None if vehicle is None else vehicle.telematics_unit


async def ask(context: Context, wanted: Filter, question: Callable[[VehicleIndex], T]) -> T:
    """The answer of an index that has all vehicles that a filter may select. Raises InputInvalid for an invalid one."""
    scope, indexes = context.scope, context.indexes
    is_fresh = wanted.search is None and indexes.is_fresh(scope.caller)
    if not is_fresh:
        indexes.check(wanted.where, wanted.order_by, units=wanted.units)
    if wanted.search is not None:
        pages = await _pages_of_search(context, wanted.search, context.limits.scan_pages_max)
        if pages is None:
            raise WalkLimitExceeded(context.limits.scan_pages_max)
        return await indexes.ask_about(scope, pages, question)
    if wanted.where is not None and not wanted.units and not is_fresh:
        pages = await _few_vehicles(context, wanted.where)
        if pages is not None:
            return await indexes.ask_about(scope, pages, question)
    return (await indexes.ask(scope, question)).value


async def _few_vehicles(context: Context, where: Mapping[str, Any]) -> list[VehiclePage] | None:
    """All vehicles that a filter may select if it names their ids, a license plate or a VIN; None for other filters."""
    ids = ids_in(where)
    if ids is not None and len(ids) <= context.nodes_max:
        found = await context.loaders.vehicles.load_many(list(dict.fromkeys(ids)))
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [page_of([vehicle for vehicle in found if isinstance(vehicle, Vehicle)])]
    text = identifying_text_in(where)
    return None if text is None else await _pages_of_search(context, text, SEARCH_PAGES_MAX)


async def _pages_of_search(context: Context, search: str, pages_max: int) -> list[VehiclePage] | None:
    """All pages of a search; None if there are more."""
    read, token = pages_of(context, search), None
    pages: list[VehiclePage] = []
    while len(pages) < pages_max:
        page = await read(token)
        pages.append(page)
        token = page.cursors.next if page.cursors is not None else None
        if not token:
            return pages
    return None


def ids_in(where: Mapping[str, Any]) -> Sequence[str] | None:
    """The ids of which a vehicle must have one to match a filter; None if it names none."""
    return next((ids for each in _required(where) if (ids := _alternatives(each.get("vehicleId"))) is not None), None)


def identifying_text_in(where: Mapping[str, Any]) -> str | None:
    """A license plate or VIN that a vehicle must have to match a filter; None if it names none."""
    for each in _required(where):
        master_data = each.get("masterData") or {}
        for member in ("licensePlate", "vin"):
            texts = _alternatives(master_data.get(member))
            if texts is not None and len(texts) == 1 and texts[0]:
                return texts[0]
    return None


def _alternatives(condition: Mapping[str, Any] | None) -> Sequence[str] | None:
    if condition is None:
        return None
    if condition.get("eq") is not None:
        return [condition["eq"]]
    return condition.get("in")


def _required(where: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A filter, and those that have to match with it."""
    required = [where]
    for each in required:
        required += each.get("and") or ()
    return required
