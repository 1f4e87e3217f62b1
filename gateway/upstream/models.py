"""The REST API's responses as structs; unknown enum values and unknown members of a vehicle are preserved.

They form no reference cycles, so the garbage collector need not track them.
Any member but a vehicle's `id` may be missing or null. Timestamps stay text: RFC 3339, UTC. Early member names are
mapped to the current ones. Source: the vendor's public pages on vehicle management, vehicle state and paging.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from functools import cache, lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from gateway.telemetry.logs import EventCounter

Scalar = str | int | float | bool | None

# Renamed state properties: current name by early name.
EARLY_STATE_NAMES = {"fuel_level_in_percent": "state_of_charge_or_fuel_level_in_percent"}
EARLY_TRANSMISSIONS = {"MANUAL_SHIFT": "MANUAL"}
# Bounds of tolerant decoding: bytes of a response, and members or items of one object or array. It takes a hundred
# times as long as strict decoding, and the largest page that can be requested is 2.4 MB.
TOLERATED_BYTES_MAX = 4 * 2**20
TOLERATED_MAX = 10_000
# The exceptions of strict decoding.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Digits of an integer. Python parses at most 4300, and a float has no more than 309.
INTEGER_DIGITS_MAX = 300
# Levels of JSON within each other that are kept if there are too many to decode.
DEPTH_MAX = 100
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


class Status(Struct, gc=False):
    """A status and the time of its last change."""

    value: str | None = None
    modified_at: str | None = None

    @property
    def raw_value(self) -> str | None:
        return self.value


class MasterData(Struct, gc=False):
    """Master data of a vehicle, entered by people."""

    vin: str | None = None
    license_plate: str | None = None
    brand: str | None = None
    model: str | None = None
    custom_name: str | None = None
    fuel_type: str | None = None
    year_of_production: str | int | None = None
    transmission: str | None = None
    gear_box: str | None = None
    vehicle_type: str | None = None
    remark: str | None = None
    # The upstream's word for the transmission, from either member; not a member of the upstream's itself.
    transmission_raw: str | None = field(default=None, name="$transmission_raw")

    def __post_init__(self) -> None:
        raw = self.transmission_raw or self.transmission or self.gear_box
        self.transmission_raw = raw
        self.transmission = EARLY_TRANSMISSIONS.get(raw, raw) if raw else None
        if isinstance(self.year_of_production, int):
            self.year_of_production = str(self.year_of_production)

    @property
    def fuel_type_raw(self) -> str | None:
        return self.fuel_type

    @property
    def vehicle_type_raw(self) -> str | None:
        return self.vehicle_type


class Capabilities(Struct, gc=False):
    """The commands and state properties that a vehicle supports; the vendor adds to both without notice."""

    commands: list[str] | None = None
    vehicle_state: list[str] | None = None


class StateProperty(Struct, gc=False):
    """One property of a vehicle's state; `timestamp` is when the unit captured it."""

    value: Any = None
    timestamp: str | None = None

    @property
    def raw_value(self) -> Any:
        return self.value


class AnyUnit(Struct, gc=False):
    """Marks telematics units, full or masked."""


class AnyVehicle(Struct, gc=False):
    """Marks vehicles, full or masked."""


class TelematicsUnit(AnyUnit, gc=False):
    """The device in a vehicle; its `id` is unique only within one manufacturer."""

    unit_id: str | None = field(default=None, name="id")
    brand: str | None = None
    model: str | None = None
    manufacturer: str | None = None
    type: str | None = None
    fleet_id: str | None = None
    created_at: str | None = None
    modified_at: str | None = None
    # The vehicle that this unit is part of; not a member of the upstream's.
    vehicle_id: str = field(default="", name="$vehicle_id")

    @property
    def type_raw(self) -> str | None:
        return self.type


class SharingFleet(Struct, gc=False):
    """One of the two fleets that share a vehicle."""

    fleet_id: str | None = None
    name: str | None = None


class Sharing(Struct, gc=False):
    """The period for which a vehicle of the fleet `owner` is shared with the fleet `partner`, which lists it, too."""

    owner: SharingFleet | None = None
    partner: SharingFleet | None = None
    starts_at: str | None = None
    ends_at: str | None = None


