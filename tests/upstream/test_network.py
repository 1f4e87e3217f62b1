"""TLS, client certificates, proxies and HTTP/2: settings and environment are applied, or rejected at start."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import ssl
import subprocess
from collections.abc import AsyncIterator

import pytest

from gateway.errors import UpstreamInvalidResponse, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import UpstreamSettings
from gateway.upstream.http import network
from gateway.upstream.http.network import UpstreamMisconfigured, check, proxy_of, tls_context
from gateway.upstream.http.transport import HttpTransport
from gateway.upstream.models import Vehicle
from gateway.upstream.requests import UpstreamRequest, UpstreamResponse
from tests.refused_start import refusal_of
from tests.upstream.certificates import Certificate, certificate, server_context
from tests.upstream.fakes import scope, vehicle_read
from tests.upstream.http2_server import Http2Server
from tests.upstream.proxy import ForwardProxy
from tests.upstream.tcp_server import TCPServer
from tests.upstream.test_transports import CLOSE, OK, PLAIN, SILENT, TRANSPORTS, Server

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """Removes proxies from the tests' own environment."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server_certificate(tmp_path_factory) -> Certificate:
    """The certificate of a server at localhost."""
    return certificate(tmp_path_factory.mktemp("server"), "localhost")


@pytest.fixture(scope="module")
def client_certificate(tmp_path_factory) -> Certificate:
    """The certificate of a client."""
    return certificate(tmp_path_factory.mktemp("client"), "gateway")


def vehicle_request(vehicle_id: str = "JQ7RP") -> UpstreamRequest[Vehicle]:
    """A request for one vehicle."""
    return vehicle_read(vehicle_id, scope("secret-token"))


