"""What an operation will cost in upstream calls at most, told from its text and variables without running it.

The price is for a cold cache and what the fleet API is known for: lists hold their vehicles' states, units come with
their vehicles. Equal reads are counted once, as they are made once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLIncludeDirective,
    GraphQLSchema,
    GraphQLSkipDirective,
    InlineFragmentNode,
    SelectionSetNode,
    get_argument_values,
    get_directive_values,
    get_operation_ast,
    get_variable_values,
)

from gateway.errors import GlobalIdInvalid
from gateway.schema.global_ids import UnitKey, parse_global_id
from gateway.schema.pagination import Limits


@dataclass(frozen=True, slots=True)
class Prices:
    """What the price of a field depends on: the connections' limits and the size of an upstream page."""

    limits: Limits
    page_size: int


def upstream_calls(
    schema: GraphQLSchema, document: DocumentNode, variables: dict[str, Any], operation_name: str | None, prices: Prices
) -> int:
    """The most upstream calls that a valid operation will take; 0 where its variables do not fit."""
    operation = get_operation_ast(document, operation_name)
    query = schema.query_type
    if operation is None or query is None:
        return 0
    values = get_variable_values(schema, operation.variable_definitions or (), variables)
    if isinstance(values, list):
        return 0
    fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
    bill = _Bill(prices)
    for field in _fields(operation.selection_set, fragments, values):
        definition = query.fields.get(field.name.value)
        if definition is None:
            continue
        try:
            arguments = get_argument_values(definition, field, values)
        except GraphQLError:
            continue
        bill.add(field.name.value, arguments, _selects(field, fragments, values))
    return bill.total()


class _Bill:
    """The reads of an operation, each once."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._vehicles: set[str] = set()
        self._pages: dict[tuple[Any, ...], int] = {}

    def add(self, field: str, arguments: dict[str, Any], selected: set[str]) -> None:
        if field == "vehicle":
            self._vehicles.add(arguments["id"])
        elif field == "telematicsUnit":
            self._walk()
        elif field in ("node", "nodes"):
            self._add_nodes(arguments.get("ids") or [arguments.get("id")])
        elif field in ("vehicles", "telematicsUnits"):
            self._add_connection(arguments, selected)

    def total(self) -> int:
        return len(self._vehicles) + sum(self._pages.values())

    def _add_nodes(self, global_ids: list[str]) -> None:
        for global_id in global_ids:
            try:
                key = parse_global_id(global_id)
            except GlobalIdInvalid:
                continue
            if isinstance(key, UnitKey):
                self._walk()
            else:
                self._vehicles.add(key)

    def _add_connection(self, given: dict[str, Any], selected: set[str]) -> None:
        limits = self._prices.limits
        first, last, after, before = (given.get(name) for name in ("first", "last", "after", "before"))
        size = max(first or 0, last or 0) if first is not None or last is not None else limits.page_default
        backward = first is None and (last is not None or (bool(before) and not after))
        pages = -(-max(size, 1) // self._prices.page_size)
        looks_ahead = ("hasPreviousPage" if backward else "hasNextPage") in selected
        if after or before:
            pages += 1  # a slice from the middle of a page reaches into one more
        elif backward:
            pages += 2  # the first page tells where the last one is, which may hold a remainder only
        elif looks_ahead and size % self._prices.page_size == 0:
            pages += 1
        # Both connections read the same pages.
        read = (given.get("search") or None, after or None, before or None, backward)
        self._pages[read] = max(self._pages.get(read, 0), min(pages, limits.walk_pages_max))

    def _walk(self) -> None:
        self._pages[(None, None, None, False)] = self._prices.limits.walk_pages_max


def _fields(
    selections: SelectionSetNode | None, fragments: dict[str, FragmentDefinitionNode], values: Any
) -> Iterator[FieldNode]:
    for selection in selections.selections if selections else ():
        if _is_left_out(selection, values):
            continue
        if isinstance(selection, FieldNode):
            yield selection
        elif isinstance(selection, InlineFragmentNode):
            yield from _fields(selection.selection_set, fragments, values)
        elif isinstance(selection, FragmentSpreadNode) and selection.name.value in fragments:
            yield from _fields(fragments[selection.name.value].selection_set, fragments, values)


def _selects(field: FieldNode, fragments: dict[str, FragmentDefinitionNode], values: Any) -> set[str]:
    return {
        inner.name.value
        for part in _fields(field.selection_set, fragments, values)
        if part.name.value == "pageInfo"
        for inner in _fields(part.selection_set, fragments, values)
    }


def _is_left_out(selection: Any, values: Any) -> bool:
    skip = get_directive_values(GraphQLSkipDirective, selection, values)
    include = get_directive_values(GraphQLIncludeDirective, selection, values)
    return bool(skip and skip["if"]) or bool(include and not include["if"])
