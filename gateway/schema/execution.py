"""Runs checked operations by a compiled plan or, as a counted fallback, by graphql-core's executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphql import ExecutionResult, OperationType
from graphql.execution.values import VariableValues

from gateway.engine.document_limits import ExecutionLimits
from gateway.engine.documents import Document
from gateway.engine.executor import execute
from gateway.engine.fallbacks import PlanFallbacks, UnexpectedValue
from gateway.engine.plans import BoundPlan, Engine, PlanFailed, RootFieldCall
from gateway.engine.projection import Types
from gateway.engine.variables import Coercion
from gateway.errors import GatewayError
from gateway.schema.build import Schema
from gateway.schema.connections import FragmentKey
from gateway.schema.context import Context
from gateway.schema.pagination import Limits
from gateway.schema.root_fields import ROOT_FIELDS, RootField
from gateway.upstream import models

# The base classes of the objects of a type, masked or not.
BASE_CLASSES: Mapping[str, type] = {"Vehicle": models.AnyVehicle, "TelematicsUnit": models.AnyUnit}
# Types whose objects are shared by pages that were read one after the other.
SHARED = ("Vehicle",)


class Execution:
    """Runs operations; without `projection` all of them run by graphql-core alone."""

    def __init__(
        self,
        schema: Schema,
        limits: ExecutionLimits = ExecutionLimits(),  # noqa: B008 - it is frozen
        *,
        projection: bool = True,
        root_fields: Mapping[str, RootField] = ROOT_FIELDS,
    ) -> None:
        self._schema = schema.core
        self._limits = limits
        self._root_fields = root_fields
        self.fallbacks = PlanFallbacks()
        types = Types(schema.core, BASE_CLASSES, SHARED)
        self._engine = Engine(types, root_fields, limits, self.fallbacks) if projection else None

    def prepared(
        self, document: Document, name: str | None, variables: Mapping[str, Any], *, make: bool = True
    ) -> BoundPlan | None:
        """The operation's plan, with these variables; None if it has no plan.

        Raises NotMade if the plan would have to be made and `make` is false, and LimitExceeded or VariablesInvalid for
        invalid variables.
        """
        return None if self._engine is None else self._engine.prepare(document, name, variables, make=make)

    def values(self, document: Document, name: str | None, variables: Mapping[str, Any]) -> VariableValues:
        """The coerced variables of an operation. Raises the same errors as `prepared`."""
        operation = document.operation(name)
        assert operation is not None
        return Coercion(self._schema, operation, self._limits.list_items).values(variables)

    def fragment_key_of(self, prepared: BoundPlan, limits: Limits, fleet: str | None) -> FragmentKey | None:
        """The cache key of a response that is one connection; None for other responses and invalid arguments."""
        field = prepared.plan.only
        key_of = None if field is None else self._root_fields[field.name].fragment_key
        if field is None or key_of is None:
            return None
        try:
            call = RootFieldCall(field.arguments(prepared.coerced), field.field_mask)
            return key_of(limits, fleet, call, field.projection)
        except (GatewayError, UnexpectedValue):
            return None

    async def of(
        self,
        document: Document,
        name: str | None,
        variables: Mapping[str, Any],
        context: Context | None,
        prepared: BoundPlan | None,
        values: VariableValues | None = None,
        check_deadline: Callable[[], None] | None = None,
    ) -> ExecutionResult:
        """The result of an operation of a valid document, by its plan if it has one. Parts of the data may be encoded.

        `values` are the variables, if they were coerced before. `check_deadline` raises after the operation's deadline;
        by default it is the context's. Raises LimitExceeded if the response is too long.
        """
        if prepared is not None:
            try:
                return ExecutionResult(await prepared.run(context), None)
            except PlanFailed as failed:
                self.fallbacks.count(self.fallbacks.reason(failed.field, failed.__cause__))
        operation = document.operation(name)
        assert document.ast is not None
        assert operation is not None
        # Mutations have no plans: their root fields run one after the other.
        if prepared is None and self._engine is not None and operation.operation is OperationType.QUERY:
            self.fallbacks.count(self._engine.unplanned(document, name))
        return await execute(
            self._schema,
            document.ast,
            operation,
            values or self.values(document, name, variables),
            context,
            types=None if self._engine is None else self._engine.types,
            fallbacks=self.fallbacks,
            check_deadline=check_deadline or (_unlimited if context is None else context.scope.deadline.check),
            errors_max=self._limits.errors,
        )


def _unlimited() -> None:
    """No deadline."""
