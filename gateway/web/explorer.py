"""GraphiQL for browsers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from strawberry.http.ides import get_graphql_ide_html


def page(request: Request) -> Response:
    """The page; it needs no token, its queries do."""
    return HTMLResponse(get_graphql_ide_html(graphql_ide="graphiql"))
