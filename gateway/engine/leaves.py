"""Coercion of scalars and enums in responses, and the values that need none."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLEnumType, GraphQLScalarType, Undefined

from gateway.engine.fallbacks import UnexpectedValue

# Cached coerced texts of a scalar; a page of vehicles has about two thousand timestamps.
CHECKED_MAX = 16_384
# The maximum length of a cached text.
CHECKED_LENGTH_MAX = 100
# Integers that a float represents exactly.
EXACT = "-9007199254740992 <= {0} <= 9007199254740992"
# Values of these types need no coercion to the scalar.
UNCHANGED = {
    "String": "str",
    "ID": "str",
    "Boolean": "bool",
    "Int": "int and -2147483648 <= {0} <= 2147483647",
    "Float": "float and {0} - {0} == 0.0",
}


class Leaf:
    """The coercion of a scalar or an enum, with a cache of coerced texts."""

    def __init__(self, kind: GraphQLScalarType | GraphQLEnumType) -> None:
        self._coerce = kind.coerce_output_value
        self.known: dict[str, Any] = {}
        if isinstance(kind, GraphQLEnumType):
            self.known.update({name: self.coerce(name) for name in kind.values if kind.values[name].value == name})

    def coerce(self, value: Any) -> Any:
        """The coerced value. Raises UnexpectedValue, or the errors of the type's own coercion."""
        if isinstance(value, Exception):
            raise UnexpectedValue
        coerced = self._coerce(value)
        if coerced is None or coerced is Undefined:
            raise UnexpectedValue
        if isinstance(value, str) and len(value) <= CHECKED_LENGTH_MAX:
            if len(self.known) >= CHECKED_MAX:
                self.known.clear()
            self.known[value] = coerced
        return coerced
