"""GraphQL types. Their values are upstream models, so a field without a resolver mirrors a member by name."""

from __future__ import annotations

from typing import Any

import msgspec
import strawberry
from msgspec import UNSET
from strawberry.federation.schema_directives import ListSize
from strawberry.scalars import JSON

from gateway.engine.projection import BATCH, NEEDS, OWN, PLAIN, UNLESS
from gateway.schema.connections import Connection
from gateway.schema.context import Context, Info
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
from gateway.schema.global_ids import UnitKey, unit_global_id, vehicle_global_id
from gateway.schema.scalars import DateTime, bounded_json
from gateway.schema.state import VehicleState
from gateway.upstream import models

KNOWN = "UNKNOWN for values that are not in this enum; the raw field has the original value."
RAW = "Original value from the fleet API."
GLOBAL_ID = "Global id, unique across all types; use it with `node(id:)`."


def _vehicle_global_id(root: strawberry.Parent[Any]) -> Any:
    vehicle: models.Vehicle = root
    return vehicle_global_id(vehicle.vehicle_id)


def _unit_global_id(root: strawberry.Parent[Any]) -> Any:
    unit: models.TelematicsUnit = root
    return unit_global_id(unit.manufacturer, unit.brand, unit.unit_id or "")


def _vehicle_of_unit(root: strawberry.Parent[Any], info: Info) -> Any:
    unit: models.TelematicsUnit = root
    return info.context.loaders.vehicles.load(unit.vehicle_id)


def _custom_fields(root: strawberry.Parent[Any]) -> Any:
    vehicle: models.Vehicle = root
    if vehicle.custom_fields is None:
        return None
    return [CustomField(key=key, value=_as_text(value)) for key, value in vehicle.custom_fields.items()]


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(bounded_json(value)).decode()


async def _vehicles_of_units(context: Context, units: list[models.TelematicsUnit]) -> list[Any]:
    return await context.loaders.vehicles.load_many([unit.vehicle_id for unit in units])


async def _latest_states(context: Context, vehicles: list[models.Vehicle]) -> list[Any]:
    return await context.loaders.latest_states.load_many([vehicle.vehicle_id for vehicle in vehicles])


async def _has_next(context: Context, connections: list[Connection[Any]]) -> list[bool]:
    return [await connection.has_next_read() for connection in connections]


async def _has_previous(context: Context, connections: list[Connection[Any]]) -> list[bool]:
    return [await connection.has_previous_read() for connection in connections]


def _latest_state(root: strawberry.Parent[Any], info: Info) -> Any:
    vehicle: models.Vehicle = root
    if vehicle.latest_state is UNSET:
        return info.context.loaders.latest_states.load(vehicle.vehicle_id)
    return vehicle.latest_state


def _known_version(root: Any) -> Any:
    vehicle: models.Vehicle = root
    return vehicle.version


async def _version(root: strawberry.Parent[Any], info: Info) -> Any:
    (version,) = await _versions(info.context, [root])
    if isinstance(version, BaseException):
        raise version
    return version


async def _versions(context: Context, vehicles: list[models.Vehicle]) -> list[Any]:
    """The versions of vehicles; those of vehicles in lists are read one by one."""
    unknown = [vehicle.vehicle_id for vehicle in vehicles if vehicle.version is UNSET]
    read = await context.loaders.versioned.load_many(unknown) if unknown else []
    current = dict(zip(unknown, read, strict=True))
    return [_version_of(vehicle, current.get(vehicle.vehicle_id)) for vehicle in vehicles]


def _version_of(vehicle: models.Vehicle, current: models.Vehicle | BaseException | None) -> Any:
    if vehicle.version is not UNSET or current is None or isinstance(current, BaseException):
        return current if vehicle.version is UNSET else vehicle.version
    # With the version of something newer than what was read, an update could overwrite a change that nobody has seen.
    is_same = vehicle.modified_at is not None and vehicle.modified_at == current.modified_at
    return current.version if is_same and current.version is not UNSET else None


@strawberry.interface(description="Object that can be refetched by its global id with `node(id:)`.")
class Node:
    id: strawberry.ID = strawberry.field(description=GLOBAL_ID)


@strawberry.type(description="Connectivity of a vehicle.")
class LifeStatus:
    value: LifeStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Time of the last change.")


@strawberry.type(description="Operational status of a vehicle.")
class OperationStatus:
    value: OperationStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Time of the last change.")


@strawberry.type(description="Rental status of a vehicle.")
class RentalStatus:
    value: RentalStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Time of the last change.")


@strawberry.type(description="Setup status of a vehicle.")
class SetupStatus:
    value: SetupStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Time of the last change.")


