"""Fallbacks from compiled plans to the generic executor: each is counted, and logged with its kind and field.

The generic executor gives the same answer many times slower, so a fallback that nobody sees is a bug nobody finds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

from graphql import GraphQLError

from gateway.errors import GatewayError
from gateway.telemetry import EventCounter, get_logger

# An error of the fleet API, or of the caller's input, that the generic executor reports in its place.
FIELD_ERROR = "field error"
# A value that does not have the type of its field.
UNEXPECTED_VALUE = "unexpected value"
# A field of a single object that has to be read for.
DEFERRED_FIELD = "deferred field"
# A field, or an operation, that has no compiled form.
NOT_COMPILABLE = "not compilable"
# An operation for which no plan was made: an untrusted caller's, or one of very many forms.
NOT_PLANNED = "not planned"
# Anything else is an error in the compiled form.
BUG = "bug"


class NotCompilable(Exception):
    """A selection or an operation has no compiled form; `field` says where, if that is known."""

    def __init__(self, field: str | None = None) -> None:
        super().__init__(field)
        self.field = field


class UnexpectedValue(Exception):
    """A value does not have the type of its field; the generic executor reports the error in its place."""


class Fallback(NamedTuple):
    """The kind of a fallback, and the field (`Type.name`) or the type whose compiled form was not used."""

    kind: str
    field: str


class PlanFallbacks:
    """Counts the fallbacks of one gateway."""

    def __init__(self) -> None:
        self.counts: Counter[Fallback] = Counter()
        self._log = EventCounter("plan fallbacks", "info")

    def count(self, fallback: Fallback) -> None:
        """Counts a fallback, in an operation that is running."""
        self.counts[fallback] += 1
        self._log.count(": ".join(fallback), asyncio.get_running_loop())

    def reason(self, field: str, failure: BaseException | None) -> Fallback:
        """The fallback for what was raised at a field; a bug is logged with its frames, the 1st, 2nd, 4th, 8th time."""
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
