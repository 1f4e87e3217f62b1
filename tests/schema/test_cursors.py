"""Edge cursors: deterministic, strict, and told apart by what they belong to."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import CursorError, CursorForeign, CursorInvalid
from gateway.schema.cursors import Position, decode_cursor, encode_cursor, fleet_of, set_of

VEHICLES = set_of("vehicles", None)
positions = st.builds(
    Position,
    st.none() | st.text(max_size=80),
    st.text(max_size=20),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    st.none() | st.integers(0, 65535),
    st.none() | st.binary(min_size=4, max_size=4),
)


@given(positions)
def test_a_cursor_names_its_position_and_is_always_the_same_text(position):
    """Encoding is deterministic and decoding gives the position back."""
    text = encode_cursor(VEHICLES, position)
    assert text == encode_cursor(VEHICLES, position)
    assert decode_cursor(text, VEHICLES, "after") == position


@given(positions, st.data())
def test_a_damaged_cursor_is_refused(position, data):
    """Changing, dropping or adding any one character makes a cursor invalid."""
    text = encode_cursor(VEHICLES, position)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_=+/ \n\0é"))
    damaged = data.draw(st.sampled_from([text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text + other]))
    if damaged != text:
        with pytest.raises(CursorInvalid) as refused:
            decode_cursor(damaged, VEHICLES, "before")
        assert refused.value.extensions()["argument"] == "before"


@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_cursor_by_chance(text):
    """Whatever is not a cursor is refused with a coded error, never with another kind of failure."""
    with pytest.raises(CursorError):
        decode_cursor(text, VEHICLES, "after")


bodies = st.one_of(
    st.binary(max_size=60),
    st.tuples(st.binary(max_size=9), st.integers(0, 7)).map(
        # A body of the right shape, one of whose members is any bytes.
        lambda damage: b"\x98" + b"".join(damage[0] if n == damage[1] else part for n, part in enumerate(BODY))
    ),
)
BODY = [b"\x02", b"\xc4\x08" + VEHICLES, b"\xc0", b"\xa5ABCDE", b"\x00", b"\x00", b"\xc0", b"\xc0"]


@given(bodies)
@example(b"\x98" + b"".join([*BODY[:3], b"\xa2\xff\xfe", *BODY[4:]]))
@example(b"\x98" + b"".join([*BODY[:4], b"\xcf" + b"\xff" * 8, *BODY[5:]]))
def test_a_forged_body_is_refused_as_a_cursor_or_is_one(body):
    """A right checksum proves nothing: whatever stands behind it is a position or a coded error."""
    checksum = zlib.crc32(body).to_bytes(4, "big")
    text = base64.urlsafe_b64encode(checksum + body).decode().rstrip("=")
    try:
        position = decode_cursor(text, VEHICLES, "after")
    except CursorError:
        return
    assert encode_cursor(VEHICLES, position) == text


def test_a_cursor_of_another_set_is_foreign():
    """A cursor of another search or another connection is told apart from a damaged one."""
    position = Position(None, "ABCDE", 0)
    for other in (set_of("vehicles", "audi"), set_of("telematicsUnits")):
        with pytest.raises(CursorForeign):
            decode_cursor(encode_cursor(other, position), VEHICLES, "after")


def test_a_cursor_tells_nothing_of_the_fleet_it_belongs_to():
    """The fleet is in a cursor only as a short fingerprint."""
    assert b"T7K2M" not in (fleet_of("T7K2M") or b"")
    assert fleet_of("T7K2M") == fleet_of("T7K2M") != fleet_of("EXFL29")
