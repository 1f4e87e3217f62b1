"""What an operation will cost at most, told from its text and variables without running it: in upstream calls, in nodes
(objects with a global id) that its answer may hold, and in fields of that answer, counted by the schema's `@listSize`.

The price is for a cold cache and what the fleet API is known for: lists hold their vehicles' states, units come with
their vehicles. Equal reads are counted once, as they are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
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
    OperationDefinitionNode,
    SelectionSetNode,
    get_argument_values,
    get_directive_values,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_introspection_type,
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
    """The most upstream calls that an operation takes, and the most nodes and fields that its answer holds.

    A field of introspection counts for `INTROSPECTION_WEIGHT`: each is resolved by itself. `key_bytes` are the bytes of
    the fields' names in the answer, which is no shorter than that.
    """

    upstream_calls: int = 0
    nodes: int = 0
    fields: int = 0
    key_bytes: int = 0


def price_of(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    values: VariableValues,
    prices: Prices,
) -> Price:
    """The price of a valid query. A field whose arguments do not fit costs nothing, because it is not resolved."""
    query = schema.query_type
    assert query is not None
    fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
    bill, count = _Bill(prices), _Count(schema, fragments, values)
    answer = _Size()
    for merged in _fields([operation.selection_set], fragments, values):
        field = merged[0]
        definition = schema.get_field(query, field.name.value)
        if definition is None:
            continue
        try:
            arguments = get_argument_values(definition, field, values)
        except GraphQLError:
            continue
        bill.add(field.name.value, arguments, _selects(merged, fragments, values))
        answer = answer.plus(count.of(query, definition, merged, {}, arguments))
    return Price(bill.total(), *map(ceil, answer))


def bound_of(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    prices: Prices,
    nodes_max: int,
) -> Price | None:
    """A price that a valid query is not beyond, whatever its variables are; None where there is none."""
    query = schema.query_type
    assert query is not None
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
    calls, answer = 0, _Size()
    for merged in _fields([operation.selection_set], fragments, None):
        name = merged[0].name.value
        found = schema.get_field(query, name)
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
        answer = answer.plus(count.of(query, found, merged, {}, arguments))
    return Price(calls, *map(ceil, answer))


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


# What a field of introspection counts for, beside one of the fleet.
INTROSPECTION_WEIGHT = 10


class _Size(NamedTuple):
    """Nodes, fields and bytes of keys of an answer; of lists whose length is known on average only, parts of one."""

    nodes: float = 0
    fields: float = 0
    key_bytes: float = 0

    def plus(self, other: _Size) -> _Size:
        return _Size(self.nodes + other.nodes, self.fields + other.fields, self.key_bytes + other.key_bytes)


class _Count:
    """How many nodes and fields a field may answer, by the sizes that the schema gives its lists."""

    def __init__(self, schema: GraphQLSchema, fragments: Fragments, values: Any) -> None:
        self._schema = schema
        self._fragments = fragments
        self._values = values

    def of(
        self,
        owner: Any,
        definition: GraphQLField,
        merged: Merged,
        sizes: Mapping[str, float],
        arguments: Mapping[str, Any],
        *,
        of_each: bool = False,
    ) -> _Size:
        """The size of one occurrence of a field; `of_each` if its objects are each type, or field, of the schema."""
        name = merged[0].name.value
        kind = get_named_type(definition.type)
        weight = INTROSPECTION_WEIGHT if is_introspection_type(owner) else 1
        own = _Size(0, weight, _key_bytes(merged))
        if is_leaf_type(kind):
            return own
        times, within = sizes.get(name, 1), {}
        listed = list_size_of(definition)
        if listed is not None:
            size = _size_of(listed, arguments)
            within = dict.fromkeys(listed.sized_fields or (), size)
            times *= 1 if listed.sized_fields else size
        elif is_introspection_type(owner):
            times, of_each = _introspected(self._schema, owner.name, name, of_each=of_each)
        else:
            # The fields that take keys answer one object for each.
            times *= next((len(given) for given in arguments.values() if isinstance(given, list)), 1)
        each = _Size(self._is_node(kind))
        for part in _fields([field.selection_set for field in merged], self._fragments, self._values):
            inner = part[0].name.value
            found = self._definition(kind, inner)
            if found is None:  # __typename, which every object has
                each = each.plus(_Size(0, weight, _key_bytes(part)))
            else:
                each = each.plus(self.of(kind, found, part, within, {}, of_each=of_each))
        return own.plus(_Size(times * each.nodes, times * each.fields, times * each.key_bytes))

    def _definition(self, kind: Any, name: str) -> GraphQLField | None:
        owners = [kind] if hasattr(kind, "fields") else []
        if is_abstract_type(kind):
            owners += self._schema.get_possible_types(kind)
        return next((owner.fields[name] for owner in owners if name in owner.fields), None)

    def _is_node(self, kind: Any) -> bool:
        return kind.name in NODES


NODES = frozenset(("Node", "Vehicle", "TelematicsUnit", "_Entity"))


def _introspected(schema: GraphQLSchema, owner: str, name: str, *, of_each: bool) -> tuple[float, bool]:
    """How many objects a field of introspection answers, and whether these are of each type, or field, of the schema.

    Of each there are as many as there are on average, of any other as many as there are at most.
    """
    lengths = _introspection_lengths(schema).get((owner, name))
    if lengths is None:
        return 1, False
    on_average, at_most = lengths
    return (on_average, True) if of_each or owner == "__Schema" else (at_most, False)


def _key_bytes(merged: Merged) -> int:
    return len((merged[0].alias or merged[0].name).value)


# The share of types that wrap another.
WRAPPED = 0.5


@lru_cache(4)
def _introspection_lengths(schema: GraphQLSchema) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Average and maximum length of introspection's lists."""
    types, directives = list(schema.type_map.values()), schema.directives
    fields = [field for named in types for field in getattr(named, "fields", {}).values()]
    outputs = [field for field in fields if isinstance(field, GraphQLField)]
    members = [len(getattr(named, "fields", ())) for named in types]
    abstract = [len(schema.get_possible_types(named)) if is_abstract_type(named) else 0 for named in types]
    lengths: dict[tuple[str, str], Sequence[float]] = {
        ("__Schema", "types"): [len(types)],
        ("__Schema", "directives"): [len(directives)],
        ("__Type", "fields"): members,
        ("__Type", "inputFields"): members,
        ("__Type", "enumValues"): [len(getattr(named, "values", ())) for named in types],
        ("__Type", "interfaces"): [len(getattr(named, "interfaces", ())) for named in types],
        ("__Type", "possibleTypes"): abstract,
        ("__Field", "args"): [len(field.args) for field in outputs],
        ("__Directive", "args"): [len(directive.args) for directive in directives],
        ("__Type", "ofType"): [WRAPPED],
    }
    return {key: (sum(each) / len(each), max(each)) for key, each in lengths.items()}


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
        READS[field](self, arguments, selected)

    def total(self) -> int:
        return len(self._vehicles) + sum(self._pages.values())

    def add_nothing(self, given: dict[str, Any], selected: set[str]) -> None:
        """A field that reads nothing."""

    def add_vehicle(self, given: dict[str, Any], selected: set[str]) -> None:
        self._vehicles.add(given["id"])

    def add_unit(self, given: dict[str, Any], selected: set[str]) -> None:
        self._walk()

    def add_node(self, given: dict[str, Any], selected: set[str]) -> None:
        self._add_nodes([given["id"]])

    def add_nodes(self, given: dict[str, Any], selected: set[str]) -> None:
        self._add_nodes(given["ids"])

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

    def add_entities(self, given: dict[str, Any], selected: set[str]) -> None:
        for representation in given["representations"]:
            if not isinstance(representation, dict):
                continue
            if representation.get("__typename") == TELEMATICS_UNIT:
                self._walk()
            elif isinstance(representation.get("vehicleId"), str):
                self._vehicles.add(representation["vehicleId"])
            elif isinstance(representation.get("id"), str):
                self._add_nodes([representation["id"]])

    def add_connection(self, given: dict[str, Any], selected: set[str]) -> None:
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


# What each root field reads. One that is missing would pass every limit, so the gateway does not start with it.
READS: Mapping[str, Callable[[_Bill, dict[str, Any], set[str]], None]] = {
    "vehicle": _Bill.add_vehicle,
    "telematicsUnit": _Bill.add_unit,
    "node": _Bill.add_node,
    "nodes": _Bill.add_nodes,
    "_entities": _Bill.add_entities,
    "vehicles": _Bill.add_connection,
    "telematicsUnits": _Bill.add_connection,
    **dict.fromkeys(("_service", "__schema", "__type", "__typename"), _Bill.add_nothing),
}


def check_priced(schema: GraphQLSchema) -> None:
    """Raises LookupError for a root field whose price is not known."""
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    unpriced = {name for root in roots if root is not None for name in root.fields} - READS.keys()
    if unpriced:
        raise LookupError(f"root fields without a price in {__name__}: {', '.join(sorted(unpriced))}")


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
    try:
        skip = get_directive_values(GraphQLSkipDirective, selection, values)
        include = get_directive_values(GraphQLIncludeDirective, selection, values)
    except GraphQLError:
        return False  # a null for `if`: execution tells that, where the selection stands
    return bool(skip and skip["if"]) or bool(include and not include["if"])
