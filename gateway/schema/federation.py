"""Resolves the entities that a federation router requests, through the loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import InputInvalid
from gateway.schema.context import Context
from gateway.schema.global_ids import TELEMATICS_UNIT, VEHICLE, UnitKey, parse_global_id
from gateway.schema.objects import objects_of
from gateway.upstream.models import Vehicle


async def entities_of(
    context: Context, representations: Sequence[Any], mask: type[Vehicle] | None = None, *, immediate: bool = False
) -> list[Any]:
    """The entities of representations, in order: null for a missing one, an exception for a failed one."""
    return await objects_of(context, representations, _key_of, mask, immediate=immediate)


def _key_of(representation: Any) -> str | UnitKey:
    if not isinstance(representation, Mapping):
        raise InputInvalid("Representation is not an object.", "representations")
    kind = representation.get("__typename")
    if kind == VEHICLE:
        return _vehicle_id_of(representation)
    if kind == TELEMATICS_UNIT:
        return _unit_key_of(representation)
    raise InputInvalid("Representation has no entity type of this subgraph.", "representations")


def _vehicle_id_of(representation: Mapping[str, Any]) -> str:
    vehicle_id = representation.get("vehicleId")
    if isinstance(vehicle_id, str):
        return vehicle_id
    key = _parsed(representation)
    if isinstance(key, UnitKey):
        raise InputInvalid("`id` belongs to a telematics unit, not to a vehicle.", "representations")
    return key


def _unit_key_of(representation: Mapping[str, Any]) -> UnitKey:
    unit_id = representation.get("unitId")
    if isinstance(unit_id, str):
        manufacturer, brand = representation.get("manufacturer"), representation.get("brand")
        return UnitKey(
            manufacturer if isinstance(manufacturer, str) else None, brand if isinstance(brand, str) else None, unit_id
        )
    key = _parsed(representation)
    if not isinstance(key, UnitKey):
        raise InputInvalid("`id` belongs to a vehicle, not to a telematics unit.", "representations")
    return key


def _parsed(representation: Mapping[str, Any]) -> str | UnitKey:
    global_id = representation.get("id")
    if not isinstance(global_id, str):
        raise InputInvalid("Representation has no key.", "representations")
    return parse_global_id(global_id)
