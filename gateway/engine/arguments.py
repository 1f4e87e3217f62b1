"""Computes the arguments of root fields from the coerced variables of an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from graphql import FieldNode, GraphQLError, GraphQLField, GraphQLNonNull, Undefined, VariableNode, get_argument_values
from graphql.execution.values import VariableValues

from gateway.engine.fallbacks import NotCompilable, UnexpectedValue

Arguments = Callable[[Mapping[str, Any]], dict[str, Any]]


def arguments_of(definition: GraphQLField, node: FieldNode, values: VariableValues) -> Arguments:
    """A function from coerced variables to the arguments of a field.

    The function raises UnexpectedValue if arguments are invalid or a default is needed.
    """
    given = {argument.name.value: argument.value for argument in node.arguments or ()}
    from_variables = {name: value.name.value for name, value in given.items() if isinstance(value, VariableNode)}
    if any(name not in from_variables and _has_variable(value) for name, value in given.items()):
        return partial(_computed, definition, node)
    constants = get_argument_values(definition, node, values)
    # Values of variables differ from run to run.
    constants = {name: value for name, value in constants.items() if name not in from_variables}
    wanted = [
        (name, variable, definition.args[name], isinstance(definition.args[name].type, GraphQLNonNull))
        for name, variable in from_variables.items()
    ]

    def arguments(coerced: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(constants)
        for name, variable, argument, required in wanted:
            value = coerced.get(variable, Undefined)
            if value is None and required:
                raise UnexpectedValue
            if value is not Undefined:
                found[name] = value
            elif argument.default is not None or required:
                raise UnexpectedValue
        return found

    return arguments


def constant_arguments(definition: GraphQLField, node: FieldNode) -> dict[str, Any]:
    """The arguments of a field without variables. Raises NotCompilable for any other, and graphql-core's errors."""
    if any(_has_variable(argument.value) for argument in node.arguments or ()):
        raise NotCompilable
    return get_argument_values(definition, node, VariableValues({}, {}))


def _computed(definition: GraphQLField, node: FieldNode, coerced: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a field in which a variable is inside a list or an object."""
    try:
        return get_argument_values(definition, node, VariableValues({}, dict(coerced)))
    except GraphQLError as invalid:
        raise UnexpectedValue from invalid


def _has_variable(value: Any) -> bool:
    if isinstance(value, VariableNode):
        return True
    if hasattr(value, "values"):
        return any(map(_has_variable, value.values))
    return any(_has_variable(member.value) for member in getattr(value, "fields", None) or ())
