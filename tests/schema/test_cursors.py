"""Edge cursors are deterministic, strictly validated and bound to their set."""

from __future__ import annotations

import base64
import zlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import CursorError, CursorForeign, CursorInvalid
from gateway.schema.cursors import (
    CURSOR_LENGTH_MAX,
    Position,
    decode_cursor,
    decode_key,
    encode_cursor,
    encode_key,
    fingerprint_of,
    set_of,
)

VEHICLES = set_of("vehicles", None)
positions = st.builds(
    Position,
    st.none() | st.text(max_size=80),
    st.text(max_size=20),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    st.none() | st.integers(0, 65535),
)


@st.composite
def damaged_forms_of(draw, text):
    """The text with one character changed, dropped or added, which may be the same text."""
    at = draw(st.integers(0, len(text) - 1))
    other = draw(st.sampled_from("ABCxyz019-_=+/ \n\0é"))
    return draw(st.sampled_from([text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text + other]))


@given(positions)
def test_a_cursor_round_trips_and_is_deterministic(position):
    """Encoding is deterministic, and decoding returns the position."""
    text = encode_cursor(VEHICLES, position)
    assert text == encode_cursor(VEHICLES, position)
    assert decode_cursor(text, VEHICLES, "after") == position


@given(positions, st.data())
def test_a_damaged_cursor_is_rejected(position, data):
    """Changing, dropping or adding any one character makes a cursor invalid."""
    text = encode_cursor(VEHICLES, position)
    damaged = data.draw(damaged_forms_of(text))
    if damaged != text:
        with pytest.raises(CursorInvalid) as rejected:
            decode_cursor(damaged, VEHICLES, "before")
        assert rejected.value.extensions()["argument"] == "before"


@given(st.text(max_size=200))
def test_random_text_is_not_a_cursor(text):
    """Any other text is rejected with a coded error and no other exception."""
    with pytest.raises(CursorError):
        decode_cursor(text, VEHICLES, "after")


bodies = st.one_of(
    st.binary(max_size=60),
    st.tuples(st.binary(max_size=9), st.integers(0, 6)).map(
        # A body of the right shape with arbitrary bytes in one member.
        lambda damage: b"\x97" + b"".join(damage[0] if n == damage[1] else part for n, part in enumerate(BODY))
    ),
)
BODY = [b"\x03", b"\xc4\x08" + VEHICLES, b"\xc0", b"\xa5ABCDE", b"\x00", b"\x00", b"\xc0"]


@given(bodies)
@example(b"\x97" + b"".join([*BODY[:3], b"\xa2\xff\xfe", *BODY[4:]]))
@example(b"\x97" + b"".join([*BODY[:4], b"\xcf" + b"\xff" * 8, *BODY[5:]]))
def test_a_forged_body_is_a_cursor_or_a_coded_error(body):
    """Any body with a valid checksum decodes to a position or raises a coded error."""
    checksum = zlib.crc32(body).to_bytes(4, "big")
    text = base64.urlsafe_b64encode(checksum + body).decode().rstrip("=")
    try:
        position = decode_cursor(text, VEHICLES, "after")
    except CursorError:
        return
    assert encode_cursor(VEHICLES, position) == text


def test_a_cursor_of_another_set_is_foreign():
    """A cursor of another search or connection has another error than a damaged one."""
    position = Position(None, "ABCDE", 0)
    for other in (set_of("vehicles", "audi"), set_of("telematicsUnits")):
        with pytest.raises(CursorForeign):
            decode_cursor(encode_cursor(other, position), VEHICLES, "after")


def test_the_length_of_a_cursor_is_limited():
    """The longest one is accepted."""
    others = len(encode_cursor(VEHICLES, Position("x" * 6000, "A", 0))) * 3 // 4 - 6000
    longest = Position("x" * (CURSOR_LENGTH_MAX * 3 // 4 - others), "A", 0)
    text = encode_cursor(VEHICLES, longest)
    assert len(text) == CURSOR_LENGTH_MAX
    assert decode_cursor(text, VEHICLES, "after") == longest
    with pytest.raises(CursorInvalid):
        decode_cursor(encode_cursor(VEHICLES, Position(f"{longest.token}x", "A", 0)), VEHICLES, "after")


def test_a_cursor_of_an_impossible_position_or_another_version_is_invalid():
    """Whoever encoded it."""
    for position in (Position(None, "A", -1), Position(None, "A", 0, -1)):
        with pytest.raises(CursorInvalid):
            decode_cursor(encode_cursor(VEHICLES, position), VEHICLES, "after")
    for version, is_valid in ((b"\x03", True), (b"\x02", False), (b"\x04", False)):
        body = b"\x97" + b"".join([version, *BODY[1:]])
        text = base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).decode().rstrip("=")
        if is_valid:
            assert decode_cursor(text, VEHICLES, "after") == Position(None, "ABCDE", 0)
        else:
            with pytest.raises(CursorInvalid):
                decode_cursor(text, VEHICLES, "after")


values = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20)
)
keys = st.lists(values, max_size=3).map(lambda members: (*members, "JQ7RP"))


@given(keys)
def test_a_sort_key_round_trips_and_is_deterministic(key):
    """Its cursor is base64 for URLs without padding: a checksum, a version, the set and the values."""
    text = encode_key(VEHICLES, key)
    assert decode_key(text, VEHICLES, len(key), "after") == key
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert zlib.crc32(raw[4:]).to_bytes(4, "big") == raw[:4]
    assert msgspec.msgpack.decode(raw[4:]) == [1, VEHICLES, list(key)]


@given(keys, st.data())
def test_a_damaged_cursor_of_a_sort_key_is_rejected(key, data):
    """Also one with another base64 of the same bytes, or with another number of values."""
    text = encode_key(VEHICLES, key)
    damaged = data.draw(damaged_forms_of(text))
    if damaged != text:
        with pytest.raises(CursorInvalid):
            decode_key(damaged, VEHICLES, len(key), "after")
    for length in (len(key) - 1, len(key) + 1):
        with pytest.raises(CursorInvalid) as rejected:
            decode_key(text, VEHICLES, length, "before")
        assert rejected.value.extensions()["argument"] == "before"


def test_a_sort_key_of_another_set_or_version_is_rejected():
    """So are the cursors of pages for sort keys, and the other way round."""
    key = (1, "JQ7RP")
    page = encode_cursor(VEHICLES, Position(None, "JQ7RP", 0))
    for text in (encode_key(set_of("vehicles", "audi"), key), page):
        with pytest.raises(CursorForeign):
            decode_key(text, VEHICLES, len(key), "after")
    with pytest.raises(CursorForeign):
        decode_cursor(encode_key(VEHICLES, key), VEHICLES, "after")
    for version in (0, 2):
        body = msgspec.msgpack.encode((version, VEHICLES, key))
        text = base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).decode().rstrip("=")
        with pytest.raises(CursorInvalid):
            decode_key(text, VEHICLES, len(key), "after")


def test_a_fingerprint_has_16_bits():
    """It is in cursors that clients hold, so it must not change."""
    assert [fingerprint_of(item_id) for item_id in ("JQ7RP", "", "é")] == [16901, 0, 36158]
