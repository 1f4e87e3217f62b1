"""How large a document is, told from its text alone: before it is validated, because validation is what large ones
make slow. A fragment counts wherever it is used; one that uses itself counts once, validation tells of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    OperationDefinitionNode,
    SelectionSetNode,
)


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """The most that a document may have of each; the defaults are no limit."""

    document_bytes: int = 2**62
    tokens: int = 2**62
    depth: int = 2**62
    root_fields: int = 2**62
    aliases: int = 2**62
    directives: int = 2**62


@dataclass(frozen=True, slots=True)
class Size:
    """What a selection holds, with what its fragments hold: `fields` are those on its own level."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0


class LimitExceeded(GraphQLError):
    """Something is more than its limit; the extensions name the limit, its maximum and what was found."""

    def __init__(self, limit: str, maximum: int, actual: int | None = None) -> None:
        told = {"code": "LIMIT_EXCEEDED", "retryable": False, "limit": limit, "maximum": maximum}
        if actual is not None:
            told["actual"] = actual
        found = "" if actual is None else f"; it is {actual}"
        super().__init__(f"The operation's {_WORDS[limit]} is limited to {maximum}{found}.", extensions=told)


_WORDS = {
    "documentBytes": "document in bytes",
    "variablesBytes": "size of variables in bytes",
    "tokens": "number of tokens",
    "depth": "depth",
    "rootFields": "number of root fields",
    "aliases": "number of aliases",
    "directives": "number of directives",
    "upstreamCalls": "price in upstream calls",
    "nodes": "price in nodes",
}


def check(document: DocumentNode, limits: DocumentLimits) -> None:
    """Raises LimitExceeded for the first limit that an operation of the document, or a fragment, is beyond."""
    measured = _Measure(document)
    for size in measured.all():
        for limit, maximum, actual in (
            ("depth", limits.depth, size.depth),
            ("rootFields", limits.root_fields, size.fields),
            ("aliases", limits.aliases, size.aliases),
            ("directives", limits.directives, size.directives),
        ):
            if actual > maximum:
                raise LimitExceeded(limit, maximum, actual)


class _Measure:
    """Sizes of a document's parts; each fragment is measured once."""

    def __init__(self, document: DocumentNode) -> None:
        self._document = document
        self._fragments: Mapping[str, FragmentDefinitionNode] = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._sizes: dict[str, Size] = {}
        self._measuring: set[str] = set()

    def all(self) -> Iterator[Size]:
        """The size of each operation, its own directives and its variables' included; of fragments, all but fields."""
        for node in self._document.definitions:
            if isinstance(node, OperationDefinitionNode):
                size = self._selection(node.selection_set)
                own = len(node.directives or ()) + sum(
                    len(variable.directives or ()) for variable in node.variable_definitions or ()
                )
                yield Size(size.depth, size.fields, size.aliases, size.directives + own)
            elif isinstance(node, FragmentDefinitionNode):
                size = self._fragment(node.name.value)
                yield Size(size.depth, 0, size.aliases, size.directives)

    def _selection(self, selections: SelectionSetNode | None) -> Size:
        depth = fields = aliases = directives = 0
        for selection in selections.selections if selections else ():
            directives += len(selection.directives or ())
            if isinstance(selection, FieldNode):
                inner = self._selection(selection.selection_set)
                inner = Size(inner.depth + 1, 1, inner.aliases + (selection.alias is not None), inner.directives)
            elif isinstance(selection, FragmentSpreadNode):
                inner = self._fragment(selection.name.value)
            else:
                inner = self._selection(getattr(selection, "selection_set", None))
            depth = max(depth, inner.depth)
            fields += inner.fields
            aliases += inner.aliases
            directives += inner.directives
        return Size(depth, fields, aliases, directives)

    def _fragment(self, name: str) -> Size:
        size = self._sizes.get(name)
        if size is None:
            fragment = self._fragments.get(name)
            if fragment is None or name in self._measuring:
                return Size()
            self._measuring.add(name)
            size = self._selection(fragment.selection_set)
            size = Size(size.depth, size.fields, size.aliases, size.directives + len(fragment.directives or ()))
            self._measuring.discard(name)
            self._sizes[name] = size
        return size
