"""The root fields, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import strawberry
from strawberry import UNSET
from strawberry.federation.schema_directives import Cost, ListSize

from gateway.errors import GatewayError, InputInvalid
from gateway.schema.connections import (
    Arguments,
    Connection,
    ReadPage,
    find_unit,
    unit_connection,
    vehicle_connection,
)
from gateway.schema.context import Context, Info
from gateway.schema.global_ids import UnitKey, parse_global_id
from gateway.schema.types import Node, TelematicsUnit, TelematicsUnitConnection, Vehicle, VehicleConnection
from gateway.upstream import models
from gateway.upstream.pages import VehiclePage

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


async def _resolve_node(info: Info, id: GlobalId) -> Any:
    return await node_of(info.context, id)


async def _resolve_nodes(info: Info, ids: GlobalIds) -> Any:
    return await nodes_of(info.context, ids)


async def _resolve_vehicle(info: Info, id: VehicleId) -> Any:
    return await info.context.loaders.vehicles.one(id)


async def _resolve_vehicles(
    info: Info,
    first: First = UNSET,
    after: After = UNSET,
    last: Last = UNSET,
    before: Before = UNSET,
    search: Search = UNSET,
) -> Any:
    connection = await vehicles_of(info.context, _arguments(first, after, last, before), search or None)
    return await connection.ready()


async def _resolve_telematics_unit(
    info: Info, *, manufacturer: Manufacturer = UNSET, brand: Brand = UNSET, id: UnitId
) -> Any:
    return await unit_of(info.context, UnitKey(manufacturer or None, brand or None, id))


async def _resolve_telematics_units(
    info: Info, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
) -> Any:
    connection = await units_of(info.context, _arguments(first, after, last, before))
    return await connection.ready()


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


@strawberry.type(description="What can be asked.")
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


def _arguments(*given: Any) -> Arguments:
    return Arguments(*(None if value is UNSET else value for value in given))


View = type[models.Vehicle] | None


def _pages(context: Context, search: str | None, view: View = None) -> ReadPage:
    # A cursor carries its search: only a first page is asked with it.
    def read(token: str | None, *, afresh: bool = False) -> Awaitable[VehiclePage]:
        return context.loaders.page(token, search if token is None else None, view, afresh=afresh)

    return read


async def vehicles_of(
    context: Context, arguments: Arguments, search: str | None, view: View = None
) -> Connection[models.Vehicle]:
    """The slice of the fleet, or of what is found in it, that Relay's arguments describe."""
    fleet = context.errand.caller.fleet
    return await vehicle_connection(_pages(context, search, view), context.limits, arguments, search, fleet, view)


async def units_of(context: Context, arguments: Arguments, view: View = None) -> Connection[models.TelematicsUnit]:
    """The slice of the fleet's telematics units that Relay's arguments describe."""
    fleet = context.errand.caller.fleet
    return await unit_connection(_pages(context, None, view), context.limits, arguments, fleet, view)


async def unit_of(context: Context, key: UnitKey) -> models.TelematicsUnit | None:
    """The unit of a key, by a walk over the fleet."""
    search = key.unit_id if context.unit_search else None
    return await find_unit(_pages(context, search), context.limits, *key)


async def node_of(
    context: Context, global_id: str, view: View = None, *, alone: bool = False
) -> models.Vehicle | models.TelematicsUnit | None:
    """The object of a global id; `alone` if nothing else is wanted at the same time."""
    key = parse_global_id(global_id)
    if isinstance(key, UnitKey):
        return await unit_of(context, key)
    return await context.loaders.vehicles_as(view).one(key, alone=alone)


async def nodes_of(context: Context, global_ids: Sequence[str], view: View = None, *, alone: bool = False) -> list[Any]:
    """The objects of global ids, in order, errors in their places."""
    if len(global_ids) > context.nodes_max:
        message = f"`ids` has {len(global_ids)} ids; at most {context.nodes_max} are allowed."
        raise InputInvalid(message, "ids")
    return await objects_of(context, global_ids, parse_global_id, view, alone=alone)


async def objects_of(
    context: Context,
    given: Sequence[Any],
    key_of: Callable[[Any], str | UnitKey],
    view: View = None,
    *,
    alone: bool = False,
) -> list[Any]:
    """The objects that are meant, a vehicle by its id or a unit by its key; read together, errors in their places."""
    try:
        keys: list[str | UnitKey | GatewayError] = list(map(key_of, given))
    except GatewayError:
        keys = [_key_or_error(each, key_of) for each in given]  # what can't be read fails alone
    if set(map(type, keys)) == {str}:
        return await context.loaders.vehicles_as(view).many(keys, alone=alone)  # type: ignore[arg-type]
    distinct = dict.fromkeys(keys)
    read: dict[Any, Any] = {}
    vehicles = [key for key in distinct if isinstance(key, str)]
    units = [key for key in distinct if isinstance(key, UnitKey)]
    found, walked = await asyncio.gather(
        context.loaders.vehicles_as(view).many(vehicles),
        asyncio.gather(*(unit_of(context, key) for key in units), return_exceptions=True),
    )
    read.update(zip([*vehicles, *units], [*found, *walked], strict=True))
    return [key if isinstance(key, GatewayError) else read[key] for key in keys]


def _key_or_error(given: Any, key_of: Callable[[Any], str | UnitKey]) -> str | UnitKey | GatewayError:
    try:
        return key_of(given)
    except GatewayError as invalid:
        return invalid
