"""What every request passes, outermost first: its id and log line, the limit of its body, for GraphQL its token."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from itertools import count

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.hosts import AllowedHosts, host_and_port
from gateway.telemetry import RequestLog
from gateway.web.answers import NO_TOKEN, busy, hardened, refusal, too_large, unauthenticated
from gateway.web.graphql_over_http import Refused, asks_for_page
from gateway.web.tokens import Identify

REQUEST_ID = "X-Request-Id"
# Of a number of bytes: more are more than there can be.
DIGITS_MAX = 18
_SOUND_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# The token68 of RFC 9110, which also keeps line breaks out of the header that goes upstream.
BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")


class RequestId:
    """Gives each request an id (the caller's own, if sound), tells it back, and logs the request under it."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _SOUND_ID.fullmatch(given) else new_request_id()
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
        except Exception:
            status = status or 500  # which the layer around all others answers
            self._log.broke(request_id)
            raise
        finally:
            self._log.write(request_id, scope["method"], status, start)


def new_request_id() -> str:
    """An id that nobody has used: this process' own start, and a count."""
    return f"{_PROCESS}{next(_COUNT):016x}"


_PROCESS = os.urandom(8).hex()
_COUNT = count()


class Hardening:
    """Turns requests for another host away, and sends headers that keep browsers and caches from misusing any answer.

    A request names its host once; in HTTP/1.0 it may name none. Health is answered for any host.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = hardened(message["headers"])
            await send(message)

        given = [value for name, value in scope["headers"] if name == b"host"]
        host = host_and_port(given[0]) if len(given) == 1 else None
        if host is None and (given or scope["http_version"] == "1.1"):
            wrong = refusal(400, "BAD_REQUEST", "A request needs one Host header with a valid name.")
            await wrong(scope, receive, send_hardened)
        elif self._hosts.include(host and host[0]) or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send_hardened)
        else:
            await refusal(421, "HOST_UNKNOWN", "This gateway has another name.")(scope, receive, send_hardened)


class BodyLimit:
    """Refuses a request body of more than `bytes_max` bytes with 413: at once if announced, else when it gets there."""

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Zeros in front are allowed, any number of them; Python reads no more than 4300 digits.
        announced = Headers(scope=scope).get("Content-Length", "").strip().lstrip("0")
        if announced.isdecimal() and (len(announced) > DIGITS_MAX or int(announced) > self._bytes_max):
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

    With `anonymous` a request without any credentials goes on, too, and has no caller. `seconds_of` says how long an
    operation may take by its headers: that counts from here, for an issuer's keys may have to be waited for.
    """

    def __init__(self, app: ASGIApp, seconds_of: Callable[[Headers], float], *, anonymous: bool = False) -> None:
        self._app = app
        self._seconds_of = seconds_of
        self._anonymous = anonymous

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.getlist("Authorization")
        page = asks_for_page(scope["method"], headers.get("Accept"), scope["query_string"])
        if page or (self._anonymous and not given):
            await self._app(scope, receive, send)
            return
        bearer = BEARER.fullmatch(given[0]) if len(given) == 1 else None
        if bearer is None:
            await unauthenticated(NO_TOKEN, invalid=bool(given))(scope, receive, send)
            return
        identify: Identify = scope["app"].state.identify
        state = scope.setdefault("state", {})
        state["began"] = time.monotonic()
        try:
            state["caller"] = await identify(bearer[1], self._seconds(headers))
        except Unauthenticated as refused:
            await unauthenticated(str(refused))(scope, receive, send)
            return
        except IssuerUnavailable as outage:
            await busy(outage, 5)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _seconds(self, headers: Headers) -> float:
        try:
            return self._seconds_of(headers)
        except Refused:
            return 0.0  # the endpoint says why
