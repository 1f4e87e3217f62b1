"""Encodes responses as JSON within a size limit. Long lists are encoded item by item, to stop early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.engine.document_limits import LimitExceeded

# Lists up to this length are encoded at once, and so is everything below the level of nodes (data, field, edges).
ITEMS_AT_ONCE = 64
LEVELS = 3


class ResponseSize:
    """The remaining bytes of a response."""

    __slots__ = ("_bytes_max", "remaining")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = self.remaining = bytes_max

    def add(self, more: int) -> None:
        """Subtracts the size of a part. Raises LimitExceeded."""
        self.remaining -= more
        if self.remaining < 0:
            raise self.exceeded()

    def exceeded(self) -> LimitExceeded:
        """The error for a response that is too large."""
        return LimitExceeded("responseBytes", self._bytes_max)


class Encoder:
    """Encodes JSON; `other` converts values of other types."""

    def __init__(self, other: Callable[[Any], Any] | None = None) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=other)

    def encode(self, value: Any, size: ResponseSize) -> bytes:
        """The value as JSON. Subtracts its size and raises LimitExceeded if the response becomes too large."""
        if not _is_long(value, LEVELS):
            encoded = self._encoder.encode(value)
        else:
            buffer = bytearray()
            self._write(value, buffer, LEVELS, size)
            encoded = bytes(buffer)
        size.add(len(encoded))
        return encoded

    def _write(self, value: Any, buffer: bytearray, levels: int, size: ResponseSize) -> None:
        if not _is_long(value, levels):
            self._encoder.encode_into(value, buffer, -1)
            if len(buffer) > size.remaining:
                raise size.exceeded()
        elif type(value) is list:
            separator = b"["
            for item in value:
                buffer += separator
                self._write(item, buffer, levels - 1, size)
                separator = b","
            buffer += b"]"
        else:
            separator = b"{"
            for name, member in value.items():
                buffer += separator
                self._encoder.encode_into(name, buffer, -1)
                buffer += b":"
                self._write(member, buffer, levels - 1, size)
                separator = b","
            buffer += b"}"


def _is_long(value: Any, levels: int) -> bool:
    if type(value) is list:
        return len(value) > ITEMS_AT_ONCE
    if levels and type(value) is dict:
        for member in value.values():
            kind = type(member)
            if (kind is list and len(member) > ITEMS_AT_ONCE) or (kind is dict and _is_long(member, levels - 1)):
                return True
    return False
