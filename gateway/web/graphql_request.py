"""Parses GraphQL requests over HTTP: header fields, query string and body.

Follows the GraphQL over HTTP specification of September 2026. All functions are pure and independent of a framework.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.engine.documents import sha256_of_id
from gateway.upstream.http.inflate import inflate

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
COST, TIMEOUT, REQUEST_ID = "X-Gateway-Cost", "X-Gateway-Timeout", "X-Request-Id"
# The longest query string with which GraphiQL opens. Parsing a longer one costs time before the token is checked.
PAGE_QUERY_MAX = 1024
# The media types of responses. Without a preference it is the first, which older clients expect.
MEDIA_TYPES = (JSON, RESPONSE)
HTML = "text/html"
# The header fields that are used and that a page's script may set.
SCRIPT_FIELDS = (
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "traceparent",
    COST,
    REQUEST_ID,
    TIMEOUT,
)
# All header fields that are used; any others are skipped.
FIELDS = frozenset(
    name.lower().encode()
    for name in (
        *SCRIPT_FIELDS,
        "Accept-Encoding",
        "Access-Control-Request-Headers",
        "Access-Control-Request-Method",
        "Content-Length",
        "Host",
        "Origin",
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
    """413; the server drops the rest of the body, because a client that is still sending may not read a response."""
    return HTTPError(413, "BODY_TOO_LARGE", "Request body is too large.")


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
        """The SHA-256 of a persisted query: Apollo's, or an id that is sent instead of a document."""
        persisted = (self.extensions or {}).get("persistedQuery")
        digest = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
        if isinstance(digest, str):
            return sha256_of_id(digest) or digest
        document_id = self.document_id or self.doc_id
        return sha256_of_id(document_id) if document_id and not self.query else None

    @property
    def trusted_id(self) -> str | None:
        """The id of a trusted document, by any convention."""
        document_id = self.document_id or self.doc_id
        return (sha256_of_id(document_id) or document_id) if document_id else self.digest


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
    """The parameters in the body of a POST; raises HTTPError with 400 or 422."""
    try:
        try:
            return _decoder.decode(body)
        except msgspec.ValidationError as invalid:
            msgspec.json.decode(body, type=msgspec.Raw)  # the body may be malformed as well
            raise invalid_parameters(f"Request parameters are invalid: {invalid}.") from invalid
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as malformed:
        raise HTTPError(400, "BAD_REQUEST", "Request body is not valid JSON.") from malformed


def invalid_parameters(message: str) -> HTTPError:
    """422: the request is no well-formed GraphQL request, because parameters are missing or of a wrong type."""
    return HTTPError(422, "BAD_REQUEST", message)


@lru_cache(64)
def check_content_type(content_type: bytes | None) -> None:
    """Raises HTTPError with 415 unless the content type is JSON in UTF-8."""
    kind, _, parameters = (content_type or b"").decode("latin-1").partition(";")
    if kind.strip().lower() != JSON:
        raise HTTPError(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type must be {JSON}.", {"Accept-Post": JSON})
    charset = next((p.partition("=")[2] for p in parameters.split(";") if p.strip().lower().startswith("charset")), "")
    if charset.strip(' "').lower() not in ("", "utf-8", "utf8"):
        raise HTTPError(415, "UNSUPPORTED_MEDIA_TYPE", "Charset must be UTF-8.", {"Accept-Post": JSON})


def params_of_query_string(query_string: bytes) -> GraphQLParams:
    """The parameters of a GET; `variables` and `extensions` are JSON. Raises HTTPError with 400 or 422."""
    parameters = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    known = [(name, value) for name, value in parameters if name in _NAMES]
    given: dict[str, Any] = {name: value for name, value in known if value}
    if len(known) > len(dict(known)):
        # A cache or firewall in front of the gateway may have read the other one.
        raise invalid_parameters("Request parameters must not be repeated.")
    try:
        for name in ("variables", "extensions"):
            if name in given:
                given[name] = msgspec.json.decode(given[name])
        return msgspec.convert(given, GraphQLParams)
    except msgspec.ValidationError as invalid:
        raise invalid_parameters(f"Request parameters are invalid: {invalid}.") from invalid
    except (msgspec.DecodeError, RecursionError) as malformed:
        raise HTTPError(400, "BAD_REQUEST", "`variables` and `extensions` must be valid JSON.") from malformed


def asks_for_page(accept: bytes | None, query_string: bytes) -> bool:
    """Whether a GET opens GraphiQL: it names and prefers HTML, and has no GraphQL parameter."""
    if accept is None or len(query_string) > PAGE_QUERY_MAX or not _prefers_page(accept):
        return False
    return not _NAMES & dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)).keys()


