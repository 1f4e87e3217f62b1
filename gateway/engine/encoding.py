"""Answers as JSON, no longer than a limit: a long list is written item by item, so what is too long ends early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.engine.limits import LimitExceeded

# A list of no more items is written in one go, and so is whatever lies deeper than a list of nodes: data, field, edges.
ITEMS_AT_ONCE = 64
LEVELS = 3


class ResponseSize:
    """The bytes that the parts of one answer have so far."""

    __slots__ = ("_bytes", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0

    def check(self, more: int) -> None:
        """Raises LimitExceeded if so many more bytes are too many."""
        if self._bytes + more > self._bytes_max:
            raise LimitExceeded("responseBytes", self._bytes_max)

    def add(self, more: int) -> None:
        """Counts a part; raises as `check` does."""
        self.check(more)
        self._bytes += more


class Encoder:
    """Encodes JSON; `other` turns what is not JSON into what is."""

    def __init__(self, other: Callable[[Any], Any] | None = None) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=other)

    def encode(self, value: Any, size: ResponseSize) -> bytes:
        """The value as JSON, which is added to a size; raises LimitExceeded where that becomes too large."""
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
            size.check(len(buffer))
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
    return levels > 0 and type(value) is dict and any(_is_long(member, levels - 1) for member in value.values())
