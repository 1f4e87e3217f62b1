"""Serves the files of pages: scripts, styles, fonts and whole pages.

They are read when they are requested, so that a file that appears later is served, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.web.responses import Fields, Response

MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "md": "text/plain; charset=utf-8",
    "ttf": "font/ttf",
}
# A file name with its suffix; no name leads out of its folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.([a-z]+)")
# The suffix that bundlers give names, a hash of the content: such a file never changes.
_HASHED = re.compile(r".+-[A-Z0-9]{8}\.[a-z]+")
IMMUTABLE = b"public, max-age=31536000, immutable"
CHANGING = b"public, max-age=3600"


def page_policy(*connect: str, more: str = "") -> bytes:
    """A Content-Security-Policy for a page that has its scripts, workers, styles and fonts from this server only.

    `connect` are further origins that its scripts may contact; `more` are further directives.
    """
    directives = [
        "default-src 'none'",
        "script-src 'self'",
        "worker-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        " ".join(("connect-src 'self'", *connect)),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join([*directives, *([more] if more else [])]).encode()


class StaticFiles:
    """The files of some folders; the first one that has a file of a name serves it.

    `pages` are names of pages whose paths have no suffix; a page is HTML or, without that, Markdown as plain text.
    """

    def __init__(self, folders: Sequence[Traversable], pages: Sequence[str] = ()) -> None:
        self._folders = folders
        self._pages = pages

    async def respond(self, request: Request) -> Response:
        """The file that the path names; raises HTTPException with 404 for any other name."""
        asked: str = request.path_params["name"]
        for name in (f"{asked}.html", f"{asked}.md") if asked in self._pages else (asked,):
            named = _NAME.fullmatch(name)
            if named is not None and named[1] in MEDIA_TYPES and (content := self._read(name)) is not None:
                return Response(200, _fields(name, named[1]), (content,))
        raise HTTPException(404)

    def _read(self, name: str) -> bytes | None:
        for folder in self._folders:
            file = folder.joinpath(name)
            if file.is_file():
                return file.read_bytes()
        return None


def _fields(name: str, suffix: str) -> Fields:
    cached = IMMUTABLE if _HASHED.fullmatch(name) else CHANGING
    fields: Fields = (
        (b"content-type", MEDIA_TYPES[suffix].encode()),
        (b"cache-control", cached),
        (b"vary", b"Accept-Encoding"),
    )
    return (*fields, (b"content-security-policy", page_policy())) if suffix == "html" else fields
