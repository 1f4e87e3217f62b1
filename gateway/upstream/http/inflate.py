"""Decompression of response bodies, within a bound."""

from __future__ import annotations

import zlib

import httpx

# Header fields as they were received; of repeated ones the last.
Fields = dict[bytes, bytes]
CODINGS = (b"gzip", b"x-gzip", b"deflate")
# A gzip body consists of members (RFC 1952, 2.2), each of which begins with these bytes. Bytes of further members that
# are decompressed at once, because zlib copies the rest after each, and the limit of members.
GZIP, CHUNK, MEMBERS_MAX = b"\x1f\x8b", 16 * 1024, 10_000


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
    try:
        return inflate(body, -zlib.MAX_WBITS if is_raw else 32 + zlib.MAX_WBITS, bytes_max)
    except zlib.error as malformed:
        raise httpx.DecodingError(str(malformed)) from malformed


def inflate(body: bytes, wbits: int, bytes_max: int, *, may_be_padded: bool = True) -> bytes:
    """The decompressed members of a body; at most one byte more than `bytes_max`. Raises zlib.error.

    Anything else after a member is padding, which is ignored, or has to be zeros.
    """
    plain, room, position, chunk = [], bytes_max + 1, 0, len(body)
    for _ in range(MEMBERS_MAX):
        decompressor = zlib.decompressobj(wbits)
        while position < len(body) and room > 0 and not decompressor.eof:
            data = body[position : position + chunk]
            plain.append(decompressor.decompress(data, room))
            room -= len(plain[-1])
            position += len(data) - len(decompressor.unused_data)
        if room > 0 and not decompressor.eof:
            raise zlib.error("The body ends before its compressed stream does.")
        if room > 0 and not may_be_padded and not body.startswith(GZIP, position) and body[position:].strip(b"\0"):
            raise zlib.error("The body goes on after its compressed stream.")
        if room <= 0 or not body.startswith(GZIP, position):
            return b"".join(plain)
        chunk = CHUNK
    raise zlib.error("The body has too many members.")
