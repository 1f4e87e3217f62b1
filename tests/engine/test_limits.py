"""Limits on the size of documents."""

from __future__ import annotations

from dataclasses import fields

import pytest
from graphql import parse

from gateway.engine.document_limits import DocumentLimits, LimitExceeded, check

DEEP = "{ a { b ...F } } fragment F on T { c { d } }"
# The limit, a document, and its size.
SIZES = [
    ("depth", "{ a }", 1),
    ("depth", "{ a { b { c } } d { e } }", 3),
    ("depth", DEEP, 3),
    ("depth", "{ a { ... { ... on T { b } } } }", 2),
    ("depth", "{ a } fragment F on T { a { b { c { d } } } }", 4),
    ("depth", "{ ...F } fragment F on T { a { ...F } }", 1),
    ("depth", "{ a { ...Missing } }", 1),
    ("root_fields", "{ a b c }", 3),
    ("root_fields", "{ a ...F ... { b } } fragment F on T { c ...G } fragment G on T { d e { f } }", 5),
    ("root_fields", "{ ...F ...F } fragment F on T { a b }", 4),
    ("root_fields", "query A { a } query B { a b }", 2),
    ("root_fields", "{ a } fragment F on T { a b c }", 1),
    ("aliases", "{ x: a { y: b z: c d } ...F ...F } fragment F on T { e: f }", 5),
    ("aliases", "{ a } fragment F on T { x: a ...G } fragment G on T { y: a }", 2),
    ("directives", "query($v: Int @d) @d { a @d ... @d { b @d } ...F @d } fragment F on T @d { c @d }", 8),
    ("directives", "{ a } fragment F on T @d { ...G @d } fragment G on T @d { b }", 3),
    ("overlaps", "{ a b c { a b } }", 5),
    ("overlaps", "{ a a a }", 1 + 2 + 3),
    ("overlaps", "{ a: b a: c }", 3),
    ("overlaps", "{ a: a b: a }", 2),
    ("overlaps", "{ x { a } x { a } }", 3 + 3),
    ("overlaps", "{ x { a } y { a } }", 2 + 2),
    ("overlaps", "{ ... { a } ... { a } }", 1 + 1 + 3),
    ("overlaps", "{ ...F ...F } fragment F on T { a }", 3 + 1),
    ("overlaps", "{ ...F ...G } fragment F on T { a } fragment G on T { a }", 3 + 3),
    ("overlaps", "{ x { ...F } } fragment F on T { x { ...F } }", 1 + 1 + 1 + 1),
    ("overlaps", "{ a } fragment F on T { a a }", 1 + 3),
    ("overlaps", "{ ...F } fragment F on T { a a } fragment F on T { b b }", 1 + 3 + 3),
    ("overlaps", "{ ...F } fragment F on T { b b } fragment F on T { a }", 1 + 1 + 3),
    ("overlaps", "query A { ...F } query B { ...F } fragment F on T { a }", 2 + 2),
]


@pytest.mark.parametrize(("limit", "text", "size"), SIZES)
def test_a_document_is_measured_with_its_fragments(limit, text, size):
    """A document as large as the limit is accepted; a larger one is rejected with the name of the limit."""
    document = parse(text)
    check(document, DocumentLimits(**{limit: size}))
    with pytest.raises(LimitExceeded) as exceeded:
        check(document, DocumentLimits(**{limit: size - 1}))
    extensions = exceeded.value.extensions
    name = {"root_fields": "rootFields"}.get(limit, limit)
    assert (extensions["code"], extensions["limit"], extensions["maximum"]) == ("LIMIT_EXCEEDED", name, size - 1)
    # Counting overlaps stops at the limit.
    assert extensions.get("actual") == (None if limit == "overlaps" else size)


def test_nothing_is_limited_by_default():
    """Without limits, documents of any size are accepted."""
    check(parse(DEEP), DocumentLimits())
    assert {one.default for one in fields(DocumentLimits)} == {2**62}


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("documentBytes", "Document is 7 bytes; the limit is 5."),
        ("variablesBytes", "Variables are 7 bytes; the limit is 5."),
        ("depth", "Operation has 7 levels of fields; the limit is 5."),
        ("rootFields", "Operation has 7 root fields; the limit is 5."),
        ("aliases", "Operation has 7 aliases; the limit is 5."),
        ("directives", "Operation has 7 directives; the limit is 5."),
        ("upstreamCalls", "Estimated cost is 7 upstream calls; the limit is 5."),
        ("nodes", "Estimated cost is 7 nodes; the limit is 5."),
        ("fields", "Estimated cost is 7 fields; the limit is 5."),
        ("errors", "Response has 7 errors; the limit is 5."),
    ],
)
def test_a_message_names_the_actual_size_and_the_limit(limit, message):
    """A known size is in the message and in the extensions."""
    error = LimitExceeded(limit, 5, 7)
    assert error.message == message
    assert error.extensions == {
        "code": "LIMIT_EXCEEDED",
        "retryable": False,
        "limit": limit,
        "maximum": 5,
        "actual": 7,
    }


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("listItems", "Variables have more than the limit of 5 list items."),
        ("tokens", "Document has more than the limit of 5 tokens."),
        ("overlaps", "Document has more than the limit of 5 overlapping selections."),
        ("responseBytes", "Response is more than the limit of 5 bytes."),
    ],
)
def test_a_message_without_an_actual_size_names_the_limit(limit, message):
    """Without a known size the message has only the limit, and `actual` is absent."""
    error = LimitExceeded(limit, 5)
    assert error.message == message
    assert error.extensions == {"code": "LIMIT_EXCEEDED", "retryable": False, "limit": limit, "maximum": 5}


def test_doubling_fragments_are_measured_once():
    """The size of thirty fragments that each spread the next one twice is computed in linear time."""
    text = "{ ...F0 }" + "".join(f" fragment F{n} on T {{ ...F{n + 1} ...F{n + 1} }}" for n in range(30))
    with pytest.raises(LimitExceeded) as exceeded:
        check(parse(f"{text} fragment F30 on T {{ a }}"), DocumentLimits(root_fields=2**30 - 1))
    assert exceeded.value.extensions["actual"] == 2**30
