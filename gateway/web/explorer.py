"""Serves GraphiQL with all its scripts, styles and fonts; nothing is loaded from another host.

The build bundles the source, `.ci/explorer/`, into this package. Without the bundle a plain page is served instead.
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from gateway.settings import Settings, listed
from gateway.web.responses import Response
from gateway.web.static_files import MEDIA_TYPES, StaticFiles, page_policy

PACKAGE = files(__package__)
PAGE = PACKAGE.joinpath("page")
GRAPHIQL = PACKAGE.joinpath("graphiql")
DOCS = Path(__file__).resolve().parents[2] / "docs"
# GraphiQL's editor writes style elements, which get the nonce, and style attributes, which no nonce can allow.
STYLES = "style-src-elem 'self' 'nonce-{nonce}'; style-src-attr 'unsafe-inline'"


class Example(msgspec.Struct):
    """An example operation."""

    name: str
    query: str
    variables: str | None = None


class Explorer:
    """Serves the page and its files. `token` is used by the page and is for the demo only."""

    def __init__(self, settings: Settings, token: str | None = None) -> None:
        issuer, client_id = settings.oidc.issuer, settings.explorer.oidc_client_id
        login = None
        self._connect: tuple[str, ...] = ()
        if issuer is not None and client_id is not None:
            login = {"issuer": issuer, "clientId": client_id, "scope": settings.explorer.oidc_scope}
            self._connect = (_origin(issuer), *listed(settings.explorer.oidc_origins))
        config = {
            "endpoint": "graphql",
            "token": token,
            "examples": list(examples()),
            "login": login,
            "schemaIsPublic": settings.graphql.introspection == "public",
        }
        self._config = html.escape(msgspec.json.encode(config).decode())
        self.files = StaticFiles((GRAPHIQL, PAGE, _documents()), pages=("login", "errors"))

    def page(self) -> Response:
        """The page. It needs no token, but its queries do."""
        built = GRAPHIQL.joinpath("index.html")
        template = built if built.is_file() else PAGE.joinpath("plain.html")
        nonce = secrets.token_urlsafe(16)
        content = template.read_text(encoding="utf-8").replace("{{nonce}}", nonce).replace("{{config}}", self._config)
        policy = page_policy(*self._connect, more=STYLES.format(nonce=nonce))
        fields = ((b"content-type", MEDIA_TYPES["html"].encode()), (b"content-security-policy", policy))
        return Response(200, fields, (content.encode(),))


def examples() -> Iterator[Example]:
    """The documented queries. The comment at the top of each file explains it and names its variables."""
    folder = _documents().joinpath("queries")
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir(), key=lambda file: (file.name != "fleet.graphql", file.name)):
        if file.name.endswith(".graphql"):
            text = file.read_text(encoding="utf-8")
            variables = re.search(r"Variables: (\{.*\})", text)
            yield Example(file.name.removesuffix(".graphql"), text, variables[1] if variables else None)


def _documents() -> Traversable:
    """The documents that the page shows: in the package or, in a clone, where they are written."""
    packaged = PACKAGE.joinpath("docs")
    return packaged if packaged.is_dir() else DOCS


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
