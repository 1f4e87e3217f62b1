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
from gateway.schema.types import Node, TelematicsUnit, TelematicsUnitConnection, Vehicle, VehicleConnection

First = Annotated[int | None, strawberry.argument(description="How many edges, from the start or behind `after`.")]
After = Annotated[str | None, strawberry.argument(description="A cursor: only what comes behind this edge.")]
Last = Annotated[int | None, strawberry.argument(description="How many edges, up to the end or up to `before`.")]
Before = Annotated[str | None, strawberry.argument(description="A cursor: only what comes ahead of this edge.")]

PAGING = (
    "Relay's cursor connection, forward with `first` and `after`, backward with `last` and `before`. "
    "With neither `first` nor `last` a default page is given."
)


Search = Annotated[
    str | None,
    strawberry.argument(description="Free text; the fleet API looks for it in brand, model, plate, VIN and id."),
]
GlobalId = Annotated[strawberry.ID, strawberry.argument(description="A global id.")]
GlobalIds = Annotated[list[strawberry.ID], strawberry.argument(description="Global ids.")]
VehicleId = Annotated[strawberry.ID, strawberry.argument(description="The fleet API's id of the vehicle.")]
UnitId = Annotated[strawberry.ID, strawberry.argument(description="The fleet API's id of the unit.")]
Manufacturer = Annotated[str | None, strawberry.argument(description="Its manufacturer, such as `INVERS`.")]
Brand = Annotated[str | None, strawberry.argument(description="Its brand, such as `CLOUDBOXX`.")]


async def _load(name: str, info: Info, **arguments: Any) -> Any:
    given = {argument: value for argument, value in arguments.items() if value is not UNSET}
    (value,) = await ROOT_FIELDS[name].load(info.context, [RootFieldCall(given, None)])
    if isinstance(value, BaseException):
        raise value
    return value


async def _load_slice(name: str, info: Info, **arguments: Any) -> Any:
    connection: Connection[Any] = await _load(name, info, **arguments)
    return await connection.ready()


def _resolve_node(info: Info, id: GlobalId) -> Any:
    return _load("node", info, id=id)


def _resolve_nodes(info: Info, ids: GlobalIds) -> Any:
    return _load("nodes", info, ids=ids)


def _resolve_vehicle(info: Info, id: VehicleId) -> Any:
    return _load("vehicle", info, id=id)


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
    return _load("telematicsUnit", info, manufacturer=manufacturer, brand=brand, id=id)


def _resolve_telematics_units(
    info: Info, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
) -> Any:
    return _load_slice("telematicsUnits", info, first=first, after=after, last=last, before=before)


# For routers that price operations: a field's cost is the reads behind it, a page's size its `first` or `last`.
PAGED = [
    ListSize(
        assumed_size=50,
        slicing_arguments=["first", "last"],
        sized_fields=["edges", "nodes"],
        require_one_slicing_argument=False,
    )
]
A_READ = [Cost(weight=1)]


@strawberry.type(description="The root query type.")
class Query:
    node: Node | None = strawberry.field(
        resolver=_resolve_node,
        description="An object by its global id; null where there is none.",
        directives=A_READ,
    )
    nodes: list[Node | None] = strawberry.field(
        resolver=_resolve_nodes,
        description="Objects by their global ids, in the order of the ids; null where there is none.",
    )
    vehicle: Vehicle | None = strawberry.field(
        resolver=_resolve_vehicle,
        description="A vehicle by the fleet API's id; null where there is none.",
        directives=A_READ,
    )
    vehicles: VehicleConnection | None = strawberry.field(
        resolver=_resolve_vehicles, description=f"The fleet's vehicles. {PAGING}", directives=PAGED
    )
    telematics_unit: TelematicsUnit | None = strawberry.field(
        resolver=_resolve_telematics_unit,
        description="A telematics unit by its whole key; a part that the fleet API leaves empty is left out here too. "
        "The fleet API has no look-up for units: the fleet is walked, up to a limit.",
        directives=[Cost(weight=100)],
    )
    telematics_units: TelematicsUnitConnection | None = strawberry.field(
        resolver=_resolve_telematics_units,
        description=f"The fleet's telematics units, in the order of their vehicles. {PAGING}",
        directives=PAGED,
    )
