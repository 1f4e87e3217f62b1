"""Metrics as Prometheus reads them: they add up over processes, and their labels are bounded and hold no secrets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter

import httpx
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.settings import MetricsSettings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.telemetry.logs import LoggedOperation, LoggedRequest
from gateway.telemetry.metrics import CACHE_EVICTIONS, METRICS, OPERATIONS, PREFIX, Metric, PrometheusMetrics
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.waiting import waits_until

CARS = "query Cars { vehicles(first: 3) { nodes { vehicleId } } }"
ONE = 'query One { vehicle(id: "JQ7RP") { vehicleId masterData { brand } } }'
TOKEN = "canary-5f2e8d.token"
FLEET = FleetPlan("T7K2M", 120, clients=(Client("T7K2M#canary", token=TOKEN),))


class Scraped:
    """The values of one scrape, by sample and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.values = {
            (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, /, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        return sum(v for (n, own), v in self.values.items() if n == name and labels.items() <= own)


def post(url: str, query: str, token: str = TOKEN, **more: str) -> httpx.Response:
    """A request over a connection of its own, so that workers share the load."""
    headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
    return httpx.post(f"{url}/graphql", json={"query": query, **more}, headers=headers, timeout=20, verify=False)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=thorough_only)])
def test_numbers_add_up_with_what_clients_and_the_fleet_api_saw(workers, tmp_path, serve):
    """Also after a worker was killed and replaced: each request, error and upstream call is counted once."""
    simulator = Simulator([FLEET], Behaviours(rate_limit_requests=0))
    gateway = GatewayProcess(
        tmp_path, upstream_url=serve(simulator.app), workers=workers, metrics_port="0", cache_vehicle_ttl="0"
    )
    try:
        gateway.wait_until_ready()
        if workers == "2":
            gateway.wait_for_output(r'(?s)("worker started".*){2}', 60)
        seen: Counter[int] = Counter()
        operations = "operation_duration_seconds_count"

        def are_counted(number: int) -> bool:
            """Requests are counted a moment after their responses."""
            return waits_until(lambda: Scraped(gateway.metrics())(operations) == number)

        for number in range(40):
            seen[post(gateway.url, (CARS, ONE, "{ nothing }")[number % 3]).status_code] += 1
            seen[post(gateway.url, CARS, token="invented").status_code] += 1
            if workers == "2" and number == 20:
                gateway.wait_for_output("plan fallbacks")
                assert are_counted(seen.total())
                os.kill(gateway.workers()[0], signal.SIGKILL)
                gateway.wait_for_output(r'(?s)("worker started".*){3}', 60)
        assert seen == {200: 27, 422: 13, 401: 40}
        assert are_counted(80)
        scraped = Scraped(gateway.metrics())
        assert scraped(operations, name="Cars", kind="query", outcome="success") == 14
        assert scraped(operations, name="One", outcome="success") == 13
        assert scraped(operations, outcome="rejected") == 13
        assert scraped(operations, outcome="unauthenticated") == 40
        assert scraped("errors_total", code="UNAUTHENTICATED") == 40
        assert scraped("errors_total", code="GRAPHQL_VALIDATION_FAILED") == 13
        calls = simulator.requests.total
        assert scraped("upstream_call_duration_seconds_count") == calls
        assert scraped("operation_upstream_calls_total") == calls
        assert scraped("upstream_call_duration_seconds_count", endpoint="vehicles", status="401") == 40
        reads = {result: scraped("cache_reads_total", resource="vehicles", result=result) for result in ("hit", "miss")}
        assert reads["miss"] == scraped("upstream_call_duration_seconds_count", endpoint="vehicles")
        assert reads["hit"] + scraped("cache_reads_total", resource="response") == 14 - (reads["miss"] - 40)
        if workers == "2":
            assert waits_until(lambda: Scraped(gateway.metrics())("workers") == 2)
            assert Scraped(gateway.metrics())("worker_restarts_total") == 1
            assert scraped("events_total", event="worker ended") == 1
    finally:
        assert gateway.stop() in (0, -signal.SIGTERM)


