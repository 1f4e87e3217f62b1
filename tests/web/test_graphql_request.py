"""Reading GraphQL requests and choosing the form of answers, by the specification."""

from __future__ import annotations

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
    media_type_for,
    params_of_post,
    params_of_query_string,
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
        ("application/json;q=0, */*", JSON),
        ("text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=nonsense", None),
    ],
)
def test_the_preferred_form_is_chosen(accept, chosen):
    """By weight, then by order; nothing that suits is 406."""
    if chosen is None:
        with pytest.raises(HTTPError) as refused:
            media_type_for(accept and accept.encode())
        assert refused.value.status == 406
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
def test_what_a_form_could_send_is_refused(kind):
    """Only JSON in UTF-8 is taken: what a page could send without a preflight request never gets in."""
    with pytest.raises(HTTPError) as refused:
        check_content_type(kind and kind.encode())
    assert refused.value.status == 415


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f'{{"query": "{text}"}}'.encode()))
def test_any_body_is_read_or_refused(body):
    """Whatever the bytes, there is a request or a coded refusal."""
    try:
        params_of_post(body)
    except HTTPError as refused:
        assert refused.status == 400  # noqa: PT017 - either way is right


@given(
    st.dictionaries(
        st.sampled_from(["query", "variables", "extensions", "operationName", "x"]), st.text(max_size=50)
    ).map(lambda parameters: urlencode(parameters).encode())
    | st.binary(max_size=100)
)
def test_any_query_string_is_read_or_refused(query_string):
    """The same for GET."""
    try:
        params_of_query_string(query_string)
    except HTTPError as refused:
        assert refused.status == 400  # noqa: PT017 - either way is right


def test_a_page_is_for_browsers_without_a_query():
    """HTML is given for GET alone, if it is wanted and nothing is asked."""
    assert asks_for_page(b"text/html", b"")
    assert not asks_for_page(b"application/json", b"")
    assert not asks_for_page(b"text/html", b"query=%7Ba%7D")
