"""The types of the graph. Their values are the upstream's structs: a field without code mirrors a member by name."""

from __future__ import annotations

from typing import Any

import msgspec
import strawberry
from msgspec import UNSET
from strawberry.federation.schema_directives import ListSize

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
from gateway.schema.scalars import DateTime
from gateway.schema.state import VehicleState
from gateway.upstream import models

KNOWN = "UNKNOWN if the schema does not know the value; the raw field beside it has the fleet API's own word."
RAW = "The fleet API's own word for the value."
GLOBAL_ID = "Global id, unique among all objects of this graph; made for `node(id:)`."


def _vehicle_global_id(root: strawberry.Parent[Any]) -> Any:
    vehicle: models.Vehicle = root
    return vehicle_global_id(vehicle.vehicle_id)


def _unit_global_id(root: strawberry.Parent[Any]) -> Any:
    unit: models.TelematicsUnit = root
    return unit_global_id(unit.manufacturer, unit.brand, unit.unit_id or "")


def _vehicle_of_unit(root: strawberry.Parent[Any], info: Info) -> Any:
    unit: models.TelematicsUnit = root
    return info.context.loaders.vehicles.one(unit.vehicle_id)


def _custom_fields(root: strawberry.Parent[Any]) -> Any:
    vehicle: models.Vehicle = root
    if vehicle.custom_fields is None:
        return None
    return [CustomField(key=key, value=_as_text(value)) for key, value in vehicle.custom_fields.items()]


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


async def _vehicles_of_units(context: Context, units: list[models.TelematicsUnit]) -> list[Any]:
    return await context.loaders.vehicles.many([unit.vehicle_id for unit in units])


async def _latest_states(context: Context, vehicles: list[models.Vehicle]) -> list[Any]:
    return await context.loaders.latest_states.many([vehicle.vehicle_id for vehicle in vehicles])


async def _has_next(context: Context, connections: list[Connection[Any]]) -> list[bool]:
    return [await connection.has_next_read() for connection in connections]


async def _has_previous(context: Context, connections: list[Connection[Any]]) -> list[bool]:
    return [await connection.has_previous_read() for connection in connections]


def _latest_state(root: strawberry.Parent[Any], info: Info) -> Any:
    vehicle: models.Vehicle = root
    if vehicle.latest_state is UNSET:
        return info.context.loaders.latest_states.one(vehicle.vehicle_id)
    return vehicle.latest_state


@strawberry.interface(description="An object that `node(id:)` finds again by its global id.")
class Node:
    id: strawberry.ID = strawberry.field(description=GLOBAL_ID)


@strawberry.type(description="Whether a vehicle is in touch with the fleet, and since when.")
class LifeStatus:
    value: LifeStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Since when.")


@strawberry.type(description="Whether a vehicle is in service, and since when.")
class OperationStatus:
    value: OperationStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Since when.")


@strawberry.type(description="Whether a vehicle is rented out, and since when.")
class RentalStatus:
    value: RentalStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Since when.")


@strawberry.type(description="How far a vehicle's setup in the fleet has come, and since when.")
class SetupStatus:
    value: SetupStatusValue | None = strawberry.field(description=KNOWN)
    raw_value: str | None = strawberry.field(description=RAW)
    modified_at: DateTime | None = strawberry.field(description="Since when.")


@strawberry.type(description="What people entered about a vehicle; it has no effect on its connection.")
class MasterData:
    vin: str | None = strawberry.field(description="Vehicle identification number.")
    license_plate: str | None = strawberry.field(description="License plate, at most 30 characters.")
    brand: str | None = strawberry.field(description="The vehicle's brand, such as `Audi`.")
    model: str | None = strawberry.field(description="The vehicle's model, such as `A3`.")
    custom_name: str | None = strawberry.field(description="The fleet's own name for the vehicle.")
    fuel_type: FuelType | None = strawberry.field(description=f"What it runs on. {KNOWN}")
    fuel_type_raw: str | None = strawberry.field(description=RAW)
    year_of_production: str | None = strawberry.field(description="Year of production, as text.")
    transmission: Transmission | None = strawberry.field(
        description=f"Its transmission, also where the fleet API says `gear_box`. {KNOWN}"
    )
    transmission_raw: str | None = strawberry.field(description=RAW)
    vehicle_type: VehicleType | None = strawberry.field(description=f"Its form. {KNOWN}")
    vehicle_type_raw: str | None = strawberry.field(description=RAW)
    remark: str | None = strawberry.field(description="A remark.")


@strawberry.type(description="A custom field of a vehicle.")
class CustomField:
    key: str = strawberry.field(description="Its name.")
    value: str | None = strawberry.field(description="Its value as text, whatever kind the fleet API holds.")


@strawberry.type(description="What a vehicle can do and report. The lists grow and change without notice.")
class Capabilities:
    commands: list[str] | None = strawberry.field(description="Commands it takes, such as `UNLOCK_CENTRAL_LOCK`.")
    vehicle_state: list[str] | None = strawberry.field(
        description="State properties it may report, such as `MILEAGE_IN_KILOMETERS`."
    )


