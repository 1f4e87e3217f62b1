"""The context of resolvers over a fake client of the fleet API."""

from __future__ import annotations

from typing import Any

from gateway.fleet_index.fleet_indexes import FleetIndexes
from gateway.identity import Caller
from gateway.schema.context import Context
from gateway.schema.filters import KNOWN_WORDS
from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.settings import FleetIndexSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.changes import Changes
from gateway.upstream.requests import RequestScope, RequestStats, now


def context_of(client: Any, limits: Limits = Limits(), **context: Any) -> Context:  # noqa: B008 - it is frozen
    """A context of a caller of its own, whose indexes keep nothing."""
    scope = RequestScope(Caller("token"), RequestStats())
    indexes = FleetIndexes(
        client,
        Changes(),
        KNOWN_WORDS,
        FleetIndexSettings(),
        now,
        Metrics(),
        pages_max=limits.scan_pages_max,
        cached=False,
    )
    return Context(scope, Loaders(client, scope), indexes, limits, "id", **context)
