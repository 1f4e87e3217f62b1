"""HTTP clients that offer an h2c upgrade with their first request: the JDK's and curl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.simulator import Behaviours, Simulator
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.gateways import PLANS, TOKENS, serving
from tests.programs import require

QUERY = '{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}'
PADDED = QUERY + " " * 100_000  # more than one piece


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The URL of a served gateway's endpoint."""
    with serving(Simulator(PLANS, Behaviours(rate_limit_requests=0)).app) as fleet:
        gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), upstream_url=fleet)
        gateway.wait_until_ready()
        yield f"{gateway.url}/graphql"
        gateway.stop()


def output_of(program: str, *arguments: str, given: str = "") -> str:
    """The standard output of a program."""
    ended = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("body", [QUERY, pytest.param(PADDED, marks=thorough_only)], ids=["small", "large"])
def test_the_jdk_client_gets_responses(url, body):
    """`HttpClient.newHttpClient()` offers h2c with a body, and gets a response each time."""
    require("javac", "default-jdk-headless")  # which `java` calls for a source file
    source = str(Path(__file__).with_name("StockClient.java"))
    lines = output_of("java", source, url, TOKENS["alice"], body).splitlines()
    assert len(lines) == 3
    assert all(line.startswith('200 {"data":{"vehicles":{"nodes":[{"vehicleId":') for line in lines)


@pytest.mark.parametrize("body", [QUERY, PADDED], ids=["small", "large"])
@pytest.mark.parametrize("more", [(), ("--header", "Transfer-Encoding: chunked")], ids=["length", "chunks"])
def test_curl_gets_responses(url, body, more):
    """`curl --http2` offers h2c with a body, with a length or chunked, and gets a response each time."""
    fields = ("--header", f"Authorization: Bearer {TOKENS['alice']}", "--header", "Content-Type: application/json")
    options = ("--http2", "--silent", "--show-error", "--write-out", " %{http_code}\n", *fields, *more)
    lines = output_of(require("curl", "curl"), *options, "--data-binary", "@-", url, url, given=body).splitlines()
    assert len(lines) == 2
    assert all(
        line.startswith('{"data":{"vehicles":{"nodes":[{"vehicleId":') and line.endswith(" 200") for line in lines
    )