@strawberry.federation.type(
    keys=["id", "manufacturer brand unitId"],
    description="The device that connects a vehicle. It is identified by manufacturer, brand and unit id together: a "
    "unit id alone is unique only within one manufacturer.",
)
class TelematicsUnit(Node):
    id: strawberry.ID = strawberry.field(
        resolver=_unit_global_id,
        description=GLOBAL_ID,
        metadata={PLAIN: _unit_global_id, NEEDS: UnitKey._fields},
    )
    unit_id: str = strawberry.field(description="The fleet API's id of the unit, such as a CloudBoxx' QNR.")
    brand: str | None = strawberry.field(description="Its brand, such as `CLOUDBOXX`, `NIU` or `SEGWAY`.")
    model: str | None = strawberry.field(description="Its model, such as `CloudBoxx 4G`.")
    manufacturer: str | None = strawberry.field(description="Its manufacturer, such as `INVERS`.")
    type: TelematicsUnitType | None = strawberry.field(description=f"How it came into the vehicle. {KNOWN}")
    type_raw: str | None = strawberry.field(description=RAW)
    fleet_id: str | None = strawberry.field(description="The fleet it belongs to.")
    created_at: DateTime | None = strawberry.field(description="When the fleet API first knew it.")
    modified_at: DateTime | None = strawberry.field(description="When its data last changed.")

    vehicle: Vehicle | None = strawberry.field(
        resolver=_vehicle_of_unit,
        description="The vehicle it is attached to.",
        metadata={BATCH: _vehicles_of_units, NEEDS: ("vehicle_id",)},
    )

    @classmethod
    def is_type_of(cls, value: object, info: object) -> bool:
        return isinstance(value, models.TelematicsUnit)


@strawberry.federation.type(
    keys=["id", "vehicleId"],
    description="A vehicle of the fleet. Any field may be null: how much is known depends on the vehicle and its unit.",
)
class Vehicle(Node):
    id: strawberry.ID = strawberry.field(
        resolver=_vehicle_global_id, description=GLOBAL_ID, metadata={PLAIN: _vehicle_global_id, NEEDS: ("vehicle_id",)}
    )
    vehicle_id: str = strawberry.field(description="The fleet API's id of the vehicle, made for `vehicle(id:)`.")
    status: VehicleStatus | None = strawberry.field(description=f"How far it is connected. {KNOWN}")
    status_raw: str | None = strawberry.field(description=RAW)
    fleet_id: str | None = strawberry.field(description="The fleet it belongs to.")
    last_contact_at: DateTime | None = strawberry.field(description="When it was last heard of.")
    created_at: DateTime | None = strawberry.field(description="When it was added to the fleet.")
    modified_at: DateTime | None = strawberry.field(description="When its data, other than its state, last changed.")
    attached_at: DateTime | None = strawberry.field(description="When its telematics unit was attached.")
    master_data: MasterData | None = strawberry.field(description="What people entered about it.")
    tags: list[str] | None = strawberry.field(description="Its tags, such as `in_maintenance`.")
    life_status: LifeStatus | None = strawberry.field(description="Whether it is in touch with the fleet.")
    operation_status: OperationStatus | None = strawberry.field(description="Whether it is in service.")
    rental_status: RentalStatus | None = strawberry.field(description="Whether it is rented out.")
    setup_status: SetupStatus | None = strawberry.field(description="How far its setup in the fleet has come.")
    capabilities: Capabilities | None = strawberry.field(description="What it can do and report.")
    telematics_unit: TelematicsUnit | None = strawberry.field(description="The device that connects it.")
    vehicle_model_id: str | None = strawberry.field(description="The fleet API's id of its vehicle model (a ULID).")
    custom_fields: list[CustomField] | None = strawberry.field(
        resolver=_custom_fields,
        description="Its custom fields, in the fleet API's order.",
        metadata={PLAIN: _custom_fields, NEEDS: ("custom_fields",)},
        directives=[
            ListSize(assumed_size=10, slicing_arguments=[], sized_fields=[], require_one_slicing_argument=False)
        ],
    )
    latest_state: VehicleState | None = strawberry.field(
        resolver=_latest_state,
        description="Its latest state.",
        metadata={PLAIN: "latest_state", UNLESS: UNSET, BATCH: _latest_states},
    )

    @classmethod
    def is_type_of(cls, value: object, info: object) -> bool:
        return isinstance(value, models.Vehicle)


@strawberry.federation.type(shareable=True, description="Where a page of a connection stands in the whole.")
class PageInfo:
    has_next_page: bool = strawberry.field(
        description="With `first`: whether more follows; it is looked up, never guessed. With `before`: true.",
        metadata={PLAIN: Connection.has_next_known, UNLESS: None, BATCH: _has_next, OWN: True},
    )
    has_previous_page: bool = strawberry.field(
        description="With `last`: whether more precedes; it is looked up, never guessed. With `after`: true.",
        metadata={PLAIN: Connection.has_previous_known, UNLESS: None, BATCH: _has_previous, OWN: True},
    )
    start_cursor: str | None = strawberry.field(description="The first edge's cursor; null on an empty page.")
    end_cursor: str | None = strawberry.field(description="The last edge's cursor; null on an empty page.")


@strawberry.type(description="A vehicle in a connection.")
class VehicleEdge:
    cursor: str = strawberry.field(description="Where this edge stands; for `after` and `before`.")
    node: Vehicle = strawberry.field(description="The vehicle.")


@strawberry.type(description="A page of vehicles.")
class VehicleConnection:
    edges: list[VehicleEdge] = strawberry.field(description="The vehicles with their cursors.")
    nodes: list[Vehicle] = strawberry.field(description="The vehicles.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the whole.")


@strawberry.type(description="A telematics unit in a connection.")
class TelematicsUnitEdge:
    cursor: str = strawberry.field(description="Where this edge stands; for `after` and `before`.")
    node: TelematicsUnit = strawberry.field(description="The telematics unit.")


@strawberry.type(description="A page of telematics units.")
class TelematicsUnitConnection:
    edges: list[TelematicsUnitEdge] = strawberry.field(description="The units with their cursors.")
    nodes: list[TelematicsUnit] = strawberry.field(description="The units.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the whole.")
