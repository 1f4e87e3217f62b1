"""The access line, slow and costly operations, levels of components, and the page of all events."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from gateway.simulator import Behaviours, Fault, Simulator
from gateway.telemetry import logs
from tests.gateway_process import GatewayProcess
from tests.gateways import serving
from tests.refused_start import refusal_of
from tests.telemetry.test_metrics import CARS, FLEET, ONE, TOKEN, post

ROOT = Path(__file__).parents[2]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The log of a gateway at debug level after a few requests, by line."""
    simulator = Simulator([FLEET], Behaviours(rate_limit_requests=0))
    with serving(simulator.app) as upstream:
        yield lines_of(tmp_path_factory.mktemp("log"), simulator, upstream)


def lines_of(folder, simulator, upstream):
    gateway = GatewayProcess(
        folder,
        upstream_url=upstream,
        log_levels="upstream=debug,engine=error",
        log_slow_operation="0.3",
        log_costly_operation="2",
        cache_vehicles_ttl="0.2",
        cache_vehicles_stale_while_revalidate="0",
        retry_backoff="0.001",
    )
    try:
        gateway.wait_until_ready()
        flow_ids = []
        for query in (CARS, CARS, ONE, "{ nothing }"):
            post(gateway.url, query)
        simulator.faults.rules[:] = [Fault("status", status=503)]
        failed = post(gateway.url, 'query Failing { vehicle(id: "ZZZZ1") { vehicleId } }').json()
        flow_ids.append(failed["errors"][0]["extensions"]["upstream"]["flowId"])
        simulator.faults.rules[:] = [Fault("latency", seconds=0.4)]
        post(gateway.url, 'query Slow { vehicle(id: "ZZZZ2") { vehicleId } }')
        simulator.faults.rules.clear()
        gateway.wait_for_output('"operation": "Slow"')
    finally:
        gateway.stop()
    lines = [json.loads(line) for line in gateway.output.splitlines() if line.startswith("{")]
    return lines, flow_ids


def of(lines, event, operation=None):
    return [line for line in lines if line["event"] == event and line.get("operation") == operation]


def test_the_access_line_says_what_an_operation_was_and_cost(logged):
    """Name, kind, outcome, calls, age and principal, the same for the same caller."""
    lines, _ = logged
    first, second = of(lines, "request", "Cars")
    assert first | {"ms": 0, "timestamp": "", "request_id": ""} == {
        "request_id": "", "principal": first["principal"], "operation": "Cars", "kind": "query", "method": "POST",
        "status": 200, "ms": 0, "outcome": "success", "calls": 1, "age": 0, "event": "request", "level": "info",
        "timestamp": "",
    }  # fmt: skip
    assert second["calls"] == 0
    assert re.fullmatch("[0-9a-f]{12}", first["principal"])
    assert second["principal"] == first["principal"]
    (invalid,) = [line for line in of(lines, "request") if line["method"] == "POST"]
    assert (invalid["outcome"], invalid["errors"]) == ("rejected", ["GRAPHQL_VALIDATION_FAILED"])


def test_the_flow_id_of_a_failed_call_is_on_its_lines(logged):
    """The one that the client got is on the access line, and each attempt has its own."""
    lines, flow_ids = logged
    (request,) = of(lines, "request", "Failing")
    assert (request["outcome"], request["calls"], request["flow_ids"]) == ("partial", 3, flow_ids)
    attempts = [line for line in of(lines, "upstream call failed") if line["endpoint"] == "vehicle"]
    assert [(line["attempt"], line["status"]) for line in attempts] == [(1, "503"), (2, "503"), (3, "503")]
    assert attempts[-1]["flow_id"] == flow_ids[0]
    assert len({line["flow_id"] for line in attempts}) == 3


def test_slow_and_costly_operations_are_logged_with_their_documents(logged):
    """With the document's hash, duration and calls."""
    lines, _ = logged
    (slow,) = of(lines, "slow operation", "Slow")
    assert slow["ms"] >= 400
    assert re.fullmatch("[0-9a-f]{64}", slow["document"])
    assert of(lines, "slow operation", "Cars") == []
    (costly,) = of(lines, "costly operation", "Failing")
    assert costly["calls"] == 3
    assert costly["document"] != slow["document"]


def test_the_trace_id_is_that_of_the_context(tmp_path, serve):
    """Also in the text format, and beside a client's own request id."""
    simulator = Simulator([FLEET], Behaviours(rate_limit_requests=0))
    gateway = GatewayProcess(tmp_path, upstream_url=serve(simulator.app), log_format="text")
    try:
        gateway.wait_until_ready()
        headers = {"Authorization": f"Bearer {TOKEN}", "traceparent": TRACE, "X-Request-Id": "mine"}
        httpx.post(f"{gateway.url}/graphql", json={"query": CARS}, headers=headers, verify=False)
        gateway.wait_for_output("Cars")
    finally:
        gateway.stop()
    plain = re.sub("\x1b\\[[0-9;]*m", "", gateway.output)
    assert "trace_id=4bf92f3577b34da6a3ce929d0e0e4736" in plain
    assert "request_id=mine" in plain


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("upstream", "level of upstream must be one of debug, info, warning, error"),
        ("upstream=loud", "level of upstream must be one of debug, info, warning, error"),
        ("nothing=debug", "component must be one of engine, library, schema, server, upstream, web"),
    ],
)
def test_unknown_components_and_levels_are_refused(levels, message, monkeypatch):
    """At start, in one sentence that names the variable."""
    assert refusal_of(monkeypatch, GATEWAY_LOG_LEVELS=levels) == f"GATEWAY_LOG_LEVELS: {message}\n"


def test_every_event_is_documented():
    """docs/log-events.md has the events that the code logs, and no others."""
    calls = re.compile(
        r"(?:\b|_)(?:log|get_logger\([^)]*\)|_log)\.(?:debug|info|warning|error|critical|exception)\(\s*\"([^\"]+)\""
        r"|(?:EventCounter|failures_logged)\(\s*\"([^\"]+)\"|\"event\": \"([a-z ]+)\""
    )
    named = {
        event
        for path in (ROOT / "gateway").rglob("*.py")
        if "simulator" not in path.parts
        for found in calls.finditer(path.read_text())
        for event in found.groups()
        if event
    }
    text = (ROOT / "docs/log-events.md").read_text().partition("## All events")[2]
    rows = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    documented = {event for row in rows for event in re.findall("`([^`]+)`", row)}
    # Chosen by a condition, so not found above; and the line that has a section of its own.
    chosen = {
        "circuit opened",
        "circuit closed",
        "worker ended",
        "worker not started",
        "slow operation",
        "costly operation",
    }
    assert documented == (named | chosen) - {"request"}
    assert all(logs.EVENT_FORM.fullmatch(event) for event in documented)
