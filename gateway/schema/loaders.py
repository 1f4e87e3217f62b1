"""The loaders of one request, which read each object and page once. They return upstream models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from gateway.schema.dataloader import DataLoader
from gateway.upstream.client import FleetClient, Found, as_masked
from gateway.upstream.coalescing import retrieve_exception
from gateway.upstream.models import SharingFleet, State, Vehicle, VehicleModel
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope

# A page of vehicles: its token (None for the first page) and the search of a first page.
PageKey = tuple[str | None, str | None]


class Loaders:
    """Loads the vehicles, states and pages of one request."""

    def __init__(self, client: FleetClient, scope: RequestScope) -> None:
        self._client = client
        self._scope = scope
        self.forget()

    def forget(self) -> None:
        """Forgets all that was read, because a write may have changed it."""
        client, scope = self._client, self._scope
        self._pages: dict[PageKey, asyncio.Future[VehiclePage]] = {}
        self._uncached: set[PageKey] = set()
        self._masked: dict[type[Vehicle], DataLoader[Vehicle | None]] = {}
        self._masked_vehicles: Found = {}
        # They do not refer to this object: a reference cycle would keep the data until the garbage collector runs.
        self.vehicles: DataLoader[Vehicle | None] = DataLoader(
            partial(_vehicles, client, scope, self._pages, self._masked_vehicles)
        )
        self.latest_states: DataLoader[State | None] = DataLoader(partial(client.latest_states, scope))
        self.versioned: DataLoader[Vehicle | None] = DataLoader(partial(_versioned, client, scope))

    async def current_vehicle(self, vehicle_id: str) -> Vehicle | None:
        """A vehicle as it is now."""
        return await self._client.current_vehicle(self._scope, vehicle_id)

    async def vehicle_models(self, brand: str) -> list[VehicleModel] | None:
        """The vehicle models that a telematics brand supports."""
        return await self._client.vehicle_models(self._scope, brand)

    async def sharing_partners(self) -> list[SharingFleet]:
        """The fleets with which vehicles can be shared."""
        return await self._client.sharing_partners(self._scope)

    def vehicles_as(self, mask: type[Vehicle] | None) -> DataLoader[Vehicle | None]:
        """The loader of vehicles with a field mask. Masked vehicles are decoded again as whole ones, without a call."""
        if mask is None:
            return self.vehicles
        if mask not in self._masked:
            self._masked[mask] = DataLoader(partial(_load, self._client, self._scope, self._masked_vehicles, mask))
        return self._masked[mask]

    async def page(
        self,
        token: str | None,
        search: str | None = None,
        mask: type[Vehicle] | None = None,
        *,
        bypass_cache: bool = False,
    ) -> VehiclePage:
        """A page of the fleet, decoded with a field mask; `bypass_cache` ignores cached pages, once in a request."""
        key = (token, search)
        pending = self._pages.get(key)
        if pending is not None and (not bypass_cache or key in self._uncached):
            return await asyncio.shield(pending)
        if bypass_cache:
            self._uncached.add(key)
        # The first caller reads it, without a task; the others wait.
        pending = self._pages[key] = asyncio.get_running_loop().create_future()
        try:
            page = await self._client.vehicles(
                self._scope, cursor=token, search=search, mask=mask, bypass_cache=bypass_cache
            )
        except Exception as failure:
            pending.set_exception(failure)
            retrieve_exception(pending)
            raise
        except BaseException:
            pending.cancel()
            raise
        pending.set_result(page)
        return page


async def _versioned(
    client: FleetClient, scope: RequestScope, ids: list[str]
) -> Sequence[Vehicle | BaseException | None]:
    return await client.versioned(scope, ids)


async def _load(
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
        known = {vehicle_id: as_masked(masked[vehicle_id], None) for vehicle_id in ids if vehicle_id in masked}
        others = await _vehicles(client, scope, pages, {}, [i for i in ids if i not in known])
        read = iter(others)
        return [known[vehicle_id] if vehicle_id in known else next(read) for vehicle_id in ids]
    if not pages:
        found = await client.vehicles_by_id(scope, ids)
        return [found[vehicle_id] for vehicle_id in ids]
    # Vehicles on a page of this request are not read again.
    loaded: dict[str, tuple[VehiclePage, int]] = {}
    wanted = set(ids)
    for page in _completed(pages):
        on_page = page.ids
        loaded.update((vehicle_id, (page, on_page.index(vehicle_id))) for vehicle_id in wanted.intersection(on_page))
    found = await client.vehicles_by_id(scope, [i for i in ids if i not in loaded])
    return [
        VehiclePage.vehicle(*loaded[vehicle_id]) if vehicle_id in loaded else found[vehicle_id] for vehicle_id in ids
    ]


def _completed(pages: Mapping[PageKey, asyncio.Future[VehiclePage]]) -> Iterator[VehiclePage]:
    for page in pages.values():
        if page.done() and not page.cancelled() and page.exception() is None:
            yield page.result()
