"""The Dockerfile: its structure, and its health check against a running gateway. deploy/image/test_build.py builds it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from tests.dockerfile import BUILD, FINAL, ROOT, arguments_of, health_check, variables
from tests.gateway_process import GatewayProcess
from tests.programs import reserved_port


def check(host: str, port: int, **environment: str) -> int:
    """The exit code of the health check's command in the image's environment."""
    environment |= {"GATEWAY_HOST": host, "GATEWAY_PORT": str(port)}
    return health_check({**os.environ, **environment}, sys.executable)


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


def test_the_build_calls_a_script_that_runs_without_an_engine():
    """The build stage calls only package managers and that script, and the final stage nothing at all."""
    assert arguments_of("RUN", FINAL) == []
    called = [re.split(r"\s*&&\s*", run) for run in arguments_of("RUN", BUILD)]
    assert called[1:] == [["deploy/image/build dependencies"], ["deploy/image/build gateway"]]
    assert [" ".join(command.split()[:2]) for command in called[0]] == [
        "apt-get update",
        "apt-get install",
        "pip install",
    ]


def test_the_build_context_has_what_is_copied_from_it():
    """Each file or folder that the build copies exists, and .dockerignore admits exactly those."""
    copied = {source for line in arguments_of("COPY", BUILD) for source in line.split()[:-1]}
    assert [source for source in copied if not (ROOT / source).exists()] == []
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert admitted == copied - {"gateway/__init__.py"}
    assert arguments_of("COPY", FINAL) == ["--from=build /opt/gateway /opt/gateway"]


def test_the_image_runs_as_a_user_without_a_name():
    """Its user and group are numbers, which Kubernetes can tell from root's; they have no home and no password entry."""
    (user,) = arguments_of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_has_labels_and_a_signal_to_stop():
    """Its version is the package's."""
    labels = variables("LABEL")
    prefix = "org.opencontainers.image."
    assert labels.keys() == {prefix + name for name in ("title", "description", "version", "licenses")}
    assert labels[prefix + "version"] == __version__
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]
