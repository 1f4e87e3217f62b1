"""Timestamps by RFC 3339: validation, and their microseconds since the epoch."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, datetime, timedelta

# The date-time of RFC 3339 (5.6), except for the length of months and leap seconds.
_DATE_TIME = re.compile(
    r"(?P<year>\d{4})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])"
    r"T(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d|60)(?:\.\d+)?"
    r"(?:Z|(?P<sign>[+-])(?P<hours>[01]\d|2[0-3]):(?P<minutes>[0-5]\d))",
    re.ASCII | re.IGNORECASE,
)
# Most timestamps, for which Python's own parser needs no help; it checks the date.
_COMMON = re.compile(
    r"(?!000[01]|9999)\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?Z",
    re.ASCII,
)
_MINUTES_PER_DAY = 24 * 60
# The calendar repeats every 400 years, and Python knows neither year 0 nor years after 9999.
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_DAY = 24 * 60 * 60 * 1_000_000


def is_date_time(text: str) -> bool:
    """Whether a text is a timestamp by RFC 3339: a date that exists, a time and an offset from UTC."""
    return _found(text) is not None


def microseconds_of(text: str) -> int | None:
    """The microseconds since the epoch of a timestamp by RFC 3339, None for any other text.

    More digits are cut off; a leap second counts as the first second of the next day.
    """
    if _COMMON.fullmatch(text):
        try:
            return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
        except ValueError:
            return None
    found = _found(text)
    if found is None:
        return None
    leap = 0
    if found["second"] == "60":
        text = f"{text[:17]}59{text[19:]}"
        leap = 1_000_000
    shift = 0
    if not "0001" < found["year"] < "9999":  # the year in UTC may be another one
        years = _CYCLE_YEARS if found["year"] < "0002" else -_CYCLE_YEARS
        text = f"{int(found['year']) + years:04}{text[4:]}"
        shift = (-_CYCLE_DAYS if years > 0 else _CYCLE_DAYS) * _MICROSECONDS_PER_DAY
    return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MICROSECOND + leap + shift


def _found(text: str) -> re.Match[str] | None:
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return None
    if found["day"] > "28" and int(found["day"]) > _days_of(int(found["year"]), int(found["month"])):
        return None
    return found if found["second"] != "60" or _is_last_minute(found) else None


def _days_of(year: int, month: int) -> int:
    return monthrange(year % _CYCLE_YEARS + _CYCLE_YEARS, month)[1]


def _is_last_minute(time: re.Match[str]) -> bool:
    """Whether this is the last minute of a day in UTC, which alone may have a leap second."""
    offset = int(time["hours"] or 0) * 60 + int(time["minutes"] or 0)
    minute = int(time["hour"]) * 60 + int(time["minute"]) - (-offset if time["sign"] == "-" else offset)
    return minute % _MINUTES_PER_DAY == _MINUTES_PER_DAY - 1
