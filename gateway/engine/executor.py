"""graphql-core's executor with projections: objects are projected if possible, and executed otherwise.

It runs operations that have no plan, or whose plan failed. Errors, paths and nulls are graphql-core's own. It is slow,
so it yields to the event loop regularly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from graphql import (
    DocumentNode,
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    default_field_resolver,
    default_type_resolver,
    is_non_null_type,
)
from graphql.execution.collect_fields import FragmentDetails
from graphql.execution.executor_throwing_on_incremental import ExecutorThrowingOnIncremental
from graphql.execution.values import VariableValues
from graphql.pyutils import AwaitableOrValue, Path

from gateway.engine.document_limits import LimitExceeded
from gateway.engine.fallbacks import DEFERRED_FIELD, Fallback, PlanFallbacks
from gateway.engine.projection import Budget, Details, Projection, Types, compile_field
from gateway.library_internals import require_internals

require_internals(
    ExecutorThrowingOnIncremental,
    "collect_subfields",
    "complete_awaitable_value",
    "complete_list_value",
    "complete_object_value",
    "execute_field",
    "handle_field_error",
)
T = TypeVar("T")


async def execute(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    values: VariableValues,
    context: Any,
    *,
    types: Types | None,
    fallbacks: PlanFallbacks,
    check_deadline: Callable[[], None],
    errors_max: int,
) -> ExecutionResult:
    """The result of a valid operation. With `types` objects are projected, and those that are executed are counted.

    `check_deadline` is called regularly, and raises after the operation's deadline.
    """
    definitions = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    fragments = {name: FragmentDetails(node) for name, node in definitions.items()}
    executor = ProjectingExecutor(
        schema, definitions, fragments, None, context, operation, values,
        default_field_resolver, default_type_resolver, default_field_resolver,
        types=types, fallbacks=fallbacks, slices=TimeSlices(check_deadline), errors_max=errors_max,
    )  # fmt: skip
    outcome: Any = executor.execute_operation()
    result: ExecutionResult = outcome if isinstance(outcome, ExecutionResult) else await outcome
    if executor.errors_omitted and result.errors is not None:
        result.errors.append(LimitExceeded("errors", errors_max, errors_max + executor.errors_omitted))
    return result


class TimeSlices:
    """Limits an execution to `SECONDS` of the event loop at a time.

    After the deadline it may complete values for up to `GRACE` seconds.
    """

    SECONDS = 0.005
    GRACE = 0.1

    def __init__(self, check_deadline: Callable[[], None]) -> None:
        self._check_deadline = check_deadline
        self._ends_at = time.perf_counter() + self.SECONDS
        self._overdue_since: float | None = None
        self._one_at_a_time = asyncio.Lock()

    async def enter(self) -> None:
        """Waits for the next time slice if this one is over. Raises after the deadline and the grace period."""
        if not self._one_at_a_time.locked() and time.perf_counter() < self._ends_at:
            return
        async with self._one_at_a_time:
            if time.perf_counter() >= self._ends_at:
                await asyncio.sleep(0)
                now = time.perf_counter()
                self._check(now)
                self._ends_at = now + self.SECONDS

    def _check(self, now: float) -> None:
        try:
            self._check_deadline()
        except Exception:
            if self._overdue_since is None:
                self._overdue_since = now
            if now - self._overdue_since >= self.GRACE:
                raise

    async def after(self, awaitable: Awaitable[T]) -> T:
        """The result of an awaitable, in a time slice."""
        value = await awaitable
        await self.enter()
        return value

    async def each(self, items: Iterable[T]) -> AsyncIterator[T]:
        """The items, each in a time slice."""
        for item in items:
            await self.enter()
            yield item


class ProjectingExecutor(ExecutorThrowingOnIncremental):
    """Projects objects where possible, in time slices, and with a maximum number of errors."""

    # Lists up to this length are completed in one time slice.
    ITEMS_AT_ONCE = 8

    def __init__(
        self,
        *arguments: Any,
        types: Types | None,
        fallbacks: PlanFallbacks,
        slices: TimeSlices,
        errors_max: int,
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._types = types
        self._fallbacks = fallbacks
        self._slices = slices
        self._errors_max = errors_max
        self.errors_omitted = 0
        self._budget = Budget()
        # By the identity of a field's details, which the values keep alive.
        self._projections: dict[tuple[str, int], tuple[Details, Projection | None]] = {}

    def handle_field_error(
        self,
        raw_error: Exception,
        return_type: GraphQLOutputType,
        field_details_list: Details,
        path: Path,
    ) -> None:
        """Adds an error, up to the maximum, then only counts; the location is that of the first merged field."""
        if len(self.collected_errors.errors) >= self._errors_max and not is_non_null_type(return_type):
            self.errors_omitted += 1
        else:
            super().handle_field_error(raw_error, return_type, field_details_list[:1], path)

    def complete_list_value(
        self,
        return_type: GraphQLList[GraphQLOutputType],
        field_details_list: Details,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: AsyncIterable[Any] | Iterable[Any],
        position_context: None,
    ) -> AwaitableOrValue[list[Any]]:
        if isinstance(result, Sequence) and len(result) > self.ITEMS_AT_ONCE:
            result = self._slices.each(result)
        return super().complete_list_value(return_type, field_details_list, info, path, result, position_context)

    async def complete_awaitable_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: Details,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: None,
    ) -> Any:
        resolved = self._slices.after(result)
        return await super().complete_awaitable_value(
            return_type, field_details_list, info, path, resolved, position_context
        )

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_details_list: Details,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: None,
    ) -> AwaitableOrValue[dict[str, Any]]:
        if self._types is not None and return_type.name in self._types.forms:
            projection = self._projection(self._types, return_type, field_details_list)
            projected = None if projection is None else self._project(projection, info, result)
            if projected is not None:
                return projected
        return super().complete_object_value(return_type, field_details_list, info, path, result, position_context)

    def _project(self, projection: Projection, info: GraphQLResolveInfo[Any], result: Any) -> dict[str, Any] | None:
        """The projection of an object; None, and a counted fallback, if it has to be executed."""
        field = f"{info.parent_type.name}.{info.field_name}"
        try:
            projected: dict[str, Any] | None = projection.at_once(result)
        except Exception as failure:  # noqa: BLE001 - it is counted, and executing the object reports the error
            self._fallbacks.count(self._fallbacks.reason(field, failure))
            return None
        if projected is None:
            self._fallbacks.count(Fallback(DEFERRED_FIELD, field))
        return projected

    def _projection(self, types: Types, kind: GraphQLObjectType, details: Details) -> Projection | None:
        key = (kind.name, id(details))
        known = self._projections.get(key)
        if known is None:
            known = self._projections[key] = (details, self._compiled(types, kind, details))
        return known[1]

    def _compiled(self, types: Types, kind: GraphQLObjectType, details: Details) -> Projection | None:
        def collect(owner: GraphQLObjectType, selected: Details) -> Any:
            return self.collect_subfields(owner, selected).grouped_field_set

        try:
            return compile_field(types, collect, GraphQLNonNull(kind), details, self._budget)
        except Exception as failure:  # noqa: BLE001 - it is counted, and objects of this type are executed
            self._fallbacks.count(self._fallbacks.reason(kind.name, failure))
            return None
