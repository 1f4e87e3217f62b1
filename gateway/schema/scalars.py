"""Scalars that pass the upstream's text through: it is validated, but never parsed and formatted again."""

from __future__ import annotations

import re
from calendar import monthrange
from typing import Any, NewType

import strawberry
from strawberry.schema.config import StrawberryConfig

from gateway.errors import UpstreamInvalidResponse

DateTime = NewType("DateTime", str)

# The date-time of RFC 3339 (5.6), except for the length of months and leap seconds.
_DATE_TIME = re.compile(
    r"(?P<year>\d{4})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])"
    r"T(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d|60)(?:\.\d+)?"
    r"(?:Z|(?P<sign>[+-])(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d))",
    re.ASCII | re.IGNORECASE,
)
_MINUTES_PER_DAY = 24 * 60


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
