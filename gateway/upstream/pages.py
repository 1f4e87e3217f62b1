"""Pages of the vehicle list: the response body, its decoded vehicles and the fragments rendered from it."""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from gateway.upstream.field_masks import decode_masked, vehicle_mask
from gateway.upstream.models import UNREADABLE, Cursors, Vehicle, as_json, count_repair, decoded, repaired

V = TypeVar("V")
# Stored pages that stay decoded.
DECODED_MAX = 8
# Memory for the fragments of a page: a multiple of its body, because a response with every field is 2.04 times as long,
# plus some bytes, so that a small page has room for some.
ROOM_FACTOR, ROOM_BYTES = 2.2, 2_000
# The most memory that a response takes per byte of JSON: the body itself and, for a page, its fragments.
MEMORY_FACTOR = 1 + ROOM_FACTOR
# Overhead of a fragment beside its bytes and those of its key, and for each further page.
FRAGMENT_BYTES, PAGE_BYTES = 500, 200
# How much of what follows the last vehicle has to be the same in a changed page: `],"cursors"`.
TAIL_BYTES = 11
# The comparison with the page before ends if more vehicles than this, and a third of those so far, have changed.
CHANGED_MIN = 8
# After a comparison that found too few equal vehicles, the next one is this many pages later.
COMPARED_EVERY = 16
# Sets whose cursors a page remembers: vehicles and units, in two places.
SETS_MAX = 4
# Vehicles of a page: ten times as many as can be requested.
ITEMS_MAX = 10_000


class Fragment(NamedTuple):
    """A part of a GraphQL response as JSON; `others` are weak references to its other pages, by token.

    `key_bytes` is the size of its key, which contains cursors that callers may make long.
    """

    rendered: bytes
    others: tuple[tuple[str | None, Callable[[], VehiclePage | None]], ...]
    key_bytes: int = 0

    def pages(self, first: VehiclePage) -> list[VehiclePage]:
        """The pages that it was rendered from, without those that no longer exist."""
        return [first, *(page for _, page_ref in self.others if (page := page_ref()) is not None)]

    @property
    def share(self) -> int:
        """The bytes that it takes of each page's room."""
        own = FRAGMENT_BYTES + self.key_bytes + PAGE_BYTES * len(self.others)
        return (len(self.rendered) + own) // (1 + len(self.others)) + 1


class _Body(Struct, Generic[V]):
    """The list as it is sent; some lists of the platform have `next_page_token` instead of `cursors`."""

    items: list[V]
    cursors: Cursors | None = None
    next_page_token: str | None = None


class _Raws(Struct):
    items: list[Raw]


_raws = msgspec.json.Decoder(_Raws)


@lru_cache(1024)
def _decoder(mask: type) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_Body[mask])  # type: ignore[valid-type]


