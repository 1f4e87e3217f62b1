"""The `/graphql` endpoint: what is asked is found, executed, and told with the status that it deserves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
from graphql import ExecutionResult, GraphQLError, OperationDefinitionNode, OperationType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.engine.documents import INTROSPECTION, Document, Documents, digest_of
from gateway.engine.limits import DocumentLimits, LimitExceeded
from gateway.engine.plans import Prepared
from gateway.errors import Overloaded
from gateway.identity import Caller
from gateway.schema.build import Schema
from gateway.schema.context import Context
from gateway.schema.error_masking import is_unauthenticated, presented
from gateway.schema.execution import Execution
from gateway.schema.pricing import Price, Prices, bound_of, price_of
from gateway.schema.starting import start
from gateway.settings import GraphQLSettings, LimitSettings
from gateway.upstream.fetching import Clock, Patience, Tally
from gateway.web.admission import Admission
from gateway.web.answers import CHALLENGE, INVALID_TOKEN, NO_TOKEN, busy, refusal
from gateway.web.explorer import Explorer
from gateway.web.graphql_over_http import (
    RESPONSE,
    Asked,
    Refused,
    asked_by_get,
    asked_by_post,
    asks_for_page,
    media_type_for,
)

R = TypeVar("R")
ContextOf = Callable[[Caller, str, str | None, Patience], Context]
COST = "X-Gateway-Cost"
TIMEOUT = "X-Gateway-Timeout"
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Told:
    """What the answer to a request says; `ran` is false where the operation never began."""

    result: ExecutionResult
    headers: Mapping[str, str]
    ran: bool = True


class Ready(NamedTuple):
    """An operation with a plan, that has been let in."""

    document: Document
    name: str | None
    variables: Mapping[str, Any]
    prepared: Prepared
    caller: Caller
    patience: Patience


class Answer(NamedTuple):
    """An answer, ready to be sent."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: bytes


