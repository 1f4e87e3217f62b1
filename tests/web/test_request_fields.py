"""Header fields of a request: how they are parsed, and which are ignored."""

from __future__ import annotations

import pytest

from gateway.web.graphql_request import (
    PAGE_QUERY_MAX,
    GraphQLParams,
    HTTPError,
    asks_for_page,
    bearer_token,
    check_content_type,
    cost_mode_of,
    fields_of,
    params_of_query_string,
    preferred_coding,
    timeout_of,
    valid_request_id,
    valid_traceparent,
)

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_fields_of_one_name_are_one_list():
    """In their order; fields that decide nothing are left out."""
    headers = [(b"accept", b"a"), (b"cookie", b"x"), (b"host", b"one"), (b"accept", b"b"), (b"host", b"two")]
    assert fields_of(headers) == {b"accept": b"a, b", b"host": b"one, two"}


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [(b"a", True), (b"A.b_c-9", True), (b"a" * 64, True), (b"a" * 65, False), (b"", False), (b"a b", False),
     (b'a"', False), (b"a, b", False), ("ä".encode(), False), (None, False)],
)  # fmt: skip
def test_a_request_id_is_taken_if_it_is_safe_to_log(value, is_valid):
    """Letters, digits and three marks, 64 at most."""
    assert valid_request_id(value) == (value.decode() if is_valid else None)


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [(TRACE, True), (TRACE.upper(), False), (TRACE + b"-x", False), (b"ff" + TRACE[2:], False), (TRACE[:-1], False),
     (b"00-" + b"0" * 32 + TRACE[35:], False), (TRACE[:36] + b"0" * 16 + b"-01", False),
     (b"00-" + b"0" * 31 + b"1" + TRACE[35:], True), (TRACE + b", " + TRACE, False), (None, False)],
)  # fmt: skip
def test_a_trace_is_taken_if_it_is_valid(value, is_valid):
    """Version 00 of W3C Trace Context, with ids that are not all zeros."""
    assert valid_traceparent(value) == (value.decode() if is_valid else None)


@pytest.mark.parametrize(
    ("value", "token"),
    [(b"Bearer abc", "abc"), (b"bEARER   a.b-c_~+/=", "a.b-c_~+/="), (b"Bearer a b", None), (b"Bearer ", None),
     (b"Bearer a, Bearer b", None), (b"Basic abc", None), (b"abc", None), (b"Bearer a=b", None), (None, None)],
)  # fmt: skip
def test_a_bearer_token_is_one_token68(value, token):
    """In any case of the scheme; two fields are no token."""
    assert bearer_token(value) == token


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"2.5", 2.5), (b" 30 ", 30.0), (b"0.000001", 1e-6), (b"999999", 999999.0)]
)
def test_a_timeout_is_a_number_of_seconds(value, seconds):
    """With six digits before and behind the point."""
    assert timeout_of(value) == seconds


@pytest.mark.parametrize("value", [b"0", b"0.0", b"", b"-1", b"1e3", b"inf", b"1234567", b"1.1234567", b"1, 2", b"x"])
def test_any_other_timeout_is_rejected(value):
    """400, with the valid form."""
    with pytest.raises(HTTPError) as rejected:
        timeout_of(value)
    assert (rejected.value.status, rejected.value.code) == (400, "BAD_REQUEST")
    assert "X-Gateway-Timeout" in str(rejected.value)


def test_cost_is_reported_or_validated():
    """Any other value is rejected."""
    assert (cost_mode_of(b"report"), cost_mode_of(b"validate")) == ("report", "validate")
    with pytest.raises(HTTPError) as rejected:
        cost_mode_of(b"Report")
    assert rejected.value.status == 400


BOTH = ("zstd", "gzip")


