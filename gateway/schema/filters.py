"""Input types of filters, orders and groups over the fleet index, and the words of the enums that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import strawberry
from strawberry import UNSET
from strawberry.utils.str_converters import to_camel_case

from gateway.fleet_index.columns import BY_NAME, GROUPS, TAG
from gateway.schema.enums import (
    FuelType,
    LifeStatusValue,
    OperationStatusValue,
    RentalStatusValue,
    SetupStatusValue,
    TelematicsUnitType,
    Transmission,
    VehicleStatus,
    VehicleType,
)
from gateway.schema.scalars import DateTime

# The words of each enum, by its column in the index.
KNOWN_WORDS = {
    column: frozenset(member.value for member in enum)
    for column, enum in {
        "STATUS": VehicleStatus,
        "LIFE_STATUS": LifeStatusValue,
        "OPERATION_STATUS": OperationStatusValue,
        "RENTAL_STATUS": RentalStatusValue,
        "SETUP_STATUS": SetupStatusValue,
        "FUEL_TYPE": FuelType,
        "TRANSMISSION": Transmission,
        "VEHICLE_TYPE": VehicleType,
        "TELEMATICS_UNIT_TYPE": TelematicsUnitType,
    }.items()
}

IN = "Is one of these values; UNKNOWN stands for values that are not in the enum."
RAW_IN = "Is one of these values of the fleet API."
IS_NULL = "Whether the value is missing."
FOLDED = "upper and lower case are the same."


def _given(description: str, name: str | None = None) -> Any:
    return strawberry.field(default=UNSET, description=description, name=name)


@strawberry.input(description="Filter of an id or another word; all given members must apply.")
class WordFilter:
    eq: str | None = _given("Is this value.")
    in_: list[str] | None = _given("Is one of these values.", "in")
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description=f"Filter of a text that people enter; {FOLDED} All given members must apply.")
class TextFilter:
    eq: str | None = _given(f"Is this text; {FOLDED}")
    in_: list[str] | None = _given(f"Is one of these texts; {FOLDED}", "in")
    starts_with: str | None = _given(f"Starts with this text; {FOLDED}")
    contains: str | None = _given(f"Contains this text; {FOLDED}")
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description="Filter of a time; all given members must apply.")
class TimeFilter:
    before: DateTime | None = _given("Is before this time.")
    after: DateTime | None = _given("Is after this time.")
    age_at_least: str | None = _given("Is at least this long ago: a duration by ISO 8601, such as `PT2H` or `P1D`.")
    age_at_most: str | None = _given("Is at most this long ago, or in the future: a duration by ISO 8601.")
    is_null: bool | None = _given("Whether the time is missing or invalid.")


@strawberry.input(description="Filter of a set of words; all given members must apply.")
class WordsFilter:
    any: list[str] | None = _given("Contains at least one of these words.")
    all: list[str] | None = _given("Contains all of these words.")
    none: list[str] | None = _given("Contains none of these words; does not match if the set is missing.")
    is_null: bool | None = _given("Whether the set is missing; an empty one is not.")


@strawberry.input(description="Filter of the connection status; all given members must apply.")
class VehicleStatusFilter:
    in_: list[VehicleStatus] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description="Filter of the connectivity; all given members must apply.")
class LifeStatusFilter:
    in_: list[LifeStatusValue] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)
    modified_at: TimeFilter | None = _given("Time of the last change.")


@strawberry.input(description="Filter of the operational status; all given members must apply.")
class OperationStatusFilter:
    in_: list[OperationStatusValue] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)
    modified_at: TimeFilter | None = _given("Time of the last change.")


@strawberry.input(description="Filter of the rental status; all given members must apply.")
class RentalStatusFilter:
    in_: list[RentalStatusValue] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)
    modified_at: TimeFilter | None = _given("Time of the last change.")


@strawberry.input(description="Filter of the setup status; all given members must apply.")
class SetupStatusFilter:
    in_: list[SetupStatusValue] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)
    modified_at: TimeFilter | None = _given("Time of the last change.")


@strawberry.input(description="Filter of the fuel type; all given members must apply.")
class FuelTypeFilter:
    in_: list[FuelType] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description="Filter of the transmission; all given members must apply.")
class TransmissionFilter:
    in_: list[Transmission] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description="Filter of the vehicle type; all given members must apply.")
class VehicleTypeFilter:
    in_: list[VehicleType] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description="Filter of the kind of installation; all given members must apply.")
class TelematicsUnitTypeFilter:
    in_: list[TelematicsUnitType] | None = _given(IN, "in")
    raw_in: list[str] | None = _given(RAW_IN)
    is_null: bool | None = _given(IS_NULL)


@strawberry.input(description="Filter of master data; all given members must apply.")
class MasterDataFilter:
    vin: TextFilter | None = _given("Vehicle identification number.")
    license_plate: TextFilter | None = _given("License plate.")
    brand: TextFilter | None = _given("Brand, such as `Audi`.")
    model: TextFilter | None = _given("Model, such as `A3`.")
    custom_name: TextFilter | None = _given("Name that the fleet operator gave the vehicle.")
    year_of_production: TextFilter | None = _given("Year of production.")
    remark: TextFilter | None = _given("Remark.")
    fuel_type: FuelTypeFilter | None = _given("Fuel type.")
    transmission: TransmissionFilter | None = _given("Transmission.")
    vehicle_type: VehicleTypeFilter | None = _given("Vehicle type.")


@strawberry.input(description="Filter of a custom field; all given members must apply.")
class CustomFieldFilter:
    key: str = strawberry.field(description="Name of the field.")
    eq: str | None = _given(f"Is this text; {FOLDED}")
    in_: list[str] | None = _given(f"Is one of these texts; {FOLDED}", "in")
    starts_with: str | None = _given(f"Starts with this text; {FOLDED}")
    contains: str | None = _given(f"Contains this text; {FOLDED}")
    is_null: bool | None = _given("Whether the field is missing or null.")


@strawberry.input(description="Filter of the supported commands and state properties; all given members must apply.")
class CapabilitiesFilter:
    commands: WordsFilter | None = _given("Supported commands.")
    vehicle_state: WordsFilter | None = _given("Supported state properties.")


@strawberry.input(description="Filter of the sharing with another fleet; all given members must apply.")
class SharingFilter:
    is_null: bool | None = _given("Whether the vehicle is not shared.")
    owner: WordFilter | None = _given("Id of the fleet that owns the vehicle.")
    partner: WordFilter | None = _given("Id of the fleet that it is shared with.")
    starts_at: TimeFilter | None = _given("Start of the period.")
    ends_at: TimeFilter | None = _given("End of the period.")


@strawberry.input(description="Filter of a property of the latest state; all given members must apply.")
class StateFilter:
    property: str = strawberry.field(description="Name in the fleet API, such as `mileage_in_kilometers`.")
    eq: str | None = _given("Is this word.")
    in_: list[str] | None = _given("Is one of these words.", "in")
    gt: float | None = _given("Is a number greater than this.")
    gte: float | None = _given("Is a number greater than or equal to this.")
    lt: float | None = _given("Is a number less than this.")
    lte: float | None = _given("Is a number less than or equal to this.")
    is_: bool | None = _given("Is this boolean.", "is")
    timestamp: TimeFilter | None = _given("Time when the telematics unit captured the value.")
    is_null: bool | None = _given("Whether the property or its value is missing.")


@strawberry.input(description="Geographic position (WGS 84).")
class PositionInput:
    lat: float = strawberry.field(description="Latitude in degrees; north is positive.")
    lon: float = strawberry.field(description="Longitude in degrees; east is positive.")


@strawberry.input(description="Circle on the earth's surface.")
class CircleInput:
    lat: float = strawberry.field(description="Latitude of the center in degrees.")
    lon: float = strawberry.field(description="Longitude of the center in degrees.")
    radius_in_meters: float = strawberry.field(description="Radius in meters, up to half the earth's circumference.")


@strawberry.input(description="Area between two latitudes and two longitudes, ends included.")
class BoxInput:
    south: float = strawberry.field(description="Smallest latitude in degrees.")
    west: float = strawberry.field(
        description="First longitude in degrees; the box crosses the antimeridian if it is greater than `east`."
    )
    north: float = strawberry.field(description="Greatest latitude in degrees.")
    east: float = strawberry.field(description="Last longitude in degrees.")


@strawberry.input(
    description="Area within straight lines on a map of latitudes and longitudes. Each line goes the shorter way round "
    "the earth, across the antimeridian if need be. The area must not contain a pole."
)
class PolygonInput:
    points: list[PositionInput] = strawberry.field(
        description="3 to 200 corners in order; the last one is connected with the first."
    )


@strawberry.input(one_of=True, description="Filter of the position.")
class PositionFilter:
    circle: CircleInput | None = _given("Is in this circle.")
    box: BoxInput | None = _given("Is in this box.")
    polygon: PolygonInput | None = _given("Is in this polygon.")
    is_null: bool | None = _given("Whether the position is missing or invalid.")


@strawberry.input
class _UnitMembers:
    """The members of a telematics unit."""

    unit_id: WordFilter | None = _given("Id of the unit in the fleet API.")
    manufacturer: WordFilter | None = _given("Manufacturer, such as `INVERS`.")
    brand: WordFilter | None = _given("Brand, such as `CLOUDBOXX`.")
    model: WordFilter | None = _given("Model, such as `CloudBoxx 4G`.")
    fleet_id: WordFilter | None = _given("Id of the fleet it belongs to.")
    type: TelematicsUnitTypeFilter | None = _given("Kind of installation.")
    created_at: TimeFilter | None = _given("Creation time.")
    modified_at: TimeFilter | None = _given("Time of the last change.")


@strawberry.input(description="Filter of the telematics unit of a vehicle; all given members must apply.")
class UnitOfVehicleFilter(_UnitMembers):
    is_null: bool | None = _given("Whether the vehicle has no telematics unit.")


@strawberry.input(
    description="Filter of vehicles; all given members must apply. A condition on a missing or invalid value does not "
    "match, and `not` matches all vehicles that its condition does not match. Members that are null are ignored."
)
class VehicleFilter:
    and_: list[VehicleFilter] | None = _given("All of these filters match.", "and")
    or_: list[VehicleFilter] | None = _given("At least one of these filters matches.", "or")
    not_: VehicleFilter | None = _given("This filter does not match.", "not")
    vehicle_id: WordFilter | None = _given("Id of the vehicle in the fleet API.")
    fleet_id: WordFilter | None = _given("Id of the fleet it belongs to.")
    vehicle_model_id: WordFilter | None = _given("Id of the vehicle model in the fleet API.")
    status: VehicleStatusFilter | None = _given("Connection status.")
    life_status: LifeStatusFilter | None = _given("Connectivity.")
    operation_status: OperationStatusFilter | None = _given("Operational status.")
    rental_status: RentalStatusFilter | None = _given("Rental status.")
    setup_status: SetupStatusFilter | None = _given("Setup status.")
    created_at: TimeFilter | None = _given("Time when the vehicle was added to the fleet.")
    modified_at: TimeFilter | None = _given("Time of the last change, except changes of the state.")
    attached_at: TimeFilter | None = _given("Time when the telematics unit was attached.")
    last_contact_at: TimeFilter | None = _given("Time of the last contact with the vehicle.")
    master_data: MasterDataFilter | None = _given("Descriptive data, entered by people.")
    tags: WordsFilter | None = _given("Tags, such as `in_maintenance`.")
    custom_field: CustomFieldFilter | None = _given("Custom field.")
    telematics_unit: UnitOfVehicleFilter | None = _given("Telematics unit of the vehicle.")
    capabilities: CapabilitiesFilter | None = _given("Supported commands and state properties.")
    sharing: SharingFilter | None = _given("Sharing with another fleet.")
    state: StateFilter | None = _given("Property of the latest state.")
    position: PositionFilter | None = _given("Position of the vehicle.")


@strawberry.input(
    description="Filter of telematics units; all given members must apply. Missing values and `not` are as in "
    "VehicleFilter."
)
class TelematicsUnitFilter(_UnitMembers):
    and_: list[TelematicsUnitFilter] | None = _given("All of these filters match.", "and")
    or_: list[TelematicsUnitFilter] | None = _given("At least one of these filters matches.", "or")
    not_: TelematicsUnitFilter | None = _given("This filter does not match.", "not")
    vehicle: VehicleFilter | None = _given("Vehicle that the unit is attached to.")


def _enum(name: str, members: Iterable[str], description: str) -> Any:
    made: Any = Enum(name, {member: strawberry.enum_value(member, description=_shown(member)) for member in members})  # type: ignore[misc]
    return strawberry.enum(made, description=description)


def _shown(name: str) -> str:
    """The description of a column: its member in the schema."""
    if name == TAG:
        return "Tags; a vehicle counts once for each of them."
    return f"`{'.'.join(to_camel_case(member) for member in BY_NAME[name].path.split('.'))}`."


VehicleOrderField = _enum(
    "VehicleOrderField",
    BY_NAME,
    "Member by which vehicles are sorted. Texts that people enter are sorted without regard to case.",
)
VehicleGroup = _enum("VehicleGroup", GROUPS, "Member by which vehicles are counted.")


@strawberry.enum(description="Direction of an order. Missing values are last in both.")
class OrderDirection(Enum):
    ASC = strawberry.enum_value("ASC", description="Smallest first.")
    DESC = strawberry.enum_value("DESC", description="Largest first.")


@strawberry.input(
    description="Order of vehicles by one value: exactly one of the members other than `direction`. Missing values are "
    "last in both directions, and vehicles with equal values are in the order of their ids."
)
class VehicleOrder:
    field: VehicleOrderField | None = _given("Member of the vehicle.")  # type: ignore[valid-type]
    state_property: str | None = _given(
        "State property, by its name in the fleet API: numbers, then words, then booleans."
    )
    state_timestamp: str | None = _given("Timestamp of a state property, by its name in the fleet API.")
    custom_field: str | None = _given("Custom field, by its name.")
    distance_from: PositionInput | None = _given("Distance from a position.")
    direction: OrderDirection | None = strawberry.field(
        default=OrderDirection.ASC, description="Direction; smallest or nearest first by default."
    )