class VehiclePage:
    """Vehicles and the upstream's cursors; the vehicles are decoded on demand, with a field mask or in full."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_decoded_pages",
        "_edge_cursors",
        "_fragments",
        "_fruitless",
        "_ids",
        "_is_stored",
        "_items",
        "_model",
        "_places",
        "_received",
        "_room",
        "cursors",
        "next_page_token",
    )

    def __init__(
        self,
        items: Sequence[Vehicle] | None = None,
        cursors: Cursors | None = None,
        next_page_token: str | None = None,
        body: bytes = b"",
        decoded_pages: DecodedPages | None = None,
    ) -> None:
        self.cursors = cursors
        self.next_page_token = next_page_token
        self._body = body or (msgspec.json.encode(_Body(list(items or ()), cursors, next_page_token)))
        # What the vehicles were last decoded to: a mask, or `Vehicle`.
        self._model: type | None = None if items is None else Vehicle
        self._items: Sequence[Any] = items or ()
        self._ids: list[str] | None = None
        self._is_stored = False
        self._decoded_pages = decoded_pages
        # Their cursors by set and index, if another page has the same edges.
        self._edge_cursors: dict[Hashable, dict[int, str]] | None = None
        self._fruitless = 0
        self._places: list[tuple[int, int]] | None = None
        # The digest of the response, if the body is a repaired one.
        self._received: bytes | None = None
        # They live as long as the page.
        self._fragments: dict[Hashable, Fragment] = {}
        self._room = self.room_in_all

    @classmethod
    def of_body(
        cls, body: bytes, mask: type[Vehicle] | None = None, decoded_pages: DecodedPages | None = None
    ) -> VehiclePage:
        """The page of a response body; raises msgspec's errors where it is no list of vehicles with ids.

        With a `mask` only the members in it are decoded and checked. `decoded_pages` limits the stored pages that stay
        decoded.
        """
        received = body
        try:
            model, decoded_list = _decoded_strictly(body, mask or Vehicle)
        except UNREADABLE:
            body = _with_valid_items(body)
            model, decoded_list = _decoded_list(body, mask or Vehicle)
        if len(decoded_list.items) > ITEMS_MAX:
            raise msgspec.ValidationError("The page has too many items.")
        page = cls(None, decoded_list.cursors, decoded_list.next_page_token, body, decoded_pages)
        if body is not received:
            page._received = _digest_of(received)
        page.set_decoded(model, decoded_list.items)
        return page

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def items(self) -> Sequence[Vehicle]:
        """The full vehicles."""
        return self.items_as(None)

    @property
    def ids(self) -> list[str]:
        """The vehicles' ids."""
        if self._ids is None:
            self._ids = [vehicle.vehicle_id for vehicle in (self._items if self._model else self.items_as(IDS))]
        return self._ids

    def items_as(self, mask: type[Vehicle] | None) -> Sequence[Vehicle]:
        """The vehicles decoded with a mask, or in full where a vehicle does not match it."""
        model = mask or Vehicle
        if self._model is not model:
            # Full vehicles, of which one does not match the mask, count as masked; else each use would decode them.
            _, decoded_list = _decoded_list(self._body, model)
            self.set_decoded(model, decoded_list.items)
        return self._items

    def vehicle(self, index: int, mask: type[Vehicle] | None = None) -> Vehicle:
        """One of the vehicles, decoded with a mask, or in full."""
        if self._model is Vehicle:
            return self._items[index]  # type: ignore[no-any-return]
        start, end = self.places[index]
        raw = self._body[start:end]
        return decoded(raw, Vehicle) if mask is None else decode_masked(raw, mask)

    def cursors_of_set(self, key: Hashable) -> dict[int, str] | None:
        """The cursors of edges of a set, to be read and added to; None if no other page has them."""
        if self._edge_cursors is None:
            return None
        if len(self._edge_cursors) == SETS_MAX and key not in self._edge_cursors:
            self._edge_cursors.clear()
        return self._edge_cursors.setdefault(key, {})

    @property
    def body(self) -> bytes:
        """The response body as valid JSON: as it was received, or repaired."""
        return self._body

    @property
    def places(self) -> Sequence[tuple[int, int]]:
        """Where the JSON of each vehicle is in the body: its start and its end."""
        if self._places is None:
            self._places = _places_in(self._body)
        return self._places

    def followed_by(self, body: bytes, mask: type[Vehicle] | None) -> VehiclePage:
        """The page of a later response body; raises as `of_body`. Only vehicles whose JSON has changed are decoded.

        If too few were the same, the next pages are not compared.
        """
        is_possible = self._model is (mask or Vehicle) and not hasattr(self._model, "other_members")
        page = self._changed_to(body, mask) if is_possible and not self._fruitless % COMPARED_EVERY else None
        if page is None:
            page = VehiclePage.of_body(body, mask, self._decoded_pages)
            page._fruitless = self._fruitless + is_possible  # noqa: SLF001 - of the same class
        return page

    def _changed_to(self, body: bytes, mask: type[Vehicle] | None) -> VehiclePage | None:
        """None where other vehicles are in the list, or many have changed."""
        places, changed = self._compared(body) if self.ids else ([], [])
        if not places or len(places) < len(self.ids):
            return None
        parts = [body[start:end] for start, end in (places[n] for n in changed)]
        try:
            model, found = _decoded_strictly(
                body[: places[0][0]] + b",".join(parts) + body[places[-1][1] :], mask or Vehicle
            )
        except UNREADABLE:
            return None
        if [vehicle.vehicle_id for vehicle in found.items] != [self.ids[n] for n in changed]:
            return None
        vehicles = list(self._items)
        for vehicle in vehicles:
            if vehicle.rendered is None:
                vehicle.rendered = ()
        for n, vehicle in zip(changed, found.items, strict=True):
            vehicles[n] = vehicle
        page = VehiclePage(None, found.cursors, found.next_page_token, body, self._decoded_pages)
        page.set_decoded(model, vehicles)
        page._ids, page._places = self.ids, places
        page._edge_cursors = self._edge_cursors or {}
        return page

    def _compared(self, body: bytes) -> tuple[list[tuple[int, int]], list[int]]:
        """Where this page's vehicles are in another body, and the indexes of those that have changed there.

        Ends early if the body has something else, or if more than a third have changed. A changed vehicle's place ends
        where the next one seems to begin.
        """
        before, old = self._body, self.places
        places: list[tuple[int, int]] = []
        changed: list[int] = []
        start = old[0][0]
        if not body.startswith(before[:start]):
            return [], changed
        for n, (begin, end) in enumerate(old):
            following = old[n + 1][0] if n + 1 < len(old) else end
            vehicle, separator = before[begin:end], before[end:following]
            if body.startswith(vehicle, start):
                stop = start + len(vehicle)
                is_known = body.startswith(separator, stop)
            else:
                changed.append(n)
                # The first member of the next vehicle is its id; the list ends with a bracket and what follows it.
                next_begin = before[end : before.find(b",", following)] if separator else before[end : end + TAIL_BYTES]
                stop = body.find(next_begin, start) if separator else body.rfind(next_begin, start)
                is_known = stop >= 0 and len(changed) <= CHANGED_MIN + n // 3
            if not is_known:
                break
            places.append((start, stop))
            start = stop + len(separator)
        return places, changed

    def is_of(self, received: bytes) -> bool:
        """Whether it is the page of this response body."""
        return self._body == received if self._received is None else self._received == _digest_of(received)

    def parts(self) -> list[PageItemRef]:
        """References to the vehicles of this page, which is going to be stored."""
        self.mark_stored()
        page_ref = weakref.ref(self)
        return [PageItemRef(page_ref, index, vehicle_id) for index, vehicle_id in enumerate(self.ids)]

    def fragment(self, key: Hashable) -> Fragment | None:
        """The fragment of a key, if there is one."""
        return self._fragments.get(key)

    def add_fragment(self, key: Hashable, fragment: Fragment) -> None:
        """Stores a fragment unless it is too large for one of its pages; the oldest ones are dropped first."""
        self.drop_fragment(key)
        pages = fragment.pages(self)
        if any(fragment.share > page.room_in_all for page in pages):
            return
        for page in pages:
            page.make_room(fragment.share)
        self._fragments[key] = fragment

    def drop_fragment(self, key: Hashable) -> None:
        """Drops a fragment and releases its room."""
        fragment = self._fragments.pop(key, None)
        if fragment is not None:
            for page in fragment.pages(self):
                page.make_room(-fragment.share)

    def make_room(self, size: int) -> None:
        """Reserves bytes for a fragment, or releases them if `size` is negative; drops fragments where needed."""
        while self._room < size and self._fragments:
            self.drop_fragment(next(iter(self._fragments)))
        self._room -= size

    def memory(self, body: int) -> int:
        """The most memory that a page with a body of `body` bytes takes, in bytes."""
        return ROOM_BYTES + int(body * MEMORY_FACTOR)

    @property
    def bytes_taken(self) -> int:
        """The memory of the body and the fragments, without the decoded vehicles."""
        return len(self._body) + self.room_in_all - self._room

    @property
    def room_in_all(self) -> int:
        """The bytes that fragments may take."""
        return ROOM_BYTES + int(ROOM_FACTOR * len(self._body))

    def mark_stored(self) -> None:
        """Marks the page as stored: from now on its decoded vehicles may be dropped before the page is."""
        if not self._is_stored:
            self._is_stored = True
            if self._model is not None:
                self.set_decoded(self._model, self._items)

    def forget_decoded(self) -> None:
        """Drops the decoded vehicles, and what is remembered for pages that share them."""
        self._model, self._items, self._ids, self._edge_cursors = None, (), None, None

    def set_decoded(self, model: type, items: Sequence[Any]) -> None:
        """Sets the decoded vehicles."""
        self._model, self._items = model, items
        if self._is_stored and self._decoded_pages is not None:
            self._decoded_pages.add(self)


