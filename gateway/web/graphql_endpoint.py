"""GraphQL over HTTP: Strawberry's endpoint with our context, our errors and our status codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from cross_web import HTTPException
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData, process_result
from strawberry.http.types import HTTPMethod
from strawberry.types import ExecutionResult

from gateway.identity import Caller
from gateway.schema.build import Schema
from gateway.schema.context import Context
from gateway.schema.error_masking import is_unauthenticated, presented
from gateway.schema.pricing import Prices
from gateway.upstream.fetching import Clock, Tally
from gateway.web.answers import INVALID_TOKEN, refusal

ContextOf = Callable[[Caller, str], Context]
CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 415: "UNSUPPORTED_MEDIA_TYPE"}


COST = "X-Gateway-Cost"


class GraphQLEndpoint(GraphQL[Context, None]):
    """The `/graphql` endpoint; `app.state.context_of` makes the context of a caller's request."""

    def __init__(self, schema: Schema, prices: Prices, *, graphiql: bool, clock: Clock) -> None:
        super().__init__(schema, graphql_ide="graphiql" if graphiql else None, subscription_protocols=())
        self._typed_schema = schema
        self._prices = prices
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocket(scope, receive, send).close()
            return
        try:
            response = await self.run(Request(scope, receive))
        except HTTPException as refused:
            code = CODES.get(refused.status_code, "BAD_REQUEST")
            response = refusal(refused.status_code, code, refused.reason)
        await response(scope, receive, send)

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        caller = getattr(request.state, "caller", None)
        if caller is None:
            return None  # type: ignore[return-value] # GraphiQL's page: rendered before anything is executed
        context_of: ContextOf = request.app.state.context_of
        return context_of(caller, request.state.request_id)

    async def execute_single(
        self,
        request: Request,
        request_adapter: Any,
        sub_response: Response,
        context: Context,
        root_value: None,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        wish = request.headers.get(COST)
        if wish not in (None, "report", "validate"):
            raise HTTPException(400, f"{COST} is `report` or `validate`.")
        if wish == "validate":
            return self._priced(request_data)
        result = await super().execute_single(request, request_adapter, sub_response, context, root_value, request_data)
        tally = context.errand.tally
        sub_response.headers.update(self._freshness_headers(tally, failed=bool(result.errors)))
        if wish == "report":
            cost = {
                "upstreamCalls": tally.upstream_calls,
                "cacheHits": tally.cache_hits,
                "coalesced": tally.coalesced,
            }
            priced = self._priced(request_data).extensions or {}
            result.extensions = {
                **(result.extensions or {}),
                "cost": {**cost, **priced.get("cost", {})},
                "freshness": {"oldestAge": self._age(tally), "stale": tally.stale},
            }
        elif tally.stale:
            result.extensions = {
                **(result.extensions or {}),
                "freshness": {"oldestAge": self._age(tally), "stale": True},
            }
        return result

    def _priced(self, asked: GraphQLRequestData) -> ExecutionResult:
        """The operation's price in place of its result; it is not run."""
        try:
            calls = self._typed_schema.price(asked.query or "", asked.variables, asked.operation_name, self._prices)
        except GraphQLError as invalid:
            return ExecutionResult(None, [invalid])
        return ExecutionResult(None, None, {"cost": {"estimatedUpstreamCalls": calls}})

    def _age(self, tally: Tally) -> float:
        """How old the oldest part of the answer is, in seconds."""
        return 0.0 if tally.oldest is None else max(0.0, round(self._clock() - tally.oldest, 3))

    def _freshness_headers(self, tally: Tally, *, failed: bool) -> dict[str, str]:
        if failed:
            return {"Cache-Control": "no-store"}
        age = int(self._age(tally))
        left = 0 if tally.fresh_until is None or tally.stale else max(0, int(tally.fresh_until - self._clock()))
        return {"Cache-Control": f"private, max-age={age + left if left else 0}", "Age": str(age)}

    async def process_result(
        self, request: Request, result: ExecutionResult, strict: bool = False
    ) -> GraphQLHTTPResponse:
        if result.errors:
            request_id = request.state.request_id
            result.errors = [presented(error, request_id) for error in result.errors]
            if any(map(is_unauthenticated, result.errors)):
                result.errors = [error for error in result.errors if is_unauthenticated(error)]
                result.data = None
        return process_result(result)

    def create_response(
        self, response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse], sub_response: Response
    ) -> Response:
        response = super().create_response(response_data, sub_response)
        if isinstance(response_data, dict) and any(_code_of(e) == "UNAUTHENTICATED" for e in _errors_of(response_data)):
            response.status_code = 401
            response.headers["WWW-Authenticate"] = INVALID_TOKEN
        return response

    def decode_json(self, data: str | bytes) -> object:
        """Decoded JSON; what is no object is refused here, where Strawberry would answer 500."""
        try:
            decoded = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as garbled:
            raise HTTPException(400, "The request body is not JSON.") from garbled
        if not isinstance(decoded, dict):
            raise HTTPException(400, "The request must be one JSON object.")
        return decoded

    def encode_json(self, data: object) -> bytes:
        return msgspec.json.encode(data)

    def is_request_allowed(self, request: Any) -> bool:
        method: HTTPMethod = request.method
        return method in ("GET", "POST")


def _errors_of(data: GraphQLHTTPResponse) -> list[Any]:
    return list(data.get("errors") or ())


def _code_of(error: Any) -> Any:
    return (error.get("extensions") or {}).get("code")
