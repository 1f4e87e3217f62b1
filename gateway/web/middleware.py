"""What every request passes, outermost first: its id and log line, the limit of its body, for GraphQL its token."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.web.answers import refusal, too_large, unauthenticated
from gateway.web.graphql_over_http import asks_for_page
from gateway.web.tokens import Identify

log = structlog.get_logger("gateway.web")

REQUEST_ID = "X-Request-Id"
_SOUND_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# The token68 of RFC 9110, which also keeps line breaks out of the header that goes upstream.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")


class RequestId:
    """Gives each request an id (the caller's own, if sound), tells it back, and logs the request under it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _SOUND_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        start = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            milliseconds = round((time.perf_counter() - start) * 1000, 2)
            log.info("request", request_id=request_id, method=scope["method"], status=status, ms=milliseconds)


class BodyLimit:
    """Refuses a request body of more than `bytes_max` bytes with 413: at once if announced, else when it gets there."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("Content-Length", "")
        if announced.isdecimal() and int(announced) > self._bytes_max:
            await too_large()(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise HTTPException(413)
            return message

        await self._app(scope, receive_counted, send)


class BearerToken:
    """Lets a request in with a bearer token only, and turns the token into a `Caller`; GraphiQL's page is open.

    With `anonymous` a request without any credentials goes on, too, and has no caller.
    """

    def __init__(self, app: ASGIApp, *, anonymous: bool = False) -> None:
        self._app = app
        self._anonymous = anonymous

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.getlist("Authorization")
        page = asks_for_page(scope["method"], headers.get("Accept"), QueryParams(scope["query_string"]))
        if page or (self._anonymous and not given):
            await self._app(scope, receive, send)
            return
        bearer = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
        if bearer is None:
            message = "A bearer token is required in the Authorization header."
            await unauthenticated(message, invalid=bool(given))(scope, receive, send)
            return
        identify: Identify = scope["app"].state.identify
        try:
            scope.setdefault("state", {})["caller"] = await identify(bearer[1])
        except Unauthenticated as refused:
            await unauthenticated(str(refused))(scope, receive, send)
            return
        except IssuerUnavailable as outage:
            await refusal(503, outage.code, str(outage), {"Retry-After": "5"})(scope, receive, send)
            return
        await self._app(scope, receive, send)
