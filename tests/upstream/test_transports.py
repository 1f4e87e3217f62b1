"""The transports over real sockets, on both event loops: how responses are framed, and how connections fail."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvloop

from gateway.errors import UpstreamInvalidResponse, UpstreamTimeout, UpstreamUnavailable
from gateway.identity import Caller
from gateway.settings import UpstreamSettings
from gateway.telemetry.metrics import Metrics
from gateway.upstream.coalescing import Uncoalesced
from gateway.upstream.http import http1
from gateway.upstream.http.transport import HttpTransport
from gateway.upstream.models import Vehicle
from gateway.upstream.requests import RequestScope, RequestStats, UpstreamRequest
from tests.effort import thorough_only
from tests.upstream.fakes import ENDPOINTS, Sending
from tests.upstream.tcp_server import TCPServer
from tests.waiting import eventually

TRANSPORTS = ("builtin", "httpx")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
BODY = b'{"id":"JQ7RP"}'
OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 14\r\n\r\n" + BODY
CLOSE = object()  # closes the connection
RESET = object()  # closes it with a RST
PAUSE = object()  # sends nothing for a while
SILENT = 0.07  # seconds after which either transport reuses a connection for any call
Step = bytes | object


def vehicle_request(vehicle_id: str = "JQ7RP", token: str = "secret-token") -> UpstreamRequest[Vehicle]:
    endpoint = replace(ENDPOINTS.vehicle, id_of=lambda vehicle: vehicle_id if vehicle.vehicle_id == "JQ7RP" else "")
    return UpstreamRequest.of(RequestScope(Caller(token), RequestStats()), endpoint, item_id=vehicle_id)


def unchecked(token: str = "secret-token") -> UpstreamRequest[Vehicle]:
    """A request whose response can't be matched to it."""
    return UpstreamRequest.of(
        RequestScope(Caller(token), RequestStats()), replace(ENDPOINTS.vehicle, id_of=None), item_id="JQ7RP"
    )


class Server(TCPServer):
    """Responds to requests in order, each by its steps; the last ones are for all that follow.

    If it does not read, each connection gets one response at once. If it `names` ids, `JQ7RP` in a response becomes the
    requested id. If it has a `second` step, that is its response to the second request of each connection.
    """

    def __init__(self, *responses: list[Step], reads: bool = True, names: bool = False) -> None:
        super().__init__()
        self.responses = list(responses)
        self.reads = reads
        self.names = names
        self.writers: list[asyncio.StreamWriter] = []
        self.heads: list[bytes] = []
        self.second: Step | None = None
        self.answered: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            if not self.reads:
                await reader.readexactly(1)
                writer.write(PLAIN)
                await asyncio.sleep(1)
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), writer):
                pass
            writer.close()
            await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        self.heads.append(head)
        steps = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if self.second is not None and writer in self.answered:
            steps = [self.second]
        self.answered.add(writer)
        for step in steps:
            if step is CLOSE:
                return False
            if step is RESET:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
            if step is PAUSE:
                await asyncio.sleep(1)
            elif writer.is_closing():
                return False
            else:
                writer.write(step.replace(b"JQ7RP", head.split(b" ")[1][-5:]) if self.names else step)
                await writer.drain()
                await asyncio.sleep(0.002)
        return True


Scenario = Callable[[HttpTransport, Server], Awaitable[None]]


@pytest.fixture(params=[pytest.param(name, marks=() if name == "uvloop" else thorough_only) for name in LOOPS])
def loop_factory(request):
    """Both event loops: they differ in what they report to a connection, and when."""
    return LOOPS[request.param]


@pytest.fixture(params=TRANSPORTS)
def run(request, loop_factory):
    """Runs a scenario over a transport and a server with these responses."""

    def ran(scenario: Scenario, *responses: list[Step], reads: bool = True, **upstream: object) -> None:
        async def running() -> None:
            server = Server(*responses, reads=reads)
            async with server.listening() as url:
                transport = HttpTransport(UpstreamSettings(url=url, transport=request.param, **upstream))
                try:
                    await asyncio.wait_for(scenario(transport, server), 20)
                finally:
                    await transport.close()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(running())

    return ran


def chunked(body: bytes, size: int = 5) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def coded(coding: bytes, body: bytes) -> list[Step]:
    return [OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body)) + body]


def bare_deflate(body: bytes) -> bytes:
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflating.compress(body) + deflating.flush()


