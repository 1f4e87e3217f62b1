"""The context of resolvers, and Strawberry's info type with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import strawberry
from graphql import get_argument_values

from gateway.fleet_index.fleet_indexes import FleetIndexes
from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.upstream.requests import RequestScope
from gateway.upstream.writes import Writer


@dataclass(frozen=True, slots=True)
class Context:
    """The context of one request: its scope, loaders, indexes of fleets, writer and the limits of its fields.

    `writes` are the kinds of mutations that are on.
    """

    scope: RequestScope
    loaders: Loaders
    indexes: FleetIndexes
    limits: Limits
    request_id: str
    nodes_max: int = 1000
    unit_search: bool = False
    writer: Writer | None = None
    writes: Literal["off", "vehicles", "commands", "all"] = "off"


Info = strawberry.Info[Context, None]


def arguments_of(info: Info) -> dict[str, Any]:
    """The arguments of a field as a plan has them: with the schema's names, input objects as dictionaries."""
    raw = info._raw_info  # noqa: SLF001 - Strawberry has no public access to them
    field = raw.parent_type.fields[raw.field_name]
    return get_argument_values(field, raw.field_nodes[0], raw.variable_values)
