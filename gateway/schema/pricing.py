"""What an operation will cost at most, told from its text and variables without running it: in upstream calls, and in
nodes (objects with a global id) that its answer may hold, counted by the schema's `@listSize`.

The price is for a cold cache and what the fleet API is known for: lists hold their vehicles' states, units come with
their vehicles. Equal reads are counted once, as they are made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLSchema,
    GraphQLSkipDirective,
    InlineFragmentNode,
    SelectionSetNode,
    get_argument_values,
    get_directive_values,
    get_named_type,
    get_nullable_type,
    get_operation_ast,
    get_variable_values,
    is_abstract_type,
    is_leaf_type,
    is_list_type,
    type_from_ast,
)
from graphql.execution.values import VariableValues
from strawberry.federation.schema_directives import ListSize

from gateway.errors import GlobalIdInvalid
from gateway.schema.global_ids import (
    TELEMATICS_UNIT,
    VEHICLE,
    UnitKey,
    parse_global_id,
    unit_global_id,
    vehicle_global_id,
)
from gateway.schema.pagination import Limits

Fragments = Mapping[str, FragmentDefinitionNode]
# Fields of one name in the answer, which are one in execution, too.
Merged = list[FieldNode]


@dataclass(frozen=True, slots=True)
class Prices:
    """What the price of a field depends on: the connections' limits and the size of an upstream page."""

    limits: Limits
    page_size: int


class Price(NamedTuple):
    """The most upstream calls that an operation takes, and the most nodes that its answer holds."""

    upstream_calls: int = 0
    nodes: int = 0


def price_of(
    schema: GraphQLSchema, document: DocumentNode, variables: dict[str, Any], operation_name: str | None, prices: Prices
) -> Price:
    """The price of a valid operation; nothing where its variables do not fit, because then it is not run."""
    operation = get_operation_ast(document, operation_name)
    query = schema.query_type
    if operation is None or query is None:
        return Price()
    values = get_variable_values(schema, operation.variable_definitions or (), variables)
    if isinstance(values, list):
        return Price()
    fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
    bill, count = _Bill(prices), _Count(schema, fragments, values)
    nodes = 0
    for merged in _fields([operation.selection_set], fragments, values):
        field = merged[0]
        definition = query.fields.get(field.name.value)
        if definition is None:
            continue
        try:
            arguments = get_argument_values(definition, field, values)
        except GraphQLError:
            continue
        bill.add(field.name.value, arguments, _selects(merged, fragments, values))
        nodes += count.of(definition, merged, {}, arguments)
    return Price(bill.total(), nodes)


def bound_of(
    schema: GraphQLSchema, document: DocumentNode, operation_name: str | None, prices: Prices, nodes_max: int
) -> Price | None:
    """A price that a valid operation is not beyond, whatever its variables are; None where there is none."""
    operation = get_operation_ast(document, operation_name)
    query = schema.query_type
    if operation is None or query is None:
        return None
    most = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        kind = type_from_ast(schema, definition.type)
        worst = _worst_of(kind, name, prices.limits.page_max, nodes_max)
        if worst is None:
            return None
        most[name] = worst
    fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
    values = VariableValues({}, most)
    count = _Count(schema, fragments, None)
    calls = nodes = 0
    for merged in _fields([operation.selection_set], fragments, None):
        name = merged[0].name.value
        found = query.fields.get(name)
        if found is None:
            continue
        try:
            arguments = get_argument_values(found, merged[0], values)
        except GraphQLError:
            return None
        bill = _Bill(prices)
        bill.add(name, arguments, {"hasNextPage", "hasPreviousPage"})
        # Which pages a slice reaches into depends on which of its arguments are null.
        calls += bill.total() + PAGES_BESIDE
        nodes += count.of(found, merged, {}, arguments)
    return Price(calls, nodes)


PAGES_BESIDE = 3


def _worst_of(kind: Any, name: str, page_max: int, nodes_max: int) -> Any:
    """The dearest value of a variable; None where there is no telling."""
    bare = get_nullable_type(kind)
    if is_list_type(bare):
        of = get_nullable_type(bare.of_type)
        # With one unit, for whose sake the fleet is walked; further ones cost no more.
        if getattr(of, "name", None) == "ID":
            ids = [vehicle_global_id(f"{name} {number}") for number in range(nodes_max)]
            return [*ids, unit_global_id(None, None, "any")]
        if getattr(of, "name", None) == "_Any":
            vehicles = [{"__typename": VEHICLE, "vehicleId": f"{name} {number}"} for number in range(nodes_max)]
            return [*vehicles, {"__typename": TELEMATICS_UNIT}]
        return None
    return {"Int": page_max, "Boolean": True, "ID": name, "String": name}.get(getattr(bare, "name", ""))


