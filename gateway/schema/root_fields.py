"""The table of root fields: the loader, cost, field mask and fragment key of each.

A root field of the schema that is missing here fails at start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from graphql import GraphQLSchema

from gateway.engine.documents import INTROSPECTION
from gateway.engine.plans import Load, RootFieldCall, RootFieldLoader
from gateway.engine.projection import ON, Needs, Projection
from gateway.errors import InputInvalid
from gateway.schema.connections import (
    Arguments,
    Connection,
    FragmentKey,
    fragment_key_of,
    pages_of,
    unit_connection,
    unit_set,
    vehicle_connection,
    vehicle_set,
)
from gateway.schema.context import Context
from gateway.schema.federation import entities_of
from gateway.schema.filtered import Filter, counter_of, filtered_connection, unit_of
from gateway.schema.fleet import FLEET
from gateway.schema.global_ids import UnitKey, parse_global_id
from gateway.schema.objects import objects_of
from gateway.schema.pagination import Limits
from gateway.schema.upstream_calls import UpstreamCalls
from gateway.schema.writes import MUTATIONS
from gateway.upstream.field_masks import vehicle_mask

# Adds the upstream calls of a field, from its arguments and the selected fields of its value and of its `pageInfo`.
AddCalls = Callable[[UpstreamCalls, Mapping[str, Any], Collection[str]], None]
FragmentKeyOf = Callable[[Limits, str | None, RootFieldCall, Projection], FragmentKey | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootField(RootFieldLoader):
    """A root field: its loader and its cost in upstream calls.

    `fragment_key` makes the key under which the rendered fragment of a connection is cached.
    """

    cost: AddCalls
    fragment_key: FragmentKeyOf | None = None


def check_root_fields(schema: GraphQLSchema, root_fields: Mapping[str, RootField]) -> None:
    """Raises LookupError for root fields of a schema that are missing from the table, so that their cost is unknown."""
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    missing = {name for root in roots if root is not None for name in root.fields} - root_fields.keys() - INTROSPECTION
    if missing:
        raise LookupError(f"Root fields without an entry in {__name__}.ROOT_FIELDS: {', '.join(sorted(missing))}.")


def _each(load: Callable[[Context, RootFieldCall], Awaitable[Any]]) -> Load:
    """A loader that loads each occurrence of a field separately, all at the same time."""

    async def load_all(context: Context, calls: Sequence[RootFieldCall]) -> Sequence[Any]:
        if len(calls) == 1:
            return [await load(context, calls[0])]
        several = [call._replace(immediate=False) for call in calls]
        return await asyncio.gather(*(load(context, call) for call in several), return_exceptions=True)

    return load_all


def _one_by_one(load: Callable[[Context, Any], Awaitable[Any]]) -> Load:
    """A loader of a mutation, which takes its input."""

    async def load_all(context: Context, calls: Sequence[RootFieldCall]) -> Sequence[Any]:
        return [await load(context, call.arguments["input"]) for call in calls]

    return load_all


async def _load_vehicle(context: Context, calls: Sequence[RootFieldCall]) -> Sequence[Any]:
    ids = [call.arguments["id"] for call in calls]
    return await context.loaders.vehicles_as(calls[0].field_mask).load_many(ids, immediate=calls[0].immediate)


async def _load_connection(context: Context, call: RootFieldCall, *, units: bool = False) -> Any:
    wanted = _filter(call, units=units)
    if not wanted.is_all:
        return await filtered_connection(context, wanted, _slice(call), call.field_mask)
    pages, fleet = pages_of(context, wanted.search, call.field_mask), context.scope.caller.fleet
    connection: Connection[Any] = await (
        unit_connection(pages, context.limits, _slice(call), fleet, call.field_mask)
        if units
        else vehicle_connection(pages, context.limits, _slice(call), wanted.search, fleet, call.field_mask)
    )
    connection.total = counter_of(wanted)
    return connection


async def _load_unit(context: Context, call: RootFieldCall) -> Any:
    given = call.arguments.get
    return await unit_of(context, UnitKey(given("manufacturer") or None, given("brand") or None, call.arguments["id"]))


async def _load_node(context: Context, call: RootFieldCall) -> Any:
    global_ids = (call.arguments["id"],)
    (found,) = await objects_of(context, global_ids, parse_global_id, call.field_mask, immediate=call.immediate)
    return found


async def _load_nodes(context: Context, call: RootFieldCall) -> Any:
    global_ids = call.arguments["ids"]
    if len(global_ids) > context.nodes_max:
        message = f"`ids` has {len(global_ids)} ids; the limit is {context.nodes_max}."
        raise InputInvalid(message, "ids")
    return await objects_of(context, global_ids, parse_global_id, call.field_mask, immediate=call.immediate)


async def _load_fleet(_context: Context, calls: Sequence[RootFieldCall]) -> Sequence[Any]:
    return [FLEET] * len(calls)


async def _load_entities(context: Context, call: RootFieldCall) -> Any:
    return await entities_of(context, call.arguments["representations"], call.field_mask, immediate=call.immediate)


async def _load_vehicle_models(context: Context, call: RootFieldCall) -> Any:
    return await context.loaders.vehicle_models(call.arguments["telematicsBrand"])


async def _load_sharing_partners(context: Context, call: RootFieldCall) -> Any:
    return await context.loaders.sharing_partners()


def _slice(call: RootFieldCall) -> Arguments:
    given = call.arguments.get
    return Arguments(given("first"), given("after"), given("last"), given("before"))


def _filter(call: RootFieldCall, *, units: bool = False) -> Filter:
    given = call.arguments.get
    return Filter(given("where") or None, given("orderBy") or (), given("search") or None, units)


def _key_of_connection(
    limits: Limits, fleet: str | None, call: RootFieldCall, projection: Projection, *, units: bool = False
) -> FragmentKey | None:
    wanted = _filter(call, units=units)
    if not wanted.is_all:
        return None
    search = wanted.search
    of = unit_set(fleet) if units else vehicle_set(search, fleet)
    return fragment_key_of(of, _slice(call), limits, search, projection.key)


def _mask_of_vehicles(needs: Needs | None) -> Any:
    vehicles = nodes_needed(needs)
    return None if vehicles is None else vehicle_mask(vehicles)


def _mask_of_units(needs: Needs | None) -> Any:
    units = nodes_needed(needs)
    return None if units is None else vehicle_mask({"telematics_unit": units})


def _mask_of_vehicle(needs: Needs | None) -> Any:
    return None if needs is None else vehicle_mask(needs)


def _mask_of_node(needs: Needs | None) -> Any:
    return _mask_of_vehicle(None if needs is None else needs.get(f"{ON}Vehicle"))


def nodes_needed(needs: Needs | None) -> Needs | None:
    """The members that a connection's nodes need, in `edges` and `nodes` together; None for all members."""
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


