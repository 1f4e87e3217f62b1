"""One batch loader a noun, made for each request: equal reads in a request are one. Returns upstream models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from strawberry.dataloader import DataLoader

from gateway.identity import Caller
from gateway.upstream.client import FleetClient
from gateway.upstream.models import State, Vehicle, VehiclePage

T = TypeVar("T")
# A page of vehicles: its token (None: the first) and the search that a first page carries.
PageKey = tuple[str | None, str | None]


class Loaders:
    """The reads of one request, on behalf of one caller."""

    def __init__(self, client: FleetClient, caller: Caller) -> None:
        self._client = client
        self._caller = caller
        self.vehicle: DataLoader[str, Vehicle | None] = DataLoader(self._vehicles)
        self.latest_state: DataLoader[str, State | None] = DataLoader(self._latest_states)
        self.page: DataLoader[PageKey, VehiclePage] = DataLoader(self._pages)

    async def _vehicles(self, ids: list[str]) -> list[Vehicle | None | BaseException]:
        return await _each(self._client.vehicle(self._caller, vehicle_id) for vehicle_id in ids)

    async def _latest_states(self, ids: list[str]) -> list[State | None | BaseException]:
        return await _each(self._client.latest_state(self._caller, vehicle_id) for vehicle_id in ids)

    async def _pages(self, keys: list[PageKey]) -> list[VehiclePage | BaseException]:
        return await _each(self._page(*key) for key in keys)

    async def _page(self, cursor: str | None, search: str | None) -> VehiclePage:
        page = await self._client.vehicles(self._caller, cursor=cursor, search=search)
        for vehicle in page.items:
            self.vehicle.prime(vehicle.vehicle_id, vehicle)
        return page


async def _each(reads: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    """Every read's result, or its error in its place: one failure spoils nothing beside it."""
    return await asyncio.gather(*reads, return_exceptions=True)
