"""Whole answers, kept as long as everything they were made of is kept and fresh; for whoever switches them on.

An answer belongs to a principal and to a request's body, to the byte. It is given only while each read behind it would
be answered from the very entries that it was made of: what expires, is read anew, dropped or pushed out ends it.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.upstream.cache import Made, Standing

# What an answer is accounted with beside its bytes.
OVERHEAD = 1000
# From how many bytes on an answer is compressed, and how hard.
COMPRESSED_FROM = 1000
LEVEL = 6
Key = tuple[str, bytes]
StandingOf = Callable[[Sequence[Made]], Standing | None]


class Whole(NamedTuple):
    """An answer's body, plain or as gzip, and how fresh it is."""

    body: bytes
    standing: Standing
    is_gzip: bool


class _Answer:
    __slots__ = ("body", "gzip", "made_of")

    def __init__(self, body: bytes, made_of: Sequence[Made]) -> None:
        self.body = body
        self.gzip: bytes | None = None
        self.made_of = made_of


class WholeAnswers:
    """Answers by principal and request body; the least recently used are forgotten first."""

    def __init__(self, *, bytes_max: int, gzip: bool) -> None:
        self.gzip = gzip
        self._bytes_max = bytes_max
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key, standing_of: StandingOf, *, takes_gzip: bool) -> Whole | None:
        """An answer that still stands."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        standing = standing_of(answer.made_of)
        if standing is None:
            self._forget(key)
            return None
        self._answers.move_to_end(key)
        if self.gzip and takes_gzip and len(answer.body) >= COMPRESSED_FROM:
            return Whole(self._compressed(key, answer), standing, is_gzip=True)
        return Whole(answer.body, standing, is_gzip=False)

    def keep(self, key: Key, body: bytes, made_of: Sequence[Made]) -> None:
        """Keeps an answer, if there is room for it at all."""
        self._forget(key)
        answer = _Answer(body, made_of)
        if _size(key, answer) <= self._bytes_max:
            self._answers[key] = answer
            self._grow(_size(key, answer))

    def _compressed(self, key: Key, answer: _Answer) -> bytes:
        if answer.gzip is None:
            packing = zlib.compressobj(LEVEL, wbits=16 + zlib.MAX_WBITS)
            compressed = packing.compress(answer.body) + packing.flush()
            answer.gzip = compressed
            self._grow(len(compressed))
            return compressed
        return answer.gzip

    def _grow(self, size: int) -> None:
        self.bytes += size
        while self.bytes > self._bytes_max:
            self._forget(next(iter(self._answers)))

    def _forget(self, key: Key) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.bytes -= _size(key, answer)


def _size(key: Key, answer: _Answer) -> int:
    parts = 200 * len(answer.made_of)
    return OVERHEAD + parts + len(key[1]) + len(answer.body) + len(answer.gzip or b"")
