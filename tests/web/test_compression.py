"""Compression: what is compressed, what is cached, and that large bodies leave time to others."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from importlib import import_module

import pytest

from gateway.app import check
from gateway.asgi import ON_DISCONNECT
from gateway.settings import HttpSettings, Misconfigured, Settings
from gateway.web import compression
from gateway.web.compression import ENTRY_BYTES, PIECE, SEEN_MAX, ZSTD, Compression
from gateway.web.responses import Response

zstd = import_module(ZSTD)
BOTH = "zstd,gzip"
DECODED = {"gzip": gzip.decompress, "zstd": zstd.decompress}
FIELDS = ((b"content-type", b"application/json"),)


def text_of(size: int, seed: int = 1) -> bytes:
    """Digits, which can be compressed to about a half."""
    return random.Random(seed).randbytes(size).hex()[:size].encode()


async def applied(to: Compression, *parts, accept: bytes = b"gzip", scope=None) -> Response | None:
    async def receive():
        await asyncio.Event().wait()

    response = Response(200, FIELDS, parts, ("CODE",))
    return await to.applied(response, accept, {"type": "http"} if scope is None else scope, receive)


@pytest.fixture
def compressed_sizes(monkeypatch) -> list[int]:
    """The sizes of all bodies that are compressed."""
    sizes = []
    for name, create in list(compression.COMPRESSORS.items()):

        def recording(level, create=create):
            compressor_of = create(level)
            return lambda size: (sizes.append(size), compressor_of(size))[1]

        monkeypatch.setitem(compression.COMPRESSORS, name, recording)
    return sizes


@pytest.mark.parametrize("coding", DECODED)
@pytest.mark.parametrize("size", [1024, 20_000, PIECE, PIECE + 1, 3 * PIECE + 7, 2**20])
async def test_a_decoded_body_is_the_plain_body(coding, size):
    """In every coding and of every size, from bytes or views of them; the rest of the response stays."""
    body = text_of(size)
    found = await applied(
        Compression(HttpSettings(compression=BOTH)), body[:9], memoryview(body)[9:-2], body[-2:], accept=coding.encode()
    )
    assert DECODED[coding](b"".join(found.parts)) == body
    assert len(b"".join(found.parts)) < size
    assert found.fields == (*FIELDS, (b"content-encoding", coding.encode()))
    assert (found.status, found.codes) == (200, ("CODE",))


@pytest.mark.parametrize("level", [1, 3, 9])
async def test_a_zstd_window_is_within_what_clients_support(level):
    """8 MB (RFC 9659), at every level, also for the longest responses."""
    body = text_of(17 * 2**20)
    found = await applied(Compression(HttpSettings(compression=BOTH, compression_level=level)), body, accept=b"zstd")
    options = {zstd.DecompressionParameter.window_log_max: 23}
    assert zstd.decompress(found.parts[0], options=options) == body


@pytest.mark.parametrize(
    ("accept", "size", "coding"),
    [
        (b"gzip", 1023, None),
        (b"gzip", 1024, b"gzip"),
        (b"br", 1024, None),
        (b"", 1024, None),
        (b"zstd, gzip", 1024, b"zstd"),
        # Without `identity` even the smallest body is compressed.
        (b"gzip, identity;q=0", 1, b"gzip"),
        (b"gzip, identity;q=0", 0, None),
        (b"br, identity;q=0", 1024, None),
    ],
)
async def test_only_large_bodies_are_compressed(accept, size, coding):
    """From the setting on, unless the client accepts nothing else."""
    found = await applied(Compression(HttpSettings(compression=BOTH)), text_of(size), accept=accept)
    assert dict(found.fields).get(b"content-encoding") == coding
    assert (found.parts == (text_of(size),)) == (coding is None)


async def test_a_repeated_body_is_compressed_once_for_each_coding(compressed_sizes):
    """From the second time on it is cached, whatever parts it has; no coding gets the bytes of another."""
    one, body = Compression(HttpSettings(compression=BOTH)), text_of(5000)
    for accept in (b"gzip", b"zstd", b"gzip", b"zstd", b"gzip", b"zstd", b"gzip"):
        found = await applied(one, body[:10], memoryview(body)[10:], accept=accept)
        assert DECODED[accept.decode()](found.parts[0]) == body
    assert compressed_sizes == [5000] * 4
    assert (await applied(one, body[:10], memoryview(body)[10:])).parts[0] is found.parts[0]


async def test_a_cached_body_belongs_to_equal_bytes_only(compressed_sizes):
    """Another body, of the same length or with the same fragment, is compressed for itself."""
    one, body = Compression(HttpSettings(compression=BOTH)), text_of(5000)
    for start in (b"a", b"b", b"a", b"b", b"c"):
        assert gzip.decompress((await applied(one, start, body)).parts[0]) == start + body
    assert len(compressed_sizes) == 5


async def test_bodies_that_are_sent_once_are_not_cached(compressed_sizes):
    """A body that many others followed since is compressed again."""
    one = Compression(HttpSettings(compression=BOTH))
    bodies = [b"%04d" % number * 256 for number in range(SEEN_MAX + 1)]
    for body in (*bodies, bodies[0], bodies[-1], bodies[-1]):
        await applied(one, body)
    assert len(compressed_sizes) == SEEN_MAX + 3


@pytest.mark.parametrize(("room", "compressed"), [(0, 8), (8 * 5000 - 1, 8), (8 * 5000, 4)])
async def test_the_cache_is_bounded(compressed_sizes, room, compressed):
    """A body that exceeds an eighth of it is not cached."""
    one = Compression(HttpSettings(compression=BOTH, compression_cache_bytes_max=room))
    for _ in range(4):
        await applied(one, text_of(5000))
        await applied(one, text_of(5000, seed=2))
    assert len(compressed_sizes) == compressed


async def test_the_least_recently_used_bodies_are_dropped(compressed_sizes):
    """Each counts with its plain and its compressed bytes."""
    sizes = [
        len((await applied(Compression(HttpSettings(compression=BOTH)), text_of(1200, seed))).parts[0])
        for seed in range(9)
    ]
    room = sum(ENTRY_BYTES + len("gzip") + 1200 + size for size in sizes[:8])
    assert room >= 8 * 1200
    one = Compression(HttpSettings(compression=BOTH, compression_cache_bytes_max=room))
    for seed in range(8):
        await applied(one, text_of(1200, seed))
        await applied(one, text_of(1200, seed))
    compressed_sizes.clear()
    for seed in range(8):
        await applied(one, text_of(1200, seed))
    assert compressed_sizes == []
    await applied(one, text_of(1200, 8))
    await applied(one, text_of(1200, 8))
    compressed_sizes.clear()
    await applied(one, text_of(1200, 1))
    assert compressed_sizes == []
    await applied(one, text_of(1200, 0))
    assert compressed_sizes == [1200]


@pytest.mark.parametrize("coding", DECODED)
async def test_a_large_body_leaves_time_to_others(coding):
    """Others run between its pieces."""
    one, turns = Compression(HttpSettings(compression=BOTH)), 0
    compressing = asyncio.ensure_future(applied(one, text_of(10 * PIECE), accept=coding.encode()))
    while not compressing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10


@pytest.mark.parametrize("coding", DECODED)
async def test_a_small_body_does_not_wait_for_a_large_one(coding):
    """Nor does a large one that is cached."""
    one, large, cached = Compression(HttpSettings(compression=BOTH)), text_of(20 * PIECE), text_of(2 * PIECE, seed=2)
    accept, decoded = coding.encode(), DECODED[coding]
    await applied(one, cached, accept=accept)
    await applied(one, cached, accept=accept)
    compressing = asyncio.ensure_future(applied(one, large, accept=accept))
    await asyncio.sleep(0)
    for body in (text_of(5000), cached):
        assert decoded((await applied(one, body, accept=accept)).parts[0]) == body
    assert not compressing.done()
    assert decoded((await compressing).parts[0]) == large


async def test_equal_large_bodies_are_compressed_once_when_they_are_known(compressed_sizes):
    """Concurrent requests wait for the first one that caches it."""
    one, body = Compression(HttpSettings(compression=BOTH)), text_of(4 * PIECE)
    found = await asyncio.gather(*(applied(one, body) for _ in range(6)))
    assert {gzip.decompress(each.parts[0]) for each in found} == {body}
    assert len(compressed_sizes) == 2


async def test_compression_ends_when_the_client_disconnects(monkeypatch):
    """The pieces that remain are not compressed, and the next large body is."""
    pieces = []

    class Recording:
        def compress(self, data):
            pieces.append(len(data))
            return b""

        def flush(self):
            return b""

    monkeypatch.setitem(compression.COMPRESSORS, "gzip", lambda level: lambda size: Recording())
    one, body = Compression(HttpSettings(compression=BOTH)), text_of(50 * PIECE)
    scope = {"type": "http", "extensions": {ON_DISCONNECT: []}}
    compressing, waiting = (asyncio.ensure_future(applied(one, body, scope=scope)) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    for disconnect in scope["extensions"][ON_DISCONNECT]:
        disconnect()
    assert await compressing is None
    assert await waiting is None
    assert 0 < len(pieces) < 10
    assert zstd.decompress((await applied(one, body, accept=b"zstd")).parts[0]) == body


@pytest.mark.parametrize("coding", DECODED)
async def test_the_level_is_a_setting(coding):
    """Of all codings."""
    words = [text_of(9, seed) for seed in range(50)]
    body = b" ".join(random.Random(1).choices(words, k=5000))
    found = {
        (
            await applied(
                Compression(HttpSettings(compression=BOTH, compression_level=level)), body, accept=coding.encode()
            )
        ).parts[0]
        for level in (1, 9)
    }
    assert len(found) == 2
    assert {DECODED[coding](each) for each in found} == {body}


def test_a_coding_that_is_not_installed_is_refused(monkeypatch):
    """The message names the setting and the extra; gzip works without it."""
    monkeypatch.setattr(compression, "ZSTD", "not.installed")
    with pytest.raises(Misconfigured, match="needs the extra zstd") as refused:
        check(Settings(http={"compression": BOTH}))
    assert refused.value.setting == "http.compression"
    check(Settings())


async def test_gzip_has_no_time_stamp():
    """So equal bodies have equal bytes."""
    found = (await applied(Compression(HttpSettings(compression=BOTH)), text_of(5000))).parts[0]
    assert found[4:8] == bytes(4)
    assert zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(found) == text_of(5000)
