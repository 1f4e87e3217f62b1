"""`build_schema()`: the one schema. Making it is the only work done here, and only when it is called."""

from __future__ import annotations

import strawberry
from graphql import GraphQLEnumType, GraphQLError, GraphQLSchema
from strawberry.types import ExecutionContext

from gateway.schema.enums import leave_open
from gateway.schema.queries import Query
from gateway.schema.scalars import CONFIG
from gateway.schema.types import TelematicsUnit, Vehicle


class Schema(strawberry.Schema):
    """Strawberry's schema with open enums, and without its log of callers' mistakes."""

    @property
    def core(self) -> GraphQLSchema:
        """The graphql-core schema underneath, for which Strawberry has no public name."""
        return self._schema

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Nothing: `error_masking` logs what is worth it."""


def build_schema() -> Schema:
    """The schema of the gateway."""
    schema = Schema(query=Query, types=[Vehicle, TelematicsUnit], config=CONFIG)
    for named in schema.core.type_map.values():
        if isinstance(named, GraphQLEnumType) and "UNKNOWN" in named.values:
            leave_open(named)
    return schema


def print_sdl() -> str:
    """The schema in GraphQL's schema definition language, as `schema.graphql` holds it."""
    return build_schema().as_str().rstrip() + "\n"