@contextlib.asynccontextmanager
async def transport_to(url: str, **upstream: object) -> AsyncIterator[HttpTransport]:
    """A transport that is closed at the end of the block."""
    transport = HttpTransport(UpstreamSettings(url=url, **upstream))
    try:
        yield transport
    finally:
        await transport.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_private_authority_is_trusted_by_setting(transport, server_certificate):
    """A server with a certificate of `ca_file` and the right name is accepted; any other is unavailable."""
    server = Server([PLAIN])
    async with server.listening(server_context(server_certificate)) as url:
        async with transport_to(url, transport=transport, ca_file=str(server_certificate.file)) as good:
            assert (await good.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
        async with transport_to(url, transport=transport) as unknown_authority:
            with pytest.raises(UpstreamUnavailable):
                await unknown_authority.fetch(vehicle_request())
        other_name = url.replace("localhost", "127.0.0.1")
        async with transport_to(other_name, transport=transport, ca_file=str(server_certificate.file)) as wrong_name:
            with pytest.raises(UpstreamUnavailable):
                await wrong_name.fetch(vehicle_request())
    assert len(server.heads) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_closes_after_the_handshake_is_unavailable(transport, version, server_certificate):
    """Over TLS 1.2 its end arrives with the handshake's. Each call takes one connection."""

    class Closing(TCPServer):
        connections = 0

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1

    server, context = Closing(), server_context(server_certificate)
    context.minimum_version = context.maximum_version = version
    settings = {"transport": transport, "ca_file": str(server_certificate.file)}
    async with server.listening(context) as url, transport_to(url, **settings) as http:
        calls = [http.fetch(vehicle_request(f"V{number}")) for number in range(5)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UpstreamUnavailable] * 5
    assert server.connections == 5


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("https://API.Invers.COM./base/", "https://api.invers.com/base"),
        ("HTTPS://api.invers.com:443", "https://api.invers.com"),
        ("http://api.invers.com:80/", "http://api.invers.com"),
        ("http://api.invers.com:443", "http://api.invers.com:443"),
        ("https://MÜNCHEN.example.:8443", "https://xn--mnchen-3ya.example:8443"),
        ("https://XN--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
        ("http://[0:0:0:0:0:0:0:1]:8000/x", "http://[::1]:8000/x"),
        ("https://[2001:DB8::A]:443", "https://[2001:db8::a]"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://my_service:8001", "http://my_service:8001"),
    ],
)
def test_the_upstream_s_host_is_normalised(url, normalised):
    """Case, trailing dot, letters outside ASCII, addresses and the default port have one form."""
    assert UpstreamSettings(url=url).url == normalised


@pytest.mark.parametrize(
    "host", ["a..b", ".a", "a%62", "straße.example", "[fe80::1%25eth0]", "[::g]", "*.example.com", "a,b", "a_ä\u200d"]
)
def test_an_ambiguous_host_is_rejected(host):
    """The error does not quote it."""
    with pytest.raises(ValueError, match="url") as rejected:
        UpstreamSettings(url=f"https://{host}")
    assert host not in str(rejected.value)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", ["LocalHost", "localhost.", "LOCALHOST."])
async def test_one_name_is_resolved_certified_and_sent(transport, name, server_certificate):
    """The certificate and `Host` have the normalised name."""
    server = Server([PLAIN])
    async with server.listening(server_context(server_certificate)) as url:
        port = url.rpartition(":")[2]
        ca_file = str(server_certificate.file)
        async with transport_to(f"https://{name}:{port}", transport=transport, ca_file=ca_file) as good:
            assert (await good.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
    assert f"\r\nhost: localhost:{port}\r\n".encode() in server.heads[0].lower()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("files", ["two", "one"])
async def test_a_client_certificate_is_presented(transport, files, server_certificate, client_certificate, tmp_path):
    """A server that requires a client certificate gets it, from two files or from one; without it calls fail."""
    both = tmp_path / "both.pem"
    both.write_bytes(client_certificate.key.read_bytes() + client_certificate.file.read_bytes())
    paths = {"client_certificate": str(client_certificate.file), "client_key": str(client_certificate.key)}
    presented = paths if files == "two" else {"client_certificate": str(both)}
    server, trusted = Server([PLAIN]), {"transport": transport, "ca_file": str(server_certificate.file)}
    async with server.listening(server_context(server_certificate, client_certificate)) as url:
        async with transport_to(url, **trusted, **presented) as known:
            assert (await known.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
        async with transport_to(url, **trusted) as unknown:
            with pytest.raises(UpstreamUnavailable):
                await unknown.fetch(vehicle_request())
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    ("files", "setting"),
    [
        ({"ca_file": "missing.pem"}, "upstream.ca_file"),
        ({"ca_file": "empty.pem"}, "upstream.ca_file"),
        ({"client_certificate": "missing.pem"}, "upstream.client_certificate"),
        ({"client_certificate": "certificate.pem"}, "upstream.client_certificate"),
        ({"client_certificate": "certificate.pem", "client_key": "encrypted.pem"}, "upstream.client_certificate"),
        ({"client_key": "key.pem"}, "upstream.client_key"),
    ],
)
def test_an_unusable_file_is_rejected(files, setting, client_certificate, tmp_path):
    """A missing, empty or encrypted file, or half of a pair, is an error that names its setting."""
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "certificate.pem").write_bytes(client_certificate.file.read_bytes())
    (tmp_path / "key.pem").write_bytes(client_certificate.key.read_bytes())
    encrypt = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", str(client_certificate.key)]
    subprocess.run([*encrypt, "-out", tmp_path / "encrypted.pem"], check=True, capture_output=True)
    settings = UpstreamSettings(**{name: str(tmp_path / file) for name, file in files.items()})
    with pytest.raises(UpstreamMisconfigured) as rejected:
        check(settings)
    assert rejected.value.setting == setting
    with pytest.raises(UpstreamMisconfigured):
        tls_context(settings)


@pytest.mark.parametrize("name", ["ca_file", "client_certificate", "client_key"])
def test_tls_files_are_rejected_without_https(name):
    """Over http a certificate would be ignored."""
    with pytest.raises(UpstreamMisconfigured) as rejected:
        check(UpstreamSettings(url="http://fleet.test", **{name: "any.pem"}))
    assert rejected.value.setting == f"upstream.{name}"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_https_uses_a_tunnel_through_the_proxy(variable, monkeypatch, server_certificate):
    """The proxy gets its credentials; only the upstream gets the token."""
    server, proxy = Server([PLAIN]), ForwardProxy()
    async with server.listening(server_context(server_certificate)) as url, proxy.listening() as proxy_url:
        monkeypatch.setenv(variable, f"http://user:password@{proxy_url.removeprefix('http://')}")
        ca_file = str(server_certificate.file)
        async with transport_to(url, transport="httpx", ca_file=ca_file) as transport:
            for _ in range(2):
                assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
                await asyncio.sleep(SILENT)
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % int(url.rpartition(":")[2]))
    assert b"Basic " + base64.b64encode(b"user:password") in head
    assert b"secret-token" not in head
    assert (len(server.heads), server.connections) == (2, 1)
    assert b"password" not in b"".join(server.heads)


