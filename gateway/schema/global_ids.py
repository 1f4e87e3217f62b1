"""Relay global ids: base64 of `Vehicle:<id>` and of `TelematicsUnit:<manufacturer>/<brand>/<unit id>`.

Unit ids are unique only per manufacturer, so all three parts form the key. Each part is percent-encoded, and a missing
one is empty.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from gateway.errors import GlobalIdInvalid

VEHICLE = "Vehicle"
TELEMATICS_UNIT = "TelematicsUnit"
LENGTH_MAX = 2048


# Parsed ids that are cached, if they are short, because clients choose them. The cache discloses nothing.
IDS_MAX = 16_384
SHORT = 64
# Cached pairs of manufacturer and brand.
KINDS_MAX = 256


class UnitKey(NamedTuple):
    """The key of a telematics unit."""

    manufacturer: str | None
    brand: str | None
    unit_id: str


def vehicle_global_id(vehicle_id: str) -> str:
    """The global id of a vehicle."""
    return _known_id(vehicle_id) if len(vehicle_id) <= SHORT else _id_of(vehicle_id)


def _id_of(vehicle_id: str) -> str:
    return base64.b64encode(f"{VEHICLE}:{vehicle_id}".encode()).decode()


def unit_global_id(manufacturer: str | None, brand: str | None, unit_id: str) -> str:
    """The global id of a telematics unit."""
    key = unit_id.encode()
    if not key.isalnum():
        key = _encoded(unit_id)
    return binascii.b2a_base64(_start_of(manufacturer, brand) + key, newline=False).decode()


@lru_cache(KINDS_MAX)
def _start_of(manufacturer: str | None, brand: str | None) -> bytes:
    return f"{TELEMATICS_UNIT}:".encode() + _encoded(manufacturer or "") + b"/" + _encoded(brand or "") + b"/"


def _encoded(part: str) -> bytes:
    return quote(part, safe="").encode()


def parse_global_id(text: str) -> str | UnitKey:
    """The id of a vehicle or the key of a unit. Raises GlobalIdInvalid."""
    key = _remembered(text) if len(text) <= SHORT else _parsed(text)
    if key is None:
        raise GlobalIdInvalid("`id` is not a global id of this gateway.", "id")
    return key


def _parsed(text: str) -> str | UnitKey | None:
    # Returns None for an invalid id, because exceptions are slow for a thousand ids in each of twenty fields.
    try:
        if len(text) > LENGTH_MAX:
            return None
        kind, _, rest = base64.b64decode(text.encode("ascii"), validate=True).decode().partition(":")
    except (UnicodeError, binascii.Error):
        return None
    if kind == VEHICLE and rest:
        return rest
    if kind == TELEMATICS_UNIT and rest.count("/") == len(UnitKey._fields) - 1:
        manufacturer, brand, unit_id = (unquote(part) for part in rest.split("/"))
        if unit_id:
            return UnitKey(manufacturer or None, brand or None, unit_id)
    return None


_remembered = lru_cache(IDS_MAX)(_parsed)
_known_id = lru_cache(IDS_MAX)(_id_of)
