"""The endpoints of the fleet API: their paths, parameters, codecs and cache lifetimes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from gateway.settings import CacheSettings, UpstreamSettings
from gateway.upstream.field_masks import decode_masked
from gateway.upstream.models import SharingPartners, State, Vehicle, VehicleModels, decoded
from gateway.upstream.page_dedup import PageDeduplicator
from gateway.upstream.pages import DecodedPages, VehiclePage

T = TypeVar("T")
Parameters = tuple[tuple[str, str], ...]

# Marks a next_page_token among cursors; no upstream cursor holds a line break.
PAGE_TOKEN = "page_token\n"  # noqa: S105 - a mark, no secret
ID_LENGTH_MAX = 256
# Ids are opaque; the known ones consist of letters and digits. Characters that could escape the path after decoding are
# excluded, and so are dots, because some servers treat a suffix as a format.
POSSIBLE_ID = re.compile(rf"[A-Za-z0-9_~:@=-]{{1,{ID_LENGTH_MAX}}}")


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds for which an entry is fresh, then usable while it is revalidated, and while the upstream fails."""

    fresh: float
    while_revalidating: float = 0.0
    if_error: float = 0.0

    @property
    def store_seconds(self) -> float:
        """How long an entry is stored; one that is never fresh is not stored."""
        return self.fresh + max(self.while_revalidating, self.if_error) if self.fresh else 0.0


NOT_STORED = Lifetime(0)
# The statuses of writes that were carried out. 202 is not among them: the write may still fail.
WRITTEN = frozenset((200, 201, 204))


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint(Generic[T]):
    """One endpoint with its `name` in metrics; its `path` contains `{id}` if it is about one vehicle.

    `decode` takes a body, the request's key and a field mask. Stores decode an entry to `model`, or store the body
    itself if it `stays_encoded`. `id_of` returns a value's id. `missing` is the lifetime of a 404; without it, a 404 is
    an error. Only requests to an `idempotent` endpoint are retried, shared and cached; any other makes stale what is
    cached of the endpoints that it `invalidates`, of the same id and of pages. `timeout` is the time limit of a
    response in seconds, unless it is 0. `set_version` gives a value the ETag of its response.
    """

    name: str
    path: str
    model: type[T]
    decode: Callable[[bytes, str, type | None], T]
    method: str = "GET"
    success: frozenset[int] = frozenset((200,))
    lifetime: Lifetime = NOT_STORED
    missing: Lifetime | None = None
    stays_encoded: bool = False
    id_of: Callable[[T], str] | None = None
    idempotent: bool = True
    invalidates: tuple[Endpoint[Any], ...] = ()
    timeout: float = 0.0
    set_version: Callable[[Any, str | None], None] | None = None

    def paths(self, ids: Sequence[str]) -> list[str]:
        """The path for each id."""
        if not are_plain(ids):
            ids = [quote(vehicle_id, safe="") for vehicle_id in ids]
        parts = self.path.split("{id}")
        if len(parts) == 2:  # noqa: PLR2004 - one id
            start, end = parts
            return [f"{start}{vehicle_id}{end}" for vehicle_id in ids]
        return [vehicle_id.join(parts) for vehicle_id in ids]

    def lifetime_of(self, value: T | None) -> Lifetime:
        """The lifetime of a value, or of a 404."""
        return self.lifetime if value is not None else self.missing or NOT_STORED


