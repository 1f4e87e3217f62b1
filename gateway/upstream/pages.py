"""A page of the list: the answer as it came, and what was made of it so far."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from gateway.upstream.models import Cursors, Vehicle, decoded

V = TypeVar("V")
# Forms of its vehicles that a page keeps at the same time.
VIEWS_MAX = 4


class Kept(NamedTuple):
    """A part of an answer as JSON; `others` are the other pages it was made of, by token, as weak references."""

    rendered: bytes
    others: tuple[tuple[str | None, Callable[[], object]], ...]


class _Body(Struct, Generic[V]):
    """The list as it is sent; some lists of the platform answer `next_page_token` in place of `cursors`."""

    items: list[V]
    cursors: Cursors | None = None
    next_page_token: str | None = None


@lru_cache(1024)
def _decoder(view: type) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_Body[view])  # type: ignore[valid-type]


class VehiclePage:
    """Vehicles and the upstream's cursors; decoded in whatever form they are asked for, whole or as a view."""

    __slots__ = ("__weakref__", "_body", "_forms", "_kept", "_room", "cursors", "next_page_token")

    def __init__(
        self,
        items: Sequence[Vehicle] | None = None,
        cursors: Cursors | None = None,
        next_page_token: str | None = None,
        body: bytes = b"",
    ) -> None:
        self.cursors = cursors
        self.next_page_token = next_page_token
        self._body = body
        self._forms: dict[type, Sequence[Any]] = {} if items is None else {Vehicle: items}
        # Parts of answers that were made of this page, beside the page itself and for as long.
        self._kept: dict[Hashable, Kept] = {}
        self._room = len(body)

    @classmethod
    def of_body(cls, body: bytes, view: type[Vehicle] | None = None) -> VehiclePage:
        """The page of an answer's body; raises msgspec's errors where it is no list of vehicles with ids.

        With a `view` the vehicles are decoded in that form at first, and so far as that goes they are checked.
        """
        form = view or Vehicle
        try:
            read = _decoder(form).decode(body)
        except msgspec.ValidationError:
            form, read = Vehicle, decoded(body, _Body[Vehicle])
        page = cls(None, read.cursors, read.next_page_token, body)
        page._forms[form] = read.items
        return page

    @property
    def items(self) -> Sequence[Vehicle]:
        """The vehicles, whole."""
        return self.items_as(None)

    def items_as(self, view: type[Vehicle] | None) -> Sequence[Vehicle]:
        """The vehicles in a form, or whole where they do not fit it."""
        form = view or Vehicle
        known = self._forms.get(form)
        if known is None:
            known = self._decoded(form)
            while len(self._forms) >= VIEWS_MAX:
                self._forms.pop(next(iter(self._forms)))
            self._forms[form] = known
        return known

    @property
    def body(self) -> bytes:
        """The answer as it came."""
        return self._body or msgspec.json.encode(_Body(list(self.items), self.cursors, self.next_page_token))

    def parts(self) -> list[Part]:
        """The vehicles, each as a part of this page."""
        here = weakref.ref(self)
        ids = (vehicle.vehicle_id for vehicle in next(iter(self._forms.values())))
        return [Part(here, place, vehicle_id) for place, vehicle_id in enumerate(ids)]

    def kept(self, key: Hashable) -> Kept | None:
        """A part of an answer that was kept, and the other pages it was made of."""
        return self._kept.get(key)

    def keep(self, key: Hashable, part: Kept) -> None:
        """Keeps a part of an answer, as much as the page itself takes in all; the oldest go first."""
        self.forget(key)
        self._room -= len(part.rendered)
        self._kept[key] = part
        while self._room < 0:
            self.forget(next(iter(self._kept)))

    def forget(self, key: Hashable) -> None:
        """Makes room."""
        part = self._kept.pop(key, None)
        if part is not None:
            self._room += len(part.rendered)

    def _decoded(self, form: type[Vehicle]) -> Sequence[Any]:
        if form is Vehicle:
            return decoded(self.body, _Body[Vehicle]).items  # type: ignore[no-any-return]
        try:
            return _decoder(form).decode(self.body).items  # type: ignore[no-any-return]
        except msgspec.ValidationError:
            return self.items


class Part(NamedTuple):
    """A vehicle of a page, for as long as that lasts."""

    page: weakref.ref[VehiclePage]
    place: int
    vehicle_id: str

    def vehicle(self) -> Vehicle | None:
        """The vehicle, if its page is still there."""
        page = self.page()
        return None if page is None else page.items[self.place]
