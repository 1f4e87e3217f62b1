"""The root query type. How its fields are loaded is in `root_fields.py`."""

from __future__ import annotations

from typing import Annotated, Any

import strawberry
from strawberry import UNSET
from strawberry.federation.schema_directives import Cost, ListSize

from gateway.engine.plans import RootFieldCall
from gateway.schema.connections import Connection
from gateway.schema.context import Info
from gateway.schema.root_fields import ROOT_FIELDS
from gateway.schema.types import (
    Node,
    SharingFleet,
    TelematicsUnit,
    TelematicsUnitConnection,
    Vehicle,
    VehicleConnection,
    VehicleModel,
)

First = Annotated[int | None, strawberry.argument(description="Returns the first n edges.")]
After = Annotated[str | None, strawberry.argument(description="Returns only edges after this cursor.")]
Last = Annotated[int | None, strawberry.argument(description="Returns the last n edges.")]
Before = Annotated[str | None, strawberry.argument(description="Returns only edges before this cursor.")]

PAGING = (
    "Paginates forward with `first` and `after`, or backward with `last` and `before`. "
    "Without `first` and `last` it returns a page of the default size."
)


Search = Annotated[
    str | None,
    strawberry.argument(description="Search text; the fleet API searches brand, model, license plate, VIN and id."),
]
GlobalId = Annotated[strawberry.ID, strawberry.argument(description="Global id.")]
GlobalIds = Annotated[list[strawberry.ID], strawberry.argument(description="Global ids.")]
VehicleId = Annotated[strawberry.ID, strawberry.argument(description="Id of the vehicle in the fleet API.")]
UnitId = Annotated[strawberry.ID, strawberry.argument(description="Id of the unit in the fleet API.")]
Manufacturer = Annotated[str | None, strawberry.argument(description="Manufacturer, such as `INVERS`.")]
Brand = Annotated[str | None, strawberry.argument(description="Brand, such as `CLOUDBOXX`.")]


TelematicsBrand = Annotated[str, strawberry.argument(description="Telematics brand, such as `CLOUDBOXX`.")]


async def load(name: str, info: Info, **arguments: Any) -> Any:
    given = {argument: value for argument, value in arguments.items() if value is not UNSET}
    (value,) = await ROOT_FIELDS[name].load(info.context, [RootFieldCall(given, None)])
    if isinstance(value, BaseException):
        raise value
    return value


async def _load_slice(name: str, info: Info, **arguments: Any) -> Any:
    connection: Connection[Any] = await load(name, info, **arguments)
    return await connection.ready()


def _resolve_node(info: Info, id: GlobalId) -> Any:
    return load("node", info, id=id)


def _resolve_nodes(info: Info, ids: GlobalIds) -> Any:
    return load("nodes", info, ids=ids)


def _resolve_vehicle(info: Info, id: VehicleId) -> Any:
    return load("vehicle", info, id=id)


def _resolve_vehicles(
    info: Info,
    first: First = UNSET,
    after: After = UNSET,
    last: Last = UNSET,
    before: Before = UNSET,
    search: Search = UNSET,
) -> Any:
    return _load_slice("vehicles", info, first=first, after=after, last=last, before=before, search=search)


def _resolve_telematics_unit(
    info: Info, *, manufacturer: Manufacturer = UNSET, brand: Brand = UNSET, id: UnitId
) -> Any:
    return load("telematicsUnit", info, manufacturer=manufacturer, brand=brand, id=id)


def _resolve_telematics_units(
    info: Info, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
) -> Any:
    return _load_slice("telematicsUnits", info, first=first, after=after, last=last, before=before)


def _resolve_vehicle_models(info: Info, telematics_brand: TelematicsBrand) -> Any:
    return load("availableVehicleModels", info, telematicsBrand=telematics_brand)


def _resolve_sharing_partners(info: Info) -> Any:
    return load("sharingPartners", info)


# For routers that estimate costs: the weight is the number of upstream calls, the list size is `first` or `last`.
PAGED = [
    ListSize(
        assumed_size=50,
        slicing_arguments=["first", "last"],
        sized_fields=["edges", "nodes"],
        require_one_slicing_argument=False,
    )
]
A_READ = [Cost(weight=1)]
# What the fleet API returns in one list.
A_LIST = [
    *A_READ,
    ListSize(assumed_size=100, slicing_arguments=[], sized_fields=[], require_one_slicing_argument=False),
]


@strawberry.type(description="Root query type.")
class Query:
    node: Node | None = strawberry.field(
        resolver=_resolve_node,
        description="Object with this global id, or null.",
        directives=A_READ,
    )
    nodes: list[Node | None] = strawberry.field(
        resolver=_resolve_nodes,
        description="Objects with these global ids, in the same order; null for each missing one.",
    )
    vehicle: Vehicle | None = strawberry.field(
        resolver=_resolve_vehicle,
        description="Vehicle with this id in the fleet API, or null.",
        directives=A_READ,
    )
    vehicles: VehicleConnection | None = strawberry.field(
        resolver=_resolve_vehicles, description=f"Vehicles of the fleet. {PAGING}", directives=PAGED
    )
    telematics_unit: TelematicsUnit | None = strawberry.field(
        resolver=_resolve_telematics_unit,
        description="Telematics unit with this key, or null. Omit parts of the key that are empty in the fleet API. "
        "The fleet API can't look up units, so this scans the fleet's vehicles up to a limit.",
        directives=[Cost(weight=100)],
    )
    telematics_units: TelematicsUnitConnection | None = strawberry.field(
        resolver=_resolve_telematics_units,
        description=f"Telematics units of the fleet, in the order of their vehicles. {PAGING}",
        directives=PAGED,
    )
    available_vehicle_models: list[VehicleModel] | None = strawberry.field(
        resolver=_resolve_vehicle_models,
        description="Vehicle models for `addVehicle` that a telematics brand supports; null if the brand is unknown.",
        directives=A_LIST,
    )
    sharing_partners: list[SharingFleet] | None = strawberry.field(
        resolver=_resolve_sharing_partners,
        description="Fleets with which vehicles can be shared, for `shareVehicle`.",
        directives=A_LIST,
    )
