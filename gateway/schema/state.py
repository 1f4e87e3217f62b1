"""A vehicle's latest state: typed fields for the known properties, and a list of all properties."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import strawberry
from strawberry.federation.schema_directives import ListSize
from strawberry.scalars import JSON

from gateway.engine.projection import BY_NAME, NEEDS, PLAIN
from gateway.schema.enums import EnabledValue, IndicatorValue, LidValue, LockValue, StandValue, SwitchValue
from gateway.schema.scalars import DateTime
from gateway.upstream.models import EARLY_STATE_NAMES, State, StateProperty

CAPTURED_AT = "Time when the telematics unit captured the value."
RAW = "Original value from the fleet API."


@strawberry.type(description="Number with its timestamp.")
class FloatProperty:
    value: float | None = strawberry.field(description="Number; its unit is part of the property's name.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="Integer with its timestamp.")
class IntProperty:
    value: int | None = strawberry.field(description="Integer.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="Boolean with its timestamp.")
class BooleanProperty:
    value: bool | None = strawberry.field(description="Boolean.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="String with its timestamp.")
class StringProperty:
    value: str | None = strawberry.field(description="String.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


def _degrees(name: str, description: str) -> Any:
    degrees = itemgetter(name)

    def resolve(root: strawberry.Parent[Any]) -> float:
        return degrees(root)  # type: ignore[no-any-return]

    return strawberry.field(resolver=resolve, description=description, metadata={PLAIN: degrees})


@strawberry.type(description="Geographic position (WGS 84).")
class Position:
    lat: float = _degrees("lat", "Latitude in degrees; north is positive.")
    lon: float = _degrees("lon", "Longitude in degrees; east is positive.")


@strawberry.type(description="Geographic position with its timestamp.")
class PositionProperty:
    value: Position | None = strawberry.field(description="Position.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="State of a function with its timestamp.")
class EnabledProperty:
    value: EnabledValue | None = strawberry.field(description="Value; UNKNOWN for values that are not in this enum.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="State of a warning light or indicator with its timestamp.")
class IndicatorProperty:
    value: IndicatorValue | None = strawberry.field(description="Value; UNKNOWN for values that are not in this enum.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="Position of a center stand with its timestamp.")
class StandProperty:
    value: StandValue | None = strawberry.field(description="Value; UNKNOWN for values that are not in this enum.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="State of a lock with its timestamp.")
class LockProperty:
    value: LockValue | None = strawberry.field(description="Value; UNKNOWN for values that are not in this enum.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="State of a lid with its timestamp.")
class LidProperty:
    value: LidValue | None = strawberry.field(description="Value; UNKNOWN for values that are not in this enum.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="State of a switch with its timestamp.")
class SwitchProperty:
    value: SwitchValue | None = strawberry.field(description="Value; UNKNOWN for values that are not in this enum.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="State property of a vehicle, with or without a typed field in this schema.")
class VehicleStateProperty:
    name: str = strawberry.field(description="Name in the fleet API, such as `mileage_in_kilometers`.")
    value: JSON | None = strawberry.field(description="Value as sent by the fleet API.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


class NamedProperty(NamedTuple):
    """A property with its name."""

    name: str
    value: Any
    timestamp: str | None


def _is_number(value: Any) -> bool:
    if value.__class__ is float:
        return -1e300 < value < 1e300
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_int32(value: Any) -> bool:
    return _is_number(value) and value == int(value) and abs(value) < 2**31


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_position(value: Any) -> bool:
    if value.__class__ is dict and value.get("lat").__class__ is float and value.get("lon").__class__ is float:
        lat: float = value["lat"]
        lon: float = value["lon"]
        return -1e300 < lat < 1e300 and -1e300 < lon < 1e300
    return isinstance(value, dict) and _is_number(value.get("lat")) and _is_number(value.get("lon"))


EARLY_NAME_OF = {current: early for early, current in EARLY_STATE_NAMES.items()}


def _names_of(name: str) -> tuple[str, str]:
    return name, EARLY_NAME_OF.get(name, name)


def _typed(fits: Callable[[Any], bool], convert: Callable[[Any], Any] | None, description: str) -> Any:
    """A field for the property of the same name; a value of an unexpected type is null here, but is in `properties`."""

    def of(name: str) -> Callable[[State], StateProperty | None]:
        early = EARLY_NAME_OF.get(name)

        def property_of(state: State) -> StateProperty | None:
            # A state is a dictionary, or a struct that has only the selected members.
            found: StateProperty | None
            found = state.get(name) if state.__class__ is dict else getattr(state, name)
            if found is None and early is not None:
                found = state.get(early)
            if found is None:
                return None
            if not fits(found.value):
                return StateProperty(None, found.timestamp)
            return StateProperty(convert(found.value), found.timestamp) if convert else found

        return property_of

    def resolve(root: strawberry.Parent[Any], info: strawberry.Info) -> Any:
        return of(info.python_name)(root)

    return strawberry.field(resolver=resolve, description=description, metadata={BY_NAME: of, NEEDS: _names_of})


def _number(description: str) -> Any:
    return _typed(_is_number, None, description)


def _text(description: str) -> Any:
    return _typed(_is_text, None, description)


def _integer(description: str) -> Any:
    return _typed(_is_int32, int, description)


def _boolean(description: str) -> Any:
    return _typed(_is_boolean, None, description)


def _position(description: str) -> Any:
    return _typed(_is_position, None, description)


def _properties(root: strawberry.Parent[Any]) -> Any:
    state: State = root
    return [NamedProperty(name, found.value, found.timestamp) for name, found in state.items()]


@strawberry.type(
    description="Latest known state of a vehicle. A property is null if the vehicle does not support it or has not "
    "reported it yet. Each property has its own timestamp. Properties without a typed field are in `properties`."
)
class VehicleState:
    abs_status: EnabledProperty | None = _text("Whether the anti-lock braking system is enabled.")
    adblue_level_in_percent: FloatProperty | None = _number("AdBlue level in percent, from 0 to 100.")
    adblue_level_low_indicator: IndicatorProperty | None = _text("Indicator for a low AdBlue level.")
    altitude_in_meters: FloatProperty | None = _number("Altitude in meters.")
    brake_fluid_due_date: StringProperty | None = _text("Due date of the brake fluid change, usually `YYYY-MM-DD`.")
    brake_fluid_level_low_indicator: IndicatorProperty | None = _text("Indicator for a low brake fluid level.")
    brake_lining_wear_indicator: IndicatorProperty | None = _text("Indicator for worn brake linings.")
    brake_warning_indicator: IndicatorProperty | None = _text("Brake warning light.")
    cellular_signal_quality: IntProperty | None = _integer("Cellular signal quality, from 0 (none) to 5 (best).")
    center_stand_position: StandProperty | None = _text("Center stand of a two-wheeler.")
    central_lock: LockProperty | None = _text("Central lock.")
    driving_enabled: BooleanProperty | None = _boolean("Whether the vehicle can be driven.")
    ignition: SwitchProperty | None = _text("Ignition.")
    mileage_in_kilometers: FloatProperty | None = _number("Mileage in kilometers.")
    position: PositionProperty | None = _position("Position of the vehicle.")
    remaining_range_in_kilometers: FloatProperty | None = _number("Remaining range in kilometers.")
    state_of_charge_or_fuel_level_in_percent: FloatProperty | None = _number(
        "State of charge or fuel level in percent, from 0 to 100; older units report it as `fuel_level_in_percent`."
    )
    top_case_lock: LockProperty | None = _text("Lock of a two-wheeler's top case.")
    top_case_lid: LidProperty | None = _text("Lid of a two-wheeler's top case.")
    properties: list[VehicleStateProperty] = strawberry.field(
        resolver=_properties,
        metadata={PLAIN: _properties},
        directives=[
            ListSize(assumed_size=50, slicing_arguments=[], sized_fields=[], require_one_slicing_argument=False)
        ],
        description="All properties from the fleet API, including those without a typed field.",
    )
