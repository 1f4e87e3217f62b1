"""Scalars and enums in answers: their coercion, and the values that are given as they are."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLEnumType, GraphQLScalarType, Undefined

from gateway.engine.fallbacks import UnexpectedValue

# Distinct texts of a scalar that are remembered as checked; a page of vehicles has about two thousand timestamps.
CHECKED_MAX = 16_384
# Of longer texts it is not remembered that they were checked.
CHECKED_LENGTH_MAX = 100
# Whole numbers that a float holds exactly.
EXACT = "-9007199254740992 <= {0} <= 9007199254740992"
# Values of these scalars that are of this type are given as they are.
AS_IT_IS = {
    "String": "str",
    "ID": "str",
    "Boolean": "bool",
    "Int": "int and -2147483648 <= {0} <= 2147483647",
    "Float": "float and {0} - {0} == 0.0",
}


class Leaf:
    """A leaf's coercion, which is a pure function, with the texts that it is known to take."""

    def __init__(self, kind: GraphQLScalarType | GraphQLEnumType) -> None:
        self._coerce = kind.coerce_output_value
        self.known: dict[str, Any] = {}
        if isinstance(kind, GraphQLEnumType):
            self.known.update({name: self.coerce(name) for name in kind.values if kind.values[name].value == name})

    def coerce(self, value: Any) -> Any:
        """The value as the answer holds it; raises UnexpectedValue, or what the type's own coercion raises."""
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
