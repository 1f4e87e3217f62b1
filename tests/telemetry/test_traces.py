"""Traces as an OpenTelemetry collector receives them, and when there are none."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from gateway.simulator import Behaviours, Fault, Simulator
from gateway.telemetry.traces import ALL, exporters_of, sampled_below, tracing_of
from tests.gateway_process import GatewayProcess
from tests.refused_start import refusal_of
from tests.telemetry.otlp_receiver import OtlpReceiver
from tests.telemetry.test_metrics import FLEET, TOKEN

MIXED = 'query Mixed { a: vehicle(id: "JQ7RP") { vehicleId } vehicles(first: 1) { nodes { vehicleId } } }'
ONE = 'query One { vehicle(id: "JQ7RP") { vehicleId } }'
SERVER, CLIENT = 2, 3


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    yield receiver
    receiver.close()


def tracer_of(service: str, receiver: OtlpReceiver) -> trace.Tracer:
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces")))
    return provider.get_tracer(service)


class TracedSimulator:
    """The simulator with a span for each request, within the context that it comes with."""

    def __init__(self, app, tracer: trace.Tracer) -> None:
        self.app = app
        self.tracer = tracer
        self.traceparents = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.traceparents.append(headers.get("traceparent"))
        with self.tracer.start_as_current_span(scope["path"], extract(headers), trace.SpanKind.SERVER):
            await self.app(scope, receive, send)


class Traced:
    """A gateway process that exports its traces, over a traced simulator."""

    def __init__(self, folder, receiver, monkeypatch, stack, **variables) -> None:
        for name, value in {"OTEL_BSP_SCHEDULE_DELAY": "100", **variables}.items():
            monkeypatch.setenv(name, value)
        self.simulator = Simulator([FLEET], Behaviours(rate_limit_requests=0))
        self.app = TracedSimulator(self.simulator.app, tracer_of("simulator", receiver))
        self.gateway = GatewayProcess(
            folder, upstream_url=stack(self.app), cache_vehicle_ttl="0", retry_backoff="0.001", log_level="debug"
        )
        self.gateway.wait_until_ready()

    def post(self, query, **headers):
        headers["Authorization"] = f"Bearer {TOKEN}"
        return httpx.post(
            f"{self.gateway.url}/graphql", json={"query": query}, headers=headers, timeout=20, verify=False
        )


@pytest.fixture
def traced(tmp_path, receiver, monkeypatch, serve):
    started = []

    def start(**variables) -> Traced:
        started.append(Traced(tmp_path, receiver, monkeypatch, serve, **variables))
        return started[-1]

    yield start
    for each in started:
        each.gateway.stop()


def test_one_trace_across_caller_gateway_and_fleet_api(traced, receiver):
    """The caller's span has the operation's, that has the batches', those have the calls', and those the fleet API's."""
    gateway = traced(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    with tracer_of("caller", receiver).start_as_current_span("page") as span:
        headers: dict[str, str] = {}
        inject(headers)
        assert gateway.post(MIXED, **headers).status_code == 200
        trace_id = f"{span.get_span_context().trace_id:032x}"
    gateway.gateway.stop()
    spans = {one.span_id: one for one in receiver.spans if one.trace_id == trace_id}
    ways = set()
    for span_id in spans:
        way, below = [], span_id
        while below:
            way.append(f"{spans[below].service}: {spans[below].name}")
            below = spans[below].parent_id
        ways.add(" < ".join(reversed(way)))
    own = "invers-graphql-gateway"
    root = f"caller: page < {own}: query Mixed"
    assert ways == {
        "caller: page",
        root,
        *(
            way
            for endpoint, path, sent in (
                ("vehicles", "/vehicles", "/vehicles"),
                ("vehicle", "/vehicles/{id}", "/vehicles/JQ7RP"),
            )
            for way in (
                f"{root} < {own}: read {endpoint}",
                f"{root} < {own}: read {endpoint} < {own}: GET {path}",
                f"{root} < {own}: read {endpoint} < {own}: GET {path} < simulator: {sent}",
            )
        ),
    }
    (operation,) = [one for one in spans.values() if one.name == "query Mixed"]
    assert operation.kind == SERVER
    expected = {"graphql.operation.name": "Mixed", "http.response.status_code": 200, "gateway.upstream_calls": 2}
    assert expected.items() <= operation.attributes.items()
    assert f'"trace_id": "{trace_id}"' in gateway.gateway.output
    assert not any(TOKEN.encode() in body or b"Bearer" in body for body in receiver.bodies)


def test_spans_say_where_data_came_from_and_what_failed(traced, receiver):
    """Hits, retries with their statuses and flow ids, and rendered responses."""
    gateway = traced(OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    gateway.simulator.faults.rules[:] = [Fault("status", status=503, times=1)]
    gateway.post("query First { vehicles(first: 1) { nodes { vehicleId } } }")
    gateway.post("query Again { vehicles(first: 2) { nodes { vehicleId } } }")
    gateway.simulator.faults.rules[:] = [Fault("status", status=503)]
    gateway.post('query Failing { vehicle(id: "ZZZZ1") { vehicleId } }')
    gateway.gateway.stop()
    own = [one for one in receiver.spans if one.service == "invers-graphql-gateway"]

    def below(name: str) -> list:
        (root,) = [one for one in own if one.name == name]
        return [one for one in own if one.trace_id == root.trace_id and one is not root]

    calls = [one for one in below("query First") if one.kind == CLIENT]
    assert [(one.attributes["http.response.status_code"], one.failed) for one in calls] == [(503, True), (200, False)]
    assert [one.attributes.get("http.request.resend_count") for one in calls] == [None, 1]
    assert all(one.attributes["gateway.upstream.flow_id"] for one in calls[:1])
    (batch,) = below("query Again")
    assert batch.attributes == {"gateway.batch.size": 1, "gateway.batch.cache": 1, "gateway.batch.errors": 0}
    (failing,) = [one for one in own if one.name == "query Failing"]
    assert failing.failed
    assert failing.attributes["gateway.error_codes"] == "UPSTREAM_UNAVAILABLE"
    assert sum(1 for one in below("query Failing") if one.kind == CLIENT) == 3


def test_the_caller_and_the_ratio_decide_what_is_sampled(traced, receiver):
    """A context that is not sampled goes to the fleet API as it came; of others a ratio is sampled."""
    gateway = traced(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0",
    )
    unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    gateway.post(ONE, traceparent=unsampled)
    gateway.post(ONE)
    sampled = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    gateway.post(ONE, traceparent=sampled)
    gateway.gateway.stop()
    own = [one for one in receiver.spans if one.service == "invers-graphql-gateway"]
    assert {one.trace_id for one in own} == {sampled.split("-")[1]}
    first, second, third = gateway.app.traceparents
    assert (first, second) == (unsampled, None)
    (call,) = [one for one in own if one.kind == CLIENT]
    assert third == f"00-{call.trace_id}-{call.span_id}-01"


def test_nothing_is_sent_by_default(traced, receiver):
    """Without OTEL_* variables there are no spans, and the caller's context is forwarded."""
    gateway = traced()
    context = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    gateway.post(ONE, traceparent=context)
    gateway.gateway.stop()
    assert [one for one in receiver.spans if one.service == "invers-graphql-gateway"] == []
    assert gateway.app.traceparents == [context]


def test_a_collector_that_is_away_delays_nothing(traced, receiver):
    """Requests are served, the failure is logged without addresses, and the process ends in time."""
    gateway = traced(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    for _ in range(3):
        assert gateway.post(ONE).status_code == 200
    assert gateway.gateway.stop() is not None
    assert "127.0.0.1:9" not in gateway.gateway.output.partition("GraphQL at")[2].partition("\n")[2]


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
    ],
)
def test_the_standard_variables_name_the_exporters(variables, exporters):
    """None unless there is one, or an endpoint."""
    assert exporters_of(variables) == exporters
    assert exporters or tracing_of(variables) is None


@pytest.mark.parametrize(
    "name",
    [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_traceidratio",
        "parentbased_always_off",
    ],
)
@pytest.mark.parametrize("argument", ["", "0", "0.01", "0.5", "1", "2", "-1", "x"])
def test_the_decision_is_that_of_the_sdk(name, argument, monkeypatch):
    """For any trace id near the bound, and for contexts that are sampled or not."""
    variables = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    sampler = sampling._get_from_env_or_default()
    is_parent_based, bound = sampled_below(variables)
    for trace_id in (1, bound - 1, bound, bound + 1, ALL - 1, (7 << 64) + bound):
        if not trace_id > 0:
            continue
        decision = sampler.should_sample(None, trace_id, "x").decision.is_sampled()
        assert (trace_id % ALL < bound) == decision
        for flags in (0, 1):
            remote = trace.SpanContext(trace_id or 1, 5, is_remote=True, trace_flags=trace.TraceFlags(flags))
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
            decision = sampler.should_sample(context, trace_id, "x").decision.is_sampled()
            assert (bool(flags) if is_parent_based else trace_id % ALL < bound) == decision


@pytest.mark.parametrize("exporter", ["zipkin", "otlp,jaeger"])
def test_an_exporter_that_is_not_installed_is_refused(exporter, monkeypatch):
    """At start, in one sentence that names the variable."""
    name = exporter.rpartition(",")[2]
    message = f"OTEL_TRACES_EXPORTER: the exporter {name} is not installed; the extra `otel` has otlp and console\n"
    assert refusal_of(monkeypatch, OTEL_TRACES_EXPORTER=exporter) == message