def test_prometheus_reads_every_metric_with_its_kind(tmp_path, serve):
    """All metrics of the table are there, with two workers as one, and no label holds a token or an id."""
    simulator = Simulator([FLEET], Behaviours(rate_limit_requests=0))
    gateway = GatewayProcess(
        tmp_path, upstream_url=serve(simulator.app), workers="2", metrics_port="0", log_level="debug"
    )
    try:
        gateway.wait_until_ready()
        for query in (CARS, ONE, "{ fleet { vehicleCount } }", "{ nothing }", "{"):
            post(gateway.url, query)
            post(gateway.url, query, token="invented-5f2e8d")
        assert waits_until(lambda: Scraped(gateway.metrics())("cache_entries") > 0)
        scraped = Scraped(gateway.metrics())
        kinds = {family.name: family.type for family in scraped.families.values()}
        labelled = {f"{PREFIX}{metric.name}": metric.kind for metric in METRICS}
        assert kinds.items() <= {**labelled, f"{PREFIX}workers": "gauge", f"{PREFIX}worker_restarts": "counter"}.items()
        counted = {name for name in labelled if name in kinds}
        never = {"upstream_retries", "upstream_coalesced", "circuit_changes", "writes"}
        assert labelled.keys() - counted == {f"{PREFIX}{name}" for name in never}
        texts = [text for _, labels in scraped.values for pair in labels for text in pair]
        assert [text for text in texts if "5f2e8d" in text or "JQ7RP" in text or re.search("[0-9a-f]{12}", text)] == []
    finally:
        assert gateway.stop() in (0, -signal.SIGTERM)


async def test_failures_and_waits_are_counted(start):
    """Retries, coalesced reads, statuses of the fleet API, time-outs, the breaker and evictions."""
    gateway = await start(
        metrics__port=0,
        cache__enabled=True,
        cache__entries_max=150,
        retry__attempts=2,
        retry__backoff=0.001,
        breaker__failure_threshold=2,
        upstream__read_timeout=1.2,
        upstream__page_size=100,
    )
    metrics: PrometheusMetrics = gateway.app.metrics
    value = metrics.registry.get_sample_value

    def count(name: str, /, **labels: str) -> float:
        return value(PREFIX + name, labels) or 0

    gateway.fault("status", status=503, times=1)
    await gateway.data(CARS)
    assert count("upstream_call_duration_seconds_count", endpoint="vehicles", status="503") == 1
    assert count("upstream_call_duration_seconds_count", endpoint="vehicles", status="200") == 1
    assert count("upstream_retries_total", endpoint="vehicles") == 1
    gateway.fault("latency", seconds=0.8)
    await asyncio.gather(*(gateway.data(CARS, by="bob") for _ in range(3)))
    gateway.simulator.faults.rules.clear()
    assert count("upstream_coalesced_total", endpoint="vehicles") == 2
    metrics.sample()
    assert count("cache_entries", resource="vehicle") + count("cache_entries", resource="vehicles") == 150
    assert count("cache_evictions_total", resource="vehicle") == 52
    assert count("cache_bytes", resource="vehicles") > 100_000
    gateway.fault("stall", seconds=5)
    await gateway.ask('{ vehicle(id: "ZZZZ1") { vehicleId } }')
    assert count("upstream_call_duration_seconds_count", endpoint="vehicle", status="timeout") == 2
    await gateway.ask('{ vehicle(id: "ZZZZ2") { vehicleId } }')
    metrics.sample()
    assert count("circuit_open") == 1
    assert count("circuit_changes_total", to="open") == 1
    assert count("errors_total", code="UPSTREAM_TIMEOUT") >= 1