class Vehicle(AnyVehicle, gc=False):
    """A vehicle with its unit and, where the upstream sends it, its latest state.

    `fleet_id` is that of its owner; the caller's fleet may be another one, with which it is shared.
    """

    vehicle_id: str = field(name="id")
    status: str | None = None
    fleet_id: str | None = None
    last_contact_at: str | None = None
    created_at: str | None = None
    modified_at: str | None = None
    attached_at: str | None = None
    master_data: MasterData | None = None
    custom_fields: dict[str, Any] | None = None
    tags: list[str] | None = None
    life_status: Status | None = None
    operation_status: Status | None = None
    rental_status: Status | None = None
    setup_status: Status | None = None
    capabilities: Capabilities | None = None
    telematics_unit: TelematicsUnit | None = None
    latest_state: dict[str, StateProperty] | UnsetType | None = UNSET
    vehicle_model_id: str | None = None
    sharing: Sharing | None = None
    # The ETag of the response, if that was about this vehicle alone; not a member of the upstream's.
    version: str | UnsetType | None = field(default=UNSET, name="$version")
    # The JSON that it was decoded from; likewise.
    body: bytes = field(default=b"", name="$body")
    # Its latest projection, for the next response that has it: a key and JSON; None unless pages share the vehicle.
    rendered: Any = field(default=None, name="$rendered")

    def __post_init__(self) -> None:
        if self.telematics_unit is not None:
            if self.telematics_unit.unit_id is None:
                self.telematics_unit = None  # a unit without an id can't be identified
            else:
                self.telematics_unit.vehicle_id = self.vehicle_id

    @property
    def status_raw(self) -> str | None:
        return self.status

    @property
    def other_members(self) -> dict[str, Any]:
        """The members that have no field here, by name; those of an object are within it."""
        return (_others(as_json(bytes(self.body))[1], Vehicle) if self.body else None) or {}


def fleets_of(vehicle: Vehicle) -> set[str]:
    """The fleets that may see a vehicle: its owner's, and a partner's."""
    sharing = vehicle.sharing or Sharing()
    ids = (vehicle.fleet_id, *(fleet and fleet.fleet_id for fleet in (sharing.owner, sharing.partner)))
    return {fleet_id for fleet_id in ids if fleet_id}


class VehicleModel(Struct, gc=False):
    """A vehicle model that a telematics brand supports."""

    model_id: str = field(name="id")
    vehicle_brand: str | None = None
    vehicle_model: str | None = None
    vehicle_type: str | None = None
    regions: list[str] | None = None
    version: int | None = None
    start_of_production: str | None = None
    central_lock_connection_types: list[str] | None = None
    capabilities: Capabilities | None = None

    @property
    def vehicle_type_raw(self) -> str | None:
        return self.vehicle_type


class VehicleModels(Struct):
    """The vehicle models that a telematics brand supports."""

    items: list[VehicleModel]


class SharingPartners(Struct):
    """The fleets with which vehicles can be shared."""

    items: list[SharingFleet]


class Cursors(Struct):
    """The upstream's cursors of a page; each may be null or absent."""

    self: str | None = None
    first: str | None = None
    prev: str | None = None
    next: str | None = None
    last: str | None = None


class ProblemBody(Struct):
    """The members of a problem that the gateway uses; titles and details may change at any time."""

    type: str | None = None
    status: int | None = None
    flow_id: str | None = None


State = dict[str, StateProperty]


def decoded(body: bytes, model: Any) -> Any:
    """A response body as `model`, decoded strictly, or member by member where that fails; raises msgspec's errors."""
    try:
        value = _decoder(model).decode(body)
    except UNREADABLE:
        if len(body) > TOLERATED_BYTES_MAX:
            raise
        body, raw = as_json(body)
        if model == State and isinstance(raw, dict) and (type(raw.get("id")) is str or type(raw.get("items")) is list):
            raise  # a vehicle or a list of them is not a state, even if it can be decoded as one
        value = tolerant(raw, model)
        count_repair("invalid members")
    if model is Vehicle:
        value.body = body
    return value


def as_json(body: bytes) -> tuple[bytes, Any]:
    """A response body, repaired if necessary, and its decoded JSON. Raises msgspec's errors."""
    try:
        return body, msgspec.json.decode(body)
    except UNREADABLE:
        body = repaired(body)
        return body, msgspec.json.decode(body)


def repaired(body: bytes) -> bytes:
    """A response body as valid JSON. Raises msgspec's errors if it has another syntax.

    U+FFFD replaces invalid UTF-8 and lone surrogates; null replaces NaN, infinities, numbers that are too large for a
    float and, if there are too many levels, those below DEPTH_MAX. A byte order mark and control characters in texts
    are allowed.
    """
    if len(body) > TOLERATED_BYTES_MAX:
        raise msgspec.DecodeError("The response is invalid, and too large to be repaired.")
    try:
        text = body.decode(json.detect_encoding(body), "replace")
        try:
            value = _loads(text)
        except RecursionError:
            value = _loads(_flattened(text))
        # Pairs of surrogates become one character, and a lone one U+FFFD.
        text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    except (ValueError, RecursionError) as malformed:
        raise msgspec.DecodeError("The response is not JSON.") from malformed
    count_repair("invalid JSON")
    return text.encode()


