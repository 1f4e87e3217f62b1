"""Open enums: the values that are known, and UNKNOWN for whatever the vendor adds without notice."""

from __future__ import annotations

from enum import Enum
from typing import Any

import strawberry
from graphql import GraphQLEnumType


def _is(value: str, description: str) -> Any:
    return strawberry.enum_value(value, description=description)


def _unknown() -> Any:
    return _is(
        "UNKNOWN", "A value this schema does not know yet; the raw field beside it has the fleet API's own word."
    )


@strawberry.enum(description="How far a vehicle is connected to the fleet.")
class VehicleStatus(Enum):
    CONNECTED_VEHICLE = _is("CONNECTED_VEHICLE", "A telematics unit is attached and the vehicle is part of the fleet.")
    UNKNOWN = _unknown()


@strawberry.enum(description="What a vehicle runs on.")
class FuelType(Enum):
    PETROL = _is("PETROL", "Petrol.")
    DIESEL = _is("DIESEL", "Diesel.")
    ELECTRIC = _is("ELECTRIC", "Battery electric.")
    HYBRID = _is("HYBRID", "Hybrid.")
    PLUGIN_HYBRID = _is("PLUGIN_HYBRID", "Plug-in hybrid.")
    LPG = _is("LPG", "Liquefied petroleum gas.")
    CNG = _is("CNG", "Compressed natural gas.")
    HYDROGEN = _is("HYDROGEN", "Hydrogen.")
    UNKNOWN = _unknown()


@strawberry.enum(description="A vehicle's transmission.")
class Transmission(Enum):
    AUTOMATIC = _is("AUTOMATIC", "Automatic.")
    MANUAL = _is("MANUAL", "Manual; `MANUAL_SHIFT` in the fleet API's early days.")
    UNKNOWN = _unknown()


@strawberry.enum(description="A vehicle's form.")
class VehicleType(Enum):
    CAR = _is("CAR", "Car.")
    VAN = _is("VAN", "Van.")
    TRUCK = _is("TRUCK", "Truck.")
    MOPED = _is("MOPED", "Moped.")
    KICK_SCOOTER = _is("KICK_SCOOTER", "Kick scooter.")
    BIKE = _is("BIKE", "Bicycle.")
    DEV_KIT = _is("DEV_KIT", "A development kit, no vehicle.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Whether a vehicle is in touch with the fleet.")
class LifeStatusValue(Enum):
    ONLINE = _is("ONLINE", "In touch.")
    OFFLINE = _is("OFFLINE", "Not heard of for a while.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Whether a vehicle is in service.")
class OperationStatusValue(Enum):
    OPERATING = _is("OPERATING", "In service.")
    GARAGE = _is("GARAGE", "Out of service, in the garage.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Whether a vehicle is rented out.")
class RentalStatusValue(Enum):
    IN_RENTAL = _is("IN_RENTAL", "Rented out.")
    NOT_IN_RENTAL = _is("NOT_IN_RENTAL", "Free.")
    UNKNOWN = _unknown()


@strawberry.enum(description="How far a vehicle's setup in the fleet has come.")
class SetupStatusValue(Enum):
    IN_PROGRESS = _is("IN_PROGRESS", "Under way.")
    SUCCEEDED = _is("SUCCEEDED", "Done; commands can be sent.")
    FAILED = _is("FAILED", "Failed.")
    UNKNOWN = _unknown()


@strawberry.enum(description="How a telematics unit came into its vehicle.")
class TelematicsUnitType(Enum):
    RETROFIT = _is("RETROFIT", "Built in afterwards.")
    OEM = _is("OEM", "Built in by the vehicle's maker.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Whether a function is enabled.")
class EnabledValue(Enum):
    ENABLED = _is("ENABLED", "Enabled.")
    DISABLED = _is("DISABLED", "Disabled.")
    UNKNOWN = _unknown()


@strawberry.enum(description="A warning light or indicator.")
class IndicatorValue(Enum):
    ON = _is("ON", "Lit.")
    OFF = _is("OFF", "Not lit.")
    SENSOR_FAILURE = _is("SENSOR_FAILURE", "The sensor has failed.")
    UNKNOWN = _unknown()


@strawberry.enum(description="The position of a center stand.")
class StandValue(Enum):
    UP = _is("UP", "Folded in.")
    DOWN = _is("DOWN", "Folded out.")
    UNKNOWN = _unknown()


@strawberry.enum(description="The state of a lock.")
class LockValue(Enum):
    LOCKED = _is("LOCKED", "Locked.")
    UNLOCKED = _is("UNLOCKED", "Unlocked.")
    UNKNOWN = _unknown()


@strawberry.enum(description="The state of a lid.")
class LidValue(Enum):
    OPEN = _is("OPEN", "Open.")
    CLOSED = _is("CLOSED", "Closed.")
    UNKNOWN = _unknown()


@strawberry.enum(description="The state of a switch.")
class SwitchValue(Enum):
    ON = _is("ON", "On.")
    OFF = _is("OFF", "Off.")
    UNKNOWN = _unknown()


def leave_open(enum: GraphQLEnumType) -> None:
    """Makes an enum of the schema answer UNKNOWN for a value it does not list, in place of an error."""
    known = {value.value: name for name, value in enum.values.items()}

    def coerce_output_value(value: Any) -> str:
        return known.get(value, "UNKNOWN") if isinstance(value, str) else "UNKNOWN"

    enum.coerce_output_value = coerce_output_value  # type: ignore[assignment,method-assign]
