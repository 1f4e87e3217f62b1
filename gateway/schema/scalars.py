"""Scalars that pass the upstream's text through: it is validated, but never parsed and formatted again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NewType

import strawberry
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig

from gateway.errors import UpstreamInvalidResponse
from gateway.timestamps import is_date_time

DateTime = NewType("DateTime", str)
ECMA_404 = "https://ecma-international.org/wp-content/uploads/ECMA-404_2nd_edition_december_2017.pdf"

# Levels of lists and objects in a JSON value.
JSON_DEPTH_MAX = 200


def _checked(value: Any) -> str:
    if isinstance(value, str) and is_date_time(value):
        return value
    raise UpstreamInvalidResponse


def _given(value: Any) -> str:
    if isinstance(value, str) and is_date_time(value):
        return value
    raise TypeError("it is not a timestamp by RFC 3339, such as 2024-05-14T08:41:12Z")


def bounded_json(value: Any) -> Any:
    """A JSON value with as many levels as can be encoded. Raises UpstreamInvalidResponse."""
    level = [value]
    for _ in range(JSON_DEPTH_MAX):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return value
    raise UpstreamInvalidResponse


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _reject_input(value: Any) -> Any:
    raise TypeError("it is an output type only")


CONFIG = StrawberryConfig(
    scalar_map={
        DateTime: strawberry.scalar(
            name="DateTime",
            description="Timestamp by RFC 3339, such as `2024-05-14T08:41:12Z`. Those of the fleet API are in UTC and "
            "as it sent them, sometimes with fractions of a second.",
            specified_by_url="https://datatracker.ietf.org/doc/html/rfc3339",
            serialize=_checked,
            parse_value=_given,
        ),
        JSON: strawberry.scalar(
            name="JSON",
            description=f"The `JSON` scalar type represents JSON values as specified by [ECMA-404]({ECMA_404}).",
            specified_by_url=ECMA_404,
            serialize=bounded_json,
            parse_value=_reject_input,
        ),
    }
)
