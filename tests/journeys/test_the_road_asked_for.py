"""There are two roads to an answer; CI runs the tests over each, by the environment, and these see that it was so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
import pytest

from gateway.simulator import Simulator, Switches
from tests.gateway_process import GatewayProcess
from tests.gateways import PLANS, TOKENS

QUERY = "{ vehicles(first: 2) { nodes { vehicleId masterData { brand } } } }"
SHORT, PROJECTED = "GATEWAY_HTTP_SHORT_ROAD", "GATEWAY_GRAPHQL_PROJECTION"


@pytest.fixture(params=["as the environment has it", "short", "long"])
def asked(request, monkeypatch) -> tuple[bool, bool]:
    """Whether the short road is asked for, and projection; both unless the environment says false."""
    for variable in (SHORT, PROJECTED):
        if request.param in ("short", "long"):
            monkeypatch.setenv(variable, "true" if request.param == "short" else "false")
    short, projected = (os.environ.get(variable, "true") != "false" for variable in (SHORT, PROJECTED))
    return short, projected


@contextmanager
def files_run() -> Iterator[set[str]]:
    """The files whose functions this thread runs meanwhile, by folder and name."""
    ran: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        ran.add("/".join(Path(frame.f_code.co_filename).parts[-2:]))

    sys.setprofile(note)
    try:
        yield ran
    finally:
        sys.setprofile(None)


async def test_tests_take_the_road_asked_for(start, asked):
    """A plain query runs the code of the road that the environment asks for, and none of the other's."""
    short, projected = asked
    gateway = await start(http__keep_alive=10, graphql__documents_bytes_max=2**20, upstream__unchanged_bytes_max=0)
    await gateway.data(QUERY)
    with files_run() as ran:
        data = await gateway.data(QUERY)
    assert [vehicle["vehicleId"] for vehicle in data["vehicles"]["nodes"]] == ["JQ7RP", "K3WX8"]
    assert ("web/short_road.py" in ran) == short
    assert ("<projection>" in ran) == projected
    assert ("execution/executor.py" in ran) == (not projected)


def test_served_gateways_take_the_road_asked_for(serve, tmp_path, asked):
    """A served gateway does, too: the short road writes what describes the body first, the long one caching."""
    simulator = Simulator(PLANS, Switches(rate_limit_requests=0))
    gateway = GatewayProcess(tmp_path, upstream_url=serve(simulator.app))
    gateway.wait_until_ready()
    try:
        for _ in range(3):  # the first makes the token known, the second the plan
            answer = httpx.post(
                f"{gateway.url}/graphql",
                json={"query": QUERY},
                headers={"Authorization": f"Bearer {TOKENS['alice']}"},
                timeout=20,
            )
    finally:
        gateway.stop()
    assert answer.json()["data"]["vehicles"]["nodes"][0]["vehicleId"] == "JQ7RP"
    names = [name.decode().lower() for name, _ in answer.headers.raw]
    assert (names.index("content-length") < names.index("cache-control")) == all(asked)
