"""Rewrites the head of a response in the strict form that httptools' parser requires.

RFC 9112 lets a recipient read more than that: a line may end with LF alone (2.2) and be folded (5.2), equal lengths may
be repeated, and a transfer coding overrides a length (6.3).
"""

from __future__ import annotations

import re

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
# The status line of an interim response, which is dropped. After 101 another protocol begins.
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b")


def strict_form(received: bytes) -> bytes | None:
    """The received bytes without interim responses and with a strict head; None while the head is incomplete.

    Bytes that are no HTTP stay, and so do lengths that differ, for the parser to reject.
    """
    if not received.lstrip(b"\r\n").startswith(b"HTTP/"):
        return received
    while (end := _BLANK_LINE.search(received)) is not None:
        head, rest = received[: end.start()], received[end.end() :]
        if _INTERIM.match(head) is None:
            return _strict(head) + rest
        received = rest
    return None


def _strict(head: bytes) -> bytes:
    status_line, _, fields = head.partition(b"\n")
    if not fields.startswith((b" ", b"\t")):  # which would fold the status line
        fields = _FOLD.sub(b" ", fields)
    lines, lengths, has_coding = [status_line.removesuffix(b"\r")], set(), False
    for line in _LINE_END.split(fields) if fields else ():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            lengths |= {length.strip(b" \t") for length in value.split(b",")}
        else:
            lines.append(line)
            has_coding = has_coding or name.lower() == b"transfer-encoding"
    if not has_coding:
        lines += [b"Content-Length: " + length for length in sorted(lengths)]
    return b"\r\n".join([*lines, b"", b""])