def _loads(text: str) -> Any:
    return json.loads(
        text, strict=False, parse_constant=lambda _: None, parse_float=_float_or_none, parse_int=_integer_or_none
    )


def _flattened(text: str) -> str:
    """JSON with null in place of all that is below DEPTH_MAX levels."""
    parts, depth, kept_from = [], 0, 0
    for token in _NESTING.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == DEPTH_MAX + 1:
                parts.append(text[kept_from : token.start()])
        elif token[0] in "]}":
            depth -= 1
            if depth == DEPTH_MAX:
                parts.append("null")
                kept_from = token.end()
    return "".join([*parts, text[kept_from:]])


def _float_or_none(text: str) -> float | None:
    number = float(text)
    return number if number - number == 0 else None


def _integer_or_none(text: str) -> int | None:
    return int(text) if len(text) <= INTEGER_DIGITS_MAX else None


_repairs = EventCounter("upstream data repaired")


def count_repair(kind: str) -> None:
    """Counts a response that was not decoded strictly, which takes much longer; logs the numbers every second."""
    with suppress(RuntimeError):  # no event loop is running
        _repairs.count(kind, asyncio.get_running_loop())


@lru_cache(64)
def _decoder(model: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(model)


def tolerant(raw: Any, model: Any) -> Any:
    """Decoded JSON as `model` without members of a wrong type; raises where a required member is invalid.

    For responses that strict decoding rejects: one invalid member must not cost a page of vehicles.
    """
    if model == dict[str, Any] and isinstance(raw, dict):
        return raw  # values of any type may be null
    origin = getattr(model, "__origin__", None)
    if isinstance(raw, (list, dict)) and len(raw) > TOLERATED_MAX:
        raise msgspec.ValidationError("It has too many members or items to be decoded one by one.")
    try:
        return msgspec.convert(raw, model)
    except msgspec.ValidationError:
        if model == list[str]:
            raise
    if origin is list and isinstance(raw, list):
        return [tolerant(item, model.__args__[0]) for item in raw]
    if origin is dict and isinstance(raw, dict):
        return {key: value for key, item in raw.items() if (value := _valid(item, model.__args__[1])) is not None}
    bare = origin or model
    if isinstance(bare, type) and issubclass(bare, Struct) and isinstance(raw, dict):
        return msgspec.convert(_valid_members(raw, model), model)
    return msgspec.convert(raw, model)


def _valid_members(raw: dict[str, Any], model: type[Struct]) -> dict[str, Any]:
    valid: dict[str, Any] = {}
    for member in _members(model):
        name = member.encode_name
        if name not in raw:
            continue
        if member.required:
            valid[name] = msgspec.to_builtins(tolerant(raw[name], member.type))
        elif raw[name] is None and type(None) in getattr(member.type, "__args__", ()):
            valid[name] = None  # which may mean something else than a missing member
        elif (value := _valid(raw[name], member.type)) is not None:
            valid[name] = msgspec.to_builtins(value)
    return valid


@cache
def _members(model: type[Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(model)


def _valid(raw: Any, annotation: Any) -> Any:
    for alternative in getattr(annotation, "__args__", ()) if _is_union(annotation) else (annotation,):
        if alternative in (type(None), UnsetType):
            continue
        try:
            return tolerant(raw, alternative)
        except msgspec.ValidationError:
            continue
    return None


def _others(raw: Any, model: Any) -> dict[str, Any] | None:
    """What a struct, or a dictionary of structs, has no place for; None if that is nothing."""
    if not isinstance(raw, dict):
        return None
    if get_origin(model) is dict:
        kind = get_args(model)[1]
        others = {}
        inner = {name: _others(item, kind) if isinstance(item, dict) else item for name, item in raw.items()}
    else:
        parts = _parts_of(model)
        others = {name: value for name, value in raw.items() if name not in parts}
        inner = {name: _others(raw.get(name), part) for name, part in parts.items() if part is not None}
    return {**others, **{name: rest for name, rest in inner.items() if rest is not None}} or None


@cache
def _parts_of(model: type[Struct]) -> dict[str, Any]:
    """The upstream's members of a struct by name, with the type of each that consists of structs, or None."""
    return {
        member.encode_name: next((kind for kind in get_args(member.type) if _has_structs(kind)), None)
        for member in _members(model)
        if not member.encode_name.startswith("$")
    }


def _has_structs(kind: Any) -> bool:
    if get_origin(kind) is dict:
        return _has_structs(get_args(kind)[1])
    return isinstance(kind, type) and issubclass(kind, Struct)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)
