"""The field `fleet`: totals, groups and statistics of all vehicles that the caller can see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import strawberry
from strawberry import UNSET

from gateway.engine.projection import BATCH, NEEDS
from gateway.errors import InputInvalid
from gateway.fleet_index.fleet_indexes import Answer
from gateway.fleet_index.vehicle_index import Stats, VehicleIndex
from gateway.schema.context import Context, Info, arguments_of
from gateway.schema.filters import VehicleFilter, VehicleGroup
from gateway.schema.scalars import DateTime

T = TypeVar("T")
GROUPS_MAX = 1_000
# The root value of the field; its fields ask the index.
FLEET = object()


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


async def _ask(
    context: Context, question: Callable[[VehicleIndex], T], where: Mapping[str, Any] | None = None
) -> Answer[T]:
    if not context.indexes.is_fresh(context.scope.caller):
        context.indexes.check(where)
    return await context.indexes.ask(context.scope, question)


async def _vehicle_count(context: Context) -> int:
    return (await _ask(context, len)).value


async def _complete_as_of(context: Context) -> str:
    as_of = (await _ask(context, lambda _: None)).as_of
    return datetime.fromtimestamp(as_of, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _counts(context: Context, arguments: Mapping[str, Any]) -> list[FleetCount]:
    by, where, now = [each.value for each in arguments["by"]], arguments.get("where"), context.indexes.now()
    groups = await _ask(context, lambda rows: rows.groups(by, where, now=now, limit=GROUPS_MAX + 1), where)
    if len(groups.value) > GROUPS_MAX:
        raise InputInvalid(f"`by` makes more than {GROUPS_MAX} groups.", "by")
    return [FleetCount(key=list(key), count=count) for key, count in groups.value]


async def _stats(context: Context, arguments: Mapping[str, Any]) -> Stats:
    of, where, now = arguments["of"], arguments.get("where"), context.indexes.now()
    return (await _ask(context, lambda rows: rows.stats(of, where, now=now), where)).value


def _batched(answer: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[list[Any]]]:
    """A function that loads a field of all fleets of a level."""

    async def load(context: Context, fleets: Sequence[Any], **given: Any) -> list[Any]:
        return [await answer(context, **given)] * len(fleets)

    return load


def _asked(answer: Callable[..., Awaitable[Any]], resolver: Callable[..., Any], description: str) -> Any:
    return strawberry.field(resolver=resolver, description=description, metadata={BATCH: _batched(answer), NEEDS: ()})


def _resolve_vehicle_count(info: Info) -> Any:
    return _vehicle_count(info.context)


def _resolve_complete_as_of(info: Info) -> Any:
    return _complete_as_of(info.context)


def _resolve_counts(info: Info, by: GroupBy, where: Where = UNSET) -> Any:
    return _counts(info.context, arguments_of(info))


def _resolve_stats(info: Info, of: Property, where: Where = UNSET) -> Any:
    return _stats(info.context, arguments_of(info))


@strawberry.type(description="Totals of the fleet: of all vehicles that the caller can see.")
class Fleet:
    vehicle_count: int = _asked(_vehicle_count, _resolve_vehicle_count, "Number of vehicles.")
    complete_as_of: DateTime = _asked(
        _complete_as_of, _resolve_complete_as_of, "Time from which on the data of all vehicles was read."
    )
    counts: list[FleetCount] = _asked(
        _counts, _resolve_counts, f"Numbers of vehicles by group, the largest group first; at most {GROUPS_MAX} groups."
    )
    stats: FleetStats = _asked(_stats, _resolve_stats, "Statistics of a state property.")
