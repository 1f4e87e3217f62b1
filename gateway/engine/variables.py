"""Coerces the variables of an operation within limits, with a fast path for simple types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    ListTypeNode,
    NamedTypeNode,
    NonNullTypeNode,
    OperationDefinitionNode,
    TypeNode,
    VariableNode,
    Visitor,
    get_named_type,
    get_nullable_type,
    get_variable_values,
    is_input_object_type,
    is_list_type,
    type_from_ast,
    visit,
)
from graphql.execution.values import VariableValues

from gateway.engine.document_limits import LimitExceeded

Fits = Callable[[Any], bool]
# Checks for values that coercion leaves unchanged.
SCALARS: Mapping[str, Fits] = {
    "ID": lambda value: value.__class__ is str,
    "String": lambda value: value.__class__ is str,
    "Boolean": lambda value: value.__class__ is bool,
    "Int": lambda value: value.__class__ is int and -(2**31) <= value < 2**31,
}
# Coercion stops after this number of errors, because an error costs more than a value.
ERRORS_MAX = 20


class VariablesInvalid(Exception):
    """Variables do not have the declared types; `errors` has at most `ERRORS_MAX` errors and one that says so."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__()
        self.errors = errors


class Coercion:
    """Coerces the variables of one operation, whose lists may have `items_max` items in total."""

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode, items_max: int) -> None:
        self._schema = schema
        self._definitions = operation.variable_definitions or ()
        self._items_max = items_max
        self._plain: list[tuple[str, Fits, bool]] | None = []
        for definition in self._definitions:
            fits = _fits(definition.type)
            if fits is None or definition.default_value is not None:
                self._plain = None
                break
            nullable = not isinstance(definition.type, NonNullTypeNode)
            self._plain.append((definition.variable.name.value, fits, nullable))

    def values(self, given: Mapping[str, Any]) -> VariableValues:
        """The coerced values with their sources.

        Raises LimitExceeded for lists that are too long, before anything is coerced, and VariablesInvalid.
        """
        self._check_items(given)
        values = get_variable_values(self._schema, self._definitions, dict(given), max_errors=ERRORS_MAX)
        if isinstance(values, list):
            raise VariablesInvalid(values)
        return values

    def coerced(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The coerced values without their sources, which is faster. Raises the same errors as `values`."""
        if self._plain is not None:
            coerced = {}
            items_left = self._items_max
            for name, fits, nullable in self._plain:
                if name in given:
                    value = coerced[name] = given[name]
                    items_left -= len(value) if value.__class__ is list else 0
                    if items_left < 0 or not (fits(value) or (nullable and value is None)):
                        break
                elif not nullable:
                    break
            else:
                return coerced
        return self.values(given).coerced

    def _check_items(self, given: Mapping[str, Any]) -> None:
        left = self._items_max
        for definition in self._definitions:
            value = given.get(definition.variable.name.value)
            left = _less_items(left, value, type_from_ast(self._schema, definition.type))
            if left < 0:
                raise LimitExceeded("listItems", self._items_max)


def _fits(kind: TypeNode) -> Fits | None:
    if isinstance(kind, NonNullTypeNode):
        return _fits(kind.type)
    if isinstance(kind, NamedTypeNode):
        return SCALARS.get(kind.name.value)
    assert isinstance(kind, ListTypeNode)
    item = kind.type.type if isinstance(kind.type, NonNullTypeNode) else kind.type
    inner = _fits(item) if isinstance(item, NamedTypeNode) else None  # lists in lists are counted together
    if inner is None:
        return None
    return lambda value: value.__class__ is list and all(map(inner, value))


def _less_items(left: int, value: Any, kind: Any) -> int:
    """Subtracts the list items of a value, including those in input objects, and stops below 0."""
    kind = get_nullable_type(kind)
    if is_list_type(kind):
        inner = get_nullable_type(kind.of_type)
        if not isinstance(value, list):
            return left if value is None else _less_items(left - 1, value, inner)  # coercion makes it a list
        left -= len(value)
        if is_list_type(inner) or is_input_object_type(get_named_type(inner)):
            for item in value:
                if left < 0:
                    break
                left = _less_items(left, item, inner)
    elif is_input_object_type(kind) and isinstance(value, dict):
        for name, field in kind.fields.items():
            if name in value and left >= 0:
                left = _less_items(left, value[name], field.type)
    return left


def flags_of(document: DocumentNode, operation: OperationDefinitionNode) -> list[str]:
    """The operation's variables that occur in `@skip` or `@include` anywhere in the document."""
    found: set[str] = set()

    class Flags(Visitor):
        def enter_directive(self, node: Any, *_: Any) -> None:
            for argument in node.arguments or ():
                if isinstance(argument.value, VariableNode):
                    found.add(argument.value.name.value)

    visit(document, Flags())
    own = [definition.variable.name.value for definition in operation.variable_definitions or ()]
    return [name for name in own if name in found]
