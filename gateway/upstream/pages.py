"""A page of the list: the answer as it came, and what was made of it so far."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from gateway.upstream.field_masks import decode_masked, vehicle_mask
from gateway.upstream.models import Cursors, Vehicle, decoded

V = TypeVar("V")
# Stored pages that stay decoded.
DECODED_MAX = 8
# What parts of answers may take beside a page, in units of the page: with every field an answer is 2.04 times as long.
# And in bytes, so that a small page has room for some.
ROOM_FACTOR, ROOM_BYTES = 2.2, 2_000
# What an answer takes in memory for each byte of JSON, at most: once as it came, and for a page what is kept beside it.
MEMORY_FACTOR = 1 + ROOM_FACTOR
# What a part takes beside its bytes and those of its key, and for each further page.
PART_BYTES, PAGE_BYTES = 500, 200
# Vehicles of a page: ten times as many as can be asked for.
ITEMS_MAX = 10_000


class Fragment(NamedTuple):
    """A part of an answer as JSON; `others` are the other pages it was made of, by token, as weak references.

    `key_bytes` is what its key takes: cursors are in it, which callers may make long.
    """

    rendered: bytes
    others: tuple[tuple[str | None, Callable[[], VehiclePage | None]], ...]
    key_bytes: int = 0

    def pages(self, first: VehiclePage) -> list[VehiclePage]:
        """The pages it was made of, as far as they are there."""
        return [first, *(page for _, there in self.others if (page := there()) is not None)]

    @property
    def share(self) -> int:
        """What it takes of the room of each of its pages, in bytes."""
        own = PART_BYTES + self.key_bytes + PAGE_BYTES * len(self.others)
        return (len(self.rendered) + own) // (1 + len(self.others)) + 1


class _Body(Struct, Generic[V]):
    """The list as it is sent; some lists of the platform answer `next_page_token` in place of `cursors`."""

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
    """Vehicles and the upstream's cursors; decoded in whatever form they are asked for, whole or as a view."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_form",
        "_ids",
        "_items",
        "_kept",
        "_raws",
        "_recent",
        "_room",
        "_stays",
        "cursors",
        "next_page_token",
    )

    def __init__(
        self,
        items: Sequence[Vehicle] | None = None,
        cursors: Cursors | None = None,
        next_page_token: str | None = None,
        body: bytes = b"",
        recent: DecodedPages | None = None,
    ) -> None:
        self.cursors = cursors
        self.next_page_token = next_page_token
        self._body = body or (msgspec.json.encode(_Body(list(items or ()), cursors, next_page_token)))
        # What it was decoded to last.
        self._form: type | None = None if items is None else Vehicle
        self._items: Sequence[Any] = items or ()
        self._ids: list[str] | None = None
        self._stays = False
        self._recent = recent
        self._raws: list[Raw] | None = None
        # Parts of answers that were made of this page, beside the page itself and for as long.
        self._kept: dict[Hashable, Fragment] = {}
        self._room = self.room_in_all

    @classmethod
    def of_body(cls, body: bytes, mask: type[Vehicle] | None = None, recent: DecodedPages | None = None) -> VehiclePage:
        """The page of an answer's body; raises msgspec's errors where it is no list of vehicles with ids.

        With a `mask` the vehicles are decoded in that form at first, and so far as that goes they are checked. `recent`
        are the stored pages that stay decoded.
        """
        form = mask or Vehicle
        try:
            read = _decoder(form).decode(body)
        except msgspec.ValidationError:
            form, read = Vehicle, decoded(body, _Body[Vehicle])
        if len(read.items) > ITEMS_MAX:
            raise msgspec.ValidationError("The page has no end.")
        page = cls(None, read.cursors, read.next_page_token, body, recent)
        page.holds(form, read.items)
        return page

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def items(self) -> Sequence[Vehicle]:
        """The vehicles, whole."""
        return self.items_as(None)

    @property
    def ids(self) -> list[str]:
        """The vehicles' ids."""
        if self._ids is None:
            self._ids = [vehicle.vehicle_id for vehicle in (self._items if self._form else self.items_as(IDS))]
        return self._ids

    def items_as(self, mask: type[Vehicle] | None) -> Sequence[Vehicle]:
        """The vehicles in a form, or whole where they do not fit it."""
        form = mask or Vehicle
        if self._form is not form:
            self.holds(form, self._decoded(form))
        return self._items

    def vehicle(self, place: int, mask: type[Vehicle] | None = None) -> Vehicle:
        """One of the vehicles, in the form of the view, or whole."""
        if self._form is Vehicle:
            return self._items[place]  # type: ignore[no-any-return]
        if self._raws is None:
            self._raws = _raws.decode(self._body).items
        raw = bytes(self._raws[place])
        return decoded(raw, Vehicle) if mask is None else decode_masked(raw, mask)

    @property
    def body(self) -> bytes:
        """The answer as it came."""
        return self._body

    def parts(self) -> list[PageItemRef]:
        """The vehicles, each as a part of this page, which is to be stored."""
        self.stays()
        here = weakref.ref(self)
        return [PageItemRef(here, place, vehicle_id) for place, vehicle_id in enumerate(self.ids)]

    def kept(self, key: Hashable) -> Fragment | None:
        """A part of an answer that was kept, and the other pages it was made of."""
        return self._kept.get(key)

    def keep(self, key: Hashable, part: Fragment) -> None:
        """Keeps a part of an answer, if its pages have so much room at all; the oldest go first."""
        self.forget(key)
        pages = part.pages(self)
        if any(part.share > page.room_in_all for page in pages):
            return
        for page in pages:
            page.make_room(part.share)
        self._kept[key] = part

    def forget(self, key: Hashable) -> None:
        """Gives up a part, and its room."""
        part = self._kept.pop(key, None)
        if part is not None:
            for page in part.pages(self):
                page.make_room(-part.share)

    def make_room(self, size: int) -> None:
        """Takes so many bytes of its room, or gives them back; parts have to go where it is not enough."""
        while self._room < size and self._kept:
            self.forget(next(iter(self._kept)))
        self._room -= size

    def memory(self, body: int) -> int:
        """What it takes in memory at most, in bytes, where the response was `body` bytes long."""
        return ROOM_BYTES + int(body * MEMORY_FACTOR)

    @property
    def bytes_taken(self) -> int:
        """What it takes with all that is kept beside it, but for what it is decoded to."""
        return len(self._body) + self.room_in_all - self._room

    @property
    def room_in_all(self) -> int:
        """The bytes that parts of answers may take beside it."""
        return ROOM_BYTES + int(ROOM_FACTOR * len(self._body))

    def stays(self) -> None:
        """It is to be kept longer than for one request, so what it was decoded to may have to go before it."""
        if not self._stays:
            self._stays = True
            if self._form is not None:
                self.holds(self._form, self._items)

    def let_go(self) -> None:
        """Forgets what it was decoded to."""
        self._form, self._items, self._ids = None, (), None

    def holds(self, form: type, items: Sequence[Any]) -> None:
        """It has been decoded to these."""
        self._form, self._items = form, items
        if self._stays and self._recent is not None:
            self._recent.add(self)

    def _decoded(self, form: type[Vehicle]) -> Sequence[Any]:
        if form is Vehicle:
            return decoded(self.body, _Body[Vehicle]).items  # type: ignore[no-any-return]
        try:
            return _decoder(form).decode(self.body).items  # type: ignore[no-any-return]
        except msgspec.ValidationError:
            return decoded(self.body, _Body[Vehicle]).items  # type: ignore[no-any-return]


