"""Compiles operations to plans: root fields with their loaders and projections. Plans are cached with the document.

An operation that has no plan, or whose plan fails, is executed by the generic executor with the same context, so its
loaders do not read anything twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
from graphql import (
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLField,
    OperationDefinitionNode,
    OperationType,
    default_field_resolver,
    default_type_resolver,
)
from graphql.execution.collect_fields import FragmentDetails, collect_fields, collect_subfields
from graphql.execution.executor_throwing_on_incremental import ExecutorThrowingOnIncremental
from graphql.execution.values import VariableValues
from graphql.pyutils import Path

from gateway.engine.arguments import Arguments, arguments_of
from gateway.engine.document_limits import ExecutionLimits, LimitExceeded
from gateway.engine.documents import INTROSPECTION, Document
from gateway.engine.encoding import Encoder, ResponseSize
from gateway.engine.fallbacks import NOT_COMPILABLE, NOT_PLANNED, Fallback, NotCompilable, PlanFallbacks
from gateway.engine.projection import (
    Budget,
    Details,
    Needs,
    Projection,
    Types,
    compile_field,
)
from gateway.engine.variables import Coercion, flags_of

QUERY = "Query"
NO_PLAN = Fallback(NOT_PLANNED, QUERY)


class RootFieldCall(NamedTuple):
    """A call of a root field's loader: the arguments of an occurrence, and the mask of the decoded members.

    It is `immediate` if the operation has no root fields of another name, so that there is nothing to batch.
    """

    arguments: Mapping[str, Any]
    field_mask: Any
    immediate: bool = False


# `async (context, calls) -> values or errors`.
Load = Callable[[Any, Sequence[RootFieldCall]], Awaitable[Sequence[Any]]]
# From the needed members of a root field's value (None for all) to the mask for its loader; called once for a plan.
FieldMaskOf = Callable[[Needs | None], Any]


@dataclass(frozen=True, slots=True)
class RootFieldLoader:
    """The loader of a root field; `load` loads all of its occurrences in an operation together.

    `field_mask` makes the mask of a selection; without it all members are decoded. Fields that are `by_id` load the
    same objects, so in an operation they share one mask or have none.
    """

    load: Load
    field_mask: FieldMaskOf | None = None
    by_id: bool = False


class Cacheable(Protocol):
    """A value that caches its rendered fragments."""

    async def cached_fragment(self, projection: int) -> bytes | None:
        """The cached fragment of a projection's key, if it is still valid."""

    async def ready(self) -> Any:
        """The complete value."""

    def cache_fragment(self, projection: int, rendered: bytes) -> None:
        """Caches the fragment of a projection's key."""


class Field(NamedTuple):
    """An occurrence of a root field."""

    key: str
    name: str
    arguments: Arguments
    projection: Projection
    field_mask: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled operation."""

    keys: Sequence[str]
    constants: Mapping[str, str | msgspec.Raw]  # introspection results as JSON
    fields: Sequence[Sequence[Field]]  # grouped by name, because they are loaded together
    root_fields: Mapping[str, RootFieldLoader]
    encoder: Encoder
    response_bytes: int
    size: int  # in memory, in bytes

    @property
    def only(self) -> Field | None:
        """The only root field of the response, if there is only one."""
        if len(self.keys) != 1 or len(self.fields) != 1:
            return None
        return self.fields[0][0]

    async def run(self, context: Any, coerced: Mapping[str, Any]) -> dict[str, Any]:
        """The data of the response, with parts encoded as JSON. Raises PlanFailed and LimitExceeded."""
        size = ResponseSize(self.response_bytes)
        data: dict[str, Any] = dict.fromkeys(self.keys)
        data.update(self.constants)
        if len(self.fields) == 1:
            await self._load(self.fields[0], context, coerced, data, size)
        else:
            await asyncio.gather(*(self._load(fields, context, coerced, data, size) for fields in self.fields))
        return data

    async def _load(
        self,
        fields: Sequence[Field],
        context: Any,
        coerced: Mapping[str, Any],
        data: dict[str, Any],
        size: ResponseSize,
    ) -> None:
        immediate = len(self.fields) == 1
        try:
            calls = [RootFieldCall(each.arguments(coerced), each.field_mask, immediate) for each in fields]
            values = await self.root_fields[fields[0].name].load(context, calls)
            for each, value in zip(fields, values, strict=True):
                if isinstance(value, Exception):
                    raise value  # noqa: TRY301 - handled as other errors of the field
                if hasattr(value, "cache_fragment"):
                    data[each.key] = await self._fragment(each.projection, value, context, size)
                elif each.projection.reads:
                    data[each.key] = (await each.projection.run(value, context))[0]
                else:
                    data[each.key] = each.projection.complete(value, ())
        except LimitExceeded:
            raise
        except Exception as failure:
            raise PlanFailed(f"{QUERY}.{fields[0].name}") from failure

    async def _fragment(self, projection: Projection, value: Cacheable, context: Any, size: ResponseSize) -> Any:
        rendered = await value.cached_fragment(projection.key)
        if rendered is None:
            completed, own = await projection.run(await value.ready(), context)
            if not own:
                return completed
            rendered = self.encoder.encode(completed, size)
            value.cache_fragment(projection.key, rendered)
        else:
            size.add(len(rendered))
        return msgspec.Raw(rendered)


class PlanFailed(Exception):
    """A plan failed at a field; the cause is the reason."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class BoundPlan(NamedTuple):
    """A plan with coerced variables."""

    plan: Plan
    coerced: Mapping[str, Any]

    async def run(self, context: Any) -> dict[str, Any]:
        """The data of the response. Raises the same errors as `Plan.run`."""
        return await self.plan.run(context, self.coerced)


