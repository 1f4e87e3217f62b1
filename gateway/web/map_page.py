"""Serves the map: a page that shows the vehicles of a token by filters, totals and pages of GraphQL queries.

Its files need nothing from another host, and its content security policy allows nothing else.
"""

from __future__ import annotations

import html
from importlib.resources import files
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = files(__package__).joinpath("map")
MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
}
FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "public, max-age=3600",
    "Vary": "Accept-Encoding",
}


class MapPage:
    """The page and its files. `token` is in the page, for the demo only; otherwise the page asks for one."""

    def __init__(self, token: str | None = None) -> None:
        self._files = {name: FILES.joinpath(name).read_bytes() for name in ("map.js", "chart.js", "api.js", "map.css")}
        config = html.escape(msgspec.json.encode({"endpoint": "graphql", "token": token}).decode())
        self.page = FILES.joinpath("index.html").read_text(encoding="utf-8").replace("{{config}}", config)

    def routes(self) -> list[Route]:
        """The page at /map and its files below that."""
        return [Route("/map", self._show), Route("/map/{name}", self._file)]

    async def _show(self, request: Request) -> Response:
        return Response(self.page, media_type="text/html", headers=PAGE_HEADERS)

    async def _file(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        return Response(self._files[name], media_type=MEDIA_TYPES[Path(name).suffix], headers=FILE_HEADERS)
