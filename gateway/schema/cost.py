"""The maximum cost of an operation, computed from its text and its variables without running it.

The cost is in upstream calls, nodes (objects with a global id) of the response, and fields of the response, counted by
the schema's `@listSize`. The same code computes the exact cost for given variables and the worst case for all: in the
worst case no selection is skipped, and each variable is an `AnyValue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
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
    GraphQLInputObjectType,
    GraphQLSchema,
    GraphQLSkipDirective,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
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

from gateway.engine.document_limits import LimitExceeded, first_exceeded
from gateway.schema.pagination import Limits
from gateway.schema.root_fields import ROOT_FIELDS, AddCalls, RootField, check_root_fields
from gateway.schema.upstream_calls import AnyValue, UpstreamCalls, slice_size_max
from gateway.settings import LimitSettings

# Fields by response key and name; execution merges fields of one key, too.
Merged = Mapping[tuple[str, str], list[FieldNode]]
IsSkipped = Callable[[SelectionNode], bool]
# The weight of an introspection field, because each is resolved separately; other fields weigh 1.
INTROSPECTION_WEIGHT = 10
# The assumed share of types that wrap another type.
WRAPPED = 0.5
NODES = frozenset(("Node", "Vehicle", "TelematicsUnit", "_Entity"))
# Variable types whose worst case is known, beside input objects: no cost depends on what is in these.
SCALARS = frozenset(("Int", "Boolean", "ID", "String", "_Any"))


class OperationCost(NamedTuple):
    """The maximum numbers of upstream calls of an operation and of nodes and fields in its response.

    `key_bytes` is the size of the response keys, a lower bound of the size of the response.
    """

    upstream_calls: int = 0
    nodes: int = 0
    fields: int = 0
    key_bytes: int = 0


class CostModel:
    """Computes the cost of operations on a schema, and checks it against limits.

    The slices of connections are bounded by `pagination`, and read in upstream pages of `page_size` vehicles.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        pagination: Limits,
        page_size: int,
        limits: LimitSettings,
        root_fields: Mapping[str, RootField] = ROOT_FIELDS,
    ) -> None:
        check_root_fields(schema, root_fields)
        self.pagination = pagination
        self._schema = schema
        self._page_size = page_size
        self._limits = limits
        self._costs = _FieldCosts(schema, root_fields)

    def exact(
        self, document: DocumentNode, operation: OperationDefinitionNode, values: VariableValues
    ) -> OperationCost:
        """The cost of a valid operation with these variables."""
        return self._cost(document, operation, values, lambda selection: _is_skipped(selection, values))

    def worst_case(
        self, document: DocumentNode, operation: OperationDefinitionNode, list_length: int
    ) -> OperationCost | None:
        """The maximum cost of a valid operation for any variables whose lists are at most this long.

        None if the worst case of a variable's type is unknown.
        """
        worst = {}
        for definition in operation.variable_definitions or ():
            value = _any_value_of(type_from_ast(self._schema, definition.type), list_length)
            if value is None:
                return None
            worst[definition.variable.name.value] = value
        return self._cost(document, operation, VariableValues({}, worst), lambda _: False)

    def exceeded(self, cost: OperationCost) -> LimitExceeded | None:
        """The error for the first limit that a cost exceeds, if any."""
        limits = self._limits
        return first_exceeded(
            ("upstreamCalls", limits.upstream_calls, cost.upstream_calls),
            ("nodes", limits.nodes, cost.nodes),
            ("fields", limits.fields, cost.fields),
            ("responseBytes", limits.response_bytes, cost.key_bytes),
        )

    def _cost(
        self,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        values: VariableValues,
        is_skipped: IsSkipped,
    ) -> OperationCost:
        fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
        calls = UpstreamCalls(self.pagination, self._page_size)
        counter = _CostCounter(self._costs, self.pagination, fragments, values, is_skipped, calls)
        counter.count(self._costs.roots[operation.operation], counter.fields((operation.selection_set,)), {})
        return OperationCost(calls.total(), ceil(counter.nodes), ceil(counter.field_count), ceil(counter.key_bytes))


