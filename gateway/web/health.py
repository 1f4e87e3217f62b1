"""Health for whoever runs the process. Ready does not depend on the upstream: while it is down the gateway still
answers, with coded errors, and taking every worker out of service would only hide that.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Load = Callable[[], dict[str, int] | None]


def health_routes(load: Load) -> list[Route]:
    """The routes; `load` tells how many operations are under way, or None while the gateway is not running."""

    async def live(request: Request) -> JSONResponse:
        """200 as long as the process turns its event loop."""
        return JSONResponse({"status": "live"})

    async def ready(request: Request) -> JSONResponse:
        """200 once started, 503 before that and while shutting down; with what is under way in this process."""
        under_way = load()
        if under_way is None:
            return JSONResponse({"status": "not ready"}, 503)
        return JSONResponse({"status": "ready", **under_way})

    return [Route("/health/live", live), Route("/health/ready", ready)]
