"""The `/graphql` endpoint: what is asked is found, executed, and told with the status that it deserves."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from graphql import ExecutionResult, GraphQLError, OperationDefinitionNode, OperationType
from graphql.execution.values import VariableValues
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.engine.documents import BOUNDED_BYTES, INTROSPECTION, Document, Documents, Registrations, digest_of
from gateway.engine.encoding import Encoder, ResponseSize
from gateway.engine.limits import DocumentLimits, ExecutionLimits, LimitExceeded
from gateway.engine.plans import NotMade, Prepared
from gateway.engine.spacing import Spacing
from gateway.engine.variables import VariablesInvalid
from gateway.errors import Overloaded
from gateway.identity import Caller
from gateway.schema.build import Schema
from gateway.schema.connections import Place
from gateway.schema.context import Context
from gateway.schema.error_masking import is_unauthenticated, presented
from gateway.schema.execution import Execution
from gateway.schema.pricing import Price, Prices, bound_of, check_priced, price_of
from gateway.settings import GraphQLSettings, LimitSettings
from gateway.upstream.cache import Held
from gateway.upstream.client import FleetClient
from gateway.upstream.fetching import Clock, Patience, Tally
from gateway.web.admission import Admission, Slot
from gateway.web.answers import CHALLENGE, INVALID_TOKEN, NO_TOKEN, busy, refusal
from gateway.web.explorer import Explorer
from gateway.web.graphql_over_http import (
    JSON,
    RESPONSE,
    Asked,
    Refused,
    asked_by_get,
    asked_by_post,
    asks_for_page,
    media_type_for,
)
from gateway.web.leaving import CallerLeft, WhileThere, leave_when_gone
from gateway.web.whole_answers import WholeAnswers

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


class Planned(NamedTuple):
    """What a body asks for, where it has a plan and is within all limits; `places` are where answers may be kept."""

    document: Document
    name: str | None
    variables: Mapping[str, Any]
    prepared: Prepared
    places: dict[str | None, Place | None]
    body: bytes  # empty where it is not to be remembered

    @property
    def size(self) -> int:
        """What it takes in memory with the body, in bytes."""
        return PLANNED_BYTES + DECODED_FACTOR * len(self.body) + PLACE_BYTES * len(self.places)


class AtHand(NamedTuple):
    """An answer that needed no waiting, in parts, and its freshness headers."""

    parts: Parts
    headers: Mapping[str, str]


Parts = tuple[bytes | memoryview, ...]
PageAtHand = Callable[[Caller, str | None, str | None], Held | None]
# The longest body whose meaning is remembered, in bytes.
BODY_BYTES_MAX = 4096
# What that takes in memory, in bytes: by itself, for each byte of the body (its variables may be many empty lists), and
# for each fleet.
PLANNED_BYTES, DECODED_FACTOR, PLACE_BYTES = 1_500, 40, 1_000
# The pauses after a document was read, as a multiple of what that took: a stranger's, and any other's or its plan.
STRANGERS_PAUSE, PAUSE = 1.0, 0.25
# Fleets for which it is remembered where a body's answer may be kept.
FLEETS_MAX = 64


class Answer(NamedTuple):
    """An answer, ready to be sent; its body is in parts."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    parts: Parts

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)


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
        whole_answers: WholeAnswers | None = None,
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
        check_priced(schema.core)
        bounds = ExecutionLimits(limits.nodes, limits.response_bytes)
        self._execution = Execution(schema, bounds, projection=settings.projection)
        self._encoder = Encoder(_plain)
        self.whole_answers = whole_answers
        self._registrations = Registrations()
        self._reading: Spacing[Document] = Spacing(PAUSE)
        self._reading_strangers: Spacing[Document] = Spacing(STRANGERS_PAUSE)
        self._planning: Spacing[Prepared | None] = Spacing(PAUSE)
        self._documents = Documents(
            schema.core,
            settings.documents_bytes_max,
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
        if asks_for_page(request.method, request.headers.get("Accept"), request.scope["query_string"]):
            if self._explorer is None:
                raise Refused(404, "NOT_FOUND", "There is no page here; ask with a query.")
            return self._explorer.page()
        media_type = media_type_for(request.headers.get("Accept"))
        caller: Caller | None = getattr(request.state, "caller", None)
        line = self.admission.line_of(caller)
        if self.admission.is_full(line):
            if caller is not None:
                self.admission.introduce(request.headers.get("Authorization", "").encode("latin-1"), caller)
            raise Overloaded
        began: float = getattr(request.state, "began", time.monotonic())
        patience = Patience(began + self.seconds_of(request.headers))
        if request.method == "POST":
            asked = asked_by_post(request.headers.get("Content-Type"), await request.body())
        else:
            asked = asked_by_get(request.query_params)
        self._check_variables(asked)
        if not self.admission.enter_at_once(line):
            await self._enter_in_turn(line, patience, request.scope, request.receive)
        try:
            told = await self._tell(request, asked, caller, patience)
        finally:
            patience.close()
            leave_when_gone(request.scope, Slot(self.admission, line))
        answer = self._answer(told, media_type)
        return Response(answer.body, answer.status, answer.headers, answer.content_type)

    def planned(self, body: bytes, caller: Caller) -> Planned | None:
        """What the short road may run for the body of a POST; None where anything about it needs the long road.

        Raises Refused for what is no request.
        """
        known: Planned | None = self._documents.meant_by(body)
        if known is not None:
            return known
        asked = asked_by_post(JSON, body)
        # Written anew a number may be longer than it came, but not this much.
        is_long = len(body) * 8 > self._limits.variables_bytes
        if not asked.query or self._trusted is not None or asked.extensions is not None or is_long:
            return None
        name, variables = asked.operation_name, asked.variables or {}
        document = self._documents.sent(asked.query)
        prepared = None
        if document is not None:
            with suppress(NotMade, LimitExceeded, VariablesInvalid):
                prepared = self._execution.prepared(document, name, variables, make=False)
        if document is None or prepared is None or not self._is_bounded(document, name, variables):
            return None
        remembered = len(body) <= BODY_BYTES_MAX and not self.admission.is_stranger(caller)
        planned = Planned(document, name, variables, prepared, {}, body if remembered else b"")
        if remembered:
            self._documents.remember(body, planned)
        return planned

    def at_hand(self, planned: Planned, caller: Caller, page_at_hand: PageAtHand) -> AtHand | None:
        """The answer, if it is made of one connection that was kept, and every page it was made of is there and fresh.

        It costs no more than a refusal does, so it needs no place.
        """
        place = self._place_for(planned, caller.fleet)
        if place is None:
            return None
        held = page_at_hand(caller, place.token, None if place.token else place.search)
        kept = held.value.kept(place.key) if held is not None else None
        if held is None or kept is None:
            return None
        stored_at, fresh_until = held.stored_at, held.fresh_until
        for token, page in kept.others:
            other = page_at_hand(caller, token, None if token else place.search)
            if other is None or other.value is not page():
                return None
            stored_at, fresh_until = min(stored_at, other.stored_at), min(fresh_until, other.fresh_until)
        headers = self._freshness_of(stored_at, fresh_until, caller)
        (key,) = planned.prepared.plan.keys
        return AtHand(_around(key, kept.rendered), headers)

    def _place_for(self, planned: Planned, fleet: str | None) -> Place | None:
        places = planned.places
        if fleet not in places:
            before = planned.size
            if len(places) >= FLEETS_MAX:
                places.clear()
            places[fleet] = self._execution.place_of(planned.prepared, self._prices.limits, fleet)
            if planned.body:
                planned.document.grow(planned.size - before)
        return places[fleet]

    def patience(self) -> Patience:
        """How long an operation may take whose caller asks for nothing else."""
        return Patience.of(self._limits.deadline)

    async def let_in(
        self, caller: Caller, patience: Patience, scope: Scope, receive: Receive, credentials: bytes
    ) -> str:
        """Takes a place for a caller, who will be known by their credentials if there is none; tells in which line.

        Raises Overloaded for whoever can't wait or waited in vain, CallerLeft for whoever waited no longer.
        """
        line = self.admission.line_of(caller)
        if not self.admission.enter_at_once(line):
            if self.admission.is_full(line):
                self.admission.introduce(credentials, caller)
                raise Overloaded
            await self._enter_in_turn(line, patience, scope, receive)
        return line

    async def _enter_in_turn(self, line: str, patience: Patience, scope: Scope, receive: Receive) -> None:
        try:
            with WhileThere(scope, receive, patience):
                await self.admission.enter(line, patience)
        except (CallerLeft, Overloaded):
            patience.close()
            raise

    async def answer(
        self,
        planned: Planned,
        caller: Caller,
        line: str,
        patience: Patience,
        scope: Scope,
        receive: Receive,
        media_type: str,
        *,
        request_id: str,
        context_of: ContextOf,
        client: FleetClient,
    ) -> Answer:
        """The answer for a caller who was let in from a line; the place is given back when it has gone."""
        try:
            context = context_of(caller, request_id, None, patience)
            work = self._execution.of(planned.document, planned.name, planned.variables, context, planned.prepared)
            tally = context.errand.tally
            if self.whole_answers is not None:
                tally.reads = []
            with WhileThere(scope, receive, patience) as there:
                result = await _bounded(work)
            if there.has_left:
                raise CallerLeft
            answer = self._answer(self._told(result, context, request_id, None), media_type)
        finally:
            patience.close()
            leave_when_gone(scope, Slot(self.admission, line))
        if self.whole_answers is not None and not result.errors and not tally.stale and planned.body:
            made_of = client.made_of(tally.reads or ())
            if made_of:
                self.whole_answers.keep((caller.principal, planned.body), answer.body, made_of)
        return answer

    def whole(self, body: bytes, caller: Caller, client: FleetClient, *, takes_gzip: bool) -> AtHand | None:
        """A whole answer that was kept for this caller and body, if it still stands."""
        if self.whole_answers is None:
            return None
        whole = self.whole_answers.get((caller.principal, body), client.standing_of, takes_gzip=takes_gzip)
        if whole is None:
            return None
        headers = self._freshness_of(whole.standing.stored_at, whole.standing.fresh_until, caller)
        if whole.is_gzip:
            headers = {**headers, "Content-Encoding": "gzip"}
        return AtHand((whole.body,), headers)

    def _freshness_of(self, stored_at: float, fresh_until: float, caller: Caller) -> Mapping[str, str]:
        now = self._clock()
        if caller.expires_at is not None and caller.expires_at < fresh_until:
            fresh_until = caller.expires_at  # no answer outlives the token it was for
        return _freshness_headers(int(max(0.0, now - stored_at)), max(0, int(fresh_until - now)))

    def _check_variables(self, asked: Asked) -> None:
        maximum = self._limits.variables_bytes
        if asked.variables and (size := len(msgspec.json.encode(asked.variables))) > maximum:
            exceeded = LimitExceeded("variablesBytes", maximum, size)
            assert exceeded.extensions is not None
            raise Refused(400, "LIMIT_EXCEEDED", exceeded.message, extensions=exceeded.extensions)

    def seconds_of(self, headers: Headers) -> float:
        """How long an operation may take: the setting's, or the caller's if that is less; raises Refused."""
        wish = headers.get(TIMEOUT)
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
            document = await self._document(asked, caller)
            self._keep(document, asked, caller)
            if document.errors:
                return _invalid([presented(error, request_id) for error in document.errors])
            operation = document.operation(asked.operation_name)
            if operation is None:
                message = "The document has no such operation, or several and none was named."
                raise _coded("OPERATION_RESOLUTION_FAILURE", message)
        except GraphQLError as invalid:
            return _invalid([presented(invalid, request_id)])
        if request.method == "GET" and operation.operation is not OperationType.QUERY:
            raise Refused(405, "METHOD_NOT_ALLOWED", "Only queries are asked by GET.", {"Allow": "POST"})
        self._admit(caller, document, operation)
        try:
            values = self._execution.values(document, asked.operation_name, asked.variables or {})
            price = self._price(document, operation, values)
        except LimitExceeded as exceeded:
            return _invalid([exceeded])
        except VariablesInvalid as invalid:
            return _invalid([presented(error, request_id) for error in invalid.errors])
        cost = {
            "estimatedUpstreamCalls": price.upstream_calls,
            "estimatedNodes": price.nodes,
            "estimatedFields": price.fields,
        }
        if wish == "validate":
            return Told(ExecutionResult(None, None, {"cost": cost}), {})
        told = await self._run(request, caller, patience, document, asked, values, cost if wish == "report" else None)
        # The fleet API may have vouched for the caller meanwhile.
        self._keep(document, asked, caller)
        return told

    async def _document(self, asked: Asked, caller: Caller | None) -> Document:
        """The document that is meant: sent, registered by the caller's principal, or listed."""
        if self._trusted is not None:
            text = self._trusted.get(asked.trusted_id or "")
            if text is None and asked.query in self._trusted_texts:
                text = asked.query
            if text is None:
                raise _coded("OPERATION_NOT_TRUSTED", "Only the operations of this gateway's manifest are run.")
            return await self._read(text, self._reading, keep=True)
        if asked.query:
            if asked.digest is not None and asked.digest != digest_of(asked.query):
                raise Refused(400, "PERSISTED_QUERY_MISMATCH", "The hash is not that of the query.")
            is_stranger = self.admission.is_stranger(caller)
            reading = self._reading_strangers if is_stranger else self._reading
            return await self._read(asked.query, reading, keep=not is_stranger)
        if asked.digest is None:
            raise Refused(400, "BAD_REQUEST", "The request has no query.")
        known = None
        if caller is not None and self._registrations.has(caller.principal, asked.digest):
            known = self._documents.known(asked.digest)
        if known is None:
            # What clients of Apollo's automatic persisted queries wait for, to the letter.
            raise _coded("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
        return known

    async def _read(self, text: str, reading: Spacing[Document], *, keep: bool) -> Document:
        known = self._documents.sent(text)
        return known if known is not None else await reading.run(text, lambda: self._documents.read(text, keep=keep))

    def _keep(self, document: Document, asked: Asked, caller: Caller | None) -> None:
        """Keeps a document, and whose it is if it came with its hash; of strangers, and for them, nothing is kept."""
        if caller is None or self._trusted is not None or document.errors or self.admission.is_stranger(caller):
            return
        self._documents.keep(document)
        if asked.digest is not None:
            self._registrations.add(caller.principal, asked.digest)

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
        values: VariableValues,
        cost: dict[str, int] | None,
    ) -> Told:
        assert document.ast is not None
        context_of: ContextOf = request.app.state.context_of
        request_id: str = request.state.request_id
        context = context_of(caller, request_id, _trace_of(request), patience) if caller is not None else None
        name, variables = asked.operation_name, asked.variables or {}
        prepared = await self._plan(document, name, variables, caller)
        work = self._execution.of(
            document, name, variables, context, prepared, values=values, check_deadline=patience.check
        )
        with WhileThere(request.scope, request.receive, patience) as there:
            result = await _bounded(work)
        if there.has_left:
            raise CallerLeft
        return self._told(result, context, request_id, cost)

    async def _plan(
        self, document: Document, name: str | None, variables: Mapping[str, Any], caller: Caller | None
    ) -> Prepared | None:
        """The operation's plan, if there is one; for strangers none is made of what nobody else sends."""
        try:
            return self._execution.prepared(document, name, variables, make=False)
        except NotMade:
            if self._trusted is None and self.admission.is_stranger(caller):
                return None
            return await self._planning.run(object(), lambda: self._execution.prepared(document, name, variables))

    def _told(
        self, result: ExecutionResult, context: Context | None, request_id: str, cost: dict[str, int] | None
    ) -> Told:
        errors = [presented(error, request_id) for error in result.errors or ()]
        if result.data is None and errors and not any(error.path for error in errors):
            return _invalid(errors)
        tally = context.errand.tally if context is not None else Tally()
        if context is not None and (tally.accepted or tally.cache_hits):
            self.admission.accept(context.errand.caller)
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
        caller = context.errand.caller if context is not None else None
        headers = {"Cache-Control": "no-store"} if errors else self._headers_of(tally, caller)
        return Told(ExecutionResult(result.data, errors or None, extensions or None), headers)

    def _answer(self, told: Told, media_type: str) -> Answer:
        result = told.result
        refused = [error for error in result.errors or () if is_unauthenticated(error)]
        if refused:
            parts = self._parts_of({"data": None, "errors": refused})
            return Answer(401, media_type, {"WWW-Authenticate": INVALID_TOKEN}, parts)
        members: dict[str, Any] = {"data": result.data} if told.ran else {}
        if result.errors:
            members["errors"] = result.errors
        if result.extensions:
            members["extensions"] = result.extensions
        status = 400 if not told.ran and media_type == RESPONSE else 200
        try:
            parts = self._parts_of(members)
        except LimitExceeded as exceeded:
            return self._answer(_invalid([exceeded]), media_type)
        return Answer(status, f"{media_type}; charset=utf-8", told.headers, parts)

    def _parts_of(self, members: dict[str, Any]) -> Parts:
        """An answer's body; what is all of its data, and JSON already, is not copied: it may be large."""
        if len(members) == 1 and members.get("data") is not None and len(members["data"]) == 1:
            ((key, value),) = members["data"].items()
            if type(value) is msgspec.Raw:
                return _around(key, memoryview(value))
        return (self._encoder.encode(members, ResponseSize(self._limits.response_bytes)),)

    def _is_bounded(self, document: Document, name: str | None, variables: Mapping[str, Any]) -> bool:
        """Whether an operation is within its limits with lists as long as these, whatever else its variables are."""
        longest = max((len(value) for value in variables.values() if value.__class__ is list), default=1)
        if longest > self._nodes_max:
            return False
        # Few lengths, so that few bounds have to be worked out.
        length = min(self._nodes_max, max(16, 1 << (longest - 1).bit_length()))
        bounded = document.bounded.get((name, length))
        if bounded is None:
            operation = document.operation(name)
            assert document.ast is not None
            assert operation is not None
            most = bound_of(self._schema, document.ast, operation, self._prices, length)
            bounded = most is not None and self._exceeded_by(most) is None
            document.bounded[name, length] = bounded
            document.grow(BOUNDED_BYTES)
        return bounded

    def _price(self, document: Document, operation: OperationDefinitionNode, values: VariableValues) -> Price:
        assert document.ast is not None
        price = price_of(self._schema, document.ast, operation, values, self._prices)
        exceeded = self._exceeded_by(price)
        if exceeded is not None:
            raise exceeded
        return price

    def _exceeded_by(self, price: Price) -> LimitExceeded | None:
        limits = self._limits
        for limit, maximum, actual in (
            ("upstreamCalls", limits.upstream_calls, price.upstream_calls),
            ("nodes", limits.nodes, price.nodes),
            ("fields", limits.fields, price.fields),
            ("responseBytes", limits.response_bytes, price.key_bytes),
        ):
            if actual > maximum:
                return LimitExceeded(limit, maximum, actual)
        return None

    def _age(self, tally: Tally) -> float:
        """How old the oldest part of the answer is, in seconds."""
        return 0.0 if tally.oldest is None else max(0.0, round(self._clock() - tally.oldest, 3))

    def _headers_of(self, tally: Tally, caller: Caller | None) -> Mapping[str, str]:
        if caller is None or tally.oldest is None or tally.fresh_until is None or tally.stale:
            return _freshness_headers(int(self._age(tally)), 0)
        return self._freshness_of(tally.oldest, tally.fresh_until, caller)


@lru_cache(1024)
def _freshness_headers(age: int, left: int) -> Mapping[str, str]:
    """How old an answer is and for how long it is fresh, in seconds."""
    return {"Cache-Control": f"private, max-age={age + left if left else 0}", "Age": str(age)}


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


async def _bounded(work: Awaitable[ExecutionResult]) -> ExecutionResult:
    """The result of an operation, or that its answer is too long."""
    try:
        return await work
    except LimitExceeded as exceeded:
        return ExecutionResult(None, [exceeded])


def _around(key: str, rendered: bytes | memoryview) -> Parts:
    return b'{"data":{"%b":' % key.encode(), rendered, b"}}"


def _plain(value: object) -> object:
    if isinstance(value, GraphQLError):
        return value.formatted
    raise TypeError(f"not JSON: {type(value).__name__}")