async def test_http_requests_are_forwarded_by_the_proxy(monkeypatch):
    """The proxy gets the absolute URL; its address may lack the scheme."""
    server, proxy = Server([PLAIN]), ForwardProxy()
    async with server.listening() as url, proxy.listening() as proxy_url:
        monkeypatch.setenv("http_proxy", proxy_url.removeprefix("http://"))
        async with transport_to(url, transport="httpx") as transport:
            for _ in range(2):
                assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
    assert [head.split(b"\r\n")[0] for head in proxy.heads] == [b"GET %b/vehicles/JQ7RP HTTP/1.1" % url.encode()] * 2


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_only_bytes_of_the_upstream_make_its_response_invalid(scheme, monkeypatch, server_certificate):
    """Behind a proxy, too: a kept connection that ends is no failure, and the proxy's own bytes are no response."""
    server, proxy = Server([PLAIN], [CLOSE], [CLOSE], [b"<html>", CLOSE], [OK, CLOSE], [PLAIN]), ForwardProxy()
    context = server_context(server_certificate) if scheme == "https" else None
    async with server.listening(context) as url, proxy.listening() as proxy_url:
        monkeypatch.setenv(f"{scheme}_proxy", proxy_url)
        settings = {"ca_file": str(server_certificate.file)} if scheme == "https" else {}
        async with transport_to(url, transport="httpx", **settings) as transport:
            await transport.fetch(vehicle_request())
            await asyncio.sleep(SILENT)
            for error in (UpstreamUnavailable, UpstreamInvalidResponse, UpstreamUnavailable):
                with pytest.raises(error):
                    await transport.fetch(vehicle_request())
            await transport.fetch(vehicle_request())
    assert len(server.heads) == 6


async def test_a_host_of_no_proxy_is_called_directly(monkeypatch):
    """`NO_PROXY` excludes hosts."""
    server, proxy = Server([PLAIN]), ForwardProxy()
    async with server.listening() as url, proxy.listening() as proxy_url:
        monkeypatch.setenv("HTTP_PROXY", proxy_url)
        monkeypatch.setenv("NO_PROXY", "example.com, localhost")
        async with transport_to(url, transport="httpx") as transport:
            assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"
    assert (proxy.heads, len(server.heads)) == ([], 1)


