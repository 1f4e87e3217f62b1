"""graphql-core's executor with projections in it: an object whose selection is plain is projected, the rest executed.

It runs what has no plan, and what turned out to be unusual: there, too, only the objects that are unusual take the
generic road, and its errors, paths and nulls are graphql-core's own.
"""

from __future__ import annotations

from typing import Any

from graphql import GraphQLNonNull, GraphQLObjectType, GraphQLResolveInfo
from graphql.execution.executor_throwing_on_incremental import ExecutorThrowingOnIncremental
from graphql.pyutils import AwaitableOrValue, Path

from gateway.engine.projection import Details, Projection, Types, Unusual, compile_field


class ProjectingExecutor(ExecutorThrowingOnIncremental):
    """Projects each object that it can; `types` comes by `execute(..., types=...)`."""

    def __init__(self, *arguments: Any, types: Types, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._types = types
        # By the identity of a field's details, which the executor keeps alive beside its own such memory.
        self._projections: dict[tuple[str, int], tuple[Details, Projection | None]] = {}

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_details_list: Details,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: None,
    ) -> AwaitableOrValue[dict[str, Any]]:
        if return_type.name in self._types.forms:
            projection = self._projection(return_type, field_details_list)
            if projection is not None:
                try:
                    return projection.at_once(result)  # type: ignore[no-any-return]
                except Exception:  # noqa: BLE001, S110 - whatever it was, the generic executor tells it
                    pass
        return super().complete_object_value(return_type, field_details_list, info, path, result, position_context)

    def _projection(self, kind: GraphQLObjectType, details: Details) -> Projection | None:
        key = (kind.name, id(details))
        known = self._projections.get(key)
        if known is None:
            known = self._projections[key] = (details, self._compiled(kind, details))
        return known[1]

    def _compiled(self, kind: GraphQLObjectType, details: Details) -> Projection | None:
        def collect(owner: GraphQLObjectType, selected: Details) -> Any:
            return self.collect_subfields(owner, selected).grouped_field_set

        try:
            return compile_field(self._types, collect, GraphQLNonNull(kind), details)
        except Unusual:
            return None
