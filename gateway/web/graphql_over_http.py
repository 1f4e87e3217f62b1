"""GraphQL over HTTP, the reading side: from a request's parts to what is asked for, and which form of answer will do.

Follows the GraphQL over HTTP specification (draft). Nothing here does I/O or knows a framework.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
# Bytes of the query string of a browser that opens the page: it needs none, and a long one costs time before a token.
PAGE_QUERY_MAX = 1024
# As the draft's watershed has it, a client that does not say gets plain JSON.
ANSWERS = {JSON: JSON, RESPONSE: RESPONSE, "application/*": JSON, "*/*": JSON}


class Refused(Exception):
    """A request that is not GraphQL over HTTP; `headers` go with the answer."""

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


class Asked(msgspec.Struct):
    """The parameters of a GraphQL request."""

    query: str | None = None
    variables: dict[str, Any] | None = None
    operation_name: str | None = msgspec.field(default=None, name="operationName")
    extensions: dict[str, Any] | None = None
    # How clients name a trusted document: the draft and Relay's convention.
    document_id: str | None = msgspec.field(default=None, name="documentId")
    doc_id: str | None = None

    def __post_init__(self) -> None:
        # What is empty is absent, for everybody who reads it later.
        self.query = self.query or None
        self.operation_name = self.operation_name or None
        self.document_id = self.document_id or None
        self.doc_id = self.doc_id or None

    @property
    def digest(self) -> str | None:
        """The SHA-256 that Apollo's automatic persisted queries send."""
        persisted = (self.extensions or {}).get("persistedQuery")
        digest = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
        return digest if isinstance(digest, str) else None

    @property
    def trusted_id(self) -> str | None:
        return self.document_id or self.doc_id or self.digest


_decoder = msgspec.json.Decoder(Asked)


def asked_by_post(content_type: str | None, body: bytes) -> Asked:
    """The parameters of a POST; raises Refused with 415 or 400."""
    kind, _, parameters = (content_type or "").partition(";")
    if kind.strip().lower() != JSON:
        raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", f"A POST must be {JSON}.", {"Accept-Post": JSON})
    charset = next((p.partition("=")[2] for p in parameters.split(";") if p.strip().lower().startswith("charset")), "")
    if charset.strip(' "').lower() not in ("", "utf-8", "utf8"):
        raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", "The request must be UTF-8.")
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as wrong:
        raise Refused(400, "BAD_REQUEST", f"The request's parameters are wrong: {wrong}.") from wrong
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as garbled:
        raise Refused(400, "BAD_REQUEST", "The request body is not JSON.") from garbled


def asked_by_get(parameters: Mapping[str, str]) -> Asked:
    """The parameters of a GET; `variables` and `extensions` are JSON."""
    given: dict[str, Any] = {name: value for name, value in parameters.items() if name in _NAMES and value}
    try:
        for name in ("variables", "extensions"):
            if name in given:
                given[name] = msgspec.json.decode(given[name])
        return msgspec.convert(given, Asked)
    except (msgspec.MsgspecError, RecursionError) as wrong:
        raise Refused(400, "BAD_REQUEST", "The request's parameters are wrong.") from wrong


def asks_for_page(method: str, accept: str | None, query_string: bytes) -> bool:
    """A browser that opens the endpoint: GET, wants HTML, carries neither a query nor the name of one."""
    if method != "GET" or "text/html" not in (accept or "") or len(query_string) > PAGE_QUERY_MAX:
        return False
    return not _NAMES & dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)).keys()


def media_type_for(accept: str | None) -> str:
    """The form of answer that an Accept header prefers; raises Refused with 406 where none of ours will do."""
    if not accept or not accept.strip():
        return JSON
    wishes: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept.split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        if kind in ANSWERS and (weight := _weight(quality)) > 0:
            wishes.append((-weight, place, kind))
    if not wishes:
        raise Refused(406, "NOT_ACCEPTABLE", f"Answers are {RESPONSE} or {JSON}.")
    return ANSWERS[min(wishes)[2]]


def _weight(text: str) -> float:
    """A quality as RFC 9110 writes it, some more digits allowed; what is none refuses."""
    return float(text) if _WEIGHT.fullmatch(text) else 0.0


_WEIGHT = re.compile(r"0(\.[0-9]{0,9})?|1(\.0{0,9})?")
_NAMES = frozenset(field.encode_name for field in msgspec.structs.fields(Asked))
