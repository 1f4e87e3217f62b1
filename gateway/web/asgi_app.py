"""The outermost ASGI application: request ids, allowed hosts, CORS, load shedding, errors and the access log.

GraphQL requests are passed to their handler, all others to Starlette's routes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import count

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from gateway.concurrency.loop_tick import TickBatch
from gateway.engine.documents import OperationInfo
from gateway.errors import Overloaded
from gateway.hosts import AllowedHosts, host_and_port, origin_of
from gateway.overload.load_shedding import LoadShedder
from gateway.telemetry.logs import PRINCIPAL_DIGITS, LoggedOperation, LoggedRequest, RequestLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.traces import Span
from gateway.web.compression import Compression
from gateway.web.disconnect import ClientDisconnected
from gateway.web.draft_statuses import as_draft
from gateway.web.graphql_app import OK, PATH, Exchange, GraphQLApp
from gateway.web.graphql_request import (
    REQUEST_ID,
    SCRIPT_FIELDS,
    HTTPError,
    RequestFields,
    fields_of,
    valid_request_id,
)
from gateway.web.responses import Fields, Response, error, internal_error, send_response, unavailable

# What became of an operation, by the HTTP status; any other status is a rejection. With the statuses of the draft, 200
# may have errors.
SUCCESS, REJECTED = "success", "rejected"
OUTCOMES = {
    200: "partial", 294: "partial", 401: "unauthenticated", 499: "cancelled", 500: "failed", 503: "overloaded",
}  # fmt: skip
# Hexadecimal digits of a principal, which is a hash, in the log.
# Outcomes that are errors of the gateway or the fleet API, not of the client.
FAILURES = ("partial", "failed", "overloaded")
NO_OPERATION = OperationInfo("", "", "")
CLIENT_CLOSED = 499  # the status in the log if the client disconnected
HEALTH = "/health/"
# Request header fields that GraphQL clients, tracing and monitoring libraries add in browsers. The gateway skips them.
LIBRARY_FIELDS = (
    "tracestate", "baggage", "sentry-trace", "b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-B3-Sampled",
    "X-B3-Flags", "X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "X-Datadog-Origin", "X-Datadog-Sampling-Priority",
    "X-Datadog-Tags", "elastic-apm-traceparent", "newrelic", "uber-trace-id", "X-Amzn-Trace-Id",
    "X-Cloud-Trace-Context", "Request-Id", "Request-Context", "X-Correlation-Id", "X-Requested-With",
    "Apollo-Require-Preflight", "GraphQL-Preflight", "GraphQL-Require-Preflight", "ApolloGraphQL-Client-Name",
    "ApolloGraphQL-Client-Version", "X-Apollo-Operation-Name", "X-Apollo-Operation-Id", "X-Apollo-Operation-Type",
    "GraphQL-Client-Name", "GraphQL-Client-Version", "X-GraphQL-Client-Name", "X-GraphQL-Client-Version",
)  # fmt: skip
ASKED = b"access-control-request-headers"
# Response header fields that scripts may read, besides those that the Fetch standard allows. `ETag` is a proxy's.
EXPOSED_FIELDS = ("Accept-Post", "Age", "Allow", "Cache-Control", "Date", "ETag", "Retry-After", "WWW-Authenticate")


class GatewayApp:
    """The gateway as an ASGI application; `starlette` has the other routes and the lifespan."""

    def __init__(
        self,
        graphql: GraphQLApp,
        starlette: Starlette,
        log: RequestLog,
        shedder: LoadShedder,
        *,
        hosts: AllowedHosts,
        cors_origins: tuple[str, ...] = (),
        cors_headers: tuple[str, ...] = (),
        draft: bool = False,
        compression: Compression | None = None,
        metrics: Metrics,
    ) -> None:
        self.graphql = graphql
        self.metrics = metrics  # the server adds its own samplers
        self._is_draft = draft
        self._compression = compression
        self._starlette = starlette
        self._log = log
        # The requests of an event-loop iteration are logged and counted together, which costs a fraction.
        self._reports: TickBatch[LoggedRequest] = TickBatch(self._report_all)
        self._hosts = hosts
        self._cross_origin = CrossOrigin(cors_origins, cors_headers) if cors_origins else None
        self._shedder = shedder
        # For the server, which rejects requests before they are parsed, so without CORS fields.
        self.shedder = None if cors_origins else shedder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._starlette(scope, receive, send)
            return
        began = time.perf_counter()
        fields = fields_of(scope["headers"])
        sent_id = valid_request_id(fields.get(b"x-request-id"))
        exchange = Exchange(scope, receive, fields, sent_id or new_request_id())
        response: Response | None = None
        try:
            response = await self._response_to(exchange)
            if response is not None and self._compression is not None and b"accept-encoding" in fields:
                response = await self._compression.applied(response, fields[b"accept-encoding"], scope, receive)
            if response is not None:
                if self._is_draft:
                    response = as_draft(response, fields.get(b"accept"))
                more = () if self._cross_origin is None else self._cross_origin.fields_for(fields.get(b"origin"))
                await send_response(scope, send, response, exchange.request_id, more, deferred=exchange.is_deferred)
        finally:
            self._report(exchange, response, time.perf_counter() - began, own_id=sent_id is None)

    def _report(self, exchange: Exchange, response: Response | None, seconds: float, *, own_id: bool) -> None:
        """Logs and counts a request; without a response the client has disconnected."""
        status, codes = (CLIENT_CLOSED, ()) if response is None else (response.status, response.codes)
        operation: LoggedOperation | None = None
        if exchange.is_operation:
            outcome = OUTCOMES.get(status, REJECTED) if codes or status != OK else SUCCESS
            name, kind, digest = exchange.operation or NO_OPERATION
            stats, caller = exchange.stats, exchange.caller
            calls, is_stale = (0, False) if stats is None else (stats.upstream_calls, stats.stale)
            principal = "" if caller is None else caller.principal[:PRINCIPAL_DIGITS]
            age = 0 if response is None else _age_of(response.fields)
            operation = LoggedOperation(
                name, kind, digest, outcome, principal, calls, age, is_stale, exchange.is_deferred
            )
            if exchange.span is not None:
                _end_span(exchange.span, exchange, operation, status, codes)
        traceparent, method = exchange.traceparent, exchange.scope["method"]
        trace_id = None if traceparent is None else traceparent.split("-")[1]
        flow_ids = () if response is None else response.flow_ids
        self._reports.add(
            LoggedRequest(exchange.request_id, own_id, trace_id, method, status, seconds, codes, flow_ids, operation),
            asyncio.get_running_loop(),
        )

    def _report_all(self, requests: list[LoggedRequest]) -> None:
        self._log.write(requests)
        self.metrics.observe_requests(requests)

    async def _response_to(self, exchange: Exchange) -> Response | None:
        """The response to a request, also after an exception; None if the client disconnected."""
        try:
            rejection = self._rejection_of(exchange)
            if rejection is not None:
                return rejection
            respond = self.graphql.respond if exchange.scope["path"] == PATH else self._respond_by_route
            return await respond(exchange)
        except HTTPError as failure:
            return error(failure.status, failure.code, str(failure), failure.headers, failure.extensions)
        except Overloaded as overloaded:
            return unavailable(overloaded, overloaded.retry_after)
        except ClientDisconnected:
            return None
        except Exception:  # noqa: BLE001 - a bug: it is logged with its frames
            self._log.write_internal_error(exchange.request_id)
            return internal_error(exchange.request_id)

    def _rejection_of(self, exchange: Exchange) -> Response | None:
        """The response to a request that is rejected, or to a preflight request. Raises Overloaded."""
        scope, fields = exchange.scope, exchange.fields
        host_field = fields.get(b"host")
        host = None if host_field is None else host_and_port(host_field)
        if host is None and (host_field is not None or scope["http_version"] == "1.1"):
            return error(400, "BAD_REQUEST", "Request needs exactly one valid Host header.")
        if not self._hosts.include(host and host[0]) and not scope["path"].startswith(HEALTH):
            return error(421, "HOST_UNKNOWN", "Host not allowed.")
        if self._shedder.should_reject(scope["headers"]) is not None:
            raise Overloaded
        if self._cross_origin is not None and is_preflight(scope["method"], fields):
            return self._cross_origin.preflight_response(fields)
        return None

    async def _respond_by_route(self, exchange: Exchange) -> Response:
        """The collected response of a Starlette route; all of them are small."""
        status, fields, parts = 0, [], []

        async def collect(message: Message) -> None:
            nonlocal status, fields
            if message["type"] == "http.response.start":
                status, fields = message["status"], message["headers"]
            else:
                parts.append(message.get("body", b""))

        await self._starlette(exchange.scope, exchange.receive, collect)
        return Response(status, tuple(field for field in fields if field[0] != b"content-length"), tuple(parts))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Runs the application, for tests that have no server."""
        async with self._starlette.router.lifespan_context(self._starlette):
            yield


