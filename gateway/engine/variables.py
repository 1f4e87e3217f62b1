"""Variables of an operation, coerced quickly where they are plain and as graphql-core does it where they are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLSchema,
    ListTypeNode,
    NamedTypeNode,
    NonNullTypeNode,
    OperationDefinitionNode,
    TypeNode,
    VariableNode,
    Visitor,
    get_variable_values,
    visit,
)

Fits = Callable[[Any], bool]
# Values that the coercion of their scalar leaves as they are.
SCALARS: Mapping[str, Fits] = {
    "ID": lambda value: value.__class__ is str,
    "String": lambda value: value.__class__ is str,
    "Boolean": lambda value: value.__class__ is bool,
    "Int": lambda value: value.__class__ is int and -(2**31) <= value < 2**31,
}


class Coercion:
    """The variables of one operation."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode) -> None:
        self._schema = schema
        self._definitions = operation.variable_definitions or ()
        self._plain: list[tuple[str, Fits, bool]] | None = []
        for definition in self._definitions:
            fits = _fits(definition.type)
            if fits is None or definition.default_value is not None:
                self._plain = None
                break
            nullable = not isinstance(definition.type, NonNullTypeNode)
            self._plain.append((definition.variable.name.value, fits, nullable))

    def of(self, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The coerced values; None where some do not fit."""
        if self._plain is not None:
            coerced = {}
            for name, fits, nullable in self._plain:
                if name in given:
                    value = coerced[name] = given[name]
                    if not (fits(value) or (nullable and value is None)):
                        break
                elif not nullable:
                    break
            else:
                return coerced
        values = get_variable_values(self._schema, self._definitions, dict(given))
        return None if isinstance(values, list) else values.coerced


def _fits(kind: TypeNode) -> Fits | None:
    if isinstance(kind, NonNullTypeNode):
        return _fits(kind.type)
    if isinstance(kind, NamedTypeNode):
        return SCALARS.get(kind.name.value)
    assert isinstance(kind, ListTypeNode)
    inner = _fits(kind.type)
    return None if inner is None else lambda value: value.__class__ is list and all(map(inner, value))


def flags_of(document: DocumentNode, operation: OperationDefinitionNode) -> list[str]:
    """The variables that decide which fields there are: those in `@skip` and `@include`, anywhere in a document."""
    found: set[str] = set()

    class Flags(Visitor):
        def enter_directive(self, node: Any, *_: Any) -> None:
            for argument in node.arguments or ():
                if isinstance(argument.value, VariableNode):
                    found.add(argument.value.name.value)

    visit(document, Flags())
    own = [definition.variable.name.value for definition in operation.variable_definitions or ()]
    return [name for name in own if name in found]