@dataclass(slots=True)
class Plans:
    """The plans of one operation, one for each variant, that is for each combination of its `@skip` and `@include`."""

    flags: Sequence[str]
    coercion: Coercion
    made: dict[tuple[Any, ...], Plan | None] = field(default_factory=dict)
    unplanned: Fallback = NO_PLAN  # why the latest variant without a plan has none


# An operation with ten flags has a thousand variants, but clients use few of them.
VARIANTS_MAX = 16
# Bytes of memory of plans without their projections: per operation and variable, per variant, per token for constant
# arguments, and per field mask.
PLANS_BYTES, VARIABLE_BYTES, VARIANT_BYTES, CONSTANT_BYTES, MASK_BYTES = 2_000, 150, 2_000, 50, 16_000


class NotMade(Exception):
    """There is no plan yet, and the caller did not allow making one."""


class Engine:
    """Compiles operations on a schema to plans, with the loaders in `root_fields`."""

    def __init__(
        self,
        types: Types,
        root_fields: Mapping[str, RootFieldLoader],
        limits: ExecutionLimits,
        fallbacks: PlanFallbacks,
    ) -> None:
        self.types = types
        self.root_fields = root_fields
        self.limits = limits
        self.fallbacks = fallbacks
        self.encoder = Encoder()

    def prepare(
        self, document: Document, name: str | None, variables: Mapping[str, Any], *, make: bool = True
    ) -> BoundPlan | None:
        """The plan of an operation of a valid document; None if it has no plan.

        Raises NotMade if the plan would have to be made and `make` is false, and LimitExceeded or VariablesInvalid for
        invalid variables.
        """
        plans = document.plans.get(name)
        if plans is None:
            operation = document.operation(name)
            if operation is None or document.ast is None or operation.operation is not OperationType.QUERY:
                return None
            if not make:
                raise NotMade
            coercion = Coercion(self.types.schema, operation, self.limits.list_items)
            plans = Plans(flags_of(document.ast, operation), coercion)
            document.plans[name] = plans
            document.grow(PLANS_BYTES + VARIABLE_BYTES * len(operation.variable_definitions or ()))
        coerced = plans.coercion.coerced(variables)
        variant = tuple(coerced.get(flag) for flag in plans.flags)
        if variant not in plans.made:
            if len(plans.made) >= VARIANTS_MAX:
                return None
            if not make:
                raise NotMade
            made = plans.made[variant] = self._planned(document, name, plans, VariableValues({}, dict(coerced)))
            document.grow(VARIANT_BYTES + (0 if made is None else made.size))
        plan = plans.made[variant]
        return None if plan is None else BoundPlan(plan, coerced)

    def _planned(self, document: Document, name: str | None, plans: Plans, values: VariableValues) -> Plan | None:
        operation = document.operation(name)
        assert operation is not None
        assert document.ast is not None
        planner = _Planner(self, document.ast, operation, values, len(plans.flags))
        try:
            return planner.plan()
        except (GraphQLError, RecursionError):
            plans.unplanned = Fallback(NOT_COMPILABLE, planner.field)
        except Exception as failure:  # noqa: BLE001 - a bug is logged, and the generic executor runs the operation
            plans.unplanned = self.fallbacks.reason(planner.field, failure)
        return None

    def unplanned(self, document: Document, name: str | None) -> Fallback:
        """Why an operation has no plan."""
        plans: Plans | None = document.plans.get(name)
        return NO_PLAN if plans is None else plans.unplanned


