"""Random valid documents of a schema, with aliases, both kinds of fragments, flags and repeated fields."""

from __future__ import annotations

import random
from typing import Any

from graphql import (
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_composite_type,
    is_interface_type,
    is_leaf_type,
    is_union_type,
)

FLAGS = ("$on", "$off")
VARIABLES = "$n: Int, $ids: [ID!]!, $id: ID!"


class Documents:
    """Draws documents. `arguments` has the possible arguments of each root field, which may use the `variables`."""

    def __init__(
        self, schema: GraphQLSchema, rng: random.Random, arguments: dict[str, Any], variables: str = VARIABLES
    ) -> None:
        self._variables = variables
        self._schema = schema
        self._rng = rng
        self._arguments = arguments
        self._fragments: list[str] = []

    def draw(self) -> str:
        """A document of one query with the variables `$on` and `$off` and the others."""
        self._fragments = []
        roots = [name for name in self._schema.query_type.fields if name in self._arguments]
        chosen = [self._rng.choice(roots) for _ in range(self._rng.choice((1, 1, 1, 2, 3)))]
        fields = [self._root(f"r{index}", name) for index, name in enumerate(chosen)]
        if self._rng.random() < 0.2:
            fields.append("__typename")
        head = f"query($on: Boolean! = true, $off: Boolean! = false, {self._variables})"
        used = "kept: __typename @include(if: $on) dropped: __typename @skip(if: $on) @include(if: $off)"
        using = "nodes0: nodes(ids: $ids) { id } v0: vehicle(id: $id) { id } c0: vehicles(first: $n) { nodes { id } }"
        body = " ".join(fields) + f" ...Used @include(if: false) {used if self._rng.random() < 0.2 else ''}"
        self._fragments.append(f"fragment Used on Query {{ {using} {used} }}")
        return f"{head} {{ {body} }}\n" + "\n".join(self._fragments)

    def _root(self, alias: str, name: str) -> str:
        kind = get_named_type(self._schema.query_type.fields[name].type)
        return f"{alias}: {name}{self._rng.choice(self._arguments[name])} {self._selection(kind, 5)}"

    def _selection(self, kind: Any, depth: int) -> str:
        parts = [self._part(kind, depth) for _ in range(self._rng.choice((1, 2, 3, 5)))]
        return "{ " + " ".join([*parts, "__typename"] if self._rng.random() < 0.2 else parts) + " }"

    def _part(self, kind: Any, depth: int) -> str:
        chance = self._rng.random()
        if is_union_type(kind) or (is_interface_type(kind) and chance < 0.7):
            owner = self._rng.choice(self._schema.get_possible_types(kind))
            return f"... on {owner.name} {self._selection(owner, depth)}"
        if chance < 0.08 and depth > 1:
            return f"... {self._flag()} {self._selection(kind, depth - 1)}"
        if chance < 0.16 and depth > 1:
            name = f"F{len(self._fragments)}"
            self._fragments.append("")
            index = len(self._fragments) - 1
            on = "Node" if isinstance(kind, GraphQLObjectType) and kind.interfaces and chance < 0.1 else kind.name
            of = self._schema.get_type(on)
            self._fragments[index] = f"fragment {name} on {on} {self._selection(of, depth - 1)}"
            return f"...{name} {self._flag()}"
        return self._field(kind, depth)

    def _field(self, kind: Any, depth: int) -> str:
        fields = [f for f in kind.fields.items() if depth > 0 or is_leaf_type(get_named_type(f[1].type))]
        if not fields:
            return "__typename"
        name, field = self._rng.choice(fields)
        inner = get_named_type(field.type)
        alias = f"{name}{self._rng.randrange(3)}: " if self._rng.random() < 0.15 else ""
        below = self._selection(inner, depth - 1) if is_composite_type(inner) else ""
        return f"{alias}{name} {self._flag()} {below}"

    def _flag(self) -> str:
        if self._rng.random() > 0.1:
            return ""
        return f"@{self._rng.choice(('skip', 'include'))}(if: {self._rng.choice((*FLAGS, 'true', 'false'))})"
