"""A vehicle's latest state: typed fields for the properties that are known, and a list of all of them."""

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

CAPTURED_AT = "When the telematics unit captured it."
RAW = "The fleet API's own word for the value."


@strawberry.type(description="A number and when it was captured.")
class FloatProperty:
    value: float | None = strawberry.field(description="The number; its unit is in the property's name.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A whole number and when it was captured.")
class IntProperty:
    value: int | None = strawberry.field(description="The number.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A yes or no and when it was captured.")
class BooleanProperty:
    value: bool | None = strawberry.field(description="Yes or no.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A text and when it was captured.")
class StringProperty:
    value: str | None = strawberry.field(description="The text.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


def _degrees(name: str, description: str) -> Any:
    degrees = itemgetter(name)

    def resolve(root: strawberry.Parent[Any]) -> float:
        return degrees(root)  # type: ignore[no-any-return]

    return strawberry.field(resolver=resolve, description=description, metadata={PLAIN: degrees})


@strawberry.type(description="A place on earth, WGS 84.")
class Position:
    lat: float = _degrees("lat", "Latitude in degrees, north positive.")
    lon: float = _degrees("lon", "Longitude in degrees, east positive.")


@strawberry.type(description="A place and when it was captured.")
class PositionProperty:
    value: Position | None = strawberry.field(description="The place.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="Whether a function is enabled, and when that was captured.")
class EnabledProperty:
    value: EnabledValue | None = strawberry.field(description="The value, UNKNOWN if the schema does not know it.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A warning light or indicator, and when it was captured.")
class IndicatorProperty:
    value: IndicatorValue | None = strawberry.field(description="The value, UNKNOWN if the schema does not know it.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A center stand's position, and when it was captured.")
class StandProperty:
    value: StandValue | None = strawberry.field(description="The value, UNKNOWN if the schema does not know it.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A lock's state, and when it was captured.")
class LockProperty:
    value: LockValue | None = strawberry.field(description="The value, UNKNOWN if the schema does not know it.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A lid's state, and when it was captured.")
class LidProperty:
    value: LidValue | None = strawberry.field(description="The value, UNKNOWN if the schema does not know it.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A switch's state, and when it was captured.")
class SwitchProperty:
    value: SwitchValue | None = strawberry.field(description="The value, UNKNOWN if the schema does not know it.")
    raw_value: str | None = strawberry.field(description=RAW)
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


@strawberry.type(description="A property of a vehicle's state, known to this schema or not.")
class VehicleStateProperty:
    name: str = strawberry.field(description="The fleet API's name, such as `mileage_in_kilometers`.")
    value: JSON | None = strawberry.field(description="The value as the fleet API sent it.")
    timestamp: DateTime | None = strawberry.field(description=CAPTURED_AT)


class NamedProperty(NamedTuple):
    """A property together with its name."""

    name: str
    value: Any
    timestamp: str | None


def _is_number(value: Any) -> bool:
    if value.__class__ is float:
        return -1e300 < value < 1e300
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_small_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value) and abs(value) < 2**31


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_place(value: Any) -> bool:
    if value.__class__ is dict and value.get("lat").__class__ is float and value.get("lon").__class__ is float:
        lat: float = value["lat"]
        lon: float = value["lon"]
        return -1e300 < lat < 1e300 and -1e300 < lon < 1e300
    return isinstance(value, dict) and _is_number(value.get("lat")) and _is_number(value.get("lon"))


EARLY_NAME_OF = {current: early for early, current in EARLY_STATE_NAMES.items()}


def _names_of(name: str) -> tuple[str, str]:
    return name, EARLY_NAME_OF.get(name, name)


def _typed(fits: Callable[[Any], bool], turn: Callable[[Any], Any] | None, description: str) -> Any:
    """A field for the property of its name; a value of an unexpected kind is null here and kept in `properties`."""

    def of(name: str) -> Callable[[State], StateProperty | None]:
        early = EARLY_NAME_OF.get(name)

        def property_of(state: State) -> StateProperty | None:
            # What is no dictionary is a view, with members for those it may be asked for.
            found: StateProperty | None
            found = state.get(name) if state.__class__ is dict else getattr(state, name)
            if found is None and early is not None:
                found = state.get(early)
            if found is None:
                return None
            if not fits(found.value):
                return StateProperty(None, found.timestamp)
            return StateProperty(turn(found.value), found.timestamp) if turn else found

        return property_of

    def resolve(root: strawberry.Parent[Any], info: strawberry.Info) -> Any:
        return of(info.python_name)(root)

    return strawberry.field(resolver=resolve, description=description, metadata={BY_NAME: of, NEEDS: _names_of})


def _number(description: str) -> Any:
    return _typed(_is_number, None, description)


def _text(description: str) -> Any:
    return _typed(_is_text, None, description)


def _whole(description: str) -> Any:
    return _typed(_is_small_whole, int, description)


def _flag(description: str) -> Any:
    return _typed(_is_flag, None, description)


def _place(description: str) -> Any:
    return _typed(_is_place, None, description)


def _properties(root: strawberry.Parent[Any]) -> Any:
    state: State = root
    return [NamedProperty(name, found.value, found.timestamp) for name, found in state.items()]


@strawberry.type(
    description="A vehicle's latest state. A property is null where the vehicle does not support it or has not "
    "reported it yet; each has its own timestamp. What this schema has no field for stands in `properties`."
)
class VehicleState:
    abs_status: EnabledProperty | None = _text("Whether the anti-lock braking system is enabled.")
    adblue_level_in_percent: FloatProperty | None = _number("AdBlue level, 0 to 100 percent.")
    adblue_level_low_indicator: IndicatorProperty | None = _text("Whether AdBlue is low.")
    altitude_in_meters: FloatProperty | None = _number("Altitude in meters.")
    brake_fluid_due_date: StringProperty | None = _text("The day the brake fluid is due, usually `YYYY-MM-DD`.")
    brake_fluid_level_low_indicator: IndicatorProperty | None = _text("Whether the brake fluid is low.")
    brake_lining_wear_indicator: IndicatorProperty | None = _text("Whether the brake lining is worn.")
    brake_warning_indicator: IndicatorProperty | None = _text("The brake warning light.")
    cellular_signal_quality: IntProperty | None = _whole("Cellular signal, 0 (none) to 5 (best).")
    center_stand_position: StandProperty | None = _text("The center stand of a two-wheeler.")
    central_lock: LockProperty | None = _text("The central lock.")
    driving_enabled: BooleanProperty | None = _flag("Whether the vehicle can be driven.")
    ignition: SwitchProperty | None = _text("The ignition.")
    mileage_in_kilometers: FloatProperty | None = _number("Mileage in kilometers.")
    position: PositionProperty | None = _place("Where the vehicle is.")
    remaining_range_in_kilometers: FloatProperty | None = _number("Remaining range in kilometers.")
    state_of_charge_or_fuel_level_in_percent: FloatProperty | None = _number(
        "State of charge or fuel level, 0 to 100 percent; early units report it as `fuel_level_in_percent`."
    )
    top_case_lock: LockProperty | None = _text("The lock of a two-wheeler's top case.")
    top_case_lid: LidProperty | None = _text("The lid of a two-wheeler's top case.")
    properties: list[VehicleStateProperty] = strawberry.field(
        resolver=_properties,
        metadata={PLAIN: _properties},
        directives=[
            ListSize(assumed_size=50, slicing_arguments=[], sized_fields=[], require_one_slicing_argument=False)
        ],
        description="Every property the fleet API sent, also those this schema has no field for.",
    )
