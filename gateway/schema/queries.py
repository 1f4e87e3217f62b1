"""The root query type. How its fields are loaded is in `root_fields.py`."""

from __future__ import annotations

from typing import Annotated, Any

import strawberry
from strawberry import UNSET
from strawberry.federation.schema_directives import Cost, ListSize

from gateway.engine.plans import RootFieldCall
from gateway.schema.context import Info, arguments_of
from gateway.schema.filters import TelematicsUnitFilter, VehicleFilter, VehicleOrder
from gateway.schema.fleet import Fleet
from gateway.schema.root_fields import ROOT_FIELDS
from gateway.schema.types import (
    SCAN,
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
Where = Annotated[
    VehicleFilter | None,
    strawberry.argument(
        description="Returns only vehicles that match. Unless it names ids, a license plate or a VIN, the fleet is "
        "scanned.",
        directives=[SCAN],
    ),
]
WhereUnit = Annotated[
    TelematicsUnitFilter | None,
    strawberry.argument(description="Returns only units that match. The fleet is scanned.", directives=[SCAN]),
]
OrderBy = Annotated[
    list[VehicleOrder] | None,
    strawberry.argument(
        description="Orders by these values, missing ones last, equal ones by the vehicle's id. The fleet is scanned.",
        directives=[SCAN],
    ),
]
GlobalId = Annotated[strawberry.ID, strawberry.argument(description="Global id.")]
GlobalIds = Annotated[list[strawberry.ID], strawberry.argument(description="Global ids.")]
VehicleId = Annotated[strawberry.ID, strawberry.argument(description="Id of the vehicle in the fleet API.")]
UnitId = Annotated[strawberry.ID, strawberry.argument(description="Id of the unit in the fleet API.")]
Manufacturer = Annotated[str | None, strawberry.argument(description="Manufacturer, such as `INVERS`.")]
Brand = Annotated[str | None, strawberry.argument(description="Brand, such as `CLOUDBOXX`.")]


TelematicsBrand = Annotated[str, strawberry.argument(description="Telematics brand, such as `CLOUDBOXX`.")]


async def load(info: Info, **converted: Any) -> Any:
    """The value of a root field. Resolvers declare the arguments, which loaders take as the plans have them.

    Loaders of mutations take the `converted` ones.
    """
    call = RootFieldCall(converted or arguments_of(info), None)
    (value,) = await ROOT_FIELDS[info.field_name].load(info.context, [call])
    if isinstance(value, BaseException):
        raise value
    return value


async def _load_slice(info: Info) -> Any:
    connection = await load(info)
    return await connection.ready()


def _resolve_node(info: Info, id: GlobalId) -> Any:
    return load(info)


def _resolve_nodes(info: Info, ids: GlobalIds) -> Any:
    return load(info)


def _resolve_vehicle(info: Info, id: VehicleId) -> Any:
    return load(info)


def _resolve_vehicles(
    info: Info,
    where: Where = UNSET,
    order_by: OrderBy = UNSET,
    first: First = UNSET,
    after: After = UNSET,
    last: Last = UNSET,
    before: Before = UNSET,
    search: Search = UNSET,
) -> Any:
    return _load_slice(info)


def _resolve_telematics_unit(
    info: Info, *, manufacturer: Manufacturer = UNSET, brand: Brand = UNSET, id: UnitId
) -> Any:
    return load(info)


def _resolve_telematics_units(
    info: Info,
    where: WhereUnit = UNSET,
    order_by: OrderBy = UNSET,
    first: First = UNSET,
    after: After = UNSET,
    last: Last = UNSET,
    before: Before = UNSET,
) -> Any:
    return _load_slice(info)


def _resolve_fleet(info: Info) -> Any:
    return load(info)


def _resolve_vehicle_models(info: Info, telematics_brand: TelematicsBrand) -> Any:
    return load(info)


def _resolve_sharing_partners(info: Info) -> Any:
    return load(info)


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
        "The fleet API can't look up units, so the fleet is scanned.",
        directives=[SCAN],
    )
    fleet: Fleet = strawberry.field(
        resolver=_resolve_fleet,
        description="Totals of the fleet, for which it is scanned.",
        directives=[SCAN],
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