def _end_span(span: Span, exchange: Exchange, operation: LoggedOperation, status: int, codes: tuple[str, ...]) -> None:
    """Ends the span of an operation with what is known of it then; its errors are those of the gateway or upstream."""
    attributes: dict[str, str | int | bool] = {
        "http.response.status_code": status,
        "gateway.request_id": exchange.request_id,
        "gateway.outcome": operation.outcome,
        "gateway.upstream_calls": operation.calls,
        "gateway.rendered_before": operation.rendered,
        "http.request.method": exchange.scope["method"],
        "url.path": PATH,
    }
    if operation.kind:
        span.rename(f"{operation.kind} {operation.name}".strip())
        attributes |= {"graphql.operation.type": operation.kind, "graphql.operation.name": operation.name}
    if exchange.stats is not None:
        attributes |= {
            "gateway.cache_hits": exchange.stats.cache_hits,
            "gateway.coalesced": exchange.stats.coalesced,
            "gateway.stale": operation.stale,
        }
    if codes:
        attributes["gateway.error_codes"] = ",".join(dict.fromkeys(codes))
    span.end(attributes, failed=operation.outcome in FAILURES)


@lru_cache(1024)
def _age_of(fields: Fields) -> int:
    """The age of a response's oldest data in seconds, by its `Age` field."""
    return int(dict(fields).get(b"age", 0))


