"""Health endpoints.

Readiness does not depend on the upstream: during an outage the gateway still responds, with coded errors, and taking
all workers out of service would hide that.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

# The member of the lifespan's state that the server sets when it begins to stop.
IS_STOPPING = "is_stopping"

Load = Callable[[], dict[str, int] | None]


def health_routes(load: Load) -> list[Route]:
    """The routes; `load` returns the numbers of operations, or None while the gateway is not running."""

    async def live(request: Request) -> JSONResponse:
        """200 while the event loop is running."""
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> JSONResponse:
        """200 while the gateway is running, with its numbers of operations; 503 before, and once it stops."""
        if request.scope.get("state", {}).get(IS_STOPPING):
            return JSONResponse({"status": "stopping"}, 503)
        operations = load()
        if operations is None:
            return JSONResponse({"status": "not ready"}, 503)
        return JSONResponse({"status": "ready", **operations})

    return [Route("/health/live", live), Route("/health/ready", ready)]
