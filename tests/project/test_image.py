"""The image's health check, as the Dockerfile has it, against a running gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.gateway_process import GatewayProcess
from tests.programs import reserved_port

DOCKERFILE = (Path(__file__).resolve().parent.parent.parent / "Dockerfile").read_text()


def check(host: str, port: int, **environment: str) -> int:
    """The exit code of the health check's command in the image's environment."""
    (command,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    python, *arguments = json.loads(command)
    assert python == "python"
    environment |= {"GATEWAY_HOST": host, "GATEWAY_PORT": str(port)}
    return subprocess.call([sys.executable, *arguments], env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


HOSTS = ["0.0.0.0", "127.0.0.2", "::", "::1"]  # noqa: S104 - of the image, and others


@pytest.fixture(scope="module")
def gateways(tmp_path_factory) -> Iterator[dict[str, GatewayProcess]]:
    """Gateways that listen on these addresses, which reject the check's host on all other paths."""
    running = {host: started(tmp_path_factory.mktemp("gateway"), host) for host in HOSTS}
    deadline = time.monotonic() + 120
    for host, gateway in running.items():
        while check(host, gateway.port) != 0:
            assert gateway.process.poll() is None, gateway.output
            assert time.monotonic() < deadline, gateway.output
            time.sleep(0.1)
    yield running
    for gateway in running.values():
        gateway.stop()


def started(folder: Path, host: str) -> GatewayProcess:
    return GatewayProcess(folder, host=host, upstream_url="http://127.0.0.1:1", http_allowed_hosts="api.example.com")


@pytest.mark.parametrize("host", HOSTS)
def test_the_health_check_uses_the_configured_address_and_no_proxy(gateways, host):
    """It connects to the gateway itself, whatever proxy the container is configured to use for the fleet API."""
    with reserved_port() as closed:
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        names = [name + "_PROXY" for name in ("HTTP", "HTTPS", "ALL")]
        proxies = dict.fromkeys([*names, *map(str.lower, names)], proxy)
        assert check(host, gateways[host].port, **proxies, NO_PROXY="", no_proxy="") == 0


def test_the_health_check_fails_for_an_unhealthy_gateway(serve):
    """It fails if nobody listens, and for each status but 200."""
    with reserved_port() as closed:
        assert check(HOSTS[0], closed.getsockname()[1]) != 0
    for status in (204, 302, 404, 503):
        unhealthy = Starlette(routes=[Route("/health/live", lambda request, status=status: Response(None, status))])
        assert check("127.0.0.1", int(serve(unhealthy).rpartition(":")[2])) != 0