BOMB = gzip.compress(b" " * 2**20 + BODY)
GOOD = {
    "by length": [PLAIN],
    "in single bytes": [PLAIN[at : at + 1] for at in range(len(PLAIN))],
    "chunked": [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY)],
    "chunked, with a trailer": [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY)[:-2] + b"ETag: no\r\n\r\n"],
    "until the end": [OK + b"\r\n" + BODY[:5], BODY[5:], CLOSE],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\n" + BODY, CLOSE],
    "HTTP/1.0 with a length": [b"HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY],
    "a later minor version": [b"HTTP/1.2 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY],
    "the last minor version, until the end": [b"HTTP/1.9 200 OK\r\n\r\n" + BODY, CLOSE],
    "until the end, announced": [OK + b"Connection: close\r\n\r\n" + BODY, CLOSE],
    "a coding and a length": [OK + b"Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n" + chunked(BODY)],
    "a length and a coding": [OK + b"content-length: 3\r\ntransfer-encoding: Chunked\r\n\r\n" + chunked(BODY)],
    "equal lengths": [OK + b"Content-Length: 14\r\nX: y\r\ncontent-length: 14\r\n\r\n" + BODY],
    "a list of equal lengths": [OK + b"Content-Length: 14, 14\r\n\r\n" + BODY],
    "a folded line": [OK + b"X: y\r\n z\r\nContent-Length:\r\n\t14\r\n\r\n" + BODY],
    "a folded line in single bytes": [
        *[bytes([byte]) for byte in OK + b"X: y\r\n z\r\nContent-Length: 14\r\n\r\n" + BODY]
    ],
    "LF alone": [b"HTTP/1.1 200 OK\nContent-Length: 14\n\n" + BODY],
    "no reason": [b"HTTP/1.1 200\r\nContent-Length: 14\r\n\r\n" + BODY],
    "an empty reason": [b"HTTP/1.1 200 \r\nContent-Length:14 \r\n\r\n" + BODY],
    "names in any case": [OK + b"cONTENT-lENGTH:\t14\r\n\r\n" + BODY],
    "chunk extensions": [
        OK + b'Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n{"id"\r\n009;c="d;e"\r\n:"JQ7RP"}\r\n0;f\r\n\r\n'
    ],
    "padded chunk sizes": [OK + b"Transfer-Encoding: chunked\r\n\r\nE  \r\n" + BODY + b"\r\n0  \r\n\r\n"],
    "trailers": [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY)[:-2] + b"A: b\r\netag: no\r\n\r\n"],
    "an interim response that closes": [b"HTTP/1.1 103 Early\r\nConnection: close\r\n\r\n", PLAIN],
    "a folded line after an interim response": [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        OK + b"X: y\r\n z\r\nContent-Length: 14\r\n\r\n" + BODY,
    ],
    "closing": [OK + b"Connection: close\r\nContent-Length: 14\r\n\r\n" + BODY],
    "after interim responses": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", PLAIN],
    "gzip": coded(b"gzip", gzip.compress(BODY)),
    "gzip of several members": coded(b"gzip", b"".join(gzip.compress(BODY[n : n + 1]) for n in range(len(BODY)))),
    "gzip with padding": coded(b"gzip", gzip.compress(BODY) + gzip.compress(b"") + bytes(512)),
    "deflate": coded(b"deflate", zlib.compress(BODY)),
    "deflate without a header": coded(b"deflate", bare_deflate(BODY)),
    "gzip and chunked": [
        OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(gzip.compress(BODY))
    ],
}
BAD = {
    "nothing": ([CLOSE], UpstreamUnavailable),
    "half a head": ([OK, CLOSE], UpstreamUnavailable),
    "half a body": ([PLAIN[:-5], CLOSE], UpstreamUnavailable),
    "half of the chunks": (
        [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY)[:-6], CLOSE],
        UpstreamUnavailable,
    ),
    "no HTTP": ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n", CLOSE], UpstreamInvalidResponse),
    "another protocol": (
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", CLOSE],
        UpstreamInvalidResponse,
    ),
    "headers without end": ([OK, *[b"X-Header: %b\r\n" % (b"x" * 4000) * 20] * 15, PAUSE], UpstreamInvalidResponse),
    "a header without end": ([OK + b"X-Header: ", *[b"x" * 4000] * 60, PAUSE], UpstreamInvalidResponse),
    "folded lines without end": ([OK + b"X: y\r\n", *[b" z\r\n" * 4000] * 15, PAUSE], UpstreamInvalidResponse),
    "different lengths": ([OK + b"Content-Length: 14\r\nContent-Length: 15\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a list of different lengths": ([OK + b"Content-Length: 14, 15\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a signed length": ([OK + b"Content-Length: +14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "an empty length": ([OK + b"Content-Length:\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a blank before the colon": ([OK + b"Content-Length : 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a folded status line": ([OK + b" X: y\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a line without a colon": ([OK + b"nonsense\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a NUL": ([OK + b"X: \0\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a lone CR": ([OK + b"X: a\rb\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a status below 100": ([b"HTTP/1.1 099 Odd\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a long status": ([b"HTTP/1.1 2000 Odd\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "an unknown transfer coding": ([OK + b"Transfer-Encoding: gzip\r\n\r\n" + BODY, CLOSE], UpstreamInvalidResponse),
    "an unknown transfer coding, silent": (
        [OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + BODY, PAUSE],
        UpstreamInvalidResponse,
    ),
    "an unknown transfer coding, reset": (
        [OK + b"Transfer-Encoding: gzip\r\n\r\n" + BODY, RESET],
        UpstreamInvalidResponse,
    ),
    "HTTP/0.9": ([b"HTTP/0.9 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "HTTP/2.0": ([b"HTTP/2.0 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "HTTP/2.0 until the end": ([b"HTTP/2.0 200 OK\r\n\r\n" + BODY, CLOSE], UpstreamInvalidResponse),
    "HTTP/3.0": ([b"HTTP/3.0 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "two digits of a version": ([b"HTTP/1.12 200 OK\r\nContent-Length: 14\r\n\r\n" + BODY], UpstreamInvalidResponse),
    "a malformed chunk size": ([OK + b"Transfer-Encoding: chunked\r\n\r\n0xE\r\n" + BODY], UpstreamInvalidResponse),
    "a chunk of another size": (
        [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n"],
        UpstreamInvalidResponse,
    ),
    "a reset body": ([PLAIN[:-5], RESET], UpstreamUnavailable),
    "silence": ([PAUSE], UpstreamTimeout),
    "a silent body": ([PLAIN[:-5], PAUSE], UpstreamTimeout),
    "too long": ([OK + b"Content-Length: 5000\r\n\r\n", *[b" " * 500] * 10], UpstreamInvalidResponse),
    "too long in chunks": (
        [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b" " * 5000, 1000)],
        UpstreamInvalidResponse,
    ),
    "too long once inflated": (coded(b"gzip", BOMB), UpstreamInvalidResponse),
    "too long in several members": (coded(b"gzip", gzip.compress(b" " * 2**19) * 9), UpstreamInvalidResponse),
    "endless members": (coded(b"gzip", gzip.compress(b"") * 30_000), UpstreamInvalidResponse),
    "half a member": (coded(b"gzip", gzip.compress(BODY) + gzip.compress(BODY)[:-12]), UpstreamInvalidResponse),
    "half a gzip": (coded(b"gzip", gzip.compress(BODY)[:-12]), UpstreamInvalidResponse),
    "no gzip": (coded(b"gzip", BODY), UpstreamInvalidResponse),
    "an unknown coding": (coded(b"br", b"\x0b\x00\x80"), UpstreamInvalidResponse),
}


ENDS = {"FIN": CLOSE, "RST": RESET}
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# A legal response, cut off, and what is no beginning of one. The parsers wait for the end of some lines of either.
BEGUN = {
    "a letter": (b"H", UpstreamUnavailable),
    "a line": (OK, UpstreamUnavailable),
    "a folded line": (OK + b"X: y\r\n z\r\n", UpstreamUnavailable),
    "half a folded line": (OK + b"X: y\r\n z", UpstreamUnavailable),
    "LF alone": (b"HTTP/1.1 200 OK\nX: y\n", UpstreamUnavailable),
    "an interim response": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", UpstreamUnavailable),
    "half a length": (OK + b"Content-Length: 14\r\nContent-Length:", UpstreamUnavailable),
    "another letter": (b"x", UpstreamInvalidResponse),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", UpstreamInvalidResponse),
    "HTML": (b"<html><body>x</body></html>", UpstreamInvalidResponse),
    "JSON": (b'{"error": "x"}', UpstreamInvalidResponse),
    "no version": (b"HTTP/11", UpstreamInvalidResponse),
    "no status": (b"HTTP/1.1 abc", UpstreamInvalidResponse),
    "SSH after an interim response": (b"HTTP/1.1 100 Continue\r\n\r\nSSH-2", UpstreamInvalidResponse),
    "a blank before the colon": (OK + b"X : y\r\n", UpstreamInvalidResponse),
    "a line without a colon": (OK + b"nonsense\r\n", UpstreamInvalidResponse),
    "JSON after a status line": (OK + b'{"id": "JQ7RP"}', UpstreamInvalidResponse),
    "no chunk": (OK + CHUNKED, UpstreamUnavailable),
    "half a chunk size": (OK + CHUNKED + b"5", UpstreamUnavailable),
    "half a chunk extension": (OK + CHUNKED + b"5;a", UpstreamUnavailable),
    "half a trailer": (OK + CHUNKED + chunked(BODY)[:-2] + b"A: b\r\nE", UpstreamUnavailable),
    "a long chunk": (OK + CHUNKED + b"f" * 15 + b"\r\n" + BODY, UpstreamUnavailable),
    "an impossible chunk": (OK + CHUNKED + b"f" * 20 + b"\r\n" + BODY, UpstreamInvalidResponse),
    "chunk sizes with LF alone": (OK + CHUNKED + b"e\n" + BODY + b"\n0\n\n", UpstreamInvalidResponse),
    "no chunk size": (OK + CHUNKED + b"xyz", UpstreamInvalidResponse),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", BEGUN)
def test_an_incomplete_response_is_an_outage_unless_it_is_malformed(run, kind, end):
    """However the connection ends, and also over one that is kept."""
    begun, error = BEGUN[kind]

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(2):
            with pytest.raises(error):
                await transport.fetch(vehicle_request())
            await transport.fetch(vehicle_request())
            await asyncio.sleep(SILENT)
        assert len(server.heads) == 4

    run(scenario, [begun, ENDS[end]], [PLAIN], [begun, ENDS[end]], [PLAIN])


@pytest.mark.parametrize("kind", BEGUN)
def test_an_endless_response_is_an_outage_unless_it_is_malformed(run, kind):
    """A server that sends no more is slow, but not if what it sent is no HTTP."""
    begun, error = BEGUN[kind]
    error = UpstreamTimeout if error is UpstreamUnavailable else error

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(error):
            await transport.fetch(vehicle_request())

    run(scenario, [begun, PAUSE], read_timeout=0.1)


@pytest.mark.parametrize("framing", GOOD)
def test_each_framing_gives_a_complete_response(run, framing):
    """Lengths, chunks, closed connections, interim responses and codings; the next call succeeds, too."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(2):
            response = await transport.fetch(vehicle_request())
            assert (response.value.vehicle_id, response.size, response.etag) == ("JQ7RP", 14, None)

    run(scenario, GOOD[framing])


@pytest.mark.parametrize("fault", BAD)
def test_each_invalid_response_has_its_error(run, fault):
    """In time; the next call has a connection and its response."""
    steps, error = BAD[fault]

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(error):
            await transport.fetch(vehicle_request())
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
        assert len(server.heads) == 2

    run(scenario, steps, [PLAIN], read_timeout=0.2, connections_max=1, response_bytes_max=2048)


@pytest.mark.parametrize("coding", [b"gzip", b"chunked, gzip", b"chunked;a=b", b"", b",", b"chunked, x,"])
def test_an_unknown_transfer_coding_fails_at_once(run, coding):
    """The connection is not kept until its end or a timeout."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(UpstreamInvalidResponse):
            await transport.fetch(vehicle_request())
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"

    steps = [OK + b"Transfer-Encoding: %b\r\n\r\n" % coding + BODY, PAUSE]
    run(scenario, steps, [PLAIN], read_timeout=60, total_timeout=60, connections_max=1)


@pytest.mark.parametrize("run", ["builtin"], indirect=True)
@pytest.mark.parametrize("codings", [b"chunked,", b", chunked", b"chunked , ,", b",chunked\r\nConnection: close"])
def test_a_list_of_transfer_codings_may_have_empty_elements(run, codings):
    """They are ignored (RFC 9110, 5.6.1)."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(2):
            assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"

    run(scenario, [OK + b"Transfer-Encoding: %b\r\n\r\n" % codings + chunked(BODY)])


def test_a_slow_response_times_out(run):
    """Bytes that arrive in time do not extend the total."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(UpstreamTimeout):
            await transport.fetch(vehicle_request())

    run(scenario, [OK, *[b"X: y\r\n"] * 1000], total_timeout=0.2)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("lines", [b"", b"Content-Length: 14\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_some_statuses_have_no_body(run, status, lines):
    """After 204 and 304 the transport does not wait for a body, and reuses the connection."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(UpstreamInvalidResponse) as failed:
            await transport.fetch(vehicle_request())
        assert failed.value.problem.status == status
        await asyncio.sleep(SILENT)
        await transport.fetch(vehicle_request())
        assert server.connections == 1

    run(scenario, [b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, lines)], [PLAIN], read_timeout=1)


@pytest.mark.parametrize("framing", ["a coding and a length", "a length and a coding"])
def test_a_connection_with_an_ambiguous_length_is_not_reused(run, framing):
    """Another server could take the rest of such a response for the next one."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await transport.fetch(vehicle_request())
        await asyncio.sleep(SILENT)
        await transport.fetch(vehicle_request())
        assert server.connections == 2

    run(scenario, GOOD[framing])


@pytest.mark.parametrize("run", ["builtin"], indirect=True)
@pytest.mark.parametrize("head", [OK + b"Content-Length: 14\r\n\r\n", b"HTTP/1.1 200 OK\nContent-Length: 14\n\n"])
def test_empty_lines_before_a_head_are_ignored(run, head):
    """Also where the head has to be rewritten."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"

    run(scenario, [b"\r\n\r\n" + head + BODY])


@pytest.mark.parametrize("end", ENDS)
def test_a_call_is_sent_again_if_its_kept_connection_ends(run, end):
    """At once and over a new connection, if no byte of the response has arrived; the call counts as two."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        request = vehicle_request()
        for _ in range(2):
            assert (await transport.fetch(request)).value.vehicle_id == "JQ7RP"
            await asyncio.sleep(SILENT)
        assert (server.connections, len(server.heads), request.stats.upstream_calls) == (2, 3, 3)

    run(scenario, [PLAIN], [ENDS[end]], [PLAIN])


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "begun", [b"H", OK, b"HTTP/1.1 100 Continue\r\n\r\n", PLAIN[:-1]], ids=["H", "a line", "100", "almost all"]
)
def test_a_call_is_not_sent_again_after_a_byte(run, end, begun):
    """A response that has begun may not be repeated; the call fails."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await transport.fetch(vehicle_request())
        await asyncio.sleep(SILENT)
        with pytest.raises(UpstreamUnavailable):
            await transport.fetch(vehicle_request())
        assert len(server.heads) == 2

    run(scenario, [PLAIN], [begun, ENDS[end]], [PLAIN])


@pytest.mark.parametrize("end", ENDS)
def test_a_call_is_sent_again_only_once(run, end):
    """A second end is a failure."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await transport.fetch(vehicle_request())
        await asyncio.sleep(SILENT)
        with pytest.raises(UpstreamUnavailable):
            await transport.fetch(vehicle_request())
        assert len(server.heads) == 3

    run(scenario, [PLAIN], [ENDS[end]], [ENDS[end]], [PLAIN])


@pytest.mark.parametrize("end", ENDS)
def test_a_write_is_never_sent_again(run, end):
    """Its outcome is unknown; neither is a call over a new connection."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(UpstreamUnavailable):
            await transport.fetch(vehicle_request())
        await transport.fetch(vehicle_request())
        await asyncio.sleep(SILENT)
        request = vehicle_request()
        request.endpoint = replace(request.endpoint, method="POST", idempotent=False)
        with pytest.raises(UpstreamUnavailable):
            await transport.fetch(request)
        assert [head.split()[0] for head in server.heads] == [b"GET", b"GET", b"POST"]

    run(scenario, [ENDS[end]], [PLAIN], [ENDS[end]], [PLAIN])


def command() -> UpstreamRequest[Any]:
    """A write with a time limit of its own."""
    request = vehicle_request()
    request.endpoint = replace(request.endpoint, method="POST", idempotent=False, timeout=5.0)
    return request


def test_a_write_may_take_longer_than_a_read(run):
    """Its endpoint's time limit replaces those of the settings."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        assert (await transport.fetch(command())).value.vehicle_id == "JQ7RP"
        with pytest.raises(UpstreamTimeout):
            await transport.fetch(vehicle_request())

    run(scenario, [PAUSE, PLAIN], read_timeout=0.3, total_timeout=0.4)


def test_a_write_is_not_sent_too_late(run):
    """Nothing is sent, which the error says; also over a connection that is there."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for number in range(2):
            late = command()
            late.send_by = time.monotonic() - 0.01
            with pytest.raises(UpstreamTimeout) as raised:
                await transport.fetch(late)
            assert raised.value.is_unsent
            assert len(server.heads) == number
            await transport.fetch(vehicle_request())
            await asyncio.sleep(SILENT)

    run(scenario, [PLAIN])


@pytest.mark.parametrize("end", ENDS)
def test_all_kept_connections_may_end(run, end):
    """Such as after an idle timeout of a load balancer: no call is sent to another of them."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        server.second = ENDS[end]
        for _ in range(3):
            responses = await asyncio.gather(*(transport.fetch(vehicle_request()) for _ in range(3)))
            assert [response.value.vehicle_id for response in responses] == ["JQ7RP"] * 3
            await asyncio.sleep(SILENT)
        assert len(server.heads) > 9

    run(scenario, [PLAIN], connections_max=3)


@pytest.mark.parametrize("run", ["builtin"], indirect=True)
@pytest.mark.parametrize("ending", ["close", "cancel"])
def test_a_call_can_end_while_it_is_sent_again(run, ending, monkeypatch):
    """Closing the transport fails it; a cancelled call leaves its new connection to others."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        connect, waits, goes_on = http1.aiohappyeyeballs.start_connection, asyncio.Event(), asyncio.Event()

        async def slow(*arguments: object, **named: object) -> socket.socket:
            waits.set()
            await goes_on.wait()
            return await connect(*arguments, **named)

        await transport.fetch(vehicle_request())
        await asyncio.sleep(SILENT)
        monkeypatch.setattr(http1.aiohappyeyeballs, "start_connection", slow)
        call = asyncio.ensure_future(transport.fetch(vehicle_request()))
        await waits.wait()
        if ending == "close":
            await transport.close()
            with pytest.raises(UpstreamUnavailable):
                await call
            return
        call.cancel()
        goes_on.set()
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
        assert len(server.heads) == 3

    run(scenario, [PLAIN], [CLOSE], [PLAIN], connections_max=1)


def test_a_server_may_close_after_each_response(run):
    """Without announcing it: no call of many fails, and cancelled ones leave nothing behind."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(15):
            calls = [asyncio.ensure_future(transport.fetch(vehicle_request())) for _ in range(8)]
            await asyncio.sleep(0.002)
            calls[3].cancel()
            responses = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(response, Exception) for response in responses) == 0
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"

    run(scenario, [PLAIN, CLOSE], connections_max=3)


def test_cookies_and_redirects_are_not_followed(run):
    """A redirect is an error, and no later request has a cookie."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(UpstreamInvalidResponse):
            await transport.fetch(vehicle_request())
        await transport.fetch(vehicle_request())
        assert len(server.heads) == 2
        assert not any(b"cookie" in head.lower() for head in server.heads)

    cookie = b"Set-Cookie: session=alice; Path=/\r\nContent-Length: 0\r\n\r\n"
    run(scenario, [b"HTTP/1.1 307 Elsewhere\r\nLocation: /vehicles/OTHER\r\n" + cookie], [PLAIN])


def test_connections_are_reused_until_they_expire(run):
    """Successive calls share a connection, unless it was idle too long or the server closed it."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(3):
            await transport.fetch(vehicle_request())
            await asyncio.sleep(SILENT)
        assert server.connections == 1
        await asyncio.sleep(0.5)
        await transport.fetch(vehicle_request())
        await asyncio.sleep(SILENT)
        assert server.connections == 2
        await transport.fetch(vehicle_request())  # the server closes the connection after its response
        await asyncio.sleep(0.1)
        await transport.fetch(vehicle_request())
        assert server.connections == 3

    run(scenario, *[[PLAIN]] * 4, [PLAIN, CLOSE], [PLAIN], keepalive_expiry=0.2)


def test_an_idle_connection_is_closed_after_its_time(run):
    """Without a further call; one that is used again in time stays."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(4):
            await transport.fetch(vehicle_request())
            await asyncio.sleep(0.25)
        assert server.connections == 1
        await eventually(lambda: all(writer.is_closing() for writer in server.writers), 10)

    run(scenario, [PLAIN], keepalive_expiry=0.9)


def test_no_call_gets_another_response(run):
    """Bytes after a response close the connection, and every call has a connection of its own from then on."""
    other = PLAIN.replace(b"JQ7RP", b"OTHER")

    async def scenario(transport: HttpTransport, server: Server) -> None:
        calls = [transport.fetch(vehicle_request()) for _ in range(3)]
        responses = await asyncio.gather(*calls, return_exceptions=True)
        for _ in range(2):
            responses.append(await transport.fetch(vehicle_request()))
            await asyncio.sleep(0.05)
        assert {
            response.value.vehicle_id for response in responses if not isinstance(response, UpstreamInvalidResponse)
        } == {"JQ7RP"}
        assert server.connections == 5

    run(scenario, [PLAIN + other], [PLAIN], [PLAIN], [PLAIN, other], [PLAIN], connections_max=1)


def test_bytes_before_the_request_are_no_response(run):
    """If bytes arrive before the request is sent, the call gets another connection."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await transport.fetch(unchecked())
        await asyncio.sleep(0.02)
        call = asyncio.ensure_future(transport.fetch(unchecked()))
        server.writers[0].write(PLAIN.replace(b"JQ7RP", b"OTHER"))
        assert (await call).value.vehicle_id == "JQ7RP"
        assert (server.connections, len(server.heads)) == (2, 2)

    run(scenario, [PLAIN])


def test_a_408_on_an_idle_connection_is_accepted(run):
    """It is no unsolicited response; other connections are still reused."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await asyncio.gather(transport.fetch(vehicle_request()), transport.fetch(vehicle_request()))
        server.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        for _ in range(3):
            await asyncio.sleep(SILENT)
            await transport.fetch(vehicle_request())
        assert server.connections == 2

    run(scenario, [PLAIN])


def test_a_response_of_another_vehicle_is_invalid(run):
    """Its connection is closed."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        with pytest.raises(UpstreamInvalidResponse):
            await transport.fetch(vehicle_request())
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
        assert server.connections == 2

    run(scenario, [PLAIN.replace(b"JQ7RP", b"OTHER")], [PLAIN])


@pytest.mark.parametrize("run", ["builtin"], indirect=True)
def test_a_connection_is_reused_by_others_only_after_silence(run, monkeypatch):
    """The same principal's next vehicle is read at once; other principals and requests without an id have to wait."""
    monkeypatch.setattr("gateway.upstream.http.http1.SILENCE", 60)

    async def scenario(transport: HttpTransport, server: Server) -> None:
        for _ in range(3):
            await transport.fetch(vehicle_request())
        assert server.connections == 1
        await transport.fetch(vehicle_request(token="another"))
        assert server.connections == 2
        await transport.fetch(unchecked())
        assert server.connections == 3
        await asyncio.gather(*(transport.fetch(vehicle_request(token=token)) for token in ("another", "secret-token")))
        assert server.connections == 3
        await transport.fetch(unchecked("another"))
        assert server.connections == 4

    run(scenario, [PLAIN])


def test_a_call_waits_for_silence_at_the_connection_limit(run):
    """With one connection calls are made in order, after a moment each."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        calls = [transport.fetch(unchecked(token)) for token in ("one", "two") for _ in range(5)]
        responses = await asyncio.gather(*calls)
        assert [response.value.vehicle_id for response in responses] == ["JQ7RP"] * 10
        assert (server.connections, len(server.heads)) == (1, 10)

    run(scenario, [PLAIN], connections_max=1)


@pytest.mark.parametrize("run", ["builtin"], indirect=True)
def test_a_response_before_the_request_was_sent_is_invalid(run):
    """It can't belong to the request."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        pool = transport._http1
        head = pool.request("GET", "/vehicles/JQ7RP", pool.prepared({"X": "x" * 2**23}))
        with pytest.raises((httpx.DecodingError, httpx.ReadError)):
            await pool.fetch_raw(head)

    run(scenario, [PLAIN], reads=False)


def test_waits_for_a_connection_are_bounded(run):
    """Calls above the limit wait up to their bound; connections that hang are closed."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        calls = [transport.fetch(vehicle_request()) for _ in range(4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [UpstreamTimeout] * 4
        assert server.connections <= 2

    run(scenario, [PAUSE], connections_max=2, pool_timeout=0.1, read_timeout=0.3)


def test_connections_are_given_to_principals_in_turn(loop_factory):
    """A principal with a few calls does not wait for one with many."""

    async def scenario() -> None:
        server = Server([PLAIN])
        async with server.listening() as url:
            transport = HttpTransport(UpstreamSettings(url=url, connections_max=2))
            many = [
                asyncio.ensure_future(transport.fetch(vehicle_request(f"many{number}", "many"))) for number in range(60)
            ]
            await asyncio.sleep(0)
            few = [transport.fetch(vehicle_request(f"few{number}", "few")) for number in range(3)]

            def names() -> list[str]:
                return [head.split(b" ")[1].rsplit(b"/", 1)[1].decode() for head in server.heads]

            await asyncio.gather(*few)
            requested = names()
            assert requested.index("few2") < 12
            await asyncio.gather(*many)
            await transport.close()
            assert sorted(names()) == sorted([f"many{number}" for number in range(60)] + ["few0", "few1", "few2"])

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_server_is_an_outage(transport, loop_factory):
    """After a rejected connection or for an unknown host name every waiting call is unavailable."""

    async def scenario() -> None:
        for url in ("http://127.0.0.1:1", "http://nowhere.invalid"):
            http = HttpTransport(UpstreamSettings(url=url, transport=transport, connections_max=2))
            calls = [http.fetch(vehicle_request()) for _ in range(5)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [UpstreamUnavailable] * 5
            await http.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


def test_calls_cancelled_at_any_time_leak_no_connection(run):
    """Hundreds of calls over three connections are cancelled at random: the rest get their own responses, and so do later ones."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        flights = Uncoalesced(Sending(), transport, Metrics())
        dice = random.Random(7)
        completed = 0
        for _ in range(6):
            calls = [asyncio.create_task(flights.fetch(vehicle_request(f"V{number}"))) for number in range(60)]
            for call in dice.sample(calls, 40):
                await asyncio.sleep(dice.choice((0, 0, 0.001)))
                call.cancel()
            for result in await asyncio.gather(*calls, return_exceptions=True):
                completed += not isinstance(result, BaseException)
        assert completed >= 120
        for _ in range(2):
            responses = await asyncio.gather(*(flights.fetch(vehicle_request()) for _ in range(9)))
            assert [response.value.vehicle_id for response in responses] == ["JQ7RP"] * 9
        await flights.settle()

    run(scenario, [PLAIN[:20], PLAIN[20:]], connections_max=3, pool_timeout=6)


def test_a_cancelled_call_closes_only_its_connection(run):
    """The other one stays open."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await asyncio.gather(transport.fetch(vehicle_request()), transport.fetch(vehicle_request()))
        assert server.connections == 2
        await asyncio.sleep(SILENT)
        leaving = asyncio.create_task(transport.fetch(vehicle_request()))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await transport.fetch(vehicle_request())
        assert server.connections == 2

    run(scenario, [PLAIN[:20], PLAIN[20:]], [PLAIN[:20], PLAIN[20:]], [PAUSE], [PLAIN])


@pytest.mark.parametrize("run", ["builtin"], indirect=True)
def test_a_connection_that_is_closing_takes_no_call(run):
    """A call that got a closing connection was not sent, and gets another connection."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        await transport.fetch(vehicle_request())
        (idle,) = transport._http1._idle
        idle._transport.abort()
        assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
        assert (server.connections, len(server.heads)) == (2, 2)

    run(scenario, [PLAIN])


def test_closing_ends_every_call(run):
    """Calls in progress, calls that wait and later calls all fail at once."""

    async def scenario(transport: HttpTransport, server: Server) -> None:
        calls = [asyncio.create_task(transport.fetch(vehicle_request())) for _ in range(3)]
        await asyncio.sleep(0.05)
        await transport.close()
        results = await asyncio.gather(*calls, transport.fetch(vehicle_request()), return_exceptions=True)
        assert [type(result) for result in results] == [UpstreamUnavailable] * 4

    run(scenario, [PAUSE], connections_max=1)


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_requests_can_not_be_injected(name):
    """A line break or a letter outside ASCII in a header, or a space in a target, is rejected, and nothing is sent."""
    server = Server([PLAIN])
    async with server.listening() as url:
        settings = UpstreamSettings(url=url, transport=name)
        transport = HttpTransport(settings.model_copy(update={"fleet_id": "a\r\nY: b"}))
        with pytest.raises(UpstreamUnavailable):
            await transport.fetch(vehicle_request())
        await transport.close()
        transport = HttpTransport(settings)
        for token in ("a\nb", "a\r\nY: b", "ä"):
            with pytest.raises(UpstreamUnavailable):
                await transport.fetch(vehicle_request(token=token))
        with pytest.raises(UpstreamUnavailable):
            await transport.fetch(
                UpstreamRequest.of(RequestScope(Caller("t"), RequestStats()), replace(ENDPOINTS.vehicle, path="/a b"))
            )
        assert server.heads == []
        await transport.fetch(vehicle_request())
        assert server.heads[0].lower().count(b"\r\nhost: ") == 1
        await transport.close()
