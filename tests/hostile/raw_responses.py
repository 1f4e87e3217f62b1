"""Parsing of responses in the raw bytes of a connection."""

from __future__ import annotations

import io
import re
from typing import BinaryIO


def next_response(file: BinaryIO) -> tuple[int, bytes] | None:
    """Status and body of a connection's next response; None at its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return None
        head += line
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    assert length is not None
    return int(head.split()[1]), file.read(int(length[1]))


def responses_of(said: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each response in the received bytes."""
    file = io.BytesIO(said)
    return list(iter(lambda: next_response(file), None))


def statuses_of(said: bytes) -> list[int]:
    return [status for status, _ in responses_of(said)]
