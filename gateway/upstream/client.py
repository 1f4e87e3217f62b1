"""`FleetClient`: one method an endpoint. Which path, which parameters, which model; nothing about how."""

from __future__ import annotations

from urllib.parse import quote

from gateway.errors import InputInvalid, Problem, UpstreamRejected
from gateway.identity import Caller
from gateway.settings import UpstreamSettings
from gateway.upstream.fetching import Fetcher, Read
from gateway.upstream.models import Cursors, State, Vehicle, VehiclePage

# Marks a next_page_token among cursors; no upstream cursor holds a line break.
PAGE_TOKEN = "page_token\n"
ID_LENGTH_MAX = 256


class FleetClient:
    """The fleet API as methods; raises the errors of `gateway.errors`."""

    def __init__(self, fetcher: Fetcher, settings: UpstreamSettings) -> None:
        self._fetcher = fetcher
        self._settings = settings

    async def vehicles(self, caller: Caller, *, cursor: str | None = None, search: str | None = None) -> VehiclePage:
        """A page of the fleet: the first one, filtered by `search`, or the one that `cursor` names (it carries both)."""
        names = self._settings
        parameters: tuple[tuple[str, str], ...]
        if cursor is None:
            parameters = ((names.limit_parameter, str(names.page_size)),)
            if search is not None:
                parameters = (*parameters, (names.search_parameter, search))
        elif cursor.startswith(PAGE_TOKEN):
            parameters = ((names.page_token_parameter, cursor.removeprefix(PAGE_TOKEN)),)
        else:
            parameters = ((names.cursor_parameter, cursor),)
        reply = await self._fetcher.fetch(Read(caller, names.vehicles_path, VehiclePage, parameters))
        page = reply.value
        if page is None:
            raise UpstreamRejected(Problem(404, flow_id=reply.flow_id))
        if page.cursors is None:
            token = page.next_page_token
            page.cursors = Cursors(next=PAGE_TOKEN + token if token else None)
        return page

    async def vehicle(self, caller: Caller, vehicle_id: str) -> Vehicle | None:
        """One vehicle, or None where there is none (or none that the caller may know of)."""
        if not _possible(vehicle_id):
            return None
        path = self._settings.vehicle_path.replace("{id}", quote(vehicle_id, safe=""))
        return (await self._fetcher.fetch(Read(caller, path, Vehicle))).value

    async def latest_state(self, caller: Caller, vehicle_id: str) -> State | None:
        """A vehicle's latest state as property by name."""
        if not _possible(vehicle_id):
            return None
        path = self._settings.latest_state_path.replace("{id}", quote(vehicle_id, safe=""))
        return (await self._fetcher.fetch(Read(caller, path, State))).value


def _possible(vehicle_id: str) -> bool:
    """Whether this can be an id at all; `.` and `..` would name another path."""
    if len(vehicle_id) > ID_LENGTH_MAX:
        raise InputInvalid(f"An id has at most {ID_LENGTH_MAX} characters.", "id")
    return vehicle_id not in ("", ".", "..") and vehicle_id.isprintable()
