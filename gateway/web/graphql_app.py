"""The handler of all GraphQL requests: header, caller, body, response cache, slot, execution, response."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from graphql import ExecutionResult, GraphQLError
from starlette.types import Receive, Scope

from gateway.concurrency.deadline import Deadline
from gateway.engine.document_limits import ExecutionLimits, LimitExceeded
from gateway.engine.documents import OperationInfo
from gateway.engine.encoding import Encoder, ResponseSize
from gateway.errors import IssuerUnavailable, Overloaded, Unauthenticated
from gateway.identity import Caller
from gateway.overload.admission import Admission, Slot
from gateway.overload.response_scheduler import ResponseScheduler
from gateway.schema.build import Schema
from gateway.schema.context import Context
from gateway.schema.cost import CostModel
from gateway.schema.error_masking import is_unauthenticated, presented
from gateway.schema.execution import Execution
from gateway.schema.loaders import Loaders
from gateway.settings import Settings
from gateway.telemetry.metrics import CACHE_BYTES, CACHE_ENTRIES, Sample
from gateway.telemetry.traces import Span, Tracing
from gateway.upstream.client import FleetClient
from gateway.upstream.requests import Clock, RequestScope, RequestStats
from gateway.web.disconnect import CancelOnDisconnect, ClientDisconnected, release_when_sent
from gateway.web.explorer import Explorer
from gateway.web.graphql_request import (
    JSON,
    MEDIA_TYPES,
    GraphQLParams,
    HTTPError,
    RequestFields,
    asks_for_page,
    bearer_token,
    check_content_type,
    cost_mode_of,
    decompressed,
    is_compressed,
    media_type_for,
    params_of_post,
    params_of_query_string,
    timeout_of,
    too_large,
    valid_traceparent,
)
from gateway.web.operations import InvalidOperation, Operations, PreparedRequest
from gateway.web.response_cache import CachedResponse, ResponseCache, WholeResponses, around
from gateway.web.responses import (
    ERROR_TYPE,
    INVALID_TOKEN,
    NO_STORE,
    NO_TOKEN,
    Fields,
    Parts,
    Response,
    unauthenticated,
    unavailable,
)

PATH = "/graphql"
# Authenticates a token, waiting at most so many seconds. Raises Unauthenticated and IssuerUnavailable.
Identify = Callable[[str, float], Awaitable[Caller]]
# The statuses of results without errors, with data and errors, and without data, by the code of the first error.
OK, PARTIAL_SUCCESS, UNPROCESSABLE = 200, 294, 422
STATUS_OF_CODE = {"GRAPHQL_PARSE_FAILED": 400, "INTERNAL": 500}
# The kind of operations that write, and the mutation that waits for a vehicle.
MUTATION, COMMAND = "mutation", "sendVehicleCommand"
# Digits of `Content-Length`; a number with more is too large.
DIGITS_MAX = 18
# Characters of an error's code in logs and metrics.
CODE_MAX = 40
# `Retry-After` in seconds while the issuer's keys are unavailable.
ISSUER_RETRY = 5


@dataclass(frozen=True, slots=True)
class Runtime:
    """The objects that exist while the gateway runs: the client of the fleet API and the authenticator."""

    client: FleetClient
    identify: Identify


class OperationResult(NamedTuple):
    """The result of an operation and its header fields; `ran` is false if it was not executed.

    One that `has_written` has outcomes of writes, which must reach the client.
    """

    result: ExecutionResult
    fields: Fields
    ran: bool = True
    has_written: bool = False

    @property
    def status(self) -> int:
        """The HTTP status."""
        if not self.result.errors:
            return OK
        if self.ran:
            return PARTIAL_SUCCESS
        code = (self.result.errors[0].extensions or {}).get("code")
        return STATUS_OF_CODE.get(str(code), UNPROCESSABLE)


class Exchange:
    """One HTTP request, with what was parsed from its header."""

    __slots__ = (
        "caller",
        "cost_mode",
        "deadline",
        "fields",
        "is_deferred",
        "is_operation",
        "media_type",
        "operation",
        "receive",
        "request_id",
        "scope",
        "span",
        "stats",
        "traceparent",
    )

    def __init__(self, scope: Scope, receive: Receive, fields: RequestFields, request_id: str) -> None:
        self.scope = scope
        self.receive = receive
        self.fields = fields
        self.request_id = request_id
        # Whether the response may be sent at the end of this event-loop iteration, together with others.
        self.is_deferred = False
        self.caller: Caller | None = None
        self.deadline = 0.0  # of the operation, by `time.monotonic`
        self.media_type = ""
        self.cost_mode: str | None = None
        # For logs, metrics and traces: whether an operation was sent, which one, and its cost.
        self.is_operation = False
        self.operation: OperationInfo | None = None
        self.stats: RequestStats | None = None
        # Its span, if it is sampled, and the W3C trace context in which the fleet API is called.
        self.span: Span | None = None
        self.traceparent = valid_traceparent(fields.get(b"traceparent"))


class GraphQLApp:
    """Handles GraphQL requests; `runtime` is set while the gateway runs."""

    def __init__(
        self,
        schema: Schema,
        settings: Settings,
        costs: CostModel,
        *,
        explorer: Explorer | None,
        trusted: Mapping[str, str] | None,
        clock: Clock,
        tracing: Tracing | None,
    ) -> None:
        self._tracing = tracing
        self.runtime: Runtime | None = None
        self.admission = Admission(settings.limits)
        self._settings = settings
        self._page_limits = costs.pagination
        self._explorer = explorer
        self._body_bytes_max = settings.http.body_bytes_max
        self._is_too_long = lru_cache(256)(self._exceeds_body_limit)
        self._seconds = settings.limits.deadline
        self._is_draft = settings.http.statuses == "draft"
        self._is_public = settings.graphql.introspection == "public"
        bounds = ExecutionLimits(settings.limits.nodes, settings.limits.response_bytes)
        self._execution = Execution(schema, bounds, projection=settings.graphql.projection)
        self._operations = Operations(
            schema,
            self._execution,
            costs,
            settings.graphql,
            settings.limits,
            self.admission,
            trusted=trusted,
            nodes_max=settings.pagination.nodes_max,
        )
        cache = settings.cache
        responses = WholeResponses(cache.responses_bytes_max)
        self._responses = responses if cache.enabled and cache.responses else None
        self._cache = ResponseCache(self._execution, costs.pagination, clock, self._responses)
        self._encoder = Encoder(_plain)
        self._scheduler = ResponseScheduler()

    def trust(self, documents: Mapping[str, str]) -> None:
        """Replaces the trusted documents."""
        self._operations.trust(documents)

    def load(self) -> dict[str, int] | None:
        """The numbers of running operations and reads of this process; None while the gateway is not running."""
        if self.runtime is None:
            return None
        admission = self.admission
        return {
            "operations": admission.running,
            "queued": admission.waiting,
            "reads": self.runtime.client.under_way(),
        }

    def samples(self) -> Iterator[Sample]:
        """The cached responses."""
        if self._responses is not None:
            yield CACHE_ENTRIES, ("response",), len(self._responses)
            yield CACHE_BYTES, ("response",), self._responses.bytes_used

    async def respond(self, exchange: Exchange) -> Response:
        """The response to a request. Raises HTTPError, Overloaded, ClientDisconnected."""
        scope, fields = exchange.scope, exchange.fields
        runtime, method, accept = self._running, scope["method"], fields.get(b"accept")
        if method not in ("GET", "POST"):
            raise HTTPError(405, "METHOD_NOT_ALLOWED", "Only GET and POST are allowed.", {"Allow": "GET, POST"})
        if b"content-length" in fields and self._is_too_long(fields[b"content-length"]):
            raise too_large()
        if method == "GET" and asks_for_page(accept, scope["query_string"]):
            return self._page()
        self._begin_operation(exchange)
        seconds = self._seconds
        if b"x-gateway-timeout" in fields:
            seconds = min(seconds, timeout_of(fields[b"x-gateway-timeout"]))
        exchange.deadline = time.monotonic() + seconds
        try:
            exchange.caller = await self._caller_of(fields.get(b"authorization"), runtime, seconds)
        except Unauthenticated as failure:
            return unauthenticated(str(failure), invalid=b"authorization" in fields)
        except IssuerUnavailable as failure:
            return unavailable(failure, ISSUER_RETRY)
        if exchange.caller is not None:
            # The server counts unread responses per principal.
            scope.setdefault("state", {})["caller"] = exchange.caller
        exchange.media_type = media_type_for(accept)
        if b"x-gateway-cost" in fields:
            exchange.cost_mode = cost_mode_of(fields[b"x-gateway-cost"])
        try:
            return await self._respond_to_operation(exchange)
        except InvalidOperation as invalid:
            return self._rendered(_invalid(invalid.errors, exchange.request_id), exchange.media_type)

    def _begin_operation(self, exchange: Exchange) -> None:
        exchange.is_operation = True
        if self._tracing is not None:
            exchange.span = span = self._tracing.start(exchange.traceparent)
            if span is not None:
                exchange.traceparent = span.traceparent

    def _page(self) -> Response:
        if self._explorer is None:
            raise HTTPError(404, "NOT_FOUND", "GraphiQL is disabled; send a query.")
        return self._explorer.page()

    async def _respond_to_operation(self, exchange: Exchange) -> Response:
        is_get, caller = exchange.scope["method"] == "GET", exchange.caller
        if is_get:
            key = b"?" + exchange.scope["query_string"]  # distinct from any JSON
        else:
            check_content_type(exchange.fields.get(b"content-type"))
            is_gzip = is_compressed(exchange.fields.get(b"content-encoding"))
            key = await self._body(exchange.receive)
            if is_gzip:
                key = decompressed(key, self._body_bytes_max)
        params: GraphQLParams | None = None
        request = self._operations.remembered(key, caller)
        if request is None:
            params = params_of_query_string(key[1:]) if is_get else params_of_post(key)
            self._operations.check_variables(params, len(key))
            request = self._operations.prepared_at_once(params, key, caller)
        if request is not None:
            exchange.operation = request.document.info(request.name)
        if request is not None and caller is not None and exchange.cost_mode is None:
            cached = await self._cached(request, caller, exchange)
            if cached is not None:
                return _response(200, exchange.media_type, cached.fields, cached.parts)
        return await self._run(exchange, request, params)

    def _exceeds_body_limit(self, length: bytes) -> bool:
        # Any number of leading zeros is allowed, but Python parses at most 4300 digits.
        digits = length.strip().lstrip(b"0")
        return digits.isdigit() and (len(digits) > DIGITS_MAX or int(digits) > self._body_bytes_max)

    async def _caller_of(self, authorization: bytes | None, runtime: Runtime, seconds: float) -> Caller | None:
        """The caller; None without credentials if introspection is public. Raises Unauthenticated."""
        if authorization is None and self._is_public:
            return None
        token = bearer_token(authorization)
        if token is None:
            raise Unauthenticated(NO_TOKEN)
        return await runtime.identify(token, seconds)

    @property
    def _running(self) -> Runtime:
        assert self.runtime is not None, "the application was not started"
        return self.runtime

    async def _body(self, receive: Receive) -> bytes:
        """The body of a request. Its cost depends only on its bytes, not on the number of chunks."""
        message = await receive()
        body: bytes | bytearray = message.get("body", b"")
        if message.get("more_body"):
            body = bytearray(body)
            while message.get("more_body") and len(body) <= self._body_bytes_max:
                message = await receive()
                body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if len(body) > self._body_bytes_max:
            raise too_large()
        return bytes(body)

    async def _cached(self, request: PreparedRequest, caller: Caller, exchange: Exchange) -> CachedResponse | None:
        """The cached response. With several active principals, their shares of an event-loop iteration are limited."""
        cached = self._cache.find(request, caller, self._running.client)
        if cached is not None:
            self.admission.observe(caller.principal)
            exchange.is_deferred = True
            if self.admission.is_multi_tenant and not self._scheduler.try_acquire(caller.principal):
                await self._scheduler.acquire(caller.principal)
        return cached

    async def _run(self, exchange: Exchange, request: PreparedRequest | None, params: GraphQLParams | None) -> Response:
        """Runs an operation in a slot, which is released when the response was sent."""
        deadline = Deadline(exchange.deadline)
        queue = self.admission.queue_of(exchange.caller)
        if not self.admission.try_acquire(queue):
            await self._wait_for_slot(queue, exchange, deadline)
        try:
            if request is None:
                assert params is not None
                is_get = exchange.scope["method"] == "GET"
                request = await self._operations.prepare(params, exchange.caller, is_get=is_get)
                exchange.operation = request.document.info(request.name)
            if COMMAND in request.document.root_fields(request.name) and b"x-gateway-timeout" not in exchange.fields:
                deadline.close()
                deadline = Deadline(exchange.deadline + self._settings.upstream.command_timeout)
            return await self._executed(exchange, request, deadline)
        finally:
            deadline.close()
            release_when_sent(exchange.scope, Slot(self.admission, queue))

    async def _wait_for_slot(self, queue: str, exchange: Exchange, deadline: Deadline) -> None:
        if self.admission.is_full(queue):
            if exchange.caller is not None:
                self.admission.remember_credentials(exchange.fields.get(b"authorization", b""), exchange.caller)
            raise Overloaded
        try:
            with CancelOnDisconnect(exchange.scope, exchange.receive, deadline):
                await self.admission.acquire(queue, deadline)
        except (ClientDisconnected, Overloaded):
            deadline.close()
            raise

    async def _executed(self, exchange: Exchange, request: PreparedRequest, deadline: Deadline) -> Response:
        caller, cost = exchange.caller, None
        if exchange.cost_mode is not None:
            estimate = self._operations.cost_of(request)
            cost = {
                "estimatedUpstreamCalls": estimate.upstream_calls,
                "estimatedNodes": estimate.nodes,
                "estimatedFields": estimate.fields,
            }
            if exchange.cost_mode == "validate":
                estimated = OperationResult(ExecutionResult(None, None, {"cost": cost}), ())
                return self._rendered(estimated, exchange.media_type)
        context = None if caller is None else self._context(caller, exchange, deadline)
        work = self._execution.of(
            request.document,
            request.name,
            request.variables,
            context,
            request.plan,
            values=request.values,
            check_deadline=deadline.check,
        )
        with CancelOnDisconnect(exchange.scope, exchange.receive, deadline) as client:
            result = await _bounded(work)
        if client.is_disconnected:
            raise ClientDisconnected
        stats = context.scope.stats if context is not None else RequestStats()
        if caller is not None and (stats.accepted or stats.cache_hits):
            was_untrusted = self.admission.is_untrusted(caller)
            self.admission.trust(caller)
            if was_untrusted or not request.key:
                self._operations.keep(request, caller)
        response = self._rendered(self._result(result, stats, exchange, cost), exchange.media_type)
        if self._responses is not None and caller is not None and not result.errors and cost is None:
            self._cache.put(request, caller, stats, response.parts, self._running.client)
        return response

    def _context(self, caller: Caller, exchange: Exchange, deadline: Deadline) -> Context:
        stats = exchange.stats = RequestStats()
        if self._responses is not None:
            stats.reads = []
        scope = RequestScope(caller, stats, exchange.traceparent, exchange.span, deadline)
        return Context(
            scope,
            Loaders(self._running.client, scope),
            self._page_limits,
            exchange.request_id,
            self._settings.pagination.nodes_max,
            self._settings.upstream.unit_search,
            self._running.client.writer,
            self._settings.writes,
        )

    def _result(
        self, result: ExecutionResult, stats: RequestStats, exchange: Exchange, cost: dict[str, int] | None
    ) -> OperationResult:
        request_id = exchange.request_id
        if result.data is None and result.errors and not any(error.path for error in result.errors):
            return _invalid(result.errors, request_id)
        errors = [presented(error, request_id) for error in result.errors or ()]
        extensions: dict[str, Any] = {}
        if cost is not None:
            extensions["cost"] = {
                "upstreamCalls": stats.upstream_calls,
                "cacheHits": stats.cache_hits,
                "coalesced": stats.coalesced,
                **cost,
            }
        if cost is not None or stats.stale:
            extensions["freshness"] = {"oldestAge": self._cache.age(stats), "stale": stats.stale}
        is_mutation = exchange.operation is not None and exchange.operation.kind == MUTATION
        fields = NO_STORE if errors or is_mutation else self._cache.headers_for(stats, exchange.caller)
        has_written = is_mutation and any(value is not None for value in (result.data or {}).values())
        shown = ExecutionResult(result.data, errors or None, extensions or None)
        return OperationResult(shown, fields, has_written=has_written)

    def _rendered(self, operation: OperationResult, media_type: str) -> Response:
        result = operation.result
        unauthenticated_errors = [error for error in result.errors or () if is_unauthenticated(error)]
        if unauthenticated_errors and not operation.has_written:
            fields = (ERROR_TYPE, (b"www-authenticate", INVALID_TOKEN.encode()))
            parts = self._parts_of({"errors": unauthenticated_errors})
            return _with_errors(Response(401, fields, parts), unauthenticated_errors)
        members: dict[str, Any] = {"data": result.data} if operation.ran else {}
        if result.errors:
            members["errors"] = result.errors
        if result.extensions:
            members["extensions"] = result.extensions
        status = operation.status
        if self._is_draft and not operation.ran and media_type == JSON:
            status = OK
        try:
            parts = self._parts_of(members)
        except LimitExceeded as exceeded:
            return self._rendered(_invalid([exceeded], ""), media_type)
        response = _response(status, media_type, operation.fields, parts)
        return _with_errors(response, result.errors) if result.errors else response

    def _parts_of(self, members: dict[str, Any]) -> Parts:
        """A response's body. A single field that is already rendered is not copied, because it may be large."""
        if len(members) == 1 and members.get("data") is not None and len(members["data"]) == 1:
            ((key, value),) = members["data"].items()
            if type(value) is msgspec.Raw:
                return around(key, memoryview(value))
        return (self._encoder.encode(members, ResponseSize(self._settings.limits.response_bytes)),)


