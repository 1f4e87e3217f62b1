"""The context of resolvers, and Strawberry's info type with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import strawberry
from graphql import get_argument_values

from gateway.fleet_index.fleet_indexes import FleetIndexes
from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.upstream.requests import RequestScope


@dataclass(frozen=True, slots=True)
class Context:
    """The context of one request: its scope, its loaders, the indexes of fleets and the limits of its fields."""

    scope: RequestScope
    loaders: Loaders
    indexes: FleetIndexes
    limits: Limits
    request_id: str
    nodes_max: int = 1000
    unit_search: bool = False


Info = strawberry.Info[Context, None]


def arguments_of(info: Info) -> dict[str, Any]:
    """The arguments of a field as a plan has them: with the schema's names, input objects as dictionaries."""
    raw = info._raw_info  # noqa: SLF001 - Strawberry has no public access to them
    field = raw.parent_type.fields[raw.field_name]
    return get_argument_values(field, raw.field_nodes[0], raw.variable_values)
