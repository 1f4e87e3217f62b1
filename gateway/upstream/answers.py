"""What transports of ours take and give: httpx's requests and responses, made for the price that a small GET bears."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx

# Bytes of an answer that come without any of its body: its head with interim answers, then its trailers, and what the
# framing of the whole body may add to its bound.
HEAD_BYTES_MAX = 64 * 1024
_NOTHING = httpx.ByteStream(b"")
# Header fields as they came; of those that come more than once the last.
Fields = dict[bytes, bytes]


class WholeAnswers(httpx.AsyncBaseTransport):
    """A transport that gives answers whole, as `answer` makes them, within the bounds of its settings."""


class Get(httpx.Request):
    """A GET whose URL and headers are made only if somebody looks at them."""

    def __init__(self, base: str, target: str, fields: Mapping[str, str], extensions: dict[str, Any]) -> None:
        self.method = "GET"
        self.base = base
        self.target = target
        self.fields = fields
        self.extensions = extensions
        self.stream = _NOTHING

    @cached_property
    def url(self) -> httpx.URL:  # type: ignore[override]
        return httpx.URL(self.base + self.target)

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        return httpx.Headers({"Host": self.url.netloc.decode("ascii"), **self.fields})


class Whole(httpx.ByteStream):
    """A body that is there, inflated, and at most a byte longer than it may be: then it is cut there."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.body = body


def answer(status: int, fields: Fields, body: bytes, bytes_max: int) -> httpx.Response:
    """The response whose body, as it was sent, is there; raises httpx.DecodingError where it can't be inflated."""
    fields, body = plain(fields, body, bytes_max)
    return httpx.Response(status, headers=list(fields.items()), stream=Whole(body))


def plain(fields: Fields, body: bytes, bytes_max: int) -> tuple[Fields, bytes]:
    """A body inflated, as its header fields say it needs; raises httpx.DecodingError where it can't be."""
    for name, coding in fields.items():
        if len(name) == len(b"content-encoding") and name.lower() == b"content-encoding":
            inflated = _inflated(body, coding.strip().lower(), bytes_max)
            if inflated is not None:
                body = inflated
                gone = (b"content-encoding", b"content-length")
                fields = {name: value for name, value in fields.items() if name.lower() not in gone}
            break
    return fields, body


def _inflated(body: bytes, coding: bytes, bytes_max: int) -> bytes | None:
    """The body in plain, or None where the coding is none that was asked for."""
    if not body or coding not in (b"gzip", b"x-gzip", b"deflate"):
        return None
    # Some servers mean by deflate what has no header of zlib's.
    bare = coding == b"deflate" and (body[0] & 0x0F != zlib.DEFLATED or int.from_bytes(body[:2], "big") % 31 != 0)
    inflating = zlib.decompressobj(-zlib.MAX_WBITS if bare else 32 + zlib.MAX_WBITS)
    try:
        plain = inflating.decompress(body, bytes_max + 1)
    except zlib.error as garbled:
        raise httpx.DecodingError(str(garbled)) from garbled
    if not inflating.eof and len(plain) <= bytes_max:
        raise httpx.DecodingError("The body ends before its compressed stream does.")
    return plain
