"""The field `fleet`: totals, groups and statistics of all vehicles that the caller can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import strawberry
from strawberry import UNSET

from gateway.errors import InputInvalid
from gateway.fleet_index.fleet_indexes import Answer
from gateway.fleet_index.vehicle_index import VehicleIndex
from gateway.schema.context import Context, Info, arguments_of
from gateway.schema.filters import VehicleFilter, VehicleGroup
from gateway.schema.scalars import DateTime

T = TypeVar("T")
GROUPS_MAX = 1_000
# The root value of the field; its fields ask the index.
FLEET = object()


async def _ask(
    context: Context, question: Callable[[VehicleIndex], T], where: Mapping[str, Any] | None = None
) -> Answer[T]:
    context.indexes.check(where)
    return await context.indexes.ask(context.scope, question)


async def _vehicle_count(root: strawberry.Parent[Any], info: Info) -> int:
    return (await _ask(info.context, len)).value


async def _complete_as_of(root: strawberry.Parent[Any], info: Info) -> Any:
    as_of = (await _ask(info.context, lambda _: None)).as_of
    return datetime.fromtimestamp(as_of, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _counts(root: strawberry.Parent[Any], info: Info, by: GroupBy, where: Where = UNSET) -> Any:
    given, now = arguments_of(info), info.context.indexes.now()
    by_names = [each.value for each in given["by"]]
    limit = GROUPS_MAX + 1
    where = given.get("where")
    groups = (await _ask(info.context, lambda rows: rows.groups(by_names, where, now=now, limit=limit), where)).value
    if len(groups) > GROUPS_MAX:
        raise InputInvalid(f"`by` makes more than {GROUPS_MAX} groups.", "by")
    return [FleetCount(key=list(key), count=count) for key, count in groups]


async def _stats(root: strawberry.Parent[Any], info: Info, of: Property, where: Where = UNSET) -> Any:
    given, now = arguments_of(info), info.context.indexes.now()
    where = given.get("where")
    return (await _ask(info.context, lambda rows: rows.stats(given["of"], where, now=now), where)).value


GroupBy = Annotated[list[VehicleGroup], strawberry.argument(description="What the vehicles of a group have in common.")]
Where = Annotated[VehicleFilter | None, strawberry.argument(description="Counts only vehicles that match.")]
Property = Annotated[
    str,
    strawberry.argument(description="Name of the state property in the fleet API, such as `mileage_in_kilometers`."),
]


@strawberry.type(description="Group of vehicles.")
class FleetCount:
    key: list[str | None] = strawberry.field(
        description="Values that the vehicles have in common, in the order of `by`; null for a missing value."
    )
    count: int = strawberry.field(description="Number of vehicles.")


@strawberry.type(description="Statistics of a state property over those vehicles that have a number for it.")
class FleetStats:
    min: float | None = strawberry.field(description="Least value; null without vehicles.")
    max: float | None = strawberry.field(description="Greatest value; null without vehicles.")
    avg: float | None = strawberry.field(description="Mean; null without vehicles.")
    count: int = strawberry.field(description="Number of vehicles with a number.")


@strawberry.type(description="Totals of the fleet: of all vehicles that the caller can see.")
class Fleet:
    vehicle_count: int = strawberry.field(resolver=_vehicle_count, description="Number of vehicles.")
    complete_as_of: DateTime = strawberry.field(
        resolver=_complete_as_of, description="Time from which on the data of all vehicles was read."
    )
    counts: list[FleetCount] = strawberry.field(
        resolver=_counts, description="Numbers of vehicles by group, the largest group first."
    )
    stats: FleetStats = strawberry.field(resolver=_stats, description="Statistics of a state property.")
