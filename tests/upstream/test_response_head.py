"""The heads of responses that httptools' parser rejects: their strict form, however they arrive."""

from __future__ import annotations

import time

import pytest

from gateway.upstream.http.response_head import is_malformed, strict_form

OK = b"HTTP/1.1 200 OK\r\n"
STRICT = OK + b"X: y z\r\nContent-Length: 2\r\n\r\n{}"
HEADS = {
    "folded": OK + b"X: y\r\n z\r\nContent-Length: 2\r\n\r\n{}",
    "LF alone": b"HTTP/1.1 200 OK\nX: y z\nContent-Length: 2\n\n{}",
    "mixed line ends": b"HTTP/1.1 200 OK\r\nX: y\n\tz\r\nContent-Length: 2\n\r\n{}",
    "interim responses": b"HTTP/1.1 100 Go on\n\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + STRICT,
    "empty lines": b"\r\n\r\nHTTP/1.1 100 Go on\r\n\r\n\n\n\r\nHTTP/1.1 200 OK\nX: y z\nContent-Length: 2, 2\n\n{}",
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("kind", HEADS)
def test_pieces_of_any_size_make_the_same_head(kind, size):
    """The bytes after it stay as they are."""
    begun, received = bytearray(), HEADS[kind]
    for start in range(0, len(received), size):
        strict = strict_form(begun, received[start : start + size])
        if strict is not None:
            assert strict + received[start + size :] == STRICT
            return
    raise AssertionError("the head was not complete")


@pytest.mark.parametrize(
    "long",
    [
        b"HTTP/1.1 200 OK\n" + b"X: y\n" * 12_000 + b"\n",
        OK + b"X: y\r\n" + b" z\r\n" * 15_000 + b"\r\n",
        b"HTTP/1.1 100 Go on\n\n" * 3000 + b"HTTP/1.1 200 OK\n\n",
        b"\n" * 60_000 + b"HTTP/1.1 200 OK\n\n",
    ],
    ids=["lines", "folds", "interim responses", "empty lines"],
)
def test_a_head_in_single_bytes_takes_linear_time(long):
    """60 kB that arrive byte by byte would take tens of seconds of CPU time if each byte began again."""
    begun, began = bytearray(), time.process_time()
    forms = [strict_form(begun, bytes([byte])) for byte in long]
    assert forms[-1] is not None
    assert forms[:-1] == [None] * (len(long) - 1)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"\r\n\r\n",
        b"H",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r",
        OK,
        OK + b"X",
        OK + b"X: y\r\n z",
        OK + b"X: y\r\n z\r\n ",
        b"HTTP/1.1 200 OK\nX: y\n\r",
        b"HTTP/1.1 100 Go on\n\nHTT",
        OK + b"Content-Length: 14,",
        OK + b"Content-Length: 14, 14\r\ncontent-length: 14\r\nX",
        OK + b"Content-Length: 14\r\nTransfer-Encoding: chun",
    ],
)
def test_a_legal_head_may_be_incomplete(begun):
    """At any byte, also in a folded line and where a length is repeated."""
    assert not is_malformed(begun)


@pytest.mark.parametrize(
    "begun",
    [
        b"x",
        b"SSH-2.0-x\r\n",
        b"\r\n<html>",
        b"HTTP/11",
        b"HTTP/1.1 abc",
        b"HTTP/1.1 100 Go on\r\n\r\nSSH",
        OK + b"X : y",
        OK + b"X : y\r\n",
        OK + b"nonsense\r\nX: y",
        OK + b" X: y\r\n",
        OK + b"Content-Length: 14, 15\r\n",
    ],
)
def test_no_further_bytes_make_a_malformed_head_legal(begun):
    """It is malformed as soon as a line is, whatever follows."""
    assert is_malformed(begun)
