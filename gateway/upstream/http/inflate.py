"""Decompression of response bodies, within a bound."""

from __future__ import annotations

import zlib

import httpx

# Header fields as they were received; of repeated ones the last.
Fields = dict[bytes, bytes]
CODINGS = (b"gzip", b"x-gzip", b"deflate")


def inflated(fields: Fields, body: bytes, bytes_max: int) -> tuple[Fields, bytes]:
    """The header fields and the body without its content coding; at most one byte more than `bytes_max`.

    A coding that was not requested is left as it is. Raises httpx.DecodingError where the body can't be decompressed.
    """
    for name, coding in fields.items():
        if len(name) == len(b"content-encoding") and name.lower() == b"content-encoding":
            plain = _inflate(body, coding.strip().lower(), bytes_max)
            if plain is not None:
                dropped = (b"content-encoding", b"content-length")
                return {name: value for name, value in fields.items() if name.lower() not in dropped}, plain
            break
    return fields, body


def _inflate(body: bytes, coding: bytes, bytes_max: int) -> bytes | None:
    if not body or coding not in CODINGS:
        return None
    # Some servers send deflate without zlib's header.
    is_raw = coding == b"deflate" and (body[0] & 0x0F != zlib.DEFLATED or int.from_bytes(body[:2], "big") % 31 != 0)
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else 32 + zlib.MAX_WBITS)
    try:
        plain = decompressor.decompress(body, bytes_max + 1)
    except zlib.error as malformed:
        raise httpx.DecodingError(str(malformed)) from malformed
    if not decompressor.eof and len(plain) <= bytes_max:
        raise httpx.DecodingError("The body ends before its compressed stream does.")
    return plain
