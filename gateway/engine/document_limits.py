"""Limits on the size of a document, checked before validation, which is slow for large documents.

A fragment counts each time it is spread. A fragment that spreads itself counts once; validation rejects it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

Fragments = Mapping[str, FragmentDefinitionNode]


@dataclass(frozen=True, slots=True)
class DocumentLimits:
    """The limits of a document; by default there are none."""

    document_bytes: int = 2**62
    tokens: int = 2**62
    depth: int = 2**62
    root_fields: int = 2**62
    aliases: int = 2**62
    directives: int = 2**62
    overlaps: int = 2**62


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """The limits of an execution: list items in its variables, and bytes and errors of its response."""

    list_items: int = 20_000
    response_bytes: int = 16 * 2**20
    errors: int = 2_000


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a selection with its fragments; `fields` counts only those on its own level."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0


class LimitExceeded(GraphQLError):
    """A limit is exceeded; the extensions name the limit, its maximum and, if known, the actual size."""

    def __init__(self, limit: str, maximum: int, actual: int | None = None) -> None:
        extensions: dict[str, Any] = {"code": "LIMIT_EXCEEDED", "retryable": False, "limit": limit, "maximum": maximum}
        subject, unit = _WORDS[limit]
        if actual is None:
            message = f"{subject} more than the limit of {maximum} {unit}."
        else:
            message = f"{subject} {actual} {unit}; the limit is {maximum}."
            extensions["actual"] = actual
        super().__init__(message, extensions=extensions)


_WORDS = {
    "documentBytes": ("Document is", "bytes"),
    "variablesBytes": ("Variables are", "bytes"),
    "listItems": ("Variables have", "list items"),
    "tokens": ("Document has", "tokens"),
    "depth": ("Operation has", "levels of fields"),
    "rootFields": ("Operation has", "root fields"),
    "aliases": ("Operation has", "aliases"),
    "directives": ("Operation has", "directives"),
    "overlaps": ("Document has", "overlapping selections"),
    "upstreamCalls": ("Estimated cost is", "upstream calls"),
    "nodes": ("Estimated cost is", "nodes"),
    "fields": ("Estimated cost is", "fields"),
    "responseBytes": ("Response is", "bytes"),
    "errors": ("Response has", "errors"),
}


def first_exceeded(*limits: tuple[str, int, int]) -> LimitExceeded | None:
    """The error for the first of some limits (name, maximum, actual size) that is exceeded, if any."""
    return next((LimitExceeded(*limit) for limit in limits if limit[2] > limit[1]), None)


def check(document: DocumentNode, limits: DocumentLimits) -> None:
    """Raises LimitExceeded for the first limit that an operation or a fragment of the document exceeds."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    measured = _Measure(document, fragments)
    for size in measured.all():
        exceeded = first_exceeded(
            ("depth", limits.depth, size.depth),
            ("rootFields", limits.root_fields, size.fields),
            ("aliases", limits.aliases, size.aliases),
            ("directives", limits.directives, size.directives),
        )
        if exceeded is not None:
            raise exceeded
    _Overlaps(fragments, limits.overlaps).count_in(document)


class _Measure:
    """Measures the parts of a document; each fragment is measured once."""

    def __init__(self, document: DocumentNode, fragments: Fragments) -> None:
        self._document = document
        self._fragments = fragments
        self._sizes: dict[str, Size] = {}
        self._measuring: set[str] = set()

    def all(self) -> Iterator[Size]:
        """The sizes of operations, with their own and their variables' directives, and of fragments, without fields."""
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


class _Overlaps:
    """Counts the pairs of selections that validation compares to find out whether they can be merged.

    They are pairs of fields with the same response name at the same response path, and pairs of spreads there; each
    selection also pairs with itself. Counting stops at the limit.
    """

    def __init__(self, fragments: Fragments, maximum: int) -> None:
        self._fragments = fragments
        self._maximum = maximum
        self._count = 0
        self._reached: set[str] = set()

    def count_in(self, document: DocumentNode) -> None:
        """Raises LimitExceeded. Operations are counted first, then the fragments that none of them uses."""
        for node in document.definitions:
            if isinstance(node, OperationDefinitionNode):
                self._count_under(node.selection_set)
        for node in document.definitions:
            if isinstance(node, FragmentDefinitionNode) and not self._is_counted(node):
                self._reached.add(node.name.value)
                self._count_under(node.selection_set, node.name.value)

    def _is_counted(self, fragment: FragmentDefinitionNode) -> bool:
        name = fragment.name.value
        # Of several fragments with one name, which validation rejects, only one was counted.
        return name in self._reached and self._fragments[name] is fragment

    def _count_under(self, selections: SelectionSetNode, *names: str) -> None:
        paths = [[(selections, frozenset(names))]]
        while paths:
            paths += self._count_path(paths.pop())

    def _count_path(self, merged: list[Within]) -> list[list[Within]]:
        """Counts the pairs at one response path; returns the selections one level below, grouped by field."""
        below: defaultdict[str, list[Within]] = defaultdict(list)
        seen: Counter[str] = Counter()
        spread: set[str] = set()
        while merged:
            selections, inside = merged.pop()
            for selection in selections.selections:
                if isinstance(selection, FieldNode):
                    name = (selection.alias or selection.name).value
                    self._add_to(seen, name)
                    if selection.selection_set:
                        below[name].append((selection.selection_set, inside))
                elif isinstance(selection, FragmentSpreadNode):
                    self._add_to(seen, SPREADS)
                    name = selection.name.value
                    fragment = self._fragments.get(name)
                    # Merged once at each path, as in execution; validation rejects a fragment that spreads itself.
                    if fragment is not None and name not in spread and name not in inside:
                        spread.add(name)
                        self._reached.add(name)
                        merged.append((fragment.selection_set, inside | {name}))
                elif isinstance(selection, InlineFragmentNode):
                    self._add(1)
                    merged.append((selection.selection_set, inside))
        return list(below.values())

    def _add_to(self, seen: Counter[str], name: str) -> None:
        seen[name] += 1
        self._add(seen[name])

    def _add(self, pairs: int) -> None:
        self._count += pairs
        if self._count > self._maximum:
            raise LimitExceeded("overlaps", self._maximum)


# Not a valid field name.
SPREADS = "..."
# A selection and the names of the enclosing fragments.
Within = tuple[SelectionSetNode, frozenset[str]]