def _decoded_list(body: bytes, model: type[Vehicle]) -> tuple[type[Vehicle], _Body[Any]]:
    """The list in a body, with the type of its vehicles: the model, or `Vehicle` where a vehicle does not match it."""
    try:
        return _decoded_strictly(body, model)
    except UNREADABLE:
        found: _Body[Vehicle] = decoded(body, _Body[Vehicle])
        return Vehicle, _with_bodies(found, body)


def _decoded_strictly(body: bytes, model: type[Vehicle]) -> tuple[type[Vehicle], _Body[Any]]:
    found = _decoder(model).decode(body)
    return model, _with_bodies(found, body) if hasattr(model, "other_members") else found


def _with_bodies(found: _Body[Any], body: bytes) -> _Body[Any]:
    """The list, with the JSON of each vehicle, in which its other members are."""
    for vehicle, raw in zip(found.items, raws_of(body), strict=True):
        vehicle.body = raw
    return found


def _with_valid_items(body: bytes) -> bytes:
    """A body as valid JSON, with only those items that are vehicles with an id; unchanged if it is so already."""
    body, raw = as_json(body)
    items = raw.get("items") if isinstance(raw, dict) else None
    if not isinstance(items, list):
        return body
    valid = [item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)]
    if len(valid) in (0, len(items)):
        return body  # as a list of anything else, it is invalid
    count_repair("items without an id")
    return msgspec.json.encode({**raw, "items": valid})


