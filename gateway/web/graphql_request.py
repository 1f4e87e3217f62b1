"""Parses GraphQL requests over HTTP: header fields, query string and body.

Follows the GraphQL over HTTP specification (draft). All functions are pure and independent of a framework.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
COST, TIMEOUT, REQUEST_ID = "X-Gateway-Cost", "X-Gateway-Timeout", "X-Request-Id"
# The longest query string with which GraphiQL opens. Parsing a longer one costs time before the token is checked.
PAGE_QUERY_MAX = 1024
# Without a preference the response is plain JSON, as before the draft's watershed.
MEDIA_TYPES = {JSON: JSON, RESPONSE: RESPONSE, "application/*": JSON, "*/*": JSON}
# The header fields that are used; all others are skipped.
FIELDS = frozenset(
    name.lower().encode()
    for name in (
        "Accept",
        "Accept-Encoding",
        "Access-Control-Request-Method",
        "Authorization",
        "Content-Length",
        "Content-Type",
        "Host",
        "Origin",
        "traceparent",
        COST,
        REQUEST_ID,
        TIMEOUT,
    )
)
RequestFields = Mapping[bytes, bytes]


class HTTPError(Exception):
    """A request that is rejected with a status and one coded error; `headers` are added to the response."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}
        self.extensions = {"retryable": False, **(extensions or {})}


def too_large() -> HTTPError:
    """413; the connection is closed without reading the rest of the body."""
    return HTTPError(413, "BODY_TOO_LARGE", "Request body is too large.", {"Connection": "close"})


class GraphQLParams(msgspec.Struct):
    """The parameters of a GraphQL request. Empty texts count as missing."""

    query: str | None = None
    variables: dict[str, Any] | None = None
    operation_name: str | None = msgspec.field(default=None, name="operationName")
    extensions: dict[str, Any] | None = None
    # The id of a trusted document, by the draft and by Relay's convention.
    document_id: str | None = msgspec.field(default=None, name="documentId")
    doc_id: str | None = None

    def __post_init__(self) -> None:
        self.query = self.query or None
        self.operation_name = self.operation_name or None
        self.document_id = self.document_id or None
        self.doc_id = self.doc_id or None

    @property
    def digest(self) -> str | None:
        """The SHA-256 of Apollo's automatic persisted queries."""
        persisted = (self.extensions or {}).get("persistedQuery")
        digest = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
        return digest if isinstance(digest, str) else None

    @property
    def trusted_id(self) -> str | None:
        """The id of a trusted document, by any convention."""
        return self.document_id or self.doc_id or self.digest


_NAMES = frozenset(field.encode_name for field in msgspec.structs.fields(GraphQLParams))
_decoder = msgspec.json.Decoder(GraphQLParams)


def fields_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The header fields that are used, by name. Repeated fields are joined to a list, as RFC 9110 requires.

    So a repeated field that can't be a list, such as `Host`, is invalid.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in FIELDS:
            found[name] = found[name] + b", " + value if name in found else value
    return found


