"""One batch loader a noun, made for each request: equal reads in a request are one. Returns upstream models."""

from __future__ import annotations

import asyncio

from strawberry.dataloader import DataLoader

from gateway.upstream.client import FleetClient
from gateway.upstream.fetching import Errand
from gateway.upstream.models import State, Vehicle, VehiclePage

# A page of vehicles: its token (None: the first) and the search that a first page carries.
PageKey = tuple[str | None, str | None]


class Loaders:
    """The reads of one request."""

    def __init__(self, client: FleetClient, errand: Errand) -> None:
        self._client = client
        self._errand = errand
        self.vehicle: DataLoader[str, Vehicle | None] = DataLoader(self._vehicles)
        self.latest_state: DataLoader[str, State | None] = DataLoader(self._latest_states)
        self.page: DataLoader[PageKey, VehiclePage] = DataLoader(self._pages)

    async def _vehicles(self, ids: list[str]) -> list[Vehicle | BaseException | None]:
        found = await self._client.vehicles_by_id(self._errand, ids)
        return [found[vehicle_id] for vehicle_id in ids]

    async def _latest_states(self, ids: list[str]) -> list[State | BaseException | None]:
        return await self._client.latest_states(self._errand, ids)

    async def _pages(self, keys: list[PageKey]) -> list[VehiclePage | BaseException]:
        # Every page's result, or its error in its place: one failure spoils nothing beside it.
        return await asyncio.gather(*(self._page(*key) for key in keys), return_exceptions=True)

    async def _page(self, cursor: str | None, search: str | None) -> VehiclePage:
        page = await self._client.vehicles(self._errand, cursor=cursor, search=search)
        self.vehicle.prime_many({vehicle.vehicle_id: vehicle for vehicle in page.items})
        return page
