"""Fallbacks from compiled plans to the generic executor: each is counted, and logged with its kind and field.

The generic executor returns the same response, but is many times slower. Without counts, such bugs would stay hidden.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from graphql import GraphQLError

from gateway.errors import GatewayError
from gateway.telemetry.logs import EventCounter, get_logger

# An error of the fleet API or of the caller's input, which the generic executor reports with its path.
FIELD_ERROR = "field error"
# A value of another type than its field.
UNEXPECTED_VALUE = "unexpected value"
# A field of a single object that has to be loaded.
DEFERRED_FIELD = "deferred field"
# A field or an operation that cannot be compiled.
NOT_COMPILABLE = "not compilable"
# An operation without a plan: an untrusted caller's, or one with too many variants.
NOT_PLANNED = "not planned"
# Any other exception is an error in the compiled code.
BUG = "bug"


class NotCompilable(Exception):
    """A selection or an operation cannot be compiled; `field` is the field, if known."""

    def __init__(self, field: str | None = None) -> None:
        super().__init__(field)
        self.field = field


class UnexpectedValue(Exception):
    """A value does not have the type of its field; the generic executor reports the error with its path."""


class Fallback(NamedTuple):
    """The kind of a fallback, and the field (`Type.name`) or type whose compiled code was not used."""

    kind: str
    field: str


class PlanFallbacks:
    """Counts the fallbacks of one gateway."""

    def __init__(self) -> None:
        self.counts: Counter[Fallback] = Counter()
        self._log = EventCounter("plan fallbacks", "info")

    def count(self, fallback: Fallback) -> None:
        """Counts and logs a fallback; needs a running event loop."""
        self.counts[fallback] += 1
        self._log.count(": ".join(fallback), asyncio.get_running_loop())

    def reason(self, field: str, failure: BaseException | None) -> Fallback:
        """The fallback for an exception at a field. A bug is logged with its frames the 1st, 2nd, 4th, 8th… time."""
        if isinstance(failure, NotCompilable):
            return Fallback(NOT_COMPILABLE, failure.field or field)
        if isinstance(failure, GatewayError):
            return Fallback(FIELD_ERROR, field)
        if isinstance(failure, UnexpectedValue | GraphQLError):
            return Fallback(UNEXPECTED_VALUE, field)
        bug = Fallback(BUG, field)
        number = self.counts[bug] + 1
        if number & (number - 1) == 0:
            get_logger("gateway.engine").error("compiled plan failed", field=field, number=number, exc_info=failure)
        return bug