class GraphQLEndpoint:
    """GraphQL over HTTP; `app.state.context_of` makes the context of a caller's request."""

    def __init__(
        self,
        schema: Schema,
        prices: Prices,
        settings: GraphQLSettings,
        limits: LimitSettings,
        *,
        explorer: Explorer | None,
        trusted: Mapping[str, str] | None,
        clock: Clock,
        nodes_max: int,
    ) -> None:
        self._nodes_max = nodes_max
        self._schema = schema.core
        self._prices = prices
        self._settings = settings
        self._explorer = explorer
        self._trusted = trusted
        self._trusted_texts = frozenset((trusted or {}).values())
        self._clock = clock
        self._limits = limits
        self.admission = Admission(limits)
        self._execution = Execution(schema, projection=settings.projection)
        self._documents = Documents(
            schema.core,
            settings.documents_max,
            limits=document_limits_of(limits),
            # They would tell the schema, name by name.
            suggestions=settings.introspection != "off",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except Refused as refused:
            response = refusal(refused.status, refused.code, str(refused), refused.headers, refused.extensions)
        except Overloaded as overloaded:
            response = busy(overloaded, overloaded.retry_after)
        except (CallerLeft, ClientDisconnect):
            response = Response(status_code=499)  # read by nobody but the log
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method not in ("GET", "POST"):
            raise Refused(405, "METHOD_NOT_ALLOWED", "GraphQL is asked by GET or POST.", {"Allow": "GET, POST"})
        if asks_for_page(request.method, request.headers.get("Accept"), request.query_params):
            if self._explorer is None:
                raise Refused(404, "NOT_FOUND", "There is no page here; ask with a query.")
            return self._explorer.page()
        media_type = media_type_for(request.headers.get("Accept"))
        caller: Caller | None = getattr(request.state, "caller", None)
        principal = caller.principal if caller is not None else ""
        if self.admission.is_full(principal):
            self.admission.introduce(request.headers.get("Authorization", "").encode("latin-1"), principal)
            raise Overloaded
        patience = Patience.of(self._seconds_of(request))
        if request.method == "POST":
            asked = asked_by_post(request.headers.get("Content-Type"), await request.body())
        else:
            asked = asked_by_get(request.query_params)
        self._check_variables(asked)
        await self.admission.enter(principal, patience)
        try:
            told = await self._tell(request, asked, caller, patience)
        finally:
            patience.close()
            self.admission.leave(principal)
        answer = self._answer(told, media_type)
        return Response(answer.body, answer.status, answer.headers, answer.content_type)

    async def ready(self, asked: Asked, body_bytes: int, caller: Caller) -> Ready | None:
        """What the short road may run, let in; None where anything about it needs the long road.

        Raises Overloaded for whoever waited in vain.
        """
        if not asked.query or self._trusted is not None or asked.extensions is not None or self._may_exceed(body_bytes):
            return None
        patience = Patience.of(self._limits.deadline)
        principal = caller.principal
        if not self.admission.enter_at_once(principal):
            if self.admission.is_full(principal):
                return None
            await self.admission.enter(principal, patience)
        ready = None
        try:
            ready = self._planned(asked, asked.query, caller, patience)
        finally:
            if ready is None:
                self.admission.leave(principal)
        return ready

    def _planned(self, asked: Asked, query: str, caller: Caller, patience: Patience) -> Ready | None:
        name, variables = asked.operation_name or None, asked.variables or {}
        document = self._documents.read(query)
        if document.errors:
            return None
        prepared = self._execution.prepared(document, name, variables)
        if prepared is None or not self._is_bounded(document, name):
            return None
        return Ready(document, name, variables, prepared, caller, patience)

    async def answer(
        self, ready: Ready, receive: Receive, media_type: str, *, request_id: str, context_of: ContextOf
    ) -> Answer:
        """The answer to what is ready; its place is given back."""
        patience = ready.patience
        try:
            context = context_of(ready.caller, request_id, None, patience)
            work = self._execution.of(ready.document, ready.name, ready.variables, context, ready.prepared)
            result = await _while_there(work, receive, patience)
            return self._answer(self._told(result, context, request_id, None), media_type)
        finally:
            patience.close()
            self.admission.leave(ready.caller.principal)

    def _may_exceed(self, body_bytes: int) -> bool:
        # Written anew a number may be longer than it came, but not this much.
        return body_bytes * 8 > self._limits.variables_bytes

    def _check_variables(self, asked: Asked) -> None:
        maximum = self._limits.variables_bytes
        if asked.variables and (size := len(msgspec.json.encode(asked.variables))) > maximum:
            exceeded = LimitExceeded("variablesBytes", maximum, size)
            assert exceeded.extensions is not None
            raise Refused(400, "LIMIT_EXCEEDED", exceeded.message, extensions=exceeded.extensions)

    def _seconds_of(self, request: Request) -> float:
        """How long the operation may take: the setting's, or what the caller asks for if that is less."""
        wish = request.headers.get(TIMEOUT)
        if wish is None:
            return self._limits.deadline
        if not _SECONDS.fullmatch(wish.strip()) or not float(wish):
            raise Refused(400, "BAD_REQUEST", f"{TIMEOUT} is a number of seconds above 0, such as 2.5.")
        return min(self._limits.deadline, float(wish))

    async def _tell(self, request: Request, asked: Asked, caller: Caller | None, patience: Patience) -> Told:
        wish = request.headers.get(COST)
        if wish not in (None, "report", "validate"):
            raise Refused(400, "BAD_REQUEST", f"{COST} is `report` or `validate`.")
        request_id: str = request.state.request_id
        try:
            document = self._document(asked)
            if document.errors:
                return _invalid([presented(error, request_id) for error in document.errors])
            operation = document.operation(asked.operation_name or None)
            if operation is None:
                message = "The document has no such operation, or several and none was named."
                raise _coded("OPERATION_RESOLUTION_FAILURE", message)
        except GraphQLError as invalid:
            return _invalid([presented(invalid, request_id)])
        if request.method == "GET" and operation.operation is not OperationType.QUERY:
            raise Refused(405, "METHOD_NOT_ALLOWED", "Only queries are asked by GET.", {"Allow": "POST"})
        self._admit(caller, document, operation)
        try:
            price = self._price(document, asked)
        except LimitExceeded as exceeded:
            return _invalid([exceeded])
        cost = {"estimatedUpstreamCalls": price.upstream_calls, "estimatedNodes": price.nodes}
        if wish == "validate":
            return Told(ExecutionResult(None, None, {"cost": cost}), {})
        return await self._run(request, caller, patience, document, asked, cost if wish == "report" else None)

    def _document(self, asked: Asked) -> Document:
        """The document that is meant: sent, persisted, or listed."""
        if self._trusted is not None:
            text = self._trusted.get(asked.trusted_id or "")
            if text is None and asked.query in self._trusted_texts:
                text = asked.query
            if text is None:
                raise _coded("OPERATION_NOT_TRUSTED", "Only the operations of this gateway's manifest are run.")
            return self._documents.read(text)
        if asked.query:
            if asked.digest is not None and asked.digest != digest_of(asked.query):
                raise Refused(400, "PERSISTED_QUERY_MISMATCH", "The hash is not that of the query.")
            return self._documents.read(asked.query)
        if asked.digest is None:
            raise Refused(400, "BAD_REQUEST", "The request has no query.")
        known = self._documents.known(asked.digest)
        if known is None:
            # What clients of Apollo's automatic persisted queries wait for, to the letter.
            raise _coded("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
        return known

    def _admit(self, caller: Caller | None, document: Document, operation: OperationDefinitionNode) -> None:
        """Who may ask what: introspection by its setting, everything else with a token only."""
        fields = document.root_fields(operation)
        introspects = bool(fields & INTROSPECTION)
        if introspects and self._settings.introspection == "off":
            raise Refused(400, "INTROSPECTION_DISABLED", "This gateway does not tell its schema.")
        if caller is None and not (fields <= INTROSPECTION | {"__typename"} and introspects):
            challenge = {"WWW-Authenticate": CHALLENGE}
            raise Refused(401, "UNAUTHENTICATED", NO_TOKEN, challenge)

    async def _run(
        self,
        request: Request,
        caller: Caller | None,
        patience: Patience,
        document: Document,
        asked: Asked,
        cost: dict[str, int] | None,
    ) -> Told:
        assert document.ast is not None
        context_of: ContextOf = request.app.state.context_of
        request_id: str = request.state.request_id
        context = context_of(caller, request_id, _trace_of(request), patience) if caller is not None else None
        work = self._execution.of(document, asked.operation_name or None, asked.variables or {}, context)
        result = await _while_there(work, request.receive, patience)
        return self._told(result, context, request_id, cost)

    def _told(
        self, result: ExecutionResult, context: Context | None, request_id: str, cost: dict[str, int] | None
    ) -> Told:
        errors = [presented(error, request_id) for error in result.errors or ()]
        if result.data is None and errors and not any(error.path for error in errors):
            return _invalid(errors)
        tally = context.errand.tally if context is not None else Tally()
        extensions: dict[str, Any] = {}
        if cost is not None:
            extensions["cost"] = {
                "upstreamCalls": tally.upstream_calls,
                "cacheHits": tally.cache_hits,
                "coalesced": tally.coalesced,
                **cost,
            }
        if cost is not None or tally.stale:
            extensions["freshness"] = {"oldestAge": self._age(tally), "stale": tally.stale}
        headers = {"Cache-Control": "no-store"} if errors else self._freshness_headers(tally)
        return Told(ExecutionResult(result.data, errors or None, extensions or None), headers)

    def _answer(self, told: Told, media_type: str) -> Answer:
        result = told.result
        refused = [error for error in result.errors or () if is_unauthenticated(error)]
        if refused:
            body = _encoded({"data": None, "errors": refused})
            return Answer(401, media_type, {"WWW-Authenticate": INVALID_TOKEN}, body)
        members: dict[str, Any] = {"data": result.data} if told.ran else {}
        if result.errors:
            members["errors"] = result.errors
        if result.extensions:
            members["extensions"] = result.extensions
        status = 400 if not told.ran and media_type == RESPONSE else 200
        return Answer(status, f"{media_type}; charset=utf-8", told.headers, _encoded(members))

    def _is_bounded(self, document: Document, name: str | None) -> bool:
        """Whether an operation is within its limits whatever its variables are."""
        bounded = document.bounded.get(name)
        if bounded is None:
            assert document.ast is not None
            most = bound_of(self._schema, document.ast, name, self._prices, self._nodes_max)
            limits = self._limits
            bounded = most is not None and most.upstream_calls <= limits.upstream_calls and most.nodes <= limits.nodes
            document.bounded[name] = bounded
        return bounded

    def _price(self, document: Document, asked: Asked) -> Price:
        assert document.ast is not None
        price = price_of(self._schema, document.ast, asked.variables or {}, asked.operation_name, self._prices)
        for limit, maximum, actual in (
            ("upstreamCalls", self._limits.upstream_calls, price.upstream_calls),
            ("nodes", self._limits.nodes, price.nodes),
        ):
            if actual > maximum:
                raise LimitExceeded(limit, maximum, actual)
        return price

    def _age(self, tally: Tally) -> float:
        """How old the oldest part of the answer is, in seconds."""
        return 0.0 if tally.oldest is None else max(0.0, round(self._clock() - tally.oldest, 3))

    def _freshness_headers(self, tally: Tally) -> dict[str, str]:
        age = int(self._age(tally))
        left = 0 if tally.fresh_until is None or tally.stale else max(0, int(tally.fresh_until - self._clock()))
        return {"Cache-Control": f"private, max-age={age + left if left else 0}", "Age": str(age)}


class CallerLeft(Exception):
    """The caller closed the connection; nobody is there to be told."""


async def _while_there(operation: Coroutine[Any, Any, R], receive: Receive, patience: Patience) -> R:
    """An operation's result; if the caller leaves meanwhile, its waits end and CallerLeft is raised."""
    running = start(operation)
    if running.done():
        return running.result()
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            patience.leave()
            await asyncio.wait((running,))
            raise CallerLeft
        return running.result()
    finally:
        leaving.cancel()
        if not running.done():
            patience.leave()
            running.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def document_limits_of(settings: LimitSettings) -> DocumentLimits:
    """The limits that hold for a document whatever its variables."""
    return DocumentLimits(
        settings.document_bytes,
        settings.tokens,
        settings.depth,
        settings.root_fields,
        settings.aliases,
        settings.directives,
        settings.overlaps,
    )


def _trace_of(request: Request) -> str | None:
    """The caller's trace, if it is soundly written: the one header that goes on to the fleet API."""
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def _invalid(errors: list[GraphQLError]) -> Told:
    return Told(ExecutionResult(None, errors), {"Cache-Control": "no-store"}, ran=False)


def _coded(code: str, message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": code, "retryable": False})


def _encoded(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body, enc_hook=_plain)


def _plain(value: object) -> object:
    if isinstance(value, GraphQLError):
        return value.formatted
    raise TypeError(f"not JSON: {type(value).__name__}")
