"""Serves GraphiQL with all its scripts, styles and fonts; nothing is loaded from another host.

The build puts its files into this package. Without them a plain page is served instead.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as StarletteResponse

from gateway.web.responses import Response

PAGE = files(__package__).joinpath("page")
GRAPHIQL = files(__package__).joinpath("graphiql")
MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
FETCHED = ("graphiql.min.js", "graphiql.min.css", "react.production.min.js", "react-dom.production.min.js")
HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    # GraphiQL's editor sets styles on its elements; scripts are loaded only from this server's files.
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src "
            b"'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
)


class Example(msgspec.Struct):
    """An example operation."""

    name: str
    query: str
    variables: str | None = None


class Explorer:
    """Serves the page and its files. `token` prefills the header editor and is for the demo only."""

    def __init__(self, token: str | None = None) -> None:
        self._files = {name: PAGE.joinpath(name).read_bytes() for name in ("explorer.js", "explorer.css")}
        self._files |= {
            name: GRAPHIQL.joinpath(name).read_bytes() for name in FETCHED if GRAPHIQL.joinpath(name).is_file()
        }
        is_complete = all(name in self._files for name in FETCHED)
        config = {"endpoint": "graphql", "token": token, "examples": list(examples())}
        template = PAGE.joinpath("explorer.html" if is_complete else "plain.html").read_text(encoding="utf-8")
        self._page = template.replace("{{config}}", html.escape(msgspec.json.encode(config).decode())).encode()

    def page(self) -> Response:
        """The page. It needs no token, but its queries do."""
        return Response(200, HEADERS, (self._page,))

    async def file(self, request: Request) -> StarletteResponse:
        """One of the page's files; raises HTTPException with 404 for any other name."""
        name: str = request.path_params["name"]
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404)
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "public, max-age=3600",
            "Vary": "Accept-Encoding",
        }
        return StarletteResponse(content, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


def examples() -> Iterator[Example]:
    """The documented queries. The comment at the top of each file explains it and names its variables."""
    packaged = files(__package__).joinpath("queries")
    folder = packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "docs" / "queries"
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir(), key=lambda file: (file.name != "fleet.graphql", file.name)):
        if file.name.endswith(".graphql"):
            text = file.read_text(encoding="utf-8")
            variables = re.search(r"Variables: (\{.*\})", text)
            yield Example(file.name.removesuffix(".graphql"), text, variables[1] if variables else None)