@pytest.mark.parametrize(
    ("value", "of_both", "of_gzip"),
    [
        # The server's order decides between equal weights.
        (b"gzip, zstd", "zstd", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd", "gzip"),
        (b"gzip;q=0.9, zstd;q=0.8", "gzip", "gzip"),
        (b"GZIP;q=0.5", "gzip", "gzip"),
        (b"x-gzip", "gzip", "gzip"),
        (b"gzip;q=0.001", "gzip", "gzip"),
        (b"zstd", "zstd", None),
        (b"zstd, gzip;q=0", "zstd", None),
        # A star stands for all that are not named, `identity` among them.
        (b"*", "zstd", "gzip"),
        (b"*;q=0.5, gzip", "gzip", "gzip"),
        (b"zstd;q=0.2, *;q=0.5", "gzip", "gzip"),
        (b"gzip;q=0.2, *;q=0.5", "zstd", None),
        (b"*, gzip;q=0", "zstd", None),
        (b"*;q=0", None, None),
        (b"*;q=0, gzip", "gzip", "gzip"),
        (b"identity", None, None),
        (b"identity, gzip", "gzip", "gzip"),
        (b"identity, gzip;q=0.9", None, None),
        (b"identity;q=0.5, gzip;q=0.9", "gzip", "gzip"),
        (b"identity;q=0", None, None),
        (b"identity;q=0, gzip", "gzip", "gzip"),
        # Nothing that is not a weight or a name counts.
        (b"", None, None),
        (b",", None, None),
        (b"br", None, None),
        (b"deflate, br", None, None),
        (b"gzip;q=0", None, None),
        (b"gzip; q=0.000", None, None),
        (b"gzip;q=x", None, None),
        (b"gzip;q=-1", None, None),
        (b"gzip;q=2", None, None),
        (b"gzipped", None, None),
        (b"zstd gzip", None, None),
        (b"x-zstd", None, None),
        (b"\xff, gzip", "gzip", "gzip"),
    ],
)
def test_the_preferred_coding_is_chosen(value, of_both, of_gzip):
    """By weight, then by the server's preference; none unless the client names it or a star."""
    assert preferred_coding(value, BOTH)[0] == of_both
    assert preferred_coding(value, ("gzip",))[0] == of_gzip


@pytest.mark.parametrize(
    ("value", "is_required"),
    [(b"gzip", False), (b"gzip, *", False), (b"gzip, *;q=0", True), (b"gzip, identity;q=0", True),
     (b"gzip, identity;q=0.1, *;q=0", False), (b"gzip, *;q=0.1", False)],
)  # fmt: skip
def test_a_coding_is_required_without_identity(value, is_required):
    """Only where the client excludes it."""
    assert preferred_coding(value, ("gzip",)) == ("gzip", is_required)


@pytest.mark.parametrize(
    ("value", "is_json"),
    [(b"application/json", True), (b"Application/JSON; charset=UTF-8", True), (b'application/json;charset="utf-8"', True),
     (b"application/json; charset=utf8; x=y", True), (b"application/json; x=y", True), (b"application/graphql", False),
     (b"application/json, text/plain", False), (b"application/json; charset=utf-16", False), (b"", False), (None, False)],
)  # fmt: skip
def test_a_body_is_json_in_utf_8(value, is_json):
    """Any other type is 415."""
    if is_json:
        check_content_type(value)
        return
    with pytest.raises(HTTPError) as rejected:
        check_content_type(value)
    assert rejected.value.status == 415


@pytest.mark.parametrize(
    ("query_string", "opens"),
    [(b"", True), (b"x=y", True), (b"query=", False), (b"operationName=A", False), (b"documentId=1", False),
     (b"x" * PAGE_QUERY_MAX, True), (b"x" * (PAGE_QUERY_MAX + 1), False)],
)  # fmt: skip
def test_a_browser_opens_the_page_without_a_query(query_string, opens):
    """Nor with the name of one, nor with a query string that would take time to parse."""
    assert asks_for_page(b"text/html,*/*;q=0.8", query_string) is opens
    assert not asks_for_page(b"application/json", query_string)
    assert not asks_for_page(None, query_string)


def test_a_query_string_holds_json_and_text():
    """Empty parameters count as absent, and others are ignored, even if they are repeated."""
    params = params_of_query_string(b"x=1&query=%7Bb%7D&variables=%7B%22n%22:1%7D&operationName=&x=y&extensions=")
    assert (params.query, params.variables, params.operation_name, params.extensions) == ("{b}", {"n": 1}, None, None)


@pytest.mark.parametrize(
    "query_string",
    [
        b"query=a&query=b",
        b"query=a&query=a",
        b"query=&query=a",
        b"query=a&x=1&%71uery=b",
        b"query=a&query",
        *(b"query=a&%b=1&%b=2" % (name, name) for name in (b"operationName", b"documentId", b"doc_id")),
        *(b"query=a&%b=%%7B%%7D&%b=%%7B%%7D" % (name, name) for name in (b"variables", b"extensions")),
    ],
)
def test_a_repeated_parameter_is_rejected(query_string):
    """Which of the two is meant is ambiguous."""
    with pytest.raises(HTTPError, match="repeated") as rejected:
        params_of_query_string(query_string)
    assert (rejected.value.status, rejected.value.code) == (422, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("query_string", "status"), [(b"variables=%7B", 400), (b"variables=5", 422), (b"extensions=%5B%5D", 422)]
)
def test_a_query_string_with_other_json_is_rejected(query_string, status):
    """Variables and extensions are objects."""
    with pytest.raises(HTTPError) as rejected:
        params_of_query_string(query_string)
    assert rejected.value.status == status


@pytest.mark.parametrize(
    ("params", "trusted_id", "digest"),
    [
        ({}, None, None),
        ({"document_id": "a", "doc_id": "b"}, "a", None),
        ({"document_id": "", "doc_id": "b"}, "b", None),
        ({"extensions": {"persistedQuery": {"sha256Hash": "c"}}}, "c", "c"),
        ({"extensions": {"persistedQuery": {"sha256Hash": 5}}}, None, None),
        ({"extensions": {"persistedQuery": "c"}}, None, None),
        ({"doc_id": "b", "extensions": {"persistedQuery": {"sha256Hash": "c"}}}, "b", "c"),
        ({"document_id": "sha256:" + "A" * 64}, "a" * 64, "a" * 64),
        ({"doc_id": "b" * 64}, "b" * 64, "b" * 64),
        ({"doc_id": "b" * 64, "query": "{a}"}, "b" * 64, None),
        ({"extensions": {"persistedQuery": {"sha256Hash": "C" * 64}}}, "c" * 64, "c" * 64),
    ],
)
def test_a_document_has_a_name_by_one_of_three_conventions(params, trusted_id, digest):
    """The draft's comes first, then Relay's, then Apollo's hash."""
    given = GraphQLParams(**params)
    assert (given.trusted_id, given.digest) == (trusted_id, digest)
