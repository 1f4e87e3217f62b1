"""Builds and prints the GraphQL schema."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import strawberry
from graphql import (
    GraphQLCompositeType,
    GraphQLEnumType,
    GraphQLError,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLSchema,
    SchemaMetaFieldDef,
    TypeMetaFieldDef,
    is_introspection_type,
    is_specified_scalar_type,
    print_type,
)
from strawberry.federation.schema import FederationAny
from strawberry.types import ExecutionContext

from gateway.schema.context import Info
from gateway.schema.enums import leave_open
from gateway.schema.federation import entities_of
from gateway.schema.mutations import Mutation
from gateway.schema.queries import Query
from gateway.schema.scalars import CONFIG
from gateway.schema.types import TelematicsUnit, Vehicle

# The lowest version that has all directives of the schema: compositions reject versions that they don't know.
FEDERATION: Final = "2.9"


class ExecutedSchema(GraphQLSchema):
    """A subgraph whose introspection shows the schema for clients, without the types and fields for federation routers.

    Routers read `_service` instead, and code generators refuse names like `_Any`.
    """

    def __init__(self, subgraph: GraphQLSchema) -> None:
        super().__init__(**subgraph.to_kwargs())
        shown = without_federation(subgraph)
        self._introspection = {
            "__schema": GraphQLField(SchemaMetaFieldDef.type, resolve=lambda *_: shown),
            "__type": GraphQLField(
                TypeMetaFieldDef.type, TypeMetaFieldDef.args, resolve=lambda *_, name: shown.get_type(name)
            ),
        }

    def get_field(self, parent_type: GraphQLCompositeType, field_name: str) -> GraphQLField | None:
        """The field of a type, including the introspection fields."""
        if parent_type is self.query_type and field_name in self._introspection:
            return self._introspection[field_name]
        return super().get_field(parent_type, field_name)


class Schema(strawberry.federation.Schema):
    """Strawberry's federation schema with our entities, and without its log of client errors.

    `core` is the graphql-core schema to execute.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.core = ExecutedSchema(self._schema)

    def entities_resolver(self, info: Info, representations: list[FederationAny]) -> Any:
        """The entities; each may fail separately."""
        return entities_of(info.context, representations)

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Does nothing, because `error_masking` logs unexpected errors."""


def build_schema() -> Schema:
    """The schema of the gateway."""
    schema = Schema(
        query=Query, mutation=Mutation, types=[Vehicle, TelematicsUnit], config=CONFIG, federation_version=FEDERATION
    )
    for named in schema.core.type_map.values():
        if isinstance(named, GraphQLEnumType) and "UNKNOWN" in named.values:
            leave_open(named)
        own = named.extensions.get("strawberry-definition")
        if isinstance(named, GraphQLInputObjectType) and own is not None and own.is_one_of:
            named.is_one_of = True  # which Strawberry leaves to its own validation
    sdl = cache(schema.as_str)
    # Strawberry would print the schema for each `sdl` field of each request.
    service = schema.core.get_type("_Service")
    assert isinstance(service, GraphQLObjectType)
    service.fields["sdl"].resolve = lambda *_: sdl()
    return schema


def print_sdl(*, federation: bool = False) -> str:
    """The schema definition; with `federation`, as a federated subgraph."""
    schema = build_schema()
    if federation:
        return schema.as_str().rstrip() + "\n"
    own = without_federation(schema.core).type_map.values()
    printed = (named for named in own if not (is_introspection_type(named) or is_specified_scalar_type(named)))
    return "\n\n".join(print_type(named) for named in sorted(printed, key=lambda named: named.name)) + "\n"


def without_federation(schema: GraphQLSchema) -> GraphQLSchema:
    """The schema for direct clients, without the types and fields for federation routers."""
    arguments = schema.to_kwargs()
    query = schema.query_type
    assert query is not None
    fields = {name: field for name, field in query.fields.items() if not name.startswith("_")}
    own = GraphQLObjectType(query.name, fields, description=query.description)
    types = [
        named for named in arguments["types"] or () if not named.name.startswith(("_", "link__")) and named is not query
    ]
    return GraphQLSchema(query=own, mutation=schema.mutation_type, types=types)