def _any_value_of(kind: Any, list_length: int) -> AnyValue | list[AnyValue] | None:
    """The worst case of a variable; None if it is unknown."""
    bare = get_nullable_type(kind)
    if is_list_type(bare):
        item = get_nullable_type(bare.of_type)
        return [AnyValue() for _ in range(list_length)] if _has_worst_case(item) else None
    return AnyValue() if _has_worst_case(bare) else None


def _has_worst_case(kind: Any) -> bool:
    return isinstance(kind, GraphQLInputObjectType) or getattr(kind, "name", None) in SCALARS


class FieldCost(NamedTuple):
    """The cost of a field by the schema; without a `definition` it is a leaf.

    `lengths` are the average and the maximum length of an introspection list; `calls` adds a root field's upstream
    calls.
    """

    weight: int
    definition: GraphQLField | None = None
    kind: Any = None
    is_node: bool = False
    list_size: ListSize | None = None
    lengths: tuple[float, float] | None = None
    is_of_all: bool = False
    calls: AddCalls | None = None


class _FieldCosts:
    """The costs of the fields of a schema and its root fields, each computed once."""

    def __init__(self, schema: GraphQLSchema, root_fields: Mapping[str, RootField]) -> None:
        kinds = {OperationType.QUERY: schema.query_type, OperationType.MUTATION: schema.mutation_type}
        self.roots = {operation: FieldCost(0, kind=kind) for operation, kind in kinds.items()}
        self._root_kinds = [kind for kind in kinds.values() if kind is not None]
        self._schema = schema
        self._root_fields = root_fields
        self._known: dict[tuple[str, str], FieldCost] = {}
        self._lengths = _introspection_lengths(schema)

    def of(self, owner: Any, name: str) -> FieldCost:
        """The cost of a field of a type; for an abstract type also of a field of only some of its object types."""
        known = self._known.get((owner.name, name))
        if known is None:
            known = self._known[owner.name, name] = self._compute(owner, name)
        return known

    def _compute(self, owner: Any, name: str) -> FieldCost:
        weight = INTROSPECTION_WEIGHT if is_introspection_type(owner) else 1
        definition = self._definition(owner, name)
        calls = self._root_fields[name].cost if owner in self._root_kinds and name in self._root_fields else None
        if definition is None or (is_leaf_type(kind := get_named_type(definition.type)) and calls is None):
            return FieldCost(weight)
        return FieldCost(
            weight,
            definition,
            kind,
            is_node=kind.name in NODES,
            list_size=list_size_of(definition),
            lengths=self._lengths.get((owner.name, name)),
            is_of_all=owner.name == "__Schema",
            calls=calls,
        )

    def _definition(self, owner: Any, name: str) -> GraphQLField | None:
        if owner in self._root_kinds:
            return self._schema.get_field(owner, name)
        owners = [owner, *(self._schema.get_possible_types(owner) if is_abstract_type(owner) else ())]
        return next((one.fields[name] for one in owners if name in getattr(one, "fields", ())), None)


