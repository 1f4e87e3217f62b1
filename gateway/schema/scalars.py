"""Scalars that pass the upstream's text through: it is validated, but never parsed and formatted again."""

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


def _reject_input(value: Any) -> Any:
    raise TypeError("DateTime is an output type only")


CONFIG = StrawberryConfig(
    scalar_map={
        DateTime: strawberry.scalar(
            name="DateTime",
            description="Timestamp as sent by the fleet API: RFC 3339 in UTC, such as `2024-05-14T08:41:12Z`, "
            "sometimes with fractions of a second.",
            specified_by_url="https://datatracker.ietf.org/doc/html/rfc3339",
            serialize=_checked,
            parse_value=_reject_input,
        )
    }
)
