"""Coercion of variables: the fast path equals graphql-core's coercion, and list items are limited."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import build_schema, get_variable_values, parse
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.document_limits import LimitExceeded
from gateway.engine.variables import ERRORS_MAX, Coercion, VariablesInvalid, flags_of

SCHEMA = build_schema("""
type Query { a: Int, b(id: ID, is: Boolean, x: Float, s: String): Int }
enum E { X Y }
input I { n: Int, list: [Int!], next: I, all: [I] }
""")


def coercion(variables: str, items_max: int = 100) -> Coercion:
    (operation,) = parse(f"query({variables}) {{ a }}").definitions
    return Coercion(SCHEMA, operation, items_max)


VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**33), 2**33), st.just(1.0), st.sampled_from(["", "1", "X"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "list"]), inner, max_size=2),
    max_leaves=4,
)
KINDS = ["Int", "Int!", "ID", "ID!", "String", "Boolean!", "Float", "E", "I", "[Int]", "[ID!]!", "[[Int!]]"]
ABSENT = "absent"
DEFAULTS = {"Int": "7", "ID": '"x"', "[Int]": "[1]"}


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans(), st.just(ABSENT) | VALUE), min_size=1, max_size=3))
def test_variables_are_coerced_as_graphql_core_does(drawn):
    """Both paths return equal values, or both raise."""
    defaults = [f" = {DEFAULTS[kind]}" if default and kind in DEFAULTS else "" for kind, default, _ in drawn]
    names = [f"v{index}" for index in range(len(drawn))]
    variables = ", ".join(
        f"${name}: {one[0]}{default}" for name, one, default in zip(names, drawn, defaults, strict=True)
    )
    given_values = {name: value for name, (*_, value) in zip(names, drawn, strict=True) if value != ABSENT}
    (operation,) = parse(f"query({variables}) {{ a }}").definitions
    expected: Any = get_variable_values(SCHEMA, operation.variable_definitions, given_values)
    coerced = coercion(variables)
    if isinstance(expected, list):
        with pytest.raises(VariablesInvalid):
            coerced.coerced(given_values)
        with pytest.raises(VariablesInvalid):
            coerced.values(given_values)
    else:
        assert coerced.coerced(given_values) == coerced.values(given_values).coerced == expected.coerced


@pytest.mark.parametrize(
    ("variables", "value", "items"),
    [
        ("$v: [Int]", [1, 2, 3], 3),
        ("$v: [Int!]!", [], 0),
        ("$v: [Int]", 1, 1),
        ("$v: [Int]", None, 0),
        ("$v: [[Int]]", [[1, 2], [3]], 5),
        ("$v: [[Int]]", [1, 2], 4),
        ("$v: I", {"list": [1, 2]}, 2),
        ("$v: I", {"next": {"list": [1]}, "list": [1, 2]}, 3),
        ("$v: [I]", [{"list": [1]}, {"list": [2, 3]}, {}], 6),
        ("$v: I", {"all": [{"list": [1]}], "n": 1}, 2),
        ("$v: I", {"unknown": [1, 2, 3]}, 0),
        ("$v: Int", [1, 2], 0),
    ],
)  # fmt: skip
def test_list_items_are_counted_before_anything_is_coerced(variables, value, items):
    """Items in nested lists and input objects count; as many as the limit are accepted, one more is not."""
    given_values = {"v": value}
    if items:
        for method in ("coerced", "values"):
            with pytest.raises(LimitExceeded) as exceeded:
                getattr(coercion(variables, items - 1), method)(given_values)
            assert (exceeded.value.extensions["limit"], exceeded.value.extensions["maximum"]) == (
                "listItems",
                items - 1,
            )
    for method in ("coerced", "values"):
        try:
            getattr(coercion(variables, items), method)(given_values)
        except VariablesInvalid:
            continue


def test_lists_are_counted_together():
    """The limit is for all variables of an operation together."""
    both = coercion("$a: [Int], $b: [Int]", 3)
    assert both.coerced({"a": [1], "b": [2, 3]}) == {"a": [1], "b": [2, 3]}
    for method in ("coerced", "values"):
        with pytest.raises(LimitExceeded):
            getattr(both, method)({"a": [1, 2], "b": [2, 3]})


def test_the_number_of_errors_is_limited():
    """Coercion stops after `ERRORS_MAX` errors."""
    with pytest.raises(VariablesInvalid) as invalid:
        coercion("$v: [Int]").coerced({"v": ["x"] * 50})
    assert len(invalid.value.errors) == ERRORS_MAX + 1


def test_flags_are_found_anywhere():
    """Flags are in the order of the operation, including those in fragments, but without variables of arguments."""
    document = parse(
        "query($a: Int, $b: Boolean!, $c: Boolean!, $d: Boolean!) { x(n: $a) @skip(if: $d) ...F }"
        "fragment F on Query { y @include(if: $b) z @skip(if: true) }"
    )
    assert flags_of(document, document.definitions[0]) == ["b", "d"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("Int", 2**31 - 1),
        ("Int!", -(2**31)),
        ("ID!", "x"),
        ("String", ""),
        ("String", None),
        ("Boolean!", False),
        ("[ID!]!", ["x", "y"]),
        ("[Int]", []),
    ],
)
def test_plain_values_need_no_coercion(monkeypatch, kind, value):
    """Valid values, with lists up to the limit, are returned unchanged without graphql-core."""
    monkeypatch.setattr("gateway.engine.variables.get_variable_values", None)
    assert coercion(f"$v: {kind}, $w: Int", 2).coerced({"v": value}) == {"v": value}
