"""The context of resolvers, and Strawberry's info type with it."""

from __future__ import annotations

from dataclasses import dataclass

import strawberry

from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.upstream.requests import RequestScope


@dataclass(frozen=True, slots=True)
class Context:
    """The context of one request: its scope, its loaders and the limits of its fields."""

    scope: RequestScope
    loaders: Loaders
    limits: Limits
    request_id: str
    nodes_max: int = 1000
    unit_search: bool = False


Info = strawberry.Info[Context, None]
