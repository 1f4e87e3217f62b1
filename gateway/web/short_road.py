"""The short road: a plain query by POST goes from bytes to bytes past everything that it does not need.

Whatever is not plain (another method or path, a header that asks for something, a document that is new, wrong or has no
plan, a full house) takes the long road, which begins as if nothing had been here. What both do, one piece of code does.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, Overloaded
from gateway.hosts import AllowedHosts, host_and_port
from gateway.identity import Caller
from gateway.telemetry import RequestLog
from gateway.upstream.client import FleetClient
from gateway.web.answers import HARDENING, broken, busy, hardened
from gateway.web.graphql_endpoint import Answer, AtHand, GraphQLEndpoint, Planned
from gateway.web.graphql_over_http import Refused, media_type_for
from gateway.web.leaving import CallerLeft
from gateway.web.middleware import BEARER, REQUEST_ID, new_request_id
from gateway.web.protocol import WHOLE_ANSWER
from gateway.web.turns import Turns

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
        hosts: AllowedHosts,
    ) -> None:
        self._app = app
        self._state = started.state
        self._endpoint = endpoint
        self._bytes_max = bytes_max
        self._hosts = hosts
        self._log = log
        self._admission = endpoint.admission
        self._turns = Turns()
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
        read = await receive()
        if read.get("more_body"):
            read = await _whole(read, receive, self._bytes_max)
        try:
            identified = await self._identified(read, head[0])
            at_hand = self._at_hand(*identified, scope) if identified is not None else None
        except (Refused, GatewayError):
            identified = None
        except Exception:
            request_id = new_request_id()
            self._log.broke(request_id)
            self._log.write(request_id, "POST", 500, began, own_id=True)
            await broken(request_id)(scope, receive, send)
            raise
        if identified is None:
            await self._app(scope, _again(read, receive), send)
            return
        planned, caller = identified
        scope.setdefault("state", {})["caller"] = caller
        if at_hand is not None:
            self._admission.notice(caller.principal)
            if self._admission.is_contested and not self._turns.at_once(caller.principal):
                await self._turns.wait(caller.principal)
            request_id = new_request_id()
            content_type = f"{head[1]}; charset=utf-8"
            answer = Answer(200, content_type, at_hand.headers, at_hand.parts)
            await _send(scope, send, answer, request_id, together=True)
            self._log.write(request_id, "POST", 200, began, own_id=True)
            return
        await self._run(scope, receive, send, (planned, caller, head[1], began))

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
        authorization = said.get(b"authorization")
        if authorization is None or said.get(b"content-type") not in PLAIN_KINDS:
            return None
        host = host_and_port(said.get(b"host", b""))
        if host is None or not self._hosts.include(host[0]):
            return None
        bearer = BEARER.fullmatch(authorization.decode("latin-1"))
        form = self._media_type(said.get(b"accept"))
        return (bearer[1], form) if bearer is not None and form is not None else None

    async def _identified(self, read: Message, token: str) -> tuple[Planned, Caller] | None:
        """What to run and for whom; None where the long road has to see to it, as where an issuer's keys have to be
        waited for. Raises what makes a request wrong.
        """
        body = read.get("body", b"")
        if read["type"] != "http.request" or read.get("more_body") or len(body) > self._bytes_max:
            return None
        identify = getattr(self._state, "identify", None)
        if identify is None:
            return None
        caller = await identify(token, 0.0)
        planned = self._endpoint.planned(body, caller)
        return None if planned is None else (planned, caller)

    def _at_hand(self, planned: Planned, caller: Caller, scope: Scope) -> AtHand | None:
        """The answer, where it needs no waiting."""
        client: FleetClient = self._state.client
        if self._endpoint.whole_answers is not None and planned.body:
            return self._endpoint.whole(planned.body, caller, client, takes_gzip=_takes_gzip(scope))
        return self._endpoint.at_hand(planned, caller, client.page_at_hand)

    async def _run(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        wanted: tuple[Planned, Caller, str, float],
    ) -> None:
        """Runs what has to be read for, in its turn."""
        planned, caller, media_type, began = wanted
        request_id = new_request_id()
        patience = self._endpoint.patience()
        status = 499
        try:
            line = await self._endpoint.let_in(caller, patience, scope, receive, _credentials_of(scope))
            answer = await self._endpoint.answer(
                planned,
                caller,
                line,
                patience,
                scope,
                receive,
                media_type,
                request_id=request_id,
                context_of=self._state.context_of,
                client=self._state.client,
            )
            status = answer.status
            await _send(scope, send, answer, request_id)
        except Overloaded as overloaded:
            status = 0
            self._log.refused()
            refused = busy(overloaded, overloaded.retry_after)
            refused.raw_headers.extend(HARDENING)
            await refused(scope, receive, send)
        except CallerLeft:
            pass
        except Exception:
            status = 500
            self._log.broke(request_id)
            await broken(request_id)(scope, receive, send)
            raise
        finally:
            if status:
                self._log.write(request_id, "POST", status, began, own_id=True)


def _credentials_of(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"authorization"), b"")


def _takes_gzip(scope: Scope) -> bool:
    said = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    return _accepts_gzip(said)


@lru_cache(64)
def _accepts_gzip(accept: bytes) -> bool:
    """Whether `Accept-Encoding` names gzip, or anything, without refusing it."""
    qualities: dict[str, str] = {}
    for wish in accept.decode("latin-1").lower().split(","):
        coding, _, parameters = (part.strip() for part in wish.partition(";"))
        qualities[coding] = parameters.replace(" ", "")
    quality = qualities.get("gzip", qualities.get("*", "q=0"))
    return not re.fullmatch(r"q=0(\.0*)?", quality)


async def _send(scope: Scope, send: Send, answer: Answer, request_id: str, *, together: bool = False) -> None:
    fields, lines = _head(answer.content_type, tuple(answer.headers.items()))
    length = sum(map(len, answer.parts))
    extension = scope.get("extensions", {}).get(WHOLE_ANSWER)
    if extension is not None and answer.status == 200:  # noqa: PLR2004 - all others are seldom
        own_lines = f"content-length: {length}\r\nx-request-id: {request_id}\r\n".encode("ascii")
        if extension["send"](scope, own_lines + lines, answer.parts, together=together):
            return
    own = [(b"content-length", str(length).encode()), (b"x-request-id", request_id.encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*own, *fields]})
    await send({"type": "http.response.body", "body": answer.body})


@lru_cache(1024)
def _head(content_type: str, headers: tuple[tuple[str, str], ...]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """What answers have in common: the fields, and the same as lines."""
    own = ((name.lower().encode(), value.encode()) for name, value in headers)
    fields = hardened([(b"content-type", content_type.encode()), *own])
    return fields, b"".join(b"%b: %b\r\n" % field for field in fields)


PLAIN_KINDS = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))


def _media_type(accept: bytes | None) -> str | None:
    try:
        return media_type_for(None if accept is None else accept.decode("latin-1"))
    except Refused:
        return None


async def _whole(read: Message, receive: Receive, bytes_max: int) -> Message:
    """One message for a body that comes in pieces, which says that more is to come where that is too large.

    However many pieces there are, they take time and memory for their bytes only. If the caller
    disconnects, the message says so.
    """
    body = bytearray(read.get("body", b""))
    while read.get("more_body") and len(body) <= bytes_max:
        read = await receive()
        body += read.get("body", b"")
    if read["type"] != "http.request":
        return read
    return {"type": "http.request", "body": bytes(body), "more_body": read.get("more_body", False)}


def _again(read: Message, receive: Receive) -> Receive:
    """The same message once more, then those that follow."""
    left = [read]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
