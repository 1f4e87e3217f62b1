"""Loads objects by key: vehicles by the id in the fleet API, telematics units by their three-part key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gateway.errors import GatewayError
from gateway.schema.connections import Mask
from gateway.schema.context import Context
from gateway.schema.filtered import unit_of
from gateway.schema.global_ids import UnitKey


async def objects_of(
    context: Context,
    given: Sequence[Any],
    key_of: Callable[[Any], str | UnitKey],
    mask: Mask = None,
    *,
    immediate: bool = False,
) -> list[Any]:
    """The vehicle, unit or error of each key that `key_of` returns, in order; all are read together.

    `immediate` is true if the operation reads no other field at the same time.
    """
    try:
        keys: list[str | UnitKey | GatewayError] = list(map(key_of, given))
    except GatewayError:
        keys = [_key_or_error(each, key_of) for each in given]  # an invalid key fails alone
    if set(map(type, keys)) == {str}:
        return await context.loaders.vehicles_as(mask).load_many(keys, immediate=immediate)  # type: ignore[arg-type] # all are str
    distinct = dict.fromkeys(keys)
    vehicles = [key for key in distinct if isinstance(key, str)]
    units = [key for key in distinct if isinstance(key, UnitKey)]
    found, scanned = await asyncio.gather(
        context.loaders.vehicles_as(mask).load_many(vehicles),
        asyncio.gather(*(unit_of(context, key) for key in units), return_exceptions=True),
    )
    read: dict[Any, Any] = dict(zip([*vehicles, *units], [*found, *scanned], strict=True))
    return [key if isinstance(key, GatewayError) else read[key] for key in keys]


def _key_or_error(given: Any, key_of: Callable[[Any], str | UnitKey]) -> str | UnitKey | GatewayError:
    try:
        return key_of(given)
    except GatewayError as invalid:
        return invalid