def _invalid(errors: list[GraphQLError], request_id: str) -> OperationResult:
    shown = [presented(error, request_id) for error in errors]
    return OperationResult(ExecutionResult(None, shown), NO_STORE, ran=False)


CONTENT_TYPES = {media_type: (b"content-type", f"{media_type}; charset=utf-8".encode()) for media_type in MEDIA_TYPES}


def _response(status: int, media_type: str, fields: Fields, parts: Parts) -> Response:
    """A response, in the media type that the client prefers only if it is successful."""
    content_type = CONTENT_TYPES[media_type] if status in (OK, PARTIAL_SUCCESS) else ERROR_TYPE
    return Response(status, (content_type, *fields), parts)


def _with_errors(response: Response, errors: list[GraphQLError]) -> Response:
    """A response with what is logged and counted of its errors."""
    extensions = [error.extensions or {} for error in errors]
    codes = tuple(str(each.get("code"))[:CODE_MAX] for each in extensions)
    flow_ids = tuple(each["upstream"]["flowId"] for each in extensions if each.get("upstream", {}).get("flowId"))
    return response._replace(codes=codes, flow_ids=flow_ids)


async def _bounded(work: Awaitable[ExecutionResult]) -> ExecutionResult:
    """The result of an operation, or an error if its response is too large."""
    try:
        return await work
    except LimitExceeded as exceeded:
        return ExecutionResult(None, [exceeded])


def _plain(value: object) -> object:
    if isinstance(value, GraphQLError):
        return value.formatted
    raise TypeError(f"not JSON: {type(value).__name__}")