def params_of_post(body: bytes) -> GraphQLParams:
    """The parameters in the body of a POST; raises HTTPError with 400."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as invalid:
        raise HTTPError(400, "BAD_REQUEST", f"Request parameters are invalid: {invalid}.") from invalid
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as malformed:
        raise HTTPError(400, "BAD_REQUEST", "Request body is not valid JSON.") from malformed


@lru_cache(64)
def check_content_type(content_type: bytes | None) -> None:
    """Raises HTTPError with 415 unless the content type is JSON in UTF-8."""
    kind, _, parameters = (content_type or b"").decode("latin-1").partition(";")
    if kind.strip().lower() != JSON:
        raise HTTPError(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type must be {JSON}.", {"Accept-Post": JSON})
    charset = next((p.partition("=")[2] for p in parameters.split(";") if p.strip().lower().startswith("charset")), "")
    if charset.strip(' "').lower() not in ("", "utf-8", "utf8"):
        raise HTTPError(415, "UNSUPPORTED_MEDIA_TYPE", "Charset must be UTF-8.")


def params_of_query_string(query_string: bytes) -> GraphQLParams:
    """The parameters of a GET; `variables` and `extensions` are JSON. Raises HTTPError with 400."""
    parameters = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    given: dict[str, Any] = {name: value for name, value in dict(parameters).items() if name in _NAMES and value}
    try:
        for name in ("variables", "extensions"):
            if name in given:
                given[name] = msgspec.json.decode(given[name])
        return msgspec.convert(given, GraphQLParams)
    except (msgspec.MsgspecError, RecursionError) as invalid:
        raise HTTPError(400, "BAD_REQUEST", "Request parameters are invalid.") from invalid


def asks_for_page(accept: bytes | None, query_string: bytes) -> bool:
    """Whether a GET opens GraphiQL: it accepts HTML and has no GraphQL parameter."""
    if accept is None or b"text/html" not in accept or len(query_string) > PAGE_QUERY_MAX:
        return False
    return not _NAMES & dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)).keys()


@lru_cache(256)
def media_type_for(accept: bytes | None) -> str:
    """The media type that an `Accept` field prefers. Raises HTTPError with 406 if it accepts none of ours."""
    if not accept or not accept.strip():
        return JSON
    accepted: list[tuple[float, int, str]] = []
    for position, part in enumerate(accept.decode("latin-1").split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        if kind in MEDIA_TYPES and (weight := _weight(quality)) > 0:
            accepted.append((-weight, position, kind))
    if not accepted:
        raise HTTPError(406, "NOT_ACCEPTABLE", f"Accept must allow {RESPONSE} or {JSON}.")
    return MEDIA_TYPES[min(accepted)[2]]


@lru_cache(64)
def accepts_gzip(accept_encoding: bytes | None) -> bool:
    """Whether `Accept-Encoding` allows gzip, by its name or by `*`."""
    qualities: dict[str, str] = {}
    for entry in (accept_encoding or b"").decode("latin-1").lower().split(","):
        coding, _, parameters = (part.strip() for part in entry.partition(";"))
        qualities[coding] = parameters.replace(" ", "")
    quality = qualities.get("gzip", qualities.get("*", "q=0"))
    return not re.fullmatch(r"q=0(\.0*)?", quality)


def bearer_token(authorization: bytes | None) -> str | None:
    """The token of an `Authorization` field; None unless the field is one bearer token."""
    bearer = None if authorization is None else _BEARER.fullmatch(authorization)
    return None if bearer is None else bearer[1].decode("ascii")


def valid_request_id(value: bytes | None) -> str | None:
    """The client's request id, if it is safe to log and to send back."""
    return value.decode("ascii") if value is not None and _REQUEST_ID.fullmatch(value) else None


def valid_traceparent(value: bytes | None) -> str | None:
    """The client's W3C trace context, if it is valid. It is forwarded to the fleet API."""
    return value.decode("ascii") if value is not None and _TRACEPARENT.fullmatch(value) else None


def timeout_of(value: bytes) -> float:
    """The seconds that an operation may take. Raises HTTPError with 400."""
    if not _SECONDS.fullmatch(value.strip()) or not float(value):
        raise HTTPError(400, "BAD_REQUEST", f"{TIMEOUT} must be a number of seconds above 0, such as 2.5.")
    return float(value)


def cost_mode_of(value: bytes) -> str:
    """The cost mode of a request: `report` or `validate`. Raises HTTPError with 400."""
    if value not in (b"report", b"validate"):
        raise HTTPError(400, "BAD_REQUEST", f"{COST} must be `report` or `validate`.")
    return value.decode("ascii")


def _weight(text: str) -> float:
    """A quality value of RFC 9110, with some more digits allowed; anything else counts as 0."""
    return float(text) if _WEIGHT.fullmatch(text) else 0.0


_WEIGHT = re.compile(r"0(\.[0-9]{0,9})?|1(\.0{0,9})?")
_SECONDS = re.compile(rb"\d{1,6}(\.\d{1,6})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# The token68 of RFC 9110, which excludes line breaks from the header that is sent upstream.
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
# Version 00 of W3C Trace Context; ids of zeros only are invalid.
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