def request_of(name: str, outcome: str, seconds: float = 0.1) -> LoggedRequest:
    operation = LoggedOperation(name, "query", "", outcome, "", 3, 0, stale=False, rendered=False)
    return LoggedRequest("id", True, None, "POST", 200, seconds, (), (), operation)


def test_durations_of_many_requests_fall_into_the_buckets_of_each_one():
    """Requests that are counted together have the buckets and the sum that they have one by one."""
    seconds = [0.0, 0.001, 0.0011, 0.0025, 0.02, 0.02, 0.5, 7, 30, 31]
    together, singly = (PrometheusMetrics(MetricsSettings(port=0)) for _ in range(2))
    together.observe_requests([request_of("", "success", each) for each in seconds])
    for each in seconds:
        singly.observe_requests([request_of("", "success", each)])

    def samples(metrics: PrometheusMetrics) -> dict[object, float]:
        return {
            (sample.name, sample.labels.get("le")): pytest.approx(sample.value)
            for family in metrics.registry.collect()
            for sample in family.samples
            if OPERATIONS.name in sample.name and not sample.name.endswith("_created")
        }

    assert samples(together) == samples(singly)
    assert samples(together)[f"{PREFIX}{OPERATIONS.name}_bucket", "0.001"] == 2


def test_names_of_operations_are_bounded():
    """Trusted names are labels, and the first others that succeed; a flood of failing ones changes nothing."""
    metrics = PrometheusMetrics(MetricsSettings(port=0, operation_names_max=2), {"Trusted"})
    metrics.observe_requests([request_of(f"Invented{number}", "unauthenticated") for number in range(50)])
    metrics.observe_requests([request_of(name, "success") for name in ("A", "", "Trusted", "B", "C", "D")])
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    counts = {
        (sample.labels["name"], sample.labels["outcome"]): sample.value
        for sample in samples
        if sample.name == f"{PREFIX}{OPERATIONS.name}_count"
    }
    succeeded = {("A", "success"): 1, ("B", "success"): 1, ("", "success"): 1, ("Trusted", "success"): 1}
    assert counts == {**succeeded, ("other", "success"): 2, ("other", "unauthenticated"): 50}


def test_a_new_metric_needs_an_entry_in_the_table(pytestconfig):
    """It is then counted and served; the documentation says where."""
    doors = Metric("doors_opened", "counter", "Doors that were opened.", ("door",))
    metrics = PrometheusMetrics(MetricsSettings(), metrics=(*METRICS, doors))
    metrics.count(doors, ("left",), 2)
    served = prometheus_client.generate_latest(metrics.registry).decode()
    assert 'gateway_doors_opened_total{door="left"} 2.0' in served
    text = (pytestconfig.rootpath / "docs/architecture.md").read_text()
    assert "A new metric: one entry in the table in `telemetry/metrics.py`" in text


def test_a_part_that_is_created_anew_does_not_set_its_counter_back():
    """What it counts from zero is added."""
    metrics = PrometheusMetrics(MetricsSettings(port=0))
    evictions = 0.0
    metrics.samplers.append(lambda: [(CACHE_EVICTIONS, ("vehicle",), evictions)])
    totals = []
    for evictions in (3, 7, 7, 2, 4):  # noqa: B007 - the sampler reads it
        metrics.sample()
        totals.append(metrics.registry.get_sample_value(f"{PREFIX}cache_evictions_total", {"resource": "vehicle"}))
    assert totals == [3, 7, 7, 9, 11]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_refused_at_start(workers):
    """In one sentence that names the variable, with the status of a wrong setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {
            "GATEWAY_METRICS_PORT": port,
            "GATEWAY_WORKERS": workers,
            "GATEWAY_UPSTREAM_URL": "https://fleet.test",
        }
        command = [sys.executable, "-m", "gateway", "serve", "--port", "0"]
        ended = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line == f"GATEWAY_METRICS_PORT: can't listen on port {port} (Address already in use)"