_BY_ID = partial(RootField, field_mask=_mask_of_node, by_id=True)
_CONNECTION = partial(RootField, cost=UpstreamCalls.add_connection)

ROOT_FIELDS: Mapping[str, RootField] = {
    "node": _BY_ID(_each(_load_node), cost=UpstreamCalls.add_node),
    "nodes": _BY_ID(_each(_load_nodes), cost=UpstreamCalls.add_nodes),
    "vehicle": _BY_ID(_load_vehicle, cost=UpstreamCalls.add_vehicle, field_mask=_mask_of_vehicle),
    "vehicles": _CONNECTION(_each(_load_connection), field_mask=_mask_of_vehicles, fragment_key=_key_of_connection),
    "telematicsUnit": RootField(_each(_load_unit), cost=UpstreamCalls.add_unit),
    "telematicsUnits": _CONNECTION(
        _each(partial(_load_connection, units=True)),
        field_mask=_mask_of_units,
        fragment_key=partial(_key_of_connection, units=True),
    ),
    "fleet": RootField(_load_fleet, cost=UpstreamCalls.add_scan),
    "availableVehicleModels": RootField(_each(_load_vehicle_models), cost=UpstreamCalls.add_read),
    "sharingPartners": RootField(_each(_load_sharing_partners), cost=UpstreamCalls.add_read),
    **{name: RootField(_one_by_one(write), cost=UpstreamCalls.add_write) for name, write in MUTATIONS.items()},
    "_entities": _BY_ID(_each(_load_entities), cost=UpstreamCalls.add_entities),
}
