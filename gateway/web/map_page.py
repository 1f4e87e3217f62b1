"""Serves the map: a page that shows the vehicles of a token by filters, totals and pages of GraphQL queries.

Its files need nothing from another host, and its content security policy allows nothing else.
"""

from __future__ import annotations

import html
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from gateway.web.responses import Response
from gateway.web.static_files import MEDIA_TYPES, StaticFiles, page_policy

PACKAGE = files(__package__)
POLICY = page_policy(more="require-trusted-types-for 'script'; trusted-types 'none'")


class MapPage:
    """The page and its files. `token` is in the page, for the demo only; otherwise the page asks for one."""

    def __init__(self, token: str | None = None) -> None:
        self._files = StaticFiles((PACKAGE.joinpath("map"),))
        config = html.escape(msgspec.json.encode({"endpoint": "graphql", "token": token}).decode())
        self.page = PACKAGE.joinpath("map.html").read_text(encoding="utf-8").replace("{{config}}", config)

    def routes(self) -> list[Route]:
        """The page at /map and its files below that."""
        return [Route("/map", self._show), Route("/map/{name}", self._files.respond)]

    async def _show(self, request: Request) -> Response:
        fields = ((b"content-type", MEDIA_TYPES["html"].encode()), (b"content-security-policy", POLICY))
        return Response(200, fields, (self.page.encode(),))