class _CORS(CORSMiddleware):
    """Compares normalised origins; the allowed origins are normalised, too."""

    def is_allowed_origin(self, origin: str) -> bool:
        return self.allow_all_origins or origin_of(origin.encode("latin-1")) in self.allow_origins


class CrossOrigin:
    """Cross-origin requests (CORS): pages of the allowed origins may send requests and read the responses.

    Starlette decides the header fields. Every request needs a header that no form can send, which prevents CSRF.
    """

    def __init__(self, origins: tuple[str, ...], headers: tuple[str, ...]) -> None:
        self._cors = _CORS(
            Starlette(),
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=[*SCRIPT_FIELDS, *LIBRARY_FIELDS, *headers],
            expose_headers=[*EXPOSED_FIELDS, REQUEST_ID],
            max_age=3600,
        )
        self.fields_for = lru_cache(256)(self._fields_for)

    def preflight_response(self, request_fields: RequestFields) -> Response:
        """The response to a preflight request, without the fields that all responses have.

        Empty members of a list are ignored (RFC 9110, 5.6.1); Starlette would take them for names.
        """
        asked = b",".join(filter(None, map(bytes.strip, request_fields.get(ASKED, b"").split(b","))))
        named = {name: value for name, value in {**request_fields, ASKED: asked}.items() if name != ASKED or value}
        response = self._cors.preflight_response(Headers(raw=list(named.items())))
        common = (b"content-length", b"access-control-allow-origin")
        fields = tuple(field for field in response.raw_headers if field[0] not in common)
        if response.status_code == 200:  # noqa: PLR2004 - any other is a rejection
            return Response(200, fields, (bytes(response.body),))
        rejection = error(response.status_code, "BAD_REQUEST", f"{bytes(response.body).decode()}.")
        own = tuple(field for field in fields if field[0] != b"content-type")
        return rejection._replace(fields=rejection.fields + own)

    def _fields_for(self, origin: bytes | None) -> Fields:
        """The CORS fields of all responses to requests from this origin."""
        headers = MutableHeaders()
        if origin is not None:
            headers.update(self._cors.simple_headers)
        if not self._cors.allow_all_origins:
            name = (origin or b"").decode("latin-1")
            if self._cors.is_allowed_origin(name):
                self._cors.allow_explicit_origin(headers, name)
            else:
                headers["Vary"] = "Origin"
        return tuple(headers.raw)


def is_preflight(method: str, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request is a browser's preflight request."""
    return method == "OPTIONS" and b"origin" in fields and b"access-control-request-method" in fields


def new_request_id() -> str:
    """A unique id: random bytes of the process, and a counter."""
    return f"{_PROCESS}{next(_COUNT):016x}"


_PROCESS = os.urandom(8).hex()
_COUNT = count()
