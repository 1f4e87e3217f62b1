"""Scalars that pass the upstream's text through: it is validated, but never parsed and formatted again."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, NewType

import strawberry
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig

from gateway.errors import UpstreamInvalidResponse

DateTime = NewType("DateTime", str)
ECMA_404 = "https://ecma-international.org/wp-content/uploads/ECMA-404_2nd_edition_december_2017.pdf"

# The date-time of RFC 3339 (5.6), except for the length of months and leap seconds.
_DATE_TIME = re.compile(
    r"(?P<year>\d{4})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])"
    r"T(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d|60)(?:\.\d+)?"
    r"(?:Z|(?P<sign>[+-])(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d))",
    re.ASCII | re.IGNORECASE,
)
_MINUTES_PER_DAY = 24 * 60
# Levels of lists and objects in a JSON value.
JSON_DEPTH_MAX = 200


def is_date_time(text: str) -> bool:
    """Whether a text is a timestamp by RFC 3339: a date that exists, a time and an offset from UTC."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return False
    if found["day"] > "28" and int(found["day"]) > _days_of(int(found["year"]), int(found["month"])):
        return False
    return found["second"] != "60" or _is_last_minute(found)


def _days_of(year: int, month: int) -> int:
    # The calendar repeats every 400 years, and Python knows no year 0.
    return monthrange(year % 400 + 400, month)[1]


def _is_last_minute(time: re.Match[str]) -> bool:
    """Whether this is the last minute of a day in UTC, which alone may have a leap second."""
    offset = int(time["hours"] or 0) * 60 + int(time["minutes"] or 0)
    minute = int(time["hour"]) * 60 + int(time["minute"]) - (-offset if time["sign"] == "-" else offset)
    return minute % _MINUTES_PER_DAY == _MINUTES_PER_DAY - 1


def _checked(value: Any) -> str:
    if isinstance(value, str) and is_date_time(value):
        return value
    raise UpstreamInvalidResponse


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


def _parsed(value: Any) -> str:
    with suppress(ValueError):  # Python knows no year 0
        if isinstance(value, str) and is_date_time(value):
            epoch_of(value)
            return value
    raise TypeError("it must be a timestamp by RFC 3339, such as `2026-12-01T12:00:00Z`")


def epoch_of(text: str) -> float:
    """The epoch seconds of a timestamp. A leap second is the first second after it."""
    leap = text[17:19] == "60"
    moment = datetime.fromisoformat((text[:17] + "59" + text[19:] if leap else text).upper())
    return moment.timestamp() + leap


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
            parse_value=_parsed,
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
