"""From a checked operation to its result: by its plan, else by graphql-core's executor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphql import ExecutionResult, execute

from gateway.engine.documents import Document
from gateway.engine.executor import ProjectingExecutor
from gateway.engine.plans import Asked, Prepared
from gateway.engine.projection import Unusual
from gateway.errors import GatewayError
from gateway.schema.build import Schema
from gateway.schema.connections import Place
from gateway.schema.context import Context
from gateway.schema.pagination import Limits
from gateway.schema.roots import PLACES, engine_of


class Execution:
    """Runs operations; without `projection` all of them by graphql-core alone."""

    def __init__(self, schema: Schema, *, projection: bool = True) -> None:
        self._schema = schema.core
        self._engine = engine_of(schema) if projection else None

    def prepared(self, document: Document, name: str | None, variables: Mapping[str, Any]) -> Prepared | None:
        """The operation's plan, with these variables; None where it has none."""
        return None if self._engine is None else self._engine.prepare(document, name, variables)

    def place_of(self, prepared: Prepared, limits: Limits, fleet: str | None) -> Place | None:
        """Where an answer may be kept that is made of one connection alone; None for any other, or a wrong one."""
        field = prepared.plan.only
        if field is None or field.name not in PLACES:
            return None
        try:
            asked = Asked(field.arguments(prepared.coerced), field.shape)
            return PLACES[field.name](limits, fleet, asked, field.projection)
        except (GatewayError, Unusual):
            return None

    async def of(
        self,
        document: Document,
        name: str | None,
        variables: Mapping[str, Any],
        context: Context | None,
        prepared: Prepared | None = None,
    ) -> ExecutionResult:
        """The result of a valid document's operation; parts of its data may be JSON already."""
        if context is not None:
            prepared = prepared or self.prepared(document, name, variables)
            if prepared is not None:
                try:
                    return ExecutionResult(await prepared.run(context), None)
                except Exception:  # noqa: BLE001, S110 - whatever it was, the generic executor tells it
                    pass
        return await self._generic(document, name, variables, context)

    async def _generic(
        self, document: Document, name: str | None, variables: Mapping[str, Any], context: Context | None
    ) -> ExecutionResult:
        assert document.ast is not None
        more: dict[str, Any] = {}
        if self._engine is not None:
            more = {"executor_class": ProjectingExecutor, "types": self._engine.types}
        outcome = execute(
            self._schema,
            document.ast,
            context_value=context,
            variable_values=dict(variables),
            operation_name=name,
            **more,
        )
        return outcome if isinstance(outcome, ExecutionResult) else await outcome
