"""Edge cursors: deterministic text that identifies the position of an edge.

A cursor is base64url of a checksum and (version, set, page token, item id, position) or, in an ordered set, (version,
set, sort key). It contains nothing random and no time, so clients can compare cursors. The checksum turns a damaged
cursor into an error instead of another page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from gateway.errors import CursorForeign, CursorInvalid

VERSION = 3
# The version of cursors that consist of a sort key.
KEY_VERSION = 1
# The values of an item in an order, its id last.
SortKey = tuple[str | int | float | bool | None, ...]
B = TypeVar("B")
# A position within a page: item id, index, number of items after it, fingerprint of its neighbour.
InPage = tuple[str, int, int, int | None]
CHECKSUM_LENGTH = 4
CURSOR_LENGTH_MAX = 8192


@dataclass(frozen=True, slots=True)
class Position:
    """The position of an edge: its page (`token` is None for the first), its item, and the items around it.

    `neighbour` is the fingerprint of the next item or, for the last item of a page, the previous one. It is used if
    the item was deleted.
    """

    token: str | None
    item_id: str
    index: int
    items_after: int = 0
    neighbour: int | None = None


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    set: bytes
    token: str | None
    item_id: str
    index: int
    items_after: int
    neighbour: int | None


class _KeyBody(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    set: bytes
    key: SortKey


_decoder = msgspec.msgpack.Decoder(_Body)
_key_decoder = msgspec.msgpack.Decoder(_KeyBody)
_encode = msgspec.msgpack.Encoder().encode
# Objects with the same members are equal, in whatever order these were sent.
_encode_sorted = msgspec.msgpack.Encoder(order="sorted").encode
# MessagePack's first byte of an array with the length of a body. The first byte of the shorter rest is dropped.
_BODY = bytes((0x90 + len(_Body.__struct_fields__),))
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def set_of(connection: str, *arguments: Any) -> bytes:
    """The fingerprint of a set of items: the connection and the arguments that select and order them."""
    return hashlib.blake2b(_encode_sorted((connection, *arguments)), digest_size=8).digest()


def fingerprint_of(item_id: str) -> int:
    """A 16-bit fingerprint of an item's id, enough to distinguish it from its neighbours."""
    return zlib.crc32(item_id.encode()) & 0xFFFF


class CursorWriter:
    """Encodes the cursors of the edges of one page; their common part is encoded once.

    `known` are cursors of the same set and page by index, if later pages have the same edges.
    """

    __slots__ = ("_checksum", "_start", "known")

    def __init__(self, of: bytes, token: str | None, known: dict[int, str] | None = None) -> None:
        self.known = known
        self._start = b"".join((_BODY, _encode(VERSION), _encode(of), _encode(token)))
        self._checksum = zlib.crc32(self._start)

    def write(self, in_page: InPage) -> str:
        """The cursor of the edge at a position in the page."""
        rest = _encode(in_page)[1:]
        checksum = zlib.crc32(rest, self._checksum).to_bytes(CHECKSUM_LENGTH, "big")
        return _text_of(b"".join((checksum, self._start, rest)))


def encode_cursor(of: bytes, position: Position) -> str:
    """The cursor of the edge at `position` in the set `of`."""
    writer = CursorWriter(of, position.token)
    return writer.write((position.item_id, position.index, position.items_after, position.neighbour))


def decode_cursor(text: str, of: bytes, argument: str) -> Position:
    """The position of a cursor. Raises CursorInvalid or, for a cursor of another set, CursorForeign."""
    body = _body_of(text, argument, _decoder, _key_decoder)
    if body.version != VERSION or body.index < 0 or body.items_after < 0:
        raise CursorInvalid(argument)
    if body.set != of:
        raise CursorForeign(argument)
    position = Position(body.token, body.item_id, body.index, body.items_after, body.neighbour)
    if encode_cursor(of, position) != text:
        raise CursorInvalid(argument)  # base64 has several encodings of one value; only one is valid
    return position


def encode_key(of: bytes, key: SortKey) -> str:
    """The cursor of the edge with a sort key in the ordered set `of`."""
    body = _encode((KEY_VERSION, of, key))
    return _text_of(_checksum(body) + body)


def decode_key(text: str, of: bytes, length: int, argument: str) -> SortKey:
    """The sort key of a cursor, of so many values. Raises the same errors as `decode_cursor`."""
    body = _body_of(text, argument, _key_decoder, _decoder)
    if body.set != of:
        raise CursorForeign(argument)
    if body.version != KEY_VERSION or len(body.key) != length or encode_key(of, body.key) != text:
        raise CursorInvalid(argument)
    return body.key


def _body_of(text: str, argument: str, decoder: msgspec.msgpack.Decoder[B], foreign: msgspec.msgpack.Decoder[Any]) -> B:
    """The decoded body of a cursor; one that only the other decoder can decode is of another set."""
    if len(text) > CURSOR_LENGTH_MAX:
        raise CursorInvalid(argument)
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if _checksum(raw[CHECKSUM_LENGTH:]) != raw[:CHECKSUM_LENGTH]:
            raise CursorInvalid(argument)
        try:
            return decoder.decode(raw[CHECKSUM_LENGTH:])
        except msgspec.ValidationError:
            foreign.decode(raw[CHECKSUM_LENGTH:])
            raise CursorForeign(argument) from None
    except (UnicodeError, binascii.Error, msgspec.MsgspecError) as damaged:
        raise CursorInvalid(argument) from damaged


def _text_of(raw: bytes) -> str:
    """Base64 for URLs, without padding; a third of the time of `base64.urlsafe_b64encode`."""
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode("ascii")


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(CHECKSUM_LENGTH, "big")  # detects damage, not forgery
