"""docs/federation.md: its supergraph composes, and both routers answer over it, with the caller's headers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from tests.clients.test_real_clients import packages
from tests.code_blocks import write_files
from tests.effort import thorough_only
from tests.programs import reserved_port

__all__ = ["packages"]  # pytest finds the fixture here, too

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = HERE / "generated" / "federation"
TOKEN = "client-token"
QUERY = "{ trips { vehicle { vehicleId tripCount masterData { brand } } } }"
ROUTERS = {"hive": ["sh", "hive.sh"], "apollo": ["node", "apollo.mjs"]}


@contextmanager
def running(command: list[str], environment: dict[str, str], port: str) -> Iterator[None]:
    """A program that listens on a port of this machine; the program and what it starts end with the block."""
    log = FOLDER / f"{command[-1]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=FOLDER, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: str) -> bool:
    try:
        return httpx.get(f"http://localhost:{port}/", timeout=5, verify=False).status_code > 0
    except httpx.TransportError:
        return False


@thorough_only
@pytest.mark.parametrize("router", ROUTERS)
def test_the_supergraph_of_the_page_answers(serve, router):
    """Its commands compose it; vehicles are read with the caller's token, and without one the error keeps its code."""
    simulator = Simulator(
        [FleetPlan(vehicles=50, clients=(Client("T7K2M#one", token=TOKEN),))], Behaviours(rate_limit_requests=0)
    )
    settings = Settings(upstream={"url": serve(simulator.app)}, log={"level": "error"})
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_files(ROOT / "docs/federation.md", FOLDER)
    ports = [reserved_port(), reserved_port()]
    names = [str(port.getsockname()[1]) for port in ports]
    environment = {
        **os.environ,
        "GATEWAY": serve(create_app(settings)),
        "TRIPS_PORT": names[0],
        "ROUTER_PORT": names[1],
    }
    subprocess.run(["sh", "schema.sh"], cwd=FOLDER, check=True)
    subprocess.run(["node", "compose.mjs"], cwd=FOLDER, env=environment, check=True)
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(port)
        stack.enter_context(running(["node", "trips.mjs"], environment, names[0]))
        stack.enter_context(running(ROUTERS[router], environment, names[1]))
        url = f"http://localhost:{names[1]}/graphql" if router == "hive" else f"http://localhost:{names[1]}/"
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "from-the-page"}
        answer = httpx.post(url, json={"query": QUERY}, headers=headers, timeout=60, verify=False).json()
        assert "errors" not in answer, answer
        assert [trip["vehicle"] for trip in answer["data"]["trips"]] == [
            {"vehicleId": "JQ7RP", "tripCount": 1, "masterData": {"brand": "Audi"}},
            {"vehicleId": "K3WX8", "tripCount": 1, "masterData": {"brand": "NIU"}},
        ]
        assert set(simulator.requests.by_client) == {"T7K2M#one"}
        without_token = httpx.post(url, json={"query": QUERY}, timeout=60, verify=False)
        assert "UNAUTHENTICATED" in without_token.text