@lru_cache(256)
def media_type_for(accept: bytes | None) -> str:
    """The media type that an `Accept` field prefers. Raises HTTPError with 406 if it accepts none of ours."""
    if not accept or not _weighted(accept):
        return JSON
    weight, chosen = max((_preference(accept, media_type), media_type) for media_type in MEDIA_TYPES)
    if not weight[0]:
        raise HTTPError(406, "NOT_ACCEPTABLE", f"Accept must allow {RESPONSE} or {JSON}.")
    return chosen


@lru_cache(256)
def _prefers_page(accept: bytes) -> bool:
    named = {name: weight for name, weight, _ in _weighted(accept)}.get(HTML, 0.0)
    return named > 0 and named >= max(_preference(accept, media_type)[0] for media_type in MEDIA_TYPES)


def _preference(accept: bytes, media_type: str) -> tuple[float, int, int, int]:
    """How much a field prefers a media type: by weight, then by the range that names it, then by position.

    The most specific range that matches the type decides (RFC 9110, 12.5.1).
    """
    ranges = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    default = -MEDIA_TYPES.index(media_type)
    matching = [(ranges.index(name), weight, -at) for name, weight, at in _weighted(accept) if name in ranges]
    specificity, weight, position = max(matching, default=(0, 0.0, 0))
    return weight, specificity, position, default


def _weighted(field: bytes) -> list[tuple[str, float, int]]:
    """The members of a list field in lower case without parameters, with their weights and positions."""
    members = []
    for position, member in enumerate(_MEMBER.findall(field.decode("latin-1").lower())):
        name, _, rest = member.partition(";")
        parameters = (part.strip(" \t") for part in _PARAMETER.findall(rest))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        if name.strip(" \t"):  # empty members are ignored
            members.append((name.strip(" \t"), _weight(weight), position))
    return members


def preferred_coding(accept_encoding: bytes, offered: Sequence[str]) -> tuple[str | None, bool]:
    """The coding that `Accept-Encoding` prefers of those offered, the first ones otherwise, and whether it is required.

    It is None if no offered coding is accepted, or if `identity` (no coding) is preferred. It is required if `identity`
    is not accepted.
    """
    weights = {"gzip" if name == "x-gzip" else name: weight for name, weight, _ in _weighted(accept_encoding)}
    others = weights.get("*", 0.0)
    weight, _, coding = max(((weights.get(name, others), -at, name) for at, name in enumerate(offered)))
    if not weight or weight < weights.get("identity", others):
        return None, False
    return coding, not weights.get("identity", weights.get("*", 1.0))


@lru_cache(64)
def is_compressed(content_encoding: bytes | None) -> bool:
    """Whether a request body is compressed with gzip. Raises HTTPError with 415 for any other coding."""
    codings = [name for name, _, _ in _weighted(content_encoding or b"") if name != "identity"]
    if codings and codings not in (["gzip"], ["x-gzip"]):
        message = "Content-Encoding must be gzip or identity."
        raise HTTPError(415, "UNSUPPORTED_MEDIA_TYPE", message, {"Accept-Encoding": "gzip"})
    return bool(codings)


def decompressed(body: bytes, bytes_max: int) -> bytes:
    """A gzip body, decompressed. Raises HTTPError with 400, or with 413 if it has more than `bytes_max` bytes.

    Another server may have read what follows the last member, so only zeros may.
    """
    try:
        plain = inflate(body, 16 + zlib.MAX_WBITS, bytes_max, may_be_padded=False)
    except zlib.error as malformed:
        raise HTTPError(400, "BAD_REQUEST", "Request body is not valid gzip.") from malformed
    if len(plain) > bytes_max:
        raise too_large()
    return plain


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


# The members of a list, and the parts of a member; either separator may be within quotes.
# Quotes that are not closed reach to the end; otherwise the search would begin again at each of them.
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.|\\\Z)*(?:"|\Z))+', re.DOTALL)
_PARAMETER = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.|\\\Z)*(?:"|\Z))+', re.DOTALL)
_WEIGHT = re.compile(r"0(\.[0-9]{0,9})?|1(\.0{0,9})?")
_SECONDS = re.compile(rb"\d{1,6}(\.\d{1,6})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# The token68 of RFC 9110, which excludes line breaks from the header that is sent upstream.
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
# Version 00 of W3C Trace Context; ids of zeros only are invalid.
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
