"""How the engine reads the root fields: as the resolvers do, all occurrences of a field together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.engine.limits import ExecutionLimits
from gateway.engine.plans import Asked, Engine, Root, Shape
from gateway.engine.projection import ON, Needs, Projection, Types
from gateway.schema.build import Schema
from gateway.schema.connections import Arguments, Place, place_of, unit_set, vehicle_set
from gateway.schema.context import Context
from gateway.schema.federation import entities_of
from gateway.schema.global_ids import UnitKey
from gateway.schema.pagination import Limits
from gateway.schema.queries import node_of, nodes_of, unit_of, units_of, vehicles_of
from gateway.upstream import models
from gateway.upstream.views import vehicle_view

# What the objects of a type are, in whatever form they come.
FORMS: Mapping[str, type] = {"Vehicle": models.VehicleForm, "TelematicsUnit": models.UnitForm}


def engine_of(schema: Schema, limits: ExecutionLimits) -> Engine:
    """The engine for the gateway's schema."""
    return Engine(Types(schema.core, FORMS), ROOTS, SHAPES, BY_ID, limits)


async def _vehicle(context: Context, asked: Sequence[Asked]) -> Sequence[Any]:
    ids = [each.arguments["id"] for each in asked]
    return await context.loaders.vehicles_as(asked[0].shape).many(ids, alone=asked[0].alone)


def _each(read: Callable[[Context, Asked], Awaitable[Any]]) -> Root:
    async def root(context: Context, asked: list[Asked]) -> Sequence[Any]:
        if len(asked) == 1:
            return [await read(context, asked[0])]
        several = [each._replace(alone=False) for each in asked]
        return await asyncio.gather(*(read(context, each) for each in several), return_exceptions=True)

    return root


def _paging(asked: Asked) -> Arguments:
    given = asked.arguments.get
    return Arguments(given("first"), given("after"), given("last"), given("before"))


async def _vehicles(context: Context, asked: Asked) -> Any:
    search = asked.arguments.get("search") or None
    return await vehicles_of(context, _paging(asked), search, asked.shape)


async def _telematics_units(context: Context, asked: Asked) -> Any:
    return await units_of(context, _paging(asked), asked.shape)


async def _telematics_unit(context: Context, asked: Asked) -> Any:
    given = asked.arguments.get
    return await unit_of(context, UnitKey(given("manufacturer") or None, given("brand") or None, asked.arguments["id"]))


async def _entities(context: Context, asked: Asked) -> Any:
    return await entities_of(context, asked.arguments["representations"], asked.shape, alone=asked.alone)


def _place_of_vehicles(limits: Limits, fleet: str | None, asked: Asked, projection: Projection) -> Place:
    search = asked.arguments.get("search") or None
    return place_of(vehicle_set(search, fleet), _paging(asked), limits, search, projection.key)


def _place_of_units(limits: Limits, fleet: str | None, asked: Asked, projection: Projection) -> Place:
    return place_of(unit_set(fleet), _paging(asked), limits, None, projection.key)


def nodes_needed(needs: Needs | None) -> Needs | None:
    """What is read of a connection's nodes, by whichever way; None for all of them."""
    if needs is None:
        return None
    found: Needs = {}
    edges = needs.get("edges", {})
    for of in (edges.get("node", {}) if edges is not None else None, needs.get("nodes", {})):
        if of is None:
            return None
        _merge(found, of)
    return found


def _merge(into: Needs, more: Needs) -> None:
    for name, inner in more.items():
        known = into.get(name, {})
        if known is None or inner is None:
            into[name] = None
        else:
            _merge(known, inner)
            into[name] = known


def _view_of_vehicles(needs: Needs | None) -> Any:
    vehicles = nodes_needed(needs)
    return None if vehicles is None else vehicle_view(vehicles)


def _view_of_units(needs: Needs | None) -> Any:
    units = nodes_needed(needs)
    return None if units is None else vehicle_view({"telematics_unit": units})


def _view_of_vehicle(needs: Needs | None) -> Any:
    return None if needs is None else vehicle_view(needs)


def _view_of_node(needs: Needs | None) -> Any:
    return _view_of_vehicle(None if needs is None else needs.get(f"{ON}Vehicle"))


# In which view the vehicles behind a connection are needed.
SHAPES: Mapping[str, Shape] = {
    "vehicles": _view_of_vehicles,
    "telematicsUnits": _view_of_units,
    "vehicle": _view_of_vehicle,
    **dict.fromkeys(("node", "nodes", "_entities"), _view_of_node),
}
# What reads vehicles by their ids, which for an operation happens once for each.
BY_ID = ("vehicle", "node", "nodes", "_entities")
# Where the answer of a connection may be kept.
PLACES: Mapping[str, Callable[[Limits, str | None, Asked, Projection], Place]] = {
    "vehicles": _place_of_vehicles,
    "telematicsUnits": _place_of_units,
}
ROOTS: Mapping[str, Root] = {
    "node": _each(lambda context, asked: node_of(context, asked.arguments["id"], asked.shape, alone=asked.alone)),
    "nodes": _each(lambda context, asked: nodes_of(context, asked.arguments["ids"], asked.shape, alone=asked.alone)),
    "vehicle": _vehicle,
    "vehicles": _each(_vehicles),
    "telematicsUnit": _each(_telematics_unit),
    "telematicsUnits": _each(_telematics_units),
    "_entities": _each(_entities),
}