class _CostCounter:
    """Counts the nodes and fields in the response to an operation, without skipped selections."""

    def __init__(
        self,
        costs: _FieldCosts,
        pagination: Limits,
        fragments: Mapping[str, FragmentDefinitionNode],
        values: VariableValues,
        is_skipped: IsSkipped,
        calls: UpstreamCalls,
    ) -> None:
        self._costs = costs
        self._pagination = pagination
        self._fragments = fragments
        self._values = values
        self._is_skipped = is_skipped
        self._calls = calls
        # Fractions, because some list lengths are averages.
        self.nodes = self.field_count = self.key_bytes = 0.0

    def count(
        self,
        cost: FieldCost,
        selected: Merged,
        arguments: Mapping[str, Any],
        times: float = 1,
        *,
        of_all: bool = False,
    ) -> None:
        """Counts the fields of a field's objects; `times` multiplies their number by arguments and `@listSize`.

        `of_all` is true for introspection of every type, or every field, of the schema.
        """
        sized: Mapping[str, float] = {}
        if cost.list_size is not None:
            size = self._length(cost.list_size, arguments)
            sized = dict.fromkeys(cost.list_size.sized_fields or (), size)
            times *= 1 if sized else size
        elif cost.lengths is not None:
            of_all = of_all or cost.is_of_all
            times *= cost.lengths[0 if of_all else 1]
        else:
            of_all = False
            # Fields with a list of keys return one object for each key.
            times *= next((len(given) for given in arguments.values() if isinstance(given, list)), 1)
        self.nodes += times * cost.is_node
        for (key, name), merged in selected.items():
            field = self._costs.of(cost.kind, name)
            self.field_count += times * field.weight
            self.key_bytes += times * len(key)
            if field.definition is not None:
                self._count_field(field, merged, times * sized.get(name, 1), of_all=of_all)

    def _count_field(self, field: FieldCost, merged: list[FieldNode], times: float, *, of_all: bool) -> None:
        assert field.definition is not None
        try:
            given = field.definition.args and get_argument_values(field.definition, merged[0], self._values)
        except GraphQLError:
            return  # it is not resolved
        selected = self.fields(node.selection_set for node in merged)
        if field.calls is not None:
            field.calls(self._calls, given, self._names_of(selected))
        self.count(field, selected, given, times, of_all=of_all)

    def _length(self, listed: ListSize, arguments: Mapping[str, Any]) -> int:
        if not listed.slicing_arguments:
            return listed.assumed_size or 0
        return slice_size_max([arguments.get(name) for name in listed.slicing_arguments], self._pagination)

    def _names_of(self, selected: Merged) -> set[str]:
        """The names of selected fields, and of those of a connection's `pageInfo`."""
        parts = (field for (_, name), merged in selected.items() if name == "pageInfo" for field in merged)
        page_info = self.fields(field.selection_set for field in parts)
        return {name for _, name in (*selected, *page_info)}

    def fields(self, selections: Iterable[SelectionSetNode | None]) -> Merged:
        """The fields of selections, merged as execution merges them.

        A fragment counts once; otherwise nested fragments would take exponential time.
        """
        merged: dict[tuple[str, str], list[FieldNode]] = {}
        self._collect(selections, merged, set())
        return merged

    def _collect(
        self,
        selections: Iterable[SelectionSetNode | None],
        merged: dict[tuple[str, str], list[FieldNode]],
        spread: set[str],
    ) -> None:
        for selection in chain.from_iterable(each.selections for each in selections if each):
            if selection.directives and self._is_skipped(selection):
                continue
            if isinstance(selection, FieldNode):
                name = selection.name.value
                merged.setdefault((selection.alias.value if selection.alias else name, name), []).append(selection)
            elif isinstance(selection, InlineFragmentNode):
                self._collect((selection.selection_set,), merged, spread)
            elif isinstance(selection, FragmentSpreadNode) and (fragment := selection.name.value) not in spread:
                spread.add(fragment)
                if fragment in self._fragments:
                    self._collect((self._fragments[fragment].selection_set,), merged, spread)


def _is_skipped(selection: Any, values: VariableValues) -> bool:
    try:
        skip = get_directive_values(GraphQLSkipDirective, selection, values)
        include = get_directive_values(GraphQLIncludeDirective, selection, values)
    except GraphQLError:
        return False  # `if` is null, which execution reports
    return bool(skip and skip["if"]) or bool(include and not include["if"])


def list_size_of(definition: GraphQLField) -> ListSize | None:
    """The `@listSize` of a field."""
    own = (definition.extensions or {}).get("strawberry-definition")
    return next((directive for directive in getattr(own, "directives", ()) if isinstance(directive, ListSize)), None)


def _introspection_lengths(schema: GraphQLSchema) -> Mapping[tuple[str, str], tuple[float, float]]:
    """The average and maximum lengths of introspection lists."""
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
