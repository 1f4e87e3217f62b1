"""What a request reads, each thing once: one loader a noun, made for each request. Returns upstream models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial

from gateway.schema.batching import Batches
from gateway.upstream.client import FleetClient, Found, in_form
from gateway.upstream.fetching import Errand
from gateway.upstream.models import State, Vehicle
from gateway.upstream.pages import VehiclePage
from gateway.upstream.single_flight import look_at_error

# A page of vehicles: its token (None: the first) and the search that a first page carries.
PageKey = tuple[str | None, str | None]


class Loaders:
    """The reads of one request."""

    def __init__(self, client: FleetClient, errand: Errand) -> None:
        self._client = client
        self._errand = errand
        self._pages: dict[PageKey, asyncio.Future[VehiclePage]] = {}
        self._afresh: set[PageKey] = set()
        self._views: dict[type[Vehicle], Batches[Vehicle | None]] = {}
        self._viewed: Found = {}
        # None of them knows this object: in a circle, what was read would stay until the collector comes by.
        self.vehicles: Batches[Vehicle | None] = Batches(partial(_vehicles, client, errand, self._pages, self._viewed))
        self.latest_states: Batches[State | None] = Batches(partial(client.latest_states, errand))

    def vehicles_as(self, view: type[Vehicle] | None) -> Batches[Vehicle | None]:
        """Vehicles in a form, or whole; what was read in one need not be read again to be whole, but in another."""
        if view is None:
            return self.vehicles
        if view not in self._views:
            self._views[view] = Batches(partial(_in_view, self._client, self._errand, self._viewed, view))
        return self._views[view]

    async def page(
        self,
        token: str | None,
        search: str | None = None,
        view: type[Vehicle] | None = None,
        *,
        afresh: bool = False,
    ) -> VehiclePage:
        """A page of the fleet, needed in the form of a view; what the cache holds is there at once.

        What is read `afresh` stands for the rest of the request, too.
        """
        key = (token, search)
        reading = self._pages.get(key)
        if reading is not None and (not afresh or key in self._afresh):
            return await asyncio.shield(reading)
        if afresh:
            self._afresh.add(key)
        # Whoever wants it first reads it, without a task; others wait for them.
        reading = self._pages[key] = asyncio.get_running_loop().create_future()
        try:
            page = await self._client.vehicles(self._errand, cursor=token, search=search, view=view, afresh=afresh)
        except Exception as failure:
            reading.set_exception(failure)
            look_at_error(reading)
            raise
        except BaseException:
            reading.cancel()
            raise
        reading.set_result(page)
        return page


async def _in_view(
    client: FleetClient, errand: Errand, viewed: Found, view: type[Vehicle], ids: list[str]
) -> list[Vehicle | BaseException | None]:
    found = await client.vehicles_by_id(errand, ids, view)
    viewed.update(found)
    return list(map(found.__getitem__, ids))


async def _vehicles(
    client: FleetClient,
    errand: Errand,
    pages: Mapping[PageKey, asyncio.Future[VehiclePage]],
    viewed: Found,
    ids: list[str],
) -> list[Vehicle | BaseException | None]:
    if viewed:
        known = {vehicle_id: in_form(viewed[vehicle_id], None) for vehicle_id in ids if vehicle_id in viewed}
        others = await _vehicles(client, errand, pages, {}, [i for i in ids if i not in known])
        read = iter(others)
        return [known[vehicle_id] if vehicle_id in known else next(read) for vehicle_id in ids]
    if not pages:
        found = await client.vehicles_by_id(errand, ids)
        return [found[vehicle_id] for vehicle_id in ids]
    # What a page of this request has told already is not asked for again.
    told: dict[str, tuple[VehiclePage, int]] = {}
    wanted = set(ids)
    for page in _read(pages):
        on_page = page.ids
        told.update((vehicle_id, (page, on_page.index(vehicle_id))) for vehicle_id in wanted.intersection(on_page))
    found = await client.vehicles_by_id(errand, [i for i in ids if i not in told])
    return [VehiclePage.vehicle(*told[vehicle_id]) if vehicle_id in told else found[vehicle_id] for vehicle_id in ids]


def _read(pages: Mapping[PageKey, asyncio.Future[VehiclePage]]) -> Iterator[VehiclePage]:
    for page in pages.values():
        if page.done() and not page.cancelled() and page.exception() is None:
            yield page.result()