IDS = vehicle_mask({})


class DecodedPages:
    """The stored pages that stay decoded: those of scans that go on. Older ones are decoded again when needed."""

    def __init__(self, pages_max: int = DECODED_MAX) -> None:
        self._pages: deque[weakref.ref[VehiclePage]] = deque()
        self._pages_max = pages_max

    def add(self, page: VehiclePage) -> None:
        """A page was decoded; the one that was decoded longest ago is no longer kept so."""
        here = weakref.ref(page)
        if self._pages and self._pages[-1] is here:
            return
        self._pages.append(here)
        oldest = self._pages.popleft()() if len(self._pages) > self._pages_max else None
        if oldest is not None and oldest is not page:
            oldest.let_go()


class PageItemRef(Struct, gc=False):
    """A vehicle of a page, for as long as that lasts."""

    page: weakref.ref[VehiclePage]
    place: int
    vehicle_id: str

    def memory(self, body: int) -> int:
        """Nothing: it shares the memory of its page."""
        return 0

    def decoded_value(self, mask: type | None = None) -> Vehicle | None:
        """The vehicle, in the form of the view, or whole, if its page is still there."""
        page = self.page()
        return None if page is None else page.vehicle(self.place, mask)


class RawValue(Struct, gc=False):
    """An answer as it came, to be decoded when it is looked at: decoded it takes four times as much memory."""

    body: bytes
    decode: Callable[[bytes, str, type | None], Any]

    def memory(self, body: int) -> int:
        """What it takes in memory, in bytes."""
        return body

    def decoded_value(self, mask: type | None = None) -> Any:
        """What it says; of a vehicle what the view has."""
        return self.decode(self.body, "", mask)
