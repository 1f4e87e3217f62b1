"""Rewrites the head of a response in the strict form that httptools' parser requires.

RFC 9112 lets a recipient read more than that: a line may end with LF alone (2.2) and be folded (5.2), equal lengths may
be repeated, and a transfer coding overrides a length (6.3). RFC 9110 lets a list have empty elements (5.6.1), and a
later minor version be read as HTTP/1.1 (2.5).
"""

from __future__ import annotations

import re

import httptools

PARSER_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_EMPTY_LINES = re.compile(rb"[\r\n]*")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
# The status line of an interim response, which is dropped. After 101 another protocol begins.
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b")
_LATER_VERSION = re.compile(rb"^HTTP/1\.[2-9]")
# The beginning of a line whose strict form depends on its end or on other lines.
_OPEN = re.compile(rb"[ \t]|content-length|transfer-encoding", re.IGNORECASE)


def strict_form(begun: bytearray, data: bytes) -> bytes | None:
    """A complete head in its strict form with the bytes after it; None while the head is incomplete.

    `begun` has the incomplete head, without interim responses; `data` is added to it. Bytes that are no HTTP stay, and
    so do lengths that differ, for the parser to reject.
    """
    begun += data
    while True:
        if empty := _EMPTY_LINES.match(begun):
            del begun[: empty.end()]
        if not b"HTTP/".startswith(begun[:5]):
            return bytes(begun)
        # What was there before has no blank line, and may be long while `data` is a single byte.
        end = _BLANK_LINE.search(begun, max(0, len(begun) - len(data) - 3))
        if end is None:
            return None
        head = bytes(begun[: end.start()])
        del begun[: end.end()]
        if _INTERIM.match(head) is None:
            return _strict(head) + begun


def parser_for(protocol: object) -> httptools.HttpResponseParser:
    """A parser that calls the methods of a protocol."""
    parser = httptools.HttpResponseParser(protocol)
    parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)  # RFC 9112, 7.1.1
    return parser


def is_malformed(begun: bytes | bytearray) -> bool:
    """Whether no further bytes could make a response legal that has begun, perhaps after interim responses."""
    rest = bytearray()
    strict = strict_form(rest, bytes(begun))
    if strict is None:
        lines, end, line = bytes(rest).rpartition(b"\n")
        strict = _strict(lines.removesuffix(b"\r"))[:-2] if end else _strict(line)[:-4]
        if end and _OPEN.match(line) is None:
            strict += line
    try:
        parser_for(object()).feed_data(strict)
    except PARSER_ERRORS:
        return True
    return False


def _strict(head: bytes) -> bytes:
    status_line, _, fields = head.partition(b"\n")
    if not fields.startswith((b" ", b"\t")):  # which would fold the status line
        fields = _FOLD.sub(b" ", fields)
    lines = [_LATER_VERSION.sub(b"HTTP/1.1", status_line.removesuffix(b"\r"))]
    lengths, has_coding = set(), False
    for line in _LINE_END.split(fields) if fields else ():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            lengths |= {length.strip(b" \t") for length in value.split(b",")}
        elif name.lower() == b"transfer-encoding":
            codings = [coding.strip(b" \t") for coding in value.split(b",")]
            lines.append(name + b": " + b", ".join(filter(None, codings)))
            has_coding = True
        else:
            lines.append(line)
    if not has_coding:
        lines += [b"Content-Length: " + length for length in sorted(lengths)]
    return b"\r\n".join([*lines, b"", b""])
