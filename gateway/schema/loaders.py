"""What a request reads, each thing once: one loader a noun, made for each request. Returns upstream models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial

from gateway.schema.dataloader import DataLoader
from gateway.upstream.client import FleetClient, Found, in_form
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.models import State, Vehicle
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope

# A page of vehicles: its token (None: the first) and the search that a first page carries.
PageKey = tuple[str | None, str | None]


class Loaders:
    """The reads of one request."""

    def __init__(self, client: FleetClient, scope: RequestScope) -> None:
        self._client = client
        self._errand = scope
        self._pages: dict[PageKey, asyncio.Future[VehiclePage]] = {}
        self._afresh: set[PageKey] = set()
        self._masked: dict[type[Vehicle], DataLoader[Vehicle | None]] = {}
        self._masked_vehicles: Found = {}
        # None of them knows this object: in a circle, what was read would stay until the collector comes by.
        self.vehicles: DataLoader[Vehicle | None] = DataLoader(
            partial(_vehicles, client, scope, self._pages, self._masked_vehicles)
        )
        self.latest_states: DataLoader[State | None] = DataLoader(partial(client.latest_states, scope))

    def vehicles_as(self, mask: type[Vehicle] | None) -> DataLoader[Vehicle | None]:
        """Vehicles in a form, or whole; what was read in one need not be read again to be whole, but in another."""
        if mask is None:
            return self.vehicles
        if mask not in self._masked:
            self._masked[mask] = DataLoader(partial(_in_view, self._client, self._errand, self._masked_vehicles, mask))
        return self._masked[mask]

    async def page(
        self,
        token: str | None,
        search: str | None = None,
        mask: type[Vehicle] | None = None,
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
            page = await self._client.vehicles(self._errand, cursor=token, search=search, mask=mask, afresh=afresh)
        except Exception as failure:
            reading.set_exception(failure)
            retrieve_exception(reading)
            raise
        except BaseException:
            reading.cancel()
            raise
        reading.set_result(page)
        return page


async def _in_view(
    client: FleetClient, scope: RequestScope, masked: Found, mask: type[Vehicle], ids: list[str]
) -> list[Vehicle | BaseException | None]:
    found = await client.vehicles_by_id(scope, ids, mask)
    masked.update(found)
    return list(map(found.__getitem__, ids))


async def _vehicles(
    client: FleetClient,
    scope: RequestScope,
    pages: Mapping[PageKey, asyncio.Future[VehiclePage]],
    masked: Found,
    ids: list[str],
) -> list[Vehicle | BaseException | None]:
    if masked:
        known = {vehicle_id: in_form(masked[vehicle_id], None) for vehicle_id in ids if vehicle_id in masked}
        others = await _vehicles(client, scope, pages, {}, [i for i in ids if i not in known])
        read = iter(others)
        return [known[vehicle_id] if vehicle_id in known else next(read) for vehicle_id in ids]
    if not pages:
        found = await client.vehicles_by_id(scope, ids)
        return [found[vehicle_id] for vehicle_id in ids]
    # What a page of this request has told already is not asked for again.
    told: dict[str, tuple[VehiclePage, int]] = {}
    wanted = set(ids)
    for page in _read(pages):
        on_page = page.ids
        told.update((vehicle_id, (page, on_page.index(vehicle_id))) for vehicle_id in wanted.intersection(on_page))
    found = await client.vehicles_by_id(scope, [i for i in ids if i not in told])
    return [VehiclePage.vehicle(*told[vehicle_id]) if vehicle_id in told else found[vehicle_id] for vehicle_id in ids]


def _read(pages: Mapping[PageKey, asyncio.Future[VehiclePage]]) -> Iterator[VehiclePage]:
    for page in pages.values():
        if page.done() and not page.cancelled() and page.exception() is None:
            yield page.result()
