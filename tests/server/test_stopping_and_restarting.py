"""A process that stops, restarts its workers or loses one, under constant load."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.constant_load import Load
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.waiting import waits_until


def started(folder, workers: int, **settings: str) -> GatewayProcess:
    gateway = GatewayProcess(folder, workers=str(workers), **settings)
    try:
        gateway.wait_until_ready()
        if workers > 1:
            gateway.wait_for_output(r'(?s)("worker started".*){%d}' % workers, 60)
    except BaseException:
        gateway.stop()
        raise
    return gateway


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """A file with one trusted document."""
    file = tmp_path_factory.mktemp("manifest") / "documents.json"
    file.write_text('{"one": "{ __schema { __typename } }"}')
    return file


@pytest.fixture(scope="module")
def pair(tmp_path_factory, manifest) -> Iterator[GatewayProcess]:
    """A gateway with two workers."""
    gateway = started(tmp_path_factory.mktemp("pair"), 2, **with_documents(manifest))
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture(scope="module")
def single(tmp_path_factory, manifest) -> Iterator[GatewayProcess]:
    """A gateway with one process."""
    gateway = started(tmp_path_factory.mktemp("single"), 1, **with_documents(manifest))
    yield gateway
    assert gateway.stop() == -signal.SIGTERM


def with_documents(manifest: Path) -> dict[str, str]:
    return {"graphql_trusted_documents": str(manifest), "graphql_introspection": "public"}


def runs(gateway: GatewayProcess, document: str) -> bool:
    """Whether the gateway runs a trusted document."""
    response = httpx.post(f"{gateway.url}/graphql", json={"documentId": document}, verify=False)
    return response.json().get("data") == {"__schema": {"__typename": "__Schema"}}


def has_new_workers(gateway: GatewayProcess, before: list[int]) -> bool:
    now = gateway.workers()
    return len(now) == len(before) and not set(now) & set(before)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


def are_not_ready(gateway: GatewayProcess) -> bool:
    """Whether all workers say so: each new connection may reach another one."""
    return all(httpx.get(f"{gateway.url}/health/ready", verify=False).status_code == 503 for _ in range(10))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=thorough_only)])
def test_it_serves_for_a_while_after_it_has_become_not_ready(workers, tmp_path):
    """All requests get responses, also on new connections, and connections end with one; a second signal ends that."""
    gateway = started(tmp_path, workers, http_shutdown_delay="600")
    with Load(("127.0.0.1", gateway.port)) as load:
        gateway.process.send_signal(signal.SIGTERM)
        assert waits_until(lambda: are_not_ready(gateway))
        response = httpx.get(f"{gateway.url}/health/ready", verify=False)
        assert (response.status_code, response.json()) == (503, {"status": "stopping"})
        assert response.headers["connection"] == "close"
        load.wait_for_answers()
        assert load.last >= load.keeping
        gateway.process.send_signal(signal.SIGINT)
        load.wait_until_refused()
    assert load.lost == []
    assert gateway.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in gateway.output


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=thorough_only)])
def test_it_stops_when_the_delay_has_passed(workers, tmp_path):
    """Without a second signal."""
    gateway = started(tmp_path, workers, http_shutdown_delay="1")
    with Load(("127.0.0.1", gateway.port)) as load:
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        load.wait_until_refused()
    assert time.monotonic() - began >= 1
    assert load.lost == []
    assert load.last >= load.keeping
    assert gateway.stop() in (0, -signal.SIGTERM)


@thorough_only
def test_sighup_restarts_the_workers_without_a_failed_request(pair):
    """One after the other: two serve at any time, and there are never more than three."""
    before, numbers = pair.workers(), set()

    def is_restarted() -> bool:
        numbers.add(len(pair.workers()))
        return has_new_workers(pair, before)

    with Load(("127.0.0.1", pair.port)) as load:
        pair.process.send_signal(signal.SIGHUP)
        assert waits_until(is_restarted, 60), pair.output
        load.wait_for_answers()
    assert load.lost == []
    assert load.last > 0  # the connections of the old workers have moved
    assert numbers == {2, 3}
    assert '"worker ended"' not in pair.output


@pytest.mark.parametrize("processes", ["single", "pair"])
def test_sighup_loads_trusted_documents_again(processes, manifest, request):
    """A broken file is reported, and changes nothing."""
    gateway = request.getfixturevalue(processes)
    before, workers = manifest.read_text(), gateway.workers()
    assert runs(gateway, "one")
    manifest.write_text("{")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for_output(r"GATEWAY_GRAPHQL_TRUSTED_DOCUMENTS.* is not JSON")
    assert runs(gateway, "one")
    manifest.write_text('{"two": "{ __schema { __typename } }"}')
    gateway.process.send_signal(signal.SIGHUP)
    assert waits_until(lambda: has_new_workers(gateway, workers) and runs(gateway, "two"), 60), gateway.output
    assert not runs(gateway, "one")
    manifest.write_text(before)


def test_a_killed_worker_loses_only_its_own_connections(pair):
    """It is replaced, and the others serve meanwhile."""
    killed = pair.workers()[0]
    with Load(("127.0.0.1", pair.port)) as load:
        os.kill(killed, signal.SIGKILL)
        pair.wait_for_output('"worker ended"')
        killed_at = time.monotonic()
        pair.wait_for_workers(2)
        pair.wait_for_output(r'(?s)"worker ended".*"worker started"', 60)
        load.wait_for_answers()
    assert [lost for lost in load.lost if lost[0] > killed_at] == []
    assert len(load.lost) <= load.keeping + load.fresh
    assert '"exitcode": -9, "event": "worker ended"' in pair.output
    assert "worker not started" not in pair.output


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Otherwise they would keep the port, and the next start would fail."""
    gateway = started(tmp_path, 2)
    workers = gateway.workers()
    gateway.process.kill()
    try:
        assert waits_until(lambda: not any(map(is_running, workers)), 20)
    finally:
        gateway.stop()
