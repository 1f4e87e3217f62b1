"""Compresses responses with gzip or zstd, as `Accept-Encoding` allows (RFC 9110, 12.5.3).

Bodies that are sent again, such as those of cached pages, are compressed once.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

from starlette.types import Receive, Scope

from gateway.concurrency.deadline import Deadline
from gateway.concurrency.lru import LRU
from gateway.settings import HttpSettings, Misconfigured, listed
from gateway.web.disconnect import CancelOnDisconnect
from gateway.web.graphql_request import preferred_coding
from gateway.web.responses import Parts, Response

# Python's own module, or its backport, which is installed by the extra `zstd`.
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
# Bytes that are compressed before other requests get a turn: less than a millisecond at the default level.
PIECE = 64 * 1024
# The largest body that is cached, as a share of the cache.
LARGEST_SHARE = 1 / 8
# Bodies that are remembered by their hash. One that is seen again is cached.
SEEN_MAX = 2048
# Assumed memory of a cached body in addition to its bytes, plain and compressed.
ENTRY_BYTES = 500
# The coding, and the parts of the plain body.
Key = tuple[str | bytes, ...]


class Compressor(Protocol):
    """The compressor of one body."""

    def compress(self, data: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


# Returns the compressor for a body of so many bytes.
CompressorOf = Callable[[int], Compressor]


def gzip_compressors(level: int) -> CompressorOf:
    """Compressors that write one gzip member, which has no time stamp."""
    return lambda _: zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)


def zstd_compressors(level: int) -> CompressorOf:
    """Compressors that write one zstd frame, whose window is within the 8 MB that clients support (RFC 9659).

    Small bodies, which are compressed without waiting, share one, because its memory takes longer to allocate than a
    body to compress. Raises Misconfigured if zstd is not installed.
    """
    try:
        zstd = import_module(ZSTD)
    except ImportError:
        extra = "zstd needs the extra zstd: invers-graphql-gateway[zstd]"
        raise Misconfigured("http.compression", extra) from None
    small = zstd.ZstdCompressor(level)

    def compressor_of(size: int) -> Compressor:
        compressor: Any = small if size <= PIECE else zstd.ZstdCompressor(level)
        compressor.set_pledged_input_size(size)  # so that it takes no more memory than needed
        return compressor  # type: ignore[no-any-return]

    return compressor_of


COMPRESSORS: dict[str, Callable[[int], CompressorOf]] = {"gzip": gzip_compressors, "zstd": zstd_compressors}


class Compression:
    """Compresses the bodies of responses, and caches those that are sent again.

    Raises Misconfigured for a coding that is not installed.
    """

    def __init__(self, settings: HttpSettings) -> None:
        codings = listed(settings.compression)
        self._preferred = lru_cache(256)(lambda accept_encoding: preferred_coding(accept_encoding, codings))
        self._compressors = {coding: COMPRESSORS[coding](settings.compression_level) for coding in codings}
        self._bytes_min = settings.compression_bytes_min
        self._cached_max = settings.compression_cache_bytes_max * LARGEST_SHARE
        self._cached: LRU[Key, bytes] = LRU(bytes_max=settings.compression_cache_bytes_max, size_of=_size)
        self._seen: LRU[int, bool] = LRU(SEEN_MAX)
        # Only one large body is compressed at a time: that bounds the memory, and equal bodies are compressed once.
        self._large = asyncio.Lock()

    async def applied(
        self, response: Response, accept_encoding: bytes, scope: Scope, receive: Receive
    ) -> Response | None:
        """The response in the coding that the client prefers; None if the client disconnected meanwhile."""
        coding, is_required = self._preferred(accept_encoding)
        size = sum(map(len, response.parts))
        if coding is None or size < (1 if is_required else self._bytes_min):
            return response
        key: Key | None = (coding, *map(bytes, response.parts)) if size <= self._cached_max else None
        body = None if key is None else self._cached.get(key)
        if body is None:
            body = await self._compressed(coding, response.parts, size, key, scope, receive)
            if body is None:
                return None
        return response._replace(
            fields=(*response.fields, (b"content-encoding", coding.encode("ascii"))), parts=(body,)
        )

    async def _compressed(
        self, coding: str, parts: Parts, size: int, key: Key | None, scope: Scope, receive: Receive
    ) -> bytes | None:
        is_large = size > PIECE
        listening = CancelOnDisconnect(scope, receive, Deadline()) if is_large else nullcontext()
        with listening as client:
            async with self._large if is_large else nullcontext():
                if key is not None and (body := self._cached.get(key)) is not None:
                    return body  # it was compressed while this request waited
                compressor, compressed = self._compressors[coding](size), []
                for piece in _pieces(parts):
                    if client is not None and client.is_disconnected:
                        return None
                    compressed.append(compressor.compress(piece))
                    if is_large:
                        await asyncio.sleep(0)
                body = b"".join((*compressed, compressor.flush()))
                if key is not None:
                    self._cache_if_seen(key, body)
                return body

    def _cache_if_seen(self, key: Key, body: bytes) -> None:
        """Caches a body that was seen before; most others are not sent again."""
        if self._seen.touch(hash(key)):
            self._cached.put(key, body)
        else:
            self._seen.put(hash(key), True)


def _pieces(parts: Parts) -> Iterator[memoryview]:
    for part in parts:
        for start in range(0, len(part), PIECE):
            yield memoryview(part)[start : start + PIECE]


def _size(key: Key, body: bytes) -> int:
    return ENTRY_BYTES + sum(map(len, key)) + len(body)
