"""Open enums: the known values, and UNKNOWN for values that the vendor may add at any time."""

from __future__ import annotations

from enum import Enum
from typing import Any

import strawberry
from graphql import GraphQLEnumType


def _is(value: str, description: str) -> Any:
    return strawberry.enum_value(value, description=description)


def _unknown() -> Any:
    return _is("UNKNOWN", "A value that is not in this enum; the raw field has the original value.")


@strawberry.enum(description="Connection status of a vehicle.")
class VehicleStatus(Enum):
    CONNECTED_VEHICLE = _is("CONNECTED_VEHICLE", "The vehicle has a telematics unit and is part of the fleet.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Fuel type of a vehicle.")
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


@strawberry.enum(description="Transmission of a vehicle.")
class Transmission(Enum):
    AUTOMATIC = _is("AUTOMATIC", "Automatic.")
    MANUAL = _is("MANUAL", "Manual; formerly `MANUAL_SHIFT` in the fleet API.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Type of a vehicle.")
class VehicleType(Enum):
    CAR = _is("CAR", "Car.")
    VAN = _is("VAN", "Van.")
    TRUCK = _is("TRUCK", "Truck.")
    MOPED = _is("MOPED", "Moped.")
    KICK_SCOOTER = _is("KICK_SCOOTER", "Kick scooter.")
    BIKE = _is("BIKE", "Bicycle.")
    DEV_KIT = _is("DEV_KIT", "Development kit, not a real vehicle.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Connectivity of a vehicle.")
class LifeStatusValue(Enum):
    ONLINE = _is("ONLINE", "The vehicle is online.")
    OFFLINE = _is("OFFLINE", "The vehicle has not been in contact for some time.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Operational status of a vehicle.")
class OperationStatusValue(Enum):
    OPERATING = _is("OPERATING", "In service.")
    GARAGE = _is("GARAGE", "In the garage, out of service.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Rental status of a vehicle.")
class RentalStatusValue(Enum):
    IN_RENTAL = _is("IN_RENTAL", "Currently rented.")
    NOT_IN_RENTAL = _is("NOT_IN_RENTAL", "Not rented.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Setup status of a vehicle.")
class SetupStatusValue(Enum):
    IN_PROGRESS = _is("IN_PROGRESS", "Setup is in progress.")
    SUCCEEDED = _is("SUCCEEDED", "Setup has succeeded; the vehicle accepts commands.")
    FAILED = _is("FAILED", "Setup has failed.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Kind of installation of a telematics unit.")
class TelematicsUnitType(Enum):
    RETROFIT = _is("RETROFIT", "Retrofitted.")
    OEM = _is("OEM", "Installed by the vehicle manufacturer.")
    UNKNOWN = _unknown()


@strawberry.enum(description="State of a function.")
class EnabledValue(Enum):
    ENABLED = _is("ENABLED", "Enabled.")
    DISABLED = _is("DISABLED", "Disabled.")
    UNKNOWN = _unknown()


@strawberry.enum(description="State of a warning light or indicator.")
class IndicatorValue(Enum):
    ON = _is("ON", "On.")
    OFF = _is("OFF", "Off.")
    SENSOR_FAILURE = _is("SENSOR_FAILURE", "The sensor has failed.")
    UNKNOWN = _unknown()


@strawberry.enum(description="Position of a center stand.")
class StandValue(Enum):
    UP = _is("UP", "Folded up.")
    DOWN = _is("DOWN", "Folded down.")
    UNKNOWN = _unknown()


@strawberry.enum(description="State of a lock.")
class LockValue(Enum):
    LOCKED = _is("LOCKED", "Locked.")
    UNLOCKED = _is("UNLOCKED", "Unlocked.")
    UNKNOWN = _unknown()


@strawberry.enum(description="State of a lid.")
class LidValue(Enum):
    OPEN = _is("OPEN", "Open.")
    CLOSED = _is("CLOSED", "Closed.")
    UNKNOWN = _unknown()


@strawberry.enum(description="State of a switch.")
class SwitchValue(Enum):
    ON = _is("ON", "On.")
    OFF = _is("OFF", "Off.")
    UNKNOWN = _unknown()


def leave_open(enum: GraphQLEnumType) -> None:
    """Makes an enum serialise values that it does not list as UNKNOWN instead of raising an error."""
    known = {value.value: name for name, value in enum.values.items()}

    def coerce_output_value(value: Any) -> str:
        return known.get(value, "UNKNOWN") if isinstance(value, str) else "UNKNOWN"

    enum.coerce_output_value = coerce_output_value  # type: ignore[assignment,method-assign]
