"""The upstream calls of an operation, counted from the arguments of its root fields.

The count is for an empty cache. Lists include the states of their vehicles, and vehicles include their units. Equal
reads count once, because they are made once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from gateway.errors import GlobalIdInvalid
from gateway.schema.global_ids import TELEMATICS_UNIT, UnitKey, parse_global_id
from gateway.schema.pagination import Limits


class AnyValue:
    """An unknown value: null, empty, or of any allowed size, and equal only to itself."""


UpstreamRequest = tuple[Any, ...]
# A forward scan from the first page, without a search.
SCAN: UpstreamRequest = (None, None, None, False)
# The upstream calls of a write: itself, and a read before and after it.
WRITE_CALLS = 3


class UpstreamCalls:
    """The upstream calls of one operation. Each `add` method takes the arguments of one kind of root field.

    `page_info` has the selected fields of the field's `pageInfo`. For an argument that is an `AnyValue`, the maximum
    cost is added.
    """

    def __init__(self, limits: Limits, page_size: int) -> None:
        self._limits = limits
        self._page_size = page_size
        self._vehicles: set[object] = set()
        self._pages: dict[UpstreamRequest, int] = {}
        self._others = 0

    def total(self) -> int:
        """The number of calls."""
        return len(self._vehicles) + sum(self._pages.values()) + self._others

    def add_read(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """Anything else that takes one call."""
        self._others += 1

    def add_write(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """A write, which may read its vehicle before and after."""
        self._others += WRITE_CALLS

    def add_vehicle(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """A vehicle by its id."""
        self._vehicles.add(arguments["id"])

    def add_unit(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """A telematics unit by its key, for which the fleet is scanned."""
        self._scan()

    def add_node(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """An object by its global id."""
        self._add_object(arguments["id"])

    def add_nodes(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """Objects by their global ids."""
        for global_id in arguments["ids"]:
            self._add_object(global_id)

    def add_entities(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """Entities by the representations that a federation router sends."""
        for representation in arguments["representations"]:
            if isinstance(representation, AnyValue):
                self._add_object(representation)
            elif isinstance(representation, dict):
                self._add_entity(representation)

    def add_connection(self, arguments: Mapping[str, Any], page_info: Collection[str]) -> None:
        """A slice of vehicles or units; both connections read the same pages."""
        first, last, after, before = (arguments.get(name) for name in ("first", "last", "after", "before"))
        cases = [self._slice(case, page_info) for case in _cases(first, last, after, before)]
        pages = max(pages for _, pages in cases)
        directions = {is_backward for is_backward, _ in cases}
        start = (arguments.get("search") or None, after or None, before or None)
        # If the direction is unknown, only equal arguments are certain to read the same pages.
        self._add_pages((*start, *directions) if len(directions) == 1 else (*start, first, last), pages)

    def _slice(self, arguments: tuple[Any, ...], page_info: Collection[str]) -> tuple[bool, int]:
        """Whether a slice is read backward, and from how many pages."""
        first, last, after, before = arguments
        is_backward = first is None and (last is not None or (bool(before) and not after))
        if is_backward and after and before:
            return is_backward, self._limits.scan_pages_max  # everything between the cursors is scanned
        size = slice_size((first, last), self._limits)
        pages = -(-max(size, 1) // self._page_size)
        if after or before:
            return is_backward, pages + 1  # a slice from the middle of a page ends in one more page
        if is_backward:
            return is_backward, pages + 2  # the first page has the cursor of the last one, which may be short
        if "hasNextPage" in page_info:
            pages = size // self._page_size + 1  # reads one more item
        return is_backward, pages

    def _add_entity(self, representation: Mapping[str, Any]) -> None:
        vehicle_id = representation.get("vehicleId")
        if any(isinstance(member, AnyValue) for member in representation.values()):
            self._add_object(AnyValue())
        elif representation.get("__typename") == TELEMATICS_UNIT:
            self._scan()
        elif isinstance(vehicle_id, str):
            self._vehicles.add(vehicle_id)
        elif isinstance(representation.get("id"), str):
            self._add_object(representation["id"])

    def _add_object(self, global_id: str | AnyValue) -> None:
        if isinstance(global_id, AnyValue):
            self._vehicles.add(global_id)
            self._scan()
            return
        try:
            key = parse_global_id(global_id)
        except GlobalIdInvalid:
            return
        if isinstance(key, UnitKey):
            self._scan()
        else:
            self._vehicles.add(key)

    def _scan(self) -> None:
        self._add_pages(SCAN, self._limits.scan_pages_max)

    def _add_pages(self, read: UpstreamRequest, pages: int) -> None:
        self._pages[read] = max(self._pages.get(read, 0), min(pages, self._limits.scan_pages_max))


def slice_size(given: Collection[Any], limits: Limits) -> int:
    """The maximum number of edges of a slice with these values of `first` and `last`; invalid sizes are bounded."""
    most = limits.page_max
    sizes = [most if isinstance(size, AnyValue) else max(0, min(size, most)) for size in given if size is not None]
    return max(sizes, default=limits.page_default)


def slice_size_max(given: Collection[Any], limits: Limits) -> int:
    """As `slice_size`, for values that may be unknown."""
    return max(slice_size(case, limits) for case in _cases(*given))


def _cases(*values: Any) -> Iterator[tuple[Any, ...]]:
    """The combinations of values; an unknown value may also be null."""
    return product(*((value, None) if isinstance(value, AnyValue) else (value,) for value in values))