@pytest.mark.parametrize(
    ("rejection", "error"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", UpstreamUnavailable),
        (b"SSH-2.0\r\n\r\n", UpstreamInvalidResponse),
        (b"SSH-2.0\r\n", UpstreamInvalidResponse),
        (b"HTTP/1.1 407 Proxy", UpstreamUnavailable),
    ],
)
async def test_a_proxy_that_rejects_makes_the_upstream_unavailable(rejection, error, monkeypatch, server_certificate):
    """Its response is not the upstream's; the pool survives any number of rejections."""
    server, proxy = Server([PLAIN]), ForwardProxy(rejection)
    async with server.listening(server_context(server_certificate)) as url, proxy.listening() as proxy_url:
        monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        settings = {"ca_file": str(server_certificate.file), "connections_max": 2, "pool_timeout": 1}
        async with transport_to(url, transport="httpx", **settings) as transport:
            for _ in range(5):
                with pytest.raises(error):
                    await transport.fetch(vehicle_request())
            proxy._rejection = b""
            assert (await transport.fetch(vehicle_request())).value.vehicle_id == "JQ7RP"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, ("http://proxy:3128", "HTTPS_PROXY")),
        ({"https_proxy": "proxy:3128"}, ("http://proxy:3128", "https_proxy")),
        ({"ALL_PROXY": "socks5://proxy"}, ("socks5://proxy", "ALL_PROXY")),
        ({"HTTPS_PROXY": "http://one", "ALL_PROXY": "http://two"}, ("http://one", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "http://one", "NO_PROXY": "invers.com"}, None),
        ({"HTTPS_PROXY": "http://one", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://one", "no_proxy": "other.com,.api.invers.com"}, None),
        ({"HTTPS_PROXY": "http://one", "NO_PROXY": "vers.com"}, ("http://one", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": ""}, None),
    ],
)
def test_which_proxy_applies(variables, expected, monkeypatch):
    """The variable of the URL's scheme comes before `ALL_PROXY`; `NO_PROXY` excludes domains."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of("https://api.invers.com") == expected


@pytest.mark.parametrize(
    ("settings", "variables", "setting", "words"),
    [
        ({}, {"HTTPS_PROXY": "http://user:secret@proxy"}, "upstream.transport", "HTTPS_PROXY"),
        ({"transport": "httpx"}, {"HTTPS_PROXY": "ftp://user:secret@proxy"}, "upstream.transport", "HTTPS_PROXY"),
        ({"transport": "httpx"}, {"HTTPS_PROXY": "http://user:secret@"}, "upstream.transport", "HTTPS_PROXY"),
        ({"transport": "httpx"}, {"HTTPS_PROXY": "http://user:secret@proxy:x"}, "upstream.transport", "HTTPS_PROXY"),
        ({"transport": "httpx"}, {"ALL_PROXY": "socks5://user:secret@proxy"}, "upstream.transport", "socksio"),
        ({"http2": True}, {}, "upstream.http2", "httpx"),
    ],
)
def test_settings_that_would_be_ignored_are_rejected(settings, variables, setting, words, monkeypatch):
    """A proxy that the transport can't use, or HTTP/2 over the builtin one; the error omits the proxy's password."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UpstreamMisconfigured, match=words) as rejected:
        check(UpstreamSettings(**settings))
    assert rejected.value.setting == setting
    assert "secret" not in str(rejected.value)
    with pytest.raises(UpstreamMisconfigured):
        HttpTransport(UpstreamSettings(**settings))


def test_supported_settings_are_accepted(monkeypatch):
    """The defaults, a proxy or HTTP/2 with httpx, and a proxy beside a local upstream."""
    check(UpstreamSettings())
    check(UpstreamSettings(transport="httpx", http2=True))
    monkeypatch.setenv("ALL_PROXY", "https://proxy:3128")
    check(UpstreamSettings(transport="httpx"))
    for host in ("localhost", "LocalHost.", "127.0.0.1", "127.0.0.2", "[::1]", "[0:0:0:0:0:0:0:1]"):
        check(UpstreamSettings(url=f"http://{host}:8001"))


def test_http2_needs_its_extra(monkeypatch):
    """Without the package h2 the setting is rejected, and the message names the extra."""
    monkeypatch.setattr(network, "_is_installed", lambda package: package != "h2")
    with pytest.raises(UpstreamMisconfigured, match=r"\[http2\]"):
        check(UpstreamSettings(transport="httpx", http2=True))


def test_serve_rejects_settings_that_would_be_ignored(monkeypatch):
    """`gateway serve` exits with one line that names the variable and the setting."""
    proxies = {"HTTPS_PROXY": "http://user:secret@proxy:3128", "NO_PROXY": "", "no_proxy": ""}
    (line,) = refusal_of(monkeypatch, **proxies).splitlines()
    assert line.startswith("GATEWAY_UPSTREAM_TRANSPORT: HTTPS_PROXY applies")
    assert "secret" not in line


async def test_calls_share_one_http2_connection(server_certificate):
    """Concurrent and later calls are streams of one connection, each with its own response."""
    server = Http2Server(seconds=0.02)
    settings = {"transport": "httpx", "http2": True, "ca_file": str(server_certificate.file)}
    async with server.listening(server_context(server_certificate)) as url, transport_to(url, **settings) as transport:
        for _ in range(2):
            responses = await asyncio.gather(*(transport.fetch(vehicle_request(f"V{number}")) for number in range(40)))
            assert [response.value.vehicle_id for response in responses] == [f"V{number}" for number in range(40)]
    assert [len(paths) for paths in server.streams] == [80]


async def test_a_cancelled_call_does_no_harm_to_its_http2_connection(server_certificate):
    """Calls are cancelled at random; the others get their responses over one connection."""
    server, dice = Http2Server(seconds=0.005), random.Random(5)
    settings = {"transport": "httpx", "http2": True, "ca_file": str(server_certificate.file), "connections_max": 8}
    async with server.listening(server_context(server_certificate)) as url, transport_to(url, **settings) as transport:
        for _ in range(40):
            calls = [asyncio.create_task(transport.fetch(vehicle_request(f"V{number}"))) for number in range(8)]
            await asyncio.sleep(dice.choice((0, 0.001, 0.003, 0.005, 0.007)))
            left = calls.pop(dice.choice((0, 0, 3)))
            left.cancel()
            outcomes = await asyncio.gather(left, *calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes[1:]} == {UpstreamResponse}
        assert len(server.streams) == 1
        await asyncio.sleep(0.1)
        assert transport._httpx._shared_calls == set()


async def test_closing_ends_calls_over_http2(server_certificate):
    """Calls in progress fail, and nothing remains of them."""
    server = Http2Server(seconds=5)
    settings = {"transport": "httpx", "http2": True, "ca_file": str(server_certificate.file)}
    async with server.listening(server_context(server_certificate)) as url, transport_to(url, **settings) as transport:
        calls = [asyncio.create_task(transport.fetch(vehicle_request(f"V{number}"))) for number in range(3)]
        await asyncio.sleep(0.05)
        await transport.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1)
        assert [type(outcome) for outcome in outcomes] == [UpstreamUnavailable] * 3


async def test_a_server_that_ends_its_http2_connection_is_unavailable(server_certificate):
    """Its frames are not judged as a response over HTTP/1.1."""
    server = Http2Server(seconds=5)
    settings = {"transport": "httpx", "http2": True, "ca_file": str(server_certificate.file), "read_timeout": 0.2}
    async with server.listening(server_context(server_certificate)) as url, transport_to(url, **settings) as transport:
        with pytest.raises(UpstreamTimeout):
            await transport.fetch(vehicle_request())
        call = asyncio.create_task(transport.fetch(vehicle_request()))
        await asyncio.sleep(0.05)
        for connection in server._tasks:
            connection.cancel()
        with pytest.raises(UpstreamUnavailable):
            await call


async def test_http11_is_used_with_servers_without_http2(server_certificate):
    """Each connection then makes one call at a time."""
    server = Server([PLAIN])
    settings = {"transport": "httpx", "http2": True, "ca_file": str(server_certificate.file)}
    async with server.listening(server_context(server_certificate)) as url, transport_to(url, **settings) as transport:
        for _ in range(3):
            responses = await asyncio.gather(*(transport.fetch(vehicle_request()) for _ in range(5)))
            assert [response.value.vehicle_id for response in responses] == ["JQ7RP"] * 5
            await asyncio.sleep(SILENT)
    assert 5 <= server.connections <= 11
