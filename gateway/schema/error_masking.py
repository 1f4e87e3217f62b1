"""Masks errors for clients: known errors keep their message and code, bugs become `INTERNAL`."""

from __future__ import annotations

from graphql import GraphQLError, GraphQLSyntaxError

from gateway.errors import GatewayError
from gateway.telemetry.logs import get_logger

log = get_logger("gateway.schema")


def presented(error: GraphQLError, request_id: str) -> GraphQLError:
    """The error as the client sees it. Unknown errors are logged and masked."""
    cause = error.original_error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, GatewayError):
        return _with(error, str(cause), cause.extensions())
    if cause is None or isinstance(cause, GraphQLError):
        return _with(error, error.message, {"code": _code_of(error), "retryable": False, **(error.extensions or {})})
    log.error("unexpected error", request_id=request_id, path=_path(error), kind=type(cause).__name__, exc_info=cause)
    return _with(error, "Internal error.", {"code": "INTERNAL", "retryable": False, "requestId": request_id})


def is_unauthenticated(error: GraphQLError) -> bool:
    """Whether this error makes the whole response a 401."""
    return (error.extensions or {}).get("code") == "UNAUTHENTICATED"


def _code_of(error: GraphQLError) -> str:
    if isinstance(error, GraphQLSyntaxError):
        return "GRAPHQL_PARSE_FAILED"
    # Validation errors have no path. Execution errors without a cause are about invalid values.
    return "BAD_USER_INPUT" if error.path else "GRAPHQL_VALIDATION_FAILED"


def _with(error: GraphQLError, message: str, extensions: dict[str, object]) -> GraphQLError:
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=extensions,
    )


def _path(error: GraphQLError) -> str:
    return ".".join(map(str, error.path or ()))
