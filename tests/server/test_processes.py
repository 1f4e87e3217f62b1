"""Workers that can't start, and workers that end later."""

from __future__ import annotations

import json
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from gateway.server import processes
from gateway.server.config import ServerConfig
from gateway.server.processes import FAILED_STARTS_MAX, PAUSE_MAX, PAUSE_MIN, START_MAX, Worker, Workers, next_pause
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.refused_start import refusal_of

# Python runs `sitecustomize` before anything else; only workers are started with this argument.
IN_WORKERS = "import os, signal, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n    "
BROKEN = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "without documents": "os.environ['GATEWAY_GRAPHQL_TRUSTED_DOCUMENTS'] = '/none.json'",
}


@pytest.mark.parametrize("how", [pytest.param(how, marks=() if how == "killed" else thorough_only) for how in BROKEN])
def test_the_parent_gives_up_if_workers_do_not_start(how, tmp_path, monkeypatch):
    """It restarts them a few times, and then ends with one message and the status of a failed start."""
    (tmp_path / "sitecustomize.py").write_text(IN_WORKERS + BROKEN[how])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    gateway = GatewayProcess(tmp_path, workers="2", upstream_url="https://fleet.test")
    try:
        assert gateway.process.wait(180) == 3
    finally:
        gateway.stop()
    events = [json.loads(line)["event"] for line in gateway.output.splitlines()]
    assert events.count("worker not started") == FAILED_STARTS_MAX
    assert [event for event in events if event.startswith("giving up")] == events[-1:]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_GRAPHQL_TRUSTED_DOCUMENTS", "/none.json"),
        ("GATEWAY_UPSTREAM_CA_FILE", "/none.pem"),
        ("GATEWAY_REDIS_URL", "rediss://localhost?ssl_ca_certs=/none.pem"),
    ],
)
def test_the_parent_checks_settings_before_it_starts_workers(variable, value, monkeypatch):
    """It ends with one message, and starts no worker."""
    (line,) = refusal_of(monkeypatch, GATEWAY_WORKERS="2", **{variable: value}).splitlines()
    assert line.startswith(f"{variable}: ")


def test_a_worker_may_be_slow_to_start(monkeypatch):
    """Until it serves it need not respond; after a bound it counts as hanging."""
    worker = Worker(uvicorn.Config("none"), [])
    monkeypatch.setattr(worker, "process", SimpleNamespace(is_alive=lambda: True, pid=1))
    began = time.monotonic()
    assert worker.is_alive(timeout=0)
    worker.child_conn.send(False)  # it responds, but does not serve
    assert worker.is_alive(timeout=0)
    assert not worker.is_serving
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: began + START_MAX + 1))
    assert not worker.is_alive(timeout=0)
    worker.child_conn.send(True)
    assert worker.is_alive(timeout=0)
    assert worker.is_serving
    assert not worker.is_alive(timeout=0)  # from now on it has to respond


class FakeWorker:
    """A worker that starts to serve, or ends, when it is first looked at."""

    pid = exitcode = 1
    starts: list[bool]

    def __init__(self, _config: Any, _sockets: Any, pause: float = 0.0) -> None:
        self.pause = pause
        self.serving_since: float | None = None
        self.is_killed = False
        self.will_serve = self.starts.pop(0)

    @property
    def is_serving(self) -> bool:
        return self.serving_since is not None

    def is_alive(self, timeout: float) -> bool:
        if self.will_serve:
            self.serving_since = time.monotonic()
        return self.will_serve

    def end(self) -> None:
        self.is_killed = True


def fake_workers(monkeypatch, starts: list[bool]) -> Workers:
    monkeypatch.setattr(processes, "Worker", FakeWorker)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(FakeWorker, "starts", starts, raising=False)
    return Workers(ServerConfig("none", Settings(), workers=2), [], Metrics())


def test_a_worker_that_serves_starts_the_count_anew(monkeypatch):
    """Only failures in a row count, of all workers together; a worker that has served does not count when it ends."""
    almost = [False] * (FAILED_STARTS_MAX - 1)
    workers = fake_workers(monkeypatch, [True, *almost, True, *almost, False])
    for _ in range(FAILED_STARTS_MAX):
        workers.keep_alive()
    assert [worker.is_serving for worker in workers.processes] == [True, True]
    workers.processes[0].will_serve = False  # type: ignore[attr-defined]
    for _ in range(FAILED_STARTS_MAX):
        assert not workers.is_stopping
        workers.keep_alive()
    assert not workers.has_given_up
    workers.keep_alive()
    assert workers.has_given_up
    assert workers.is_stopping
    assert not workers.processes[1].is_killed  # type: ignore[attr-defined] # it stops with its requests complete


def test_the_pause_before_a_replacement_doubles(monkeypatch):
    """While workers end soon after they have started; one that served for a while is replaced at once."""
    workers = fake_workers(monkeypatch, [True] * 20)
    pauses = []
    for _ in range(9):
        workers.keep_alive()
        workers.processes[0].will_serve = False  # type: ignore[attr-defined]
        workers.keep_alive()
        pauses.append(workers.processes[0].pause)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, PAUSE_MAX, PAUSE_MAX]
    assert workers.restarts == len(pauses)
    assert workers.processes[1].pause == 0
    assert next_pause(PAUSE_MAX, lived=PAUSE_MAX) == PAUSE_MIN