def raws_of(body: bytes) -> list[Raw]:
    """The JSON of each vehicle in the body of a page; raises msgspec's errors."""
    try:
        return _raws.decode(body).items
    except RecursionError:  # which depends on the depth of the calls, too
        return _raws.decode(repaired(body)).items


def _places_in(body: bytes) -> list[tuple[int, int]]:
    places, end = [], 0
    for raw in raws_of(body):
        text = bytes(raw)
        start = body.index(text, end)
        end = start + len(text)
        places.append((start, end))
    return places


def _digest_of(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


IDS = vehicle_mask({})


class DecodedPages:
    """The stored pages that stay decoded, for scans that continue. Older ones are decoded again when needed."""

    def __init__(self, pages_max: int = DECODED_MAX) -> None:
        self._pages: deque[weakref.ref[VehiclePage]] = deque()
        self._pages_max = pages_max

    def add(self, page: VehiclePage) -> None:
        """Adds a page that was decoded; drops the decoded vehicles of the oldest one."""
        page_ref = weakref.ref(page)
        if self._pages and self._pages[-1] is page_ref:
            return
        self._pages.append(page_ref)
        oldest = self._pages.popleft()() if len(self._pages) > self._pages_max else None
        if oldest is not None and oldest is not page:
            oldest.forget_decoded()


class PageItemRef(Struct, gc=False):
    """A vehicle of a page, as a weak reference to the page."""

    page: weakref.ref[VehiclePage]
    index: int
    vehicle_id: str

    def memory(self, body: int) -> int:
        """0, because it shares the memory of its page."""
        return 0

    def decoded_value(self, mask: type | None = None) -> Vehicle | None:
        """The vehicle, decoded with a mask or in full; None if its page no longer exists."""
        page = self.page()
        return None if page is None else page.vehicle(self.index, mask)


class RawValue(Struct, gc=False):
    """A response body that is decoded when it is used: decoded it takes four times as much memory."""

    body: bytes
    decode: Callable[[bytes, str, type | None], Any]

    def memory(self, body: int) -> int:
        """The memory that it takes, in bytes."""
        return body

    def decoded_value(self, mask: type | None = None) -> Any:
        """The decoded value; with a mask only the members in it."""
        return self.decode(self.body, "", mask)