class FleetEndpoints:
    """The endpoints with the names and lifetimes of the settings; without a cache nothing is stored."""

    def __init__(self, upstream: UpstreamSettings, cache: CacheSettings) -> None:
        self._settings = upstream
        missing = _lifetime(cache, "negative")
        pages_live = _lifetime(cache, "vehicles")
        dedup_bytes_max = upstream.page_dedup_bytes_max
        # Pages in the cache need not be held for comparison, too.
        decoded_pages = DecodedPages()
        deduplicator = (
            PageDeduplicator(0 if pages_live.store_seconds else dedup_bytes_max, decoded_pages)
            if dedup_bytes_max
            else None
        )
        decode = partial(_page, deduplicator=deduplicator, decoded_pages=decoded_pages)
        self.vehicles = Endpoint("vehicles", upstream.vehicles_path, VehiclePage, decode, lifetime=pages_live)
        self.vehicle = Endpoint(
            "vehicle",
            upstream.vehicle_path,
            Vehicle,
            _vehicle,
            lifetime=_lifetime(cache, "vehicle"),
            missing=missing,
            stays_encoded=True,
            id_of=attrgetter("vehicle_id"),
            set_version=_set_version,
        )
        self.latest_state: Endpoint[State] = Endpoint(
            "latest_state",
            upstream.latest_state_path,
            State,
            _state,
            lifetime=_lifetime(cache, "latest_state"),
            missing=missing,
        )
        self.vehicle_models: Endpoint[VehicleModels] = Endpoint(
            "vehicle_models",
            upstream.vehicle_models_path.replace("{brand}", "{id}"),
            VehicleModels,
            partial(_decoded, VehicleModels),
            missing=NOT_STORED,
        )
        self.sharing_partners: Endpoint[SharingPartners] = Endpoint(
            "sharing_partners", upstream.sharing_partners_path, SharingPartners, partial(_decoded, SharingPartners)
        )
        write = partial(
            Endpoint,
            success=WRITTEN,
            idempotent=False,
            invalidates=(self.vehicle, self.latest_state, self.vehicles),
        )
        answer = partial(
            write, model=Vehicle, decode=_vehicle_if_any, id_of=attrgetter("vehicle_id"), set_version=_set_version
        )
        self.add_vehicle: Endpoint[Vehicle | None] = answer("add_vehicle", upstream.add_vehicle_path, method="POST")
        self.update_vehicle: Endpoint[Vehicle | None] = answer(
            "update_vehicle", upstream.update_vehicle_path, method="PATCH"
        )
        self.archive_vehicle: Endpoint[None] = write(
            "archive_vehicle", upstream.archive_vehicle_path, type(None), _nothing, method="DELETE"
        )
        self.share_vehicle: Endpoint[None] = write(
            "share_vehicle", upstream.share_vehicle_path, type(None), _nothing, method="POST"
        )
        self._command: Endpoint[State] = write(
            "command", upstream.command_path, State, _state_if_any, method="POST", timeout=upstream.command_timeout
        )

    def command(self, command: str) -> Endpoint[State]:
        """The endpoint of a command: `unlock-central-lock` for `UNLOCK_CENTRAL_LOCK`."""
        path = self._command.path.replace("{command}", quote(command.lower().replace("_", "-"), safe=""))
        return replace(self._command, path=path)

    def page_parameters(self, cursor: str | None, search: str | None) -> Parameters:
        """The parameters of a page of vehicles; a cursor contains the limit and the search of the first page."""
        names = self._settings
        if cursor is None:
            size = (names.limit_parameter, str(names.page_size))
            return (size,) if search is None else (size, (names.search_parameter, search))
        if cursor.startswith(PAGE_TOKEN):
            return ((names.page_token_parameter, cursor.removeprefix(PAGE_TOKEN)),)
        return ((names.cursor_parameter, cursor),)


def are_plain(ids: Sequence[str]) -> bool:
    """Whether all ids consist of letters, digits and dashes, as all known ones do, and none is too long."""
    letters = "".join(ids).replace("-", "")
    return letters.isascii() and letters.isalnum() and "" not in ids and max(map(len, ids)) <= ID_LENGTH_MAX


def is_possible(vehicle_id: str) -> bool:
    """Whether this can be an id, so that it is safe in a path."""
    return POSSIBLE_ID.fullmatch(vehicle_id) is not None


def _lifetime(cache: CacheSettings, name: str) -> Lifetime:
    if not cache.enabled:
        return NOT_STORED
    fields = (f"{name}_ttl", f"{name}_stale_while_revalidate", f"{name}_stale_if_error")
    return Lifetime(*(getattr(cache, field, 0.0) for field in fields))


def _page(
    body: bytes, key: str, mask: type | None, *, deduplicator: PageDeduplicator | None, decoded_pages: DecodedPages
) -> VehiclePage:
    if deduplicator is None:
        return VehiclePage.of_body(body, mask, decoded_pages)
    return deduplicator.page_of(key, body, mask)


def _vehicle(body: bytes, _key: str, mask: type | None) -> Vehicle:
    return decoded(body, Vehicle) if mask is None else decode_masked(body, mask)


def _state(body: bytes, _key: str, _mask: type | None) -> State:
    return decoded(body, State)  # type: ignore[no-any-return]


def _decoded(model: type[T], body: bytes, _key: str, _mask: type | None) -> T:
    return decoded(body, model)  # type: ignore[no-any-return]


def _set_version(vehicle: Vehicle, etag: str | None) -> None:
    vehicle.version = etag


def _vehicle_if_any(body: bytes, _key: str, _mask: type | None) -> Vehicle | None:
    """The vehicle that a write returns, if there is a body."""
    return decoded(body, Vehicle) if body.strip() else None


def _state_if_any(body: bytes, _key: str, _mask: type | None) -> State:
    """The state that a command returns; an empty one without a body."""
    return decoded(body, State) if body.strip() else {}


def _nothing(body: bytes, _key: str, _mask: type | None) -> None:
    """What such a write returns is not used, but has to be JSON, so that it is the fleet API's."""
    if body.strip():
        msgspec.json.decode(body, type=msgspec.Raw)
