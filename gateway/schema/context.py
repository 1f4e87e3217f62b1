"""The context of resolvers, and Strawberry's info type with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import strawberry

from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.upstream.requests import RequestScope
from gateway.upstream.writes import Writer


@dataclass(frozen=True, slots=True)
class Context:
    """The context of one request: its scope, its loaders, its writer and the limits of its fields.

    `writes` are the kinds of mutations that are on.
    """

    scope: RequestScope
    loaders: Loaders
    limits: Limits
    request_id: str
    nodes_max: int = 1000
    unit_search: bool = False
    writer: Writer | None = None
    writes: Literal["off", "vehicles", "commands", "all"] = "off"


Info = strawberry.Info[Context, None]
