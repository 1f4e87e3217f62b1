"""The short road: a plain query by POST goes from bytes to bytes past everything that it does not need.

Whatever is not plain (another method or path, a header that asks for something, a document that is new, wrong or has no
plan, a full house) takes the long road, which begins as if nothing had been here. What both do, one piece of code does.
"""

from __future__ import annotations

import time
from collections import deque
from functools import lru_cache

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, Overloaded
from gateway.identity import Caller
from gateway.telemetry import RequestLog
from gateway.web.answers import busy
from gateway.web.graphql_endpoint import Answer, CallerLeft, GraphQLEndpoint, Ready
from gateway.web.graphql_over_http import JSON, Refused, asked_by_post, media_type_for
from gateway.web.middleware import BEARER, HARDENING, REQUEST_ID, new_request_id

PATH = "/graphql"
SAYING = frozenset((b"authorization", b"content-type", b"accept", b"host"))
# What asks for something that only the long road knows, or may be refused there.
ASKING = frozenset(
    (b"x-gateway-cost", b"x-gateway-timeout", b"traceparent", b"origin", b"transfer-encoding", b"content-encoding")
) | {REQUEST_ID.lower().encode()}


class ShortRoad:
    """In front of the whole application; `started` is the application whose state a running gateway fills."""

    def __init__(
        self,
        app: ASGIApp,
        started: Starlette,
        endpoint: GraphQLEndpoint,
        log: RequestLog,
        *,
        bytes_max: int,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._state = started.state
        self._endpoint = endpoint
        self._bytes_max = bytes_max
        self._hosts = frozenset(host.encode() for host in hosts)
        self._log = log
        self._media_type = lru_cache(64)(_media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        head = self._plain_head(scope)
        if head is None:
            await self._app(scope, receive, send)
            return
        token, media_type = head
        read = [await receive()]
        while read[-1].get("more_body") and sum(len(part["body"]) for part in read) <= self._bytes_max:
            read.append(await receive())
        try:
            ready = await self._ready(read, token)
        except Overloaded as overloaded:
            self._log.refused()
            refused = busy(overloaded, overloaded.retry_after)
            refused.raw_headers.extend(HARDENING)
            await refused(scope, receive, send)
            return
        if ready is None:
            await self._app(scope, _again(read, receive), send)
            return
        await self._answer(receive, send, ready, media_type, began)

    def _plain_head(self, scope: Scope) -> tuple[str, str] | None:
        """The bearer token and the form of answer of a request whose head asks for nothing else."""
        said: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in SAYING:
                if name in said:
                    return None
                said[name] = value
            elif name in ASKING:
                return None
        token = said.get(b"authorization")
        if token is None or said.get(b"content-type") not in PLAIN_KINDS:
            return None
        if self._hosts and said.get(b"host") not in self._hosts:
            return None
        bearer = BEARER.fullmatch(token.decode("latin-1"))
        form = self._media_type(said.get(b"accept"))
        return (bearer[1], form) if bearer is not None and form is not None else None

    async def _ready(self, read: list[Message], token: str) -> Ready | None:
        """What to run, with a place to run it; None where the long road has to see to it."""
        last = read[-1]
        body = last.get("body", b"") if len(read) == 1 else b"".join(part.get("body", b"") for part in read)
        if last["type"] != "http.request" or last.get("more_body") or len(body) > self._bytes_max:
            return None
        try:
            asked = asked_by_post(JSON, body)
            identify = getattr(self._state, "identify", None)
            if identify is None:
                return None
            caller: Caller = await identify(token)
        except (Refused, GatewayError):
            return None
        return await self._endpoint.ready(asked, len(body), caller)

    async def _answer(self, receive: Receive, send: Send, ready: Ready, media_type: str, began: float) -> None:
        request_id = new_request_id()
        status = 499
        try:
            answer = await self._endpoint.answer(
                ready, receive, media_type, request_id=request_id, context_of=self._state.context_of
            )
            status = answer.status
            await send({"type": "http.response.start", "status": status, "headers": _headers(answer, request_id)})
            await send({"type": "http.response.body", "body": answer.body})
        except CallerLeft:
            pass
        finally:
            self._log.write(request_id, "POST", status, began)


def _headers(answer: Answer, request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-length", str(len(answer.body)).encode()),
        (b"content-type", answer.content_type.encode()),
        *((name.lower().encode(), value.encode()) for name, value in answer.headers.items()),
        (b"x-request-id", request_id.encode()),
        *HARDENING,
    ]


PLAIN_KINDS = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))


def _media_type(accept: bytes | None) -> str | None:
    try:
        return media_type_for(None if accept is None else accept.decode("latin-1"))
    except Refused:
        return None


def _again(read: list[Message], receive: Receive) -> Receive:
    """The same messages once more, then those that follow."""
    left = deque(read)

    async def again() -> Message:
        return left.popleft() if left else await receive()

    return again
