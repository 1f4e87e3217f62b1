"""What the REST API answers, as structs: unknown members are ignored, unknown enum values kept as they came.

They hold no circles, so the collector need not know them.
Any member but a vehicle's `id` may be missing or null. Timestamps stay text: RFC 3339, UTC. Early member names are
folded into the current ones. Source: the vendor's public pages on vehicle management, vehicle state and paging.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

Scalar = str | int | float | bool | None

# The names a property had before: current name by early name.
EARLY_STATE_NAMES = {"fuel_level_in_percent": "state_of_charge_or_fuel_level_in_percent"}
EARLY_TRANSMISSIONS = {"MANUAL_SHIFT": "MANUAL"}
# What is read member by member: bytes of an answer, and how many of anything it may hold in one place. It takes a
# hundred times as long as strict decoding does, and the largest page that can be asked for is 2.4 MB.
TOLERATED_BYTES_MAX = 4 * 2**20
TOLERATED_MAX = 10_000


class Status(Struct, gc=False):
    """A status and since when it holds."""

    value: str | None = None
    modified_at: str | None = None

    @property
    def raw_value(self) -> str | None:
        return self.value


class MasterData(Struct, gc=False):
    """What people entered about a vehicle."""

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
    # What the upstream called the transmission, under either name; no member of the upstream's.
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
    """What a vehicle can do and can report; the vendor adds to both without notice."""

    commands: list[str] | None = None
    vehicle_state: list[str] | None = None


class StateProperty(Struct, gc=False):
    """One property of a vehicle's state; `timestamp` is when the unit captured it."""

    value: Any = None
    timestamp: str | None = None

    @property
    def raw_value(self) -> Any:
        return self.value


class UnitForm(Struct, gc=False):
    """What is a telematics unit, whole or in a view."""


class VehicleForm(Struct, gc=False):
    """What is a vehicle, whole or in a view."""


class TelematicsUnit(UnitForm, gc=False):
    """The device in a vehicle; its `id` is unique only within one manufacturer."""

    unit_id: str | None = field(default=None, name="id")
    brand: str | None = None
    model: str | None = None
    manufacturer: str | None = None
    type: str | None = None
    fleet_id: str | None = None
    created_at: str | None = None
    modified_at: str | None = None
    # The vehicle that answered with this unit; no member of the upstream's.
    vehicle_id: str = field(default="", name="$vehicle_id")

    @property
    def type_raw(self) -> str | None:
        return self.type


class Vehicle(VehicleForm, gc=False):
    """A vehicle with its unit and, where the upstream sends it, its latest state."""

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

    def __post_init__(self) -> None:
        if self.telematics_unit is not None:
            if self.telematics_unit.unit_id is None:
                self.telematics_unit = None  # a unit without an id can be neither shown nor found again
            else:
                self.telematics_unit.vehicle_id = self.vehicle_id

    @property
    def status_raw(self) -> str | None:
        return self.status


class Cursors(Struct):
    """The upstream's cursors of a page; each may be null or absent."""

    self: str | None = None
    first: str | None = None
    prev: str | None = None
    next: str | None = None
    last: str | None = None


class ProblemBody(Struct):
    """The members of a problem that decide anything; titles and details change freely."""

    type: str | None = None
    status: int | None = None
    flow_id: str | None = None


State = dict[str, StateProperty]


def decoded(body: bytes, model: Any) -> Any:
    """An answer's body as `model`: strictly, and member by member where that fails; raises msgspec's errors."""
    try:
        return _decoder(model).decode(body)
    except msgspec.ValidationError:
        if len(body) > TOLERATED_BYTES_MAX:
            raise
        raw = msgspec.json.decode(body)
        if model == State and isinstance(raw, dict) and (type(raw.get("id")) is str or type(raw.get("items")) is list):
            raise  # a vehicle or a list of them is no state, however much of it could be taken for one
        return tolerant(raw, model)


@lru_cache(64)
def _decoder(model: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(model)


def tolerant(raw: Any, model: Any) -> Any:
    """Decoded JSON as `model`, members of a wrong type dropped; raises where nothing sound is left of an item.

    For answers that a strict decoder refused: one odd member must not cost a page of vehicles.
    """
    if model == dict[str, Any] and isinstance(raw, dict):
        return raw  # what may be anything may be null
    origin = getattr(model, "__origin__", None)
    if isinstance(raw, (list, dict)) and len(raw) > TOLERATED_MAX:
        raise msgspec.ValidationError("It holds too much to be looked at one by one.")
    try:
        return msgspec.convert(raw, model)
    except msgspec.ValidationError:
        if model == list[str]:
            raise
    if origin is list and isinstance(raw, list):
        return [tolerant(item, model.__args__[0]) for item in raw]
    if origin is dict and isinstance(raw, dict):
        return {key: value for key, item in raw.items() if (value := _sound(item, model.__args__[1])) is not None}
    bare = origin or model
    if isinstance(bare, type) and issubclass(bare, Struct) and isinstance(raw, dict):
        return msgspec.convert(_sound_members(raw, model), model)
    return msgspec.convert(raw, model)


def _sound_members(raw: dict[str, Any], model: type[Struct]) -> dict[str, Any]:
    sound: dict[str, Any] = {}
    for member in _members(model):
        name = member.encode_name
        if name not in raw:
            continue
        if member.required:
            sound[name] = msgspec.to_builtins(tolerant(raw[name], member.type))
        elif (value := _sound(raw[name], member.type)) is not None:
            sound[name] = msgspec.to_builtins(value)
    return sound


@cache
def _members(model: type[Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(model)


def _sound(raw: Any, annotation: Any) -> Any:
    for alternative in getattr(annotation, "__args__", ()) if _is_union(annotation) else (annotation,):
        if alternative in (type(None), UnsetType):
            continue
        try:
            return tolerant(raw, alternative)
        except msgspec.ValidationError:
            continue
    return None


def _is_union(annotation: Any) -> bool:
    return type(annotation).__name__ in ("UnionType", "_UnionGenericAlias")
