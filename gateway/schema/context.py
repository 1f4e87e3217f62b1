"""What a resolver may use, and the alias to ask for it."""

from __future__ import annotations

from dataclasses import dataclass

import strawberry

from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.upstream.requests import RequestScope


@dataclass(frozen=True, slots=True)
class Context:
    """One request: who asks and what it costs, how to read for them, and how far a field may go."""

    scope: RequestScope
    loaders: Loaders
    limits: Limits
    request_id: str
    nodes_max: int = 1000
    unit_search: bool = False


Info = strawberry.Info[Context, None]