class _Count:
    """How many nodes a field may answer, by the sizes that the schema gives its lists."""

    def __init__(self, schema: GraphQLSchema, fragments: Fragments, values: Any) -> None:
        self._schema = schema
        self._fragments = fragments
        self._values = values

    def of(
        self, definition: GraphQLField, merged: Merged, sizes: Mapping[str, int], arguments: Mapping[str, Any]
    ) -> int:
        times, within = sizes.get(merged[0].name.value, 1), {}
        listed = list_size_of(definition)
        if listed is not None:
            size = _size_of(listed, arguments)
            within = dict.fromkeys(listed.sized_fields or (), size)
        else:
            # The fields that take keys answer one object for each.
            times *= next((len(given) for given in arguments.values() if isinstance(given, list)), 1)
        kind = get_named_type(definition.type)
        inner = 0
        for part in _fields([field.selection_set for field in merged], self._fragments, self._values):
            found = self._definition(kind, part[0].name.value)
            if found is not None and not is_leaf_type(get_named_type(found.type)):
                inner += self.of(found, part, within, {})
        return times * (self._is_node(kind) + inner)

    def _definition(self, kind: Any, name: str) -> GraphQLField | None:
        owners = [kind] if hasattr(kind, "fields") else []
        if is_abstract_type(kind):
            owners += self._schema.get_possible_types(kind)
        return next((owner.fields[name] for owner in owners if name in owner.fields), None)

    def _is_node(self, kind: Any) -> bool:
        return kind.name in NODES


NODES = frozenset(("Node", "Vehicle", "TelematicsUnit", "_Entity"))


def list_size_of(definition: GraphQLField) -> ListSize | None:
    """The `@listSize` of a field."""
    own = (definition.extensions or {}).get("strawberry-definition")
    return next((directive for directive in getattr(own, "directives", ()) if isinstance(directive, ListSize)), None)


def _size_of(listed: ListSize, arguments: Mapping[str, Any]) -> int:
    given = [arguments.get(name) for name in listed.slicing_arguments or ()]
    sizes = [size for size in given if isinstance(size, int)]
    return max(0, *sizes) if sizes else listed.assumed_size or 0


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
        elif field == "_entities":
            self._add_entities(arguments["representations"])
        elif field in ("node", "nodes"):
            self._add_nodes(arguments["ids"] if field == "nodes" else [arguments["id"]])
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

    def _add_entities(self, representations: list[Any]) -> None:
        for representation in representations:
            if not isinstance(representation, dict):
                continue
            if representation.get("__typename") == TELEMATICS_UNIT:
                self._walk()
            elif isinstance(representation.get("vehicleId"), str):
                self._vehicles.add(representation["vehicleId"])
            elif isinstance(representation.get("id"), str):
                self._add_nodes([representation["id"]])

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


def _fields(selections: Iterable[SelectionSetNode | None], fragments: Fragments, values: Any) -> list[Merged]:
    """The fields of selections, merged as execution merges them: a fragment counts once, or doubling ones never end."""
    merged: dict[tuple[str, str], Merged] = {}
    _collect(selections, fragments, values, merged, set())
    return list(merged.values())


def _collect(
    selections: Iterable[SelectionSetNode | None],
    fragments: Fragments,
    values: Any,
    merged: dict[tuple[str, str], Merged],
    spread: set[str],
) -> None:
    for selection in (one for each in selections if each for one in each.selections):
        if _is_left_out(selection, values):
            continue
        if isinstance(selection, FieldNode):
            name = selection.name.value
            merged.setdefault((selection.alias.value if selection.alias else name, name), []).append(selection)
        elif isinstance(selection, InlineFragmentNode):
            _collect([selection.selection_set], fragments, values, merged, spread)
        elif isinstance(selection, FragmentSpreadNode) and (fragment := selection.name.value) not in spread:
            spread.add(fragment)
            if fragment in fragments:
                _collect([fragments[fragment].selection_set], fragments, values, merged, spread)


def _selects(merged: Merged, fragments: Fragments, values: Any) -> set[str]:
    return {
        inner[0].name.value
        for part in _fields([field.selection_set for field in merged], fragments, values)
        if part[0].name.value == "pageInfo"
        for inner in _fields([field.selection_set for field in part], fragments, values)
    }


def _is_left_out(selection: Any, values: Any) -> bool:
    if values is None:
        return False  # whatever may be there counts
    skip = get_directive_values(GraphQLSkipDirective, selection, values)
    include = get_directive_values(GraphQLIncludeDirective, selection, values)
    return bool(skip and skip["if"]) or bool(include and not include["if"])
