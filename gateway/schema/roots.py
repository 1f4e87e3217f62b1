"""How the engine reads the root fields: as the resolvers do, all occurrences of a field together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.engine.plans import Engine, Root
from gateway.engine.projection import Types
from gateway.schema.build import Schema
from gateway.schema.connections import Arguments
from gateway.schema.context import Context
from gateway.schema.federation import entities_of
from gateway.schema.global_ids import UnitKey
from gateway.schema.queries import node_of, nodes_of, unit_of, units_of, vehicles_of
from gateway.upstream import models

Asked = dict[str, Any]
# Of which class the objects of a type are, where a field may answer objects of several types.
BACKING: Mapping[str, type] = {"Vehicle": models.Vehicle, "TelematicsUnit": models.TelematicsUnit}


def engine_of(schema: Schema) -> Engine:
    """The engine for the gateway's schema."""
    return Engine(Types(schema.core, BACKING), ROOTS)


async def _vehicle(context: Context, asked: Sequence[Asked]) -> Sequence[Any]:
    return await context.loaders.vehicles([arguments["id"] for arguments in asked])


def _each(read: Callable[[Context, Asked], Awaitable[Any]]) -> Root:
    async def root(context: Context, asked: list[Asked]) -> Sequence[Any]:
        if len(asked) == 1:
            return [await read(context, asked[0])]
        return await asyncio.gather(*(read(context, arguments) for arguments in asked), return_exceptions=True)

    return root


def _paging(asked: Asked) -> Arguments:
    return Arguments(asked.get("first"), asked.get("after"), asked.get("last"), asked.get("before"))


ROOTS: Mapping[str, Root] = {
    "node": _each(lambda context, asked: node_of(context, asked["id"])),
    "nodes": _each(lambda context, asked: nodes_of(context, asked["ids"])),
    "vehicle": _vehicle,
    "vehicles": _each(lambda context, asked: vehicles_of(context, _paging(asked), asked.get("search") or None)),
    "telematicsUnit": _each(
        lambda context, asked: unit_of(
            context, UnitKey(asked.get("manufacturer") or None, asked.get("brand") or None, asked["id"])
        )
    ),
    "telematicsUnits": _each(lambda context, asked: units_of(context, _paging(asked))),
    "_entities": _each(lambda context, asked: entities_of(context, asked["representations"])),
}