class _Planner:
    """Makes a plan; `field` is the current root field."""

    def __init__(
        self,
        engine: Engine,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        values: VariableValues,
        flags: int,
    ) -> None:
        self._engine = engine
        self._types = engine.types
        self._operation = operation
        self._document = document
        self._fragments: dict[str, FragmentDetails] = {}
        self._tokens = document.token_count or 0
        self._values = values
        self._depends_on_variables = len(operation.variable_definitions or ()) > flags
        self._constant_bytes = 0
        self.field = QUERY

    def plan(self) -> Plan:
        """The plan. Raises NotCompilable and graphql-core's errors."""
        query = self._types.schema.query_type
        assert query is not None
        self._fragments = fragments_of(self._document)
        collected = collect_fields(self._types.schema, self._fragments, self._values, query, self._operation)
        constants: dict[str, str | msgspec.Raw] = {}
        fields: dict[str, list[Field]] = {}
        budget = Budget()
        for key, details in collected.grouped_field_set.items():
            name = details[0].node.name.value
            self.field = f"{QUERY}.{name}"
            if name == "__typename":
                constants[key] = query.name
            elif name in INTROSPECTION:
                constants[key] = self._constant(key, details)
            else:
                fields.setdefault(name, []).append(self._field(query.fields[name], key, details, budget))
        groups = [self._with_one_mask(name, group, is_only=len(fields) == 1) for name, group in fields.items()]
        return Plan(
            list(collected.grouped_field_set),
            constants,
            groups,
            self._engine.root_fields,
            self._engine.encoder,
            self._engine.limits.response_bytes,
            self._size_of(groups),
        )

    def _field(self, definition: GraphQLField, key: str, details: Details, budget: Budget) -> Field:
        name = details[0].node.name.value
        loader = self._engine.root_fields.get(name)
        if loader is None:
            raise NotCompilable
        arguments = arguments_of(definition, details[0].node, self._values)
        projection = compile_field(self._types, self._subfields, definition.type, details, budget)
        field_mask = None if loader.field_mask is None else loader.field_mask(projection.needs)
        return Field(key, name, arguments, projection, field_mask)

    def _constant(self, key: str, details: Details) -> msgspec.Raw:
        """The introspection result of a field as JSON. Raises NotCompilable if it depends on variables."""
        query = self._types.schema.query_type
        if self._depends_on_variables or query is None:
            raise NotCompilable
        executor = ExecutorThrowingOnIncremental(
            self._types.schema, {}, self._fragments, None, None, self._operation, self._values,
            default_field_resolver, default_type_resolver, default_field_resolver,
        )  # fmt: skip
        value = executor.execute_field(query, None, details, Path(None, key, query.name), None)
        if executor.collected_errors.errors:
            raise NotCompilable
        encoded = self._engine.encoder.encode(value, ResponseSize(self._engine.limits.response_bytes))
        self._constant_bytes += len(encoded)
        return msgspec.Raw(encoded)

    def _size_of(self, groups: list[list[Field]]) -> int:
        compiled = self._constant_bytes + sum(field.projection.size for group in groups for field in group)
        masks = len({field.field_mask for group in groups for field in group})
        return compiled + MASK_BYTES * masks + CONSTANT_BYTES * self._tokens

    def _with_one_mask(self, name: str, group: list[Field], *, is_only: bool) -> list[Field]:
        mask = group[0].field_mask
        if not self._engine.root_fields[name].by_id or (is_only and all(each.field_mask is mask for each in group)):
            return group
        return [each._replace(field_mask=None) for each in group]

    def _subfields(self, kind: Any, details: Details) -> Mapping[str, Details]:
        schema, values, operation = self._types.schema, self._values, self._operation
        return collect_subfields(schema, self._fragments, values, operation, kind, details).grouped_field_set


def fragments_of(document: DocumentNode) -> dict[str, FragmentDetails]:
    """The fragments of a document for graphql-core's `collect_fields`. Raises NotCompilable if they have variables."""
    fragments = {}
    for node in document.definitions:
        if isinstance(node, FragmentDefinitionNode):
            if node.variable_definitions:
                raise NotCompilable
            fragments[node.name.value] = FragmentDetails(node)
    return fragments
