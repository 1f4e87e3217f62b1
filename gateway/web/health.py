"""Health endpoints: liveness, and readiness with the state of each dependency.

An outage of a dependency does not make the gateway unready: it still responds, with coded errors or without Redis, and
taking all processes out of service would hide that. Neither do an issuer's keys that were not fetched yet: the first
token fetches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

# The member of the lifespan's state that the server sets when it begins to stop.
IS_STOPPING = "is_stopping"
# States of dependencies.
UP, CIRCUIT_OPEN, AWAY, NO_KEYS, KEYS_EXPIRED = "up", "circuit open", "away", "no keys", "keys expired"

Load = Callable[[], dict[str, int] | None]
Dependencies = Mapping[str, Callable[[], str]]


def health_routes(load: Load, dependencies: Dependencies) -> list[Route]:
    """The routes; `load` returns the numbers of operations, or None while the gateway is not running.

    `dependencies` return the state of each one that is configured, while the gateway is running.
    """

    async def live(request: Request) -> JSONResponse:
        """200 while the event loop is running."""
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> JSONResponse:
        """200 while the gateway is ready, otherwise 503."""
        operations = load()
        states = {} if operations is None else {name: state() for name, state in dependencies.items()}
        is_stopping = request.scope.get("state", {}).get(IS_STOPPING, False)
        status, body = readiness(operations, states, is_stopping=is_stopping)
        return JSONResponse(body, status)

    return [Route("/health/live", live), Route("/health/ready", ready)]


def readiness(
    operations: Mapping[str, int] | None, states: Mapping[str, str], *, is_stopping: bool
) -> tuple[int, dict[str, Any]]:
    """The status and the body of the response about readiness, by the numbers of operations and the dependencies."""
    if is_stopping:
        return 503, {"status": "stopping"}
    if operations is None:
        return 503, {"status": "not ready"}
    return 200, {"status": "ready", **operations, **states}
