"""Reading GraphQL requests and choosing the media type of responses, by the specification."""

from __future__ import annotations

import gzip
import time
import zlib
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web.graphql_request import (
    JSON,
    RESPONSE,
    HTTPError,
    asks_for_page,
    check_content_type,
    decompressed,
    is_compressed,
    media_type_for,
    params_of_post,
    params_of_query_string,
    preferred_coding,
)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("application/graphql-response+json", RESPONSE),
        ("application/graphql-response+json, application/json;q=0.9", RESPONSE),
        ("application/json, application/graphql-response+json;q=0.9", JSON),
        ("text/html, application/graphql-response+json;q=0.1", RESPONSE),
        ("APPLICATION/JSON; charset=utf-8", JSON),
        ("application/json;q=0, */*", RESPONSE),
        ("application/json;q=0, application/*", RESPONSE),
        ("application/graphql-response+json;q=0, */*", JSON),
        ("application/*;q=0, */*", None),
        ("*/*;q=0, application/json;q=0.1", JSON),
        ("application/json;q=0.5, */*", RESPONSE),
        ("application/json;q=0.5, application/*;q=0.9, */*", RESPONSE),
        ("application/json, */*", JSON),
        ("*/*, application/graphql-response+json", RESPONSE),
        ("application/json ; Q=0.1 , application/graphql-response+json;charset=utf-8; q=0.2", RESPONSE),
        ('application/json;x="a,b;q=0", text/html', JSON),
        ('text/html;x="application/json"', None),
        ("application/json;q=0.001, application/graphql-response+json;q=0", JSON),
        (", ,application/json,", JSON),
        (" , ,", JSON),
        ("application/jsonx, application", None),
        ("text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=nonsense", None),
    ],
)
def test_the_preferred_media_type_is_chosen(accept, chosen):
    """By the weight of the range that fits best, then by order; 406 if none is acceptable."""
    if chosen is None:
        with pytest.raises(HTTPError) as rejected:
            media_type_for(accept and accept.encode())
        assert rejected.value.status == 406
    else:
        assert media_type_for(accept and accept.encode()) == chosen


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=latin-1",
    ],
)
def test_content_types_of_forms_are_rejected(kind):
    """Only JSON in UTF-8 is accepted: requests that need no preflight never get in."""
    with pytest.raises(HTTPError) as rejected:
        check_content_type(kind and kind.encode())
    assert rejected.value.status == 415


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f'{{"query": "{text}"}}'.encode()))
def test_any_body_is_parsed_or_rejected(body):
    """For any bytes, there is a request or an error with a code."""
    try:
        params_of_post(body)
    except HTTPError as rejected:
        assert rejected.status in (400, 422)  # noqa: PT017 - either way is right


@given(
    st.dictionaries(
        st.sampled_from(["query", "variables", "extensions", "operationName", "x"]), st.text(max_size=50)
    ).map(lambda parameters: urlencode(parameters).encode())
    | st.binary(max_size=100)
)
def test_any_query_string_is_parsed_or_rejected(query_string):
    """The same for GET."""
    try:
        params_of_query_string(query_string)
    except HTTPError as rejected:
        assert rejected.status in (400, 422)  # noqa: PT017 - either way is right


@pytest.mark.parametrize(
    "read",
    [
        media_type_for,
        is_compressed,
        lambda field: asks_for_page(field, b""),
        lambda field: preferred_coding(field, ("zstd", "gzip")),
    ],
)
@pytest.mark.parametrize(
    "field", [b'"' + rb"\"" * 16_000, b'"' * 32_000, b"a," * 16_000, b'a;"' + rb"\"" * 16_000 + b"\\", b";" * 32_000]
)
def test_reading_a_field_takes_linear_time(read, field):
    """Quotes that are never closed don't make it quadratic, which would take seconds."""
    seconds = []
    for _ in range(3):  # a collection of garbage, which other tests left, may count
        began = time.process_time()
        with suppress(HTTPError):
            read(field)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.5


def test_a_page_is_for_browsers_without_a_query():
    """HTML is served for GET alone, if it is accepted and there is no query."""
    assert asks_for_page(b"text/html", b"")
    assert asks_for_page(b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", b"")
    assert not asks_for_page(b"application/json", b"")
    assert not asks_for_page(b"*/*", b"")
    assert not asks_for_page(b"text/html;q=0, */*", b"")
    assert not asks_for_page(b"application/json, text/html;q=0.5", b"")
    assert not asks_for_page(b"text/html", b"query=%7Ba%7D")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"query": "{a}", "variables": {}, "x": 1}', None),
        (b"{}", None),
        (b"[]", 422),
        (b'{"query": 1}', 422),
        (b'{"variables": []}', 422),
        (b'{"query": 1', 400),
        (b'{"query": "\xff"}', 400),
        (b"", 400),
        (b"[" * 100_000, 400),
    ],
)
def test_a_body_is_a_json_object_with_parameters_of_their_types(body, status):
    """400 if it is not JSON, even if a parameter has a wrong type as well, and 422 if it has other types."""
    if status is None:
        params_of_post(body)
        return
    with pytest.raises(HTTPError) as rejected:
        params_of_post(body)
    assert (rejected.value.status, rejected.value.code) == (status, "BAD_REQUEST")
    assert rejected.value.extensions == {"retryable": False}


@pytest.mark.parametrize(
    ("coding", "compressed"),
    [(None, False), (b"", False), (b"identity", False), (b"gzip", True), (b"X-GZIP", True), (b"identity, gzip", True)],
)
def test_a_body_may_be_compressed_with_gzip(coding, compressed):
    """Under either name."""
    assert is_compressed(coding) is compressed


@pytest.mark.parametrize("coding", [b"br", b"gzip, gzip", b"deflate", b"gzip, br"])
def test_any_other_coding_of_a_body_is_rejected(coding):
    """415, with the coding that is accepted."""
    with pytest.raises(HTTPError) as rejected:
        is_compressed(coding)
    assert (rejected.value.status, rejected.value.headers) == (415, {"Accept-Encoding": "gzip"})


def test_a_compressed_body_is_limited_by_its_decompressed_size():
    """The limit itself is allowed; what is not gzip is rejected."""
    body = gzip.compress(b"x" * 1000)
    assert decompressed(body, 1000) == b"x" * 1000
    with pytest.raises(HTTPError) as too_large:
        decompressed(body, 999)
    assert (too_large.value.status, too_large.value.code) == (413, "BODY_TOO_LARGE")
    for malformed in (b"x", body[:-9], zlib.compress(b"x"), body + b"x"):
        with pytest.raises(HTTPError) as rejected:
            decompressed(malformed, 1000)
        assert (rejected.value.status, rejected.value.code) == (400, "BAD_REQUEST")
