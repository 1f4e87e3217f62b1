"""An upstream that can't be reached is logged: the kind of failure and the host, once a second at most."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.errors import GatewayError
from gateway.settings import UpstreamSettings
from gateway.telemetry.logs import EventCounter
from gateway.upstream.http.transport import HttpTransport
from tests.upstream.certificates import certificate, server_context
from tests.upstream.test_transports import CLOSE, PAUSE, PLAIN, RESET, SILENT, TRANSPORTS, Server, vehicle_request

TOKEN = "canary-token"
UNREACHABLE = {
    "refused": ("http://127.0.0.1:1/canary-path", "127.0.0.1", "ConnectError ECONNREFUSED"),
    "unknown": ("http://Nowhere.invalid./canary-path", "nowhere.invalid", "name not resolved"),
}
FAULTY = {
    "nothing": ([CLOSE], "RemoteProtocolError"),
    "reset": ([PLAIN[:-5], RESET], "ReadError ECONNRESET"),
    "silent": ([PAUSE], "ReadTimeout"),
    "malformed": ([b"canary\r\n\r\n"], "DecodingError"),
    "malformed and cut off": ([b"canary", RESET], "DecodingError"),
}


async def lines_of(url: str, calls: int = 1, **upstream: object) -> list[dict[str, object]]:
    """What is logged at once about failing calls."""
    transport = HttpTransport(UpstreamSettings(url=url, read_timeout=0.1, **upstream))
    with capture_logs() as lines:
        for _ in range(calls):
            with contextlib.suppress(GatewayError):
                await transport.fetch(vehicle_request("CANARY", TOKEN))
    await transport.close()
    assert "canary" not in repr(lines).lower()
    return [line for line in lines if line["event"] == "upstream failures"]


def line(host: str, kind: str) -> dict[str, object]:
    return {"event": "upstream failures", "log_level": "warning", "host": host, kind: 1}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", UNREACHABLE)
async def test_an_unreachable_upstream_is_logged(case, transport):
    """A rejected connection and an unknown name; the next failures of that second are counted."""
    url, host, kind = UNREACHABLE[case]
    assert await lines_of(url, 5, transport=transport) == [line(host, kind)]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", FAULTY)
async def test_a_failed_call_is_logged(case, transport):
    """A connection that ends, silence, and bytes that are no HTTP."""
    steps, kind = FAULTY[case]
    async with Server(steps).listening() as url:
        assert await lines_of(url, transport=transport) == [line("localhost", kind)]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_certificate_is_logged(transport, tmp_path: Path):
    """It differs from a server without TLS."""
    own = certificate(tmp_path, "localhost")
    for context, kind in ((server_context(own), "TLS certificate refused"), (None, "TLS failed")):
        async with Server([PLAIN], reads=context is not None).listening(context) as url:
            secure = url.replace("http://", "https://")
            assert await lines_of(secure, transport=transport) == [line("localhost", kind)]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_call_that_is_sent_again_is_logged(transport):
    """A server that closes idle connections too early is worth knowing."""
    async with Server([PLAIN], [CLOSE], [PLAIN]).listening() as url:
        http = HttpTransport(UpstreamSettings(url=url, transport=transport))
        with capture_logs() as lines:
            for _ in range(2):
                await http.fetch(vehicle_request())
                await asyncio.sleep(SILENT)
        await http.close()
    assert lines == [line("localhost", "kept connection ended")]


def test_failures_are_logged_once_a_second():
    """The first at once, then the number of each kind, until a second has none."""

    class Loop:
        def call_later(self, seconds, callback, *arguments):
            self.next = seconds, lambda: callback(*arguments)

    counter, loop = EventCounter("upstream failures", host="fleet.test"), Loop()
    with capture_logs() as lines:
        for kind in ("ReadTimeout", "ReadTimeout", "ConnectError", "ReadTimeout"):
            counter.count(kind, loop)
        for _ in range(2):
            assert loop.next[0] == 1
            loop.next[1]()
        counter.count("ReadTimeout", loop)
    common = {"event": "upstream failures", "log_level": "warning", "host": "fleet.test"}
    assert lines == [
        {**common, "ReadTimeout": 1},
        {**common, "ReadTimeout": 2, "ConnectError": 1},
        {**common, "ReadTimeout": 1},
    ]
