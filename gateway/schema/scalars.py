"""Scalars that pass the upstream's text through, checked on the way out and never parsed and printed again."""

from __future__ import annotations

import re
from typing import Any, NewType

import strawberry
from strawberry.schema.config import StrawberryConfig

from gateway.errors import UpstreamInvalidResponse

DateTime = NewType("DateTime", str)

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)?")


def _checked(value: Any) -> str:
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        return value
    raise UpstreamInvalidResponse


def _refused(value: Any) -> Any:
    raise TypeError("DateTime is used in answers only")


CONFIG = StrawberryConfig(
    scalar_map={
        DateTime: strawberry.scalar(
            name="DateTime",
            description="A point in time as the fleet API sent it: RFC 3339, UTC, such as `2024-05-14T08:41:12Z`; "
            "fractions of a second may occur.",
            specified_by_url="https://datatracker.ietf.org/doc/html/rfc3339",
            serialize=_checked,
            parse_value=_refused,
        )
    }
)