@strawberry.type(description="Descriptive data of a vehicle, entered by people. It does not affect connectivity.")
class MasterData:
    vin: str | None = strawberry.field(description="Vehicle identification number.")
    license_plate: str | None = strawberry.field(description="License plate, up to 30 characters.")
    brand: str | None = strawberry.field(description="Brand, such as `Audi`.")
    model: str | None = strawberry.field(description="Model, such as `A3`.")
    custom_name: str | None = strawberry.field(description="Name that the fleet operator gave the vehicle.")
    fuel_type: FuelType | None = strawberry.field(description=f"Fuel type. {KNOWN}")
    fuel_type_raw: str | None = strawberry.field(description=RAW)
    year_of_production: str | None = strawberry.field(description="Year of production.")
    transmission: Transmission | None = strawberry.field(description=f"Transmission. {KNOWN}")
    transmission_raw: str | None = strawberry.field(description=RAW)
    vehicle_type: VehicleType | None = strawberry.field(description=f"Vehicle type. {KNOWN}")
    vehicle_type_raw: str | None = strawberry.field(description=RAW)
    remark: str | None = strawberry.field(description="Remark.")


@strawberry.type(description="Custom field of a vehicle.")
class CustomField:
    key: str = strawberry.field(description="Name of the field.")
    value: str | None = strawberry.field(description="Value. Strings are unchanged; other types are JSON text.")


@strawberry.type(description="Capabilities of a vehicle. The fleet API may add or rename entries at any time.")
class Capabilities:
    commands: list[str] | None = strawberry.field(description="Supported commands, such as `UNLOCK_CENTRAL_LOCK`.")
    vehicle_state: list[str] | None = strawberry.field(
        description="State properties that the vehicle can report, such as `MILEAGE_IN_KILOMETERS`."
    )


@strawberry.type(description="Fleet that takes part in the sharing of a vehicle.")
class SharingFleet:
    fleet_id: str | None = strawberry.field(description="Id of the fleet.")
    name: str | None = strawberry.field(description="Name of the fleet.")


@strawberry.type(description="Sharing of a vehicle with the fleet of a partner, which can read and use it meanwhile.")
class Sharing:
    owner: SharingFleet | None = strawberry.field(description="Fleet that the vehicle belongs to.")
    partner: SharingFleet | None = strawberry.field(description="Fleet that the vehicle is shared with.")
    starts_at: DateTime | None = strawberry.field(description="Time when the sharing starts.")
    ends_at: DateTime | None = strawberry.field(description="Time when the sharing ends; null if it has no end.")


@strawberry.type(description="Vehicle model that a telematics brand supports.")
class VehicleModel:
    model_id: str = strawberry.field(description="Id in the fleet API (a ULID), for `vehicleModelId` of `addVehicle`.")
    vehicle_brand: str | None = strawberry.field(description="Brand, such as `Audi`.")
    vehicle_model: str | None = strawberry.field(description="Model, such as `A3`.")
    vehicle_type: VehicleType | None = strawberry.field(description=f"Vehicle type. {KNOWN}")
    vehicle_type_raw: str | None = strawberry.field(description=RAW)
    regions: list[str] | None = strawberry.field(description="Regions, such as `Europe`.")
    version: int | None = strawberry.field(description="Version of this entry.")
    start_of_production: str | None = strawberry.field(description="Month, such as `2021-05`.")
    central_lock_connection_types: list[str] | None = strawberry.field(
        description="Ways to connect the central lock, such as `DIRECT`."
    )
    capabilities: Capabilities | None = strawberry.field(description="Commands and state properties that it supports.")


@strawberry.federation.type(
    keys=["id", "manufacturer brand unitId"],
    description="Telematics device of a vehicle. Manufacturer, brand and unit id together identify it: unit ids "
    "are unique only per manufacturer.",
)
class TelematicsUnit(Node):
    id: strawberry.ID = strawberry.field(
        resolver=_unit_global_id,
        description=GLOBAL_ID,
        metadata={PLAIN: _unit_global_id, NEEDS: UnitKey._fields},
    )
    unit_id: str = strawberry.field(description="Id of the unit in the fleet API, such as the QNR of a CloudBoxx.")
    brand: str | None = strawberry.field(description="Brand, such as `CLOUDBOXX`, `NIU` or `SEGWAY`.")
    model: str | None = strawberry.field(description="Model, such as `CloudBoxx 4G`.")
    manufacturer: str | None = strawberry.field(description="Manufacturer, such as `INVERS`.")
    type: TelematicsUnitType | None = strawberry.field(description=f"Kind of installation. {KNOWN}")
    type_raw: str | None = strawberry.field(description=RAW)
    fleet_id: str | None = strawberry.field(description="Id of the fleet it belongs to.")
    created_at: DateTime | None = strawberry.field(description="Creation time.")
    modified_at: DateTime | None = strawberry.field(description="Time of the last change.")

    vehicle: Vehicle | None = strawberry.field(
        resolver=_vehicle_of_unit,
        description="Vehicle that the unit is attached to.",
        metadata={BATCH: _vehicles_of_units, NEEDS: ("vehicle_id",)},
    )

    @classmethod
    def is_type_of(cls, value: object, info: object) -> bool:
        return isinstance(value, models.TelematicsUnit)


@strawberry.federation.type(
    keys=["id", "vehicleId"],
    description="Vehicle. Most fields may be null, because the available data depends on the vehicle and its unit.",
)
class Vehicle(Node):
    id: strawberry.ID = strawberry.field(
        resolver=_vehicle_global_id, description=GLOBAL_ID, metadata={PLAIN: _vehicle_global_id, NEEDS: ("vehicle_id",)}
    )
    vehicle_id: str = strawberry.field(description="Id of the vehicle in the fleet API; use it with `vehicle(id:)`.")
    version: str | None = strawberry.field(
        resolver=_version,
        description="Version for `ifVersion` of mutations (the ETag of the fleet API). In lists it is read separately "
        "for each vehicle; it is null if the vehicle has changed since the list was read.",
        metadata={PLAIN: _known_version, NEEDS: ("version", "modified_at"), UNLESS: UNSET, BATCH: _versions},
    )
    status: VehicleStatus | None = strawberry.field(description=f"Connection status. {KNOWN}")
    status_raw: str | None = strawberry.field(description=RAW)
    fleet_id: str | None = strawberry.field(
        description="Id of the fleet it belongs to, which is another one than the caller's if it is shared."
    )
    last_contact_at: DateTime | None = strawberry.field(description="Time of the last contact with the vehicle.")
    created_at: DateTime | None = strawberry.field(description="Time when the vehicle was added to the fleet.")
    modified_at: DateTime | None = strawberry.field(description="Time of the last change, except changes of the state.")
    attached_at: DateTime | None = strawberry.field(description="Time when the telematics unit was attached.")
    master_data: MasterData | None = strawberry.field(description="Descriptive data, entered by people.")
    tags: list[str] | None = strawberry.field(description="Tags, such as `in_maintenance`.")
    life_status: LifeStatus | None = strawberry.field(description="Connectivity.")
    operation_status: OperationStatus | None = strawberry.field(description="Operational status.")
    rental_status: RentalStatus | None = strawberry.field(description="Rental status.")
    setup_status: SetupStatus | None = strawberry.field(description="Setup status.")
    capabilities: Capabilities | None = strawberry.field(description="Supported commands and state properties.")
    telematics_unit: TelematicsUnit | None = strawberry.field(description="Telematics unit of the vehicle.")
    vehicle_model_id: str | None = strawberry.field(description="Id of the vehicle model in the fleet API (a ULID).")
    sharing: Sharing | None = strawberry.field(description="Sharing with another fleet; null if it is not shared.")
    other_members: JSON | None = strawberry.field(
        description="Members that have no field in this schema, by their name in the fleet API. Those of an object, "
        "such as `master_data`, are within it."
    )
    custom_fields: list[CustomField] | None = strawberry.field(
        resolver=_custom_fields,
        description="Custom fields, in the order of the fleet API.",
        metadata={PLAIN: _custom_fields, NEEDS: ("custom_fields",)},
        directives=[
            ListSize(assumed_size=10, slicing_arguments=[], sized_fields=[], require_one_slicing_argument=False)
        ],
    )
    latest_state: VehicleState | None = strawberry.field(
        resolver=_latest_state,
        description="Latest known state.",
        metadata={PLAIN: "latest_state", UNLESS: UNSET, BATCH: _latest_states},
    )

    @classmethod
    def is_type_of(cls, value: object, info: object) -> bool:
        return isinstance(value, models.Vehicle)


@strawberry.federation.type(shareable=True, description="Pagination info of a connection.")
class PageInfo:
    has_next_page: bool = strawberry.field(
        description="With `first`: whether more edges follow, which is always looked up. With `before`: true.",
        metadata={PLAIN: Connection.has_next_known, UNLESS: None, BATCH: _has_next, OWN: True},
    )
    has_previous_page: bool = strawberry.field(
        description="With `last`: whether more edges precede, which is always looked up. With `after`: true.",
        metadata={PLAIN: Connection.has_previous_known, UNLESS: None, BATCH: _has_previous, OWN: True},
    )
    start_cursor: str | None = strawberry.field(description="Cursor of the first edge; null if there are no edges.")
    end_cursor: str | None = strawberry.field(description="Cursor of the last edge; null if there are no edges.")


@strawberry.type(description="Edge of a vehicle connection.")
class VehicleEdge:
    cursor: str = strawberry.field(description="Cursor of this edge, for `after` and `before`.")
    node: Vehicle = strawberry.field(description="Vehicle.")


@strawberry.type(description="Connection of vehicles.")
class VehicleConnection:
    edges: list[VehicleEdge] = strawberry.field(description="Vehicles with their cursors.")
    nodes: list[Vehicle] = strawberry.field(description="Vehicles.")
    page_info: PageInfo = strawberry.field(description="Pagination info.")


@strawberry.type(description="Edge of a telematics unit connection.")
class TelematicsUnitEdge:
    cursor: str = strawberry.field(description="Cursor of this edge, for `after` and `before`.")
    node: TelematicsUnit = strawberry.field(description="Telematics unit.")


@strawberry.type(description="Connection of telematics units.")
class TelematicsUnitConnection:
    edges: list[TelematicsUnitEdge] = strawberry.field(description="Telematics units with their cursors.")
    nodes: list[TelematicsUnit] = strawberry.field(description="Telematics units.")
    page_info: PageInfo = strawberry.field(description="Pagination info.")
