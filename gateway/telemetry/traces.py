"""Traces by OpenTelemetry, configured by its `OTEL_*` variables; without them nothing is traced or sent.

A request that is not sampled costs one comparison: its spans are never made, and the context that it came with goes to
the fleet API as it is. No span has a token, a header, a URL or variables.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.settings import Misconfigured
from gateway.telemetry.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

EXPORTERS, SAMPLER, SAMPLER_ARGUMENT = "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
DISABLED, SERVICE = "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"
SERVICE_NAME = "invers-graphql-gateway"
# Trace ids below this are sampled at a rate of 1; samplers look at the last 64 bits.
ALL = 1 << 64
ID_BITS = ALL - 1
SAMPLED_FLAG = 1
# Seconds in which a stopping process may send its last spans.
SHUTDOWN = 3.0
Attributes = Mapping[str, str | int | float | bool]


class Span:
    """A span that is recorded, in a sampled trace."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """The W3C trace context of what it calls."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(self, name: str, attributes: Attributes, *, is_call: bool = False) -> Span:
        """Starts a span within this one; `is_call` says that it is a call to another service."""
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415 - loaded before

        kind = SpanKind.CLIENT if is_call else SpanKind.INTERNAL
        span = self._tracer.start_span(name, set_span_in_context(self._span), kind, dict(attributes))
        return Span(self._tracer, span)

    def rename(self, name: str) -> None:
        """Replaces its name, once more is known of what it is about."""
        self._span.update_name(name)

    def end(self, attributes: Attributes, *, failed: bool = False) -> None:
        """Ends it, with what is known only then."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - loaded before

        self._span.set_attributes(dict(attributes))
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """Starts the traces of a process, or continues those of its clients."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an optional dependency
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

        class Ids(RandomIdGenerator):
            """Gives a new trace the id that was found to be sampled."""

            trace_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

        self._ids = Ids()
        name = {} if environment.get(SERVICE) else {"service.name": SERVICE_NAME}
        self._provider: TracerProvider = TracerProvider(
            id_generator=self._ids, resource=Resource.create({"service.version": __version__, **name})
        )
        for exporter in exporters_of(environment):
            self._provider.add_span_processor(BatchSpanProcessor(_exporter_class(exporter)()))
        self._tracer = self._provider.get_tracer("gateway", __version__)
        self._is_parent_based, self._bound = sampled_below(environment)

    def start(self, traceparent: str | None) -> Span | None:
        """The span of an operation, within the context that it came with; None unless it is sampled."""
        if traceparent is None:
            trace_id = random.getrandbits(128) or 1
            if trace_id & ID_BITS >= self._bound:
                return None
            self._ids.trace_id = trace_id
        elif self._is_parent_based:
            if not int(traceparent[-1], 16) & SAMPLED_FLAG:
                return None
        elif int(traceparent[19:35], 16) >= self._bound:
            return None
        from opentelemetry import trace  # noqa: PLC0415 - loaded before

        context = None if traceparent is None else _context_of(traceparent)
        span = self._tracer.start_span("GraphQL", context, trace.SpanKind.SERVER)
        return Span(self._tracer, span) if span.is_recording() else None

    async def close(self) -> None:
        """Sends the last spans."""
        try:
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), SHUTDOWN)
        except TimeoutError:
            get_logger("gateway").warning("spans not sent")


def _context_of(traceparent: str) -> Any:
    """The context of a client's span."""
    from opentelemetry import trace  # noqa: PLC0415 - loaded before

    _, trace_id, span_id, flags = traceparent.split("-")
    remote = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))


def exporters_of(environment: Mapping[str, str]) -> list[str]:
    """The names of the exporters; by default `otlp` if it has an endpoint, else none."""
    if environment.get(DISABLED, "").strip().lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in ENDPOINTS) else "none"
    names = [name.strip() for name in (environment.get(EXPORTERS) or default).split(",")]
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "http/protobuf")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]


def sampled_below(environment: Mapping[str, str]) -> tuple[bool, int]:
    """Whether clients decide on the traces that they began, and the bound of the ids of others that are sampled.

    The SDK's sampler decides the same, but takes many times longer. A sampler that is not in OpenTelemetry's
    specification is asked for each request.
    """
    name = environment.get(SAMPLER, "").strip().lower() or "parentbased_always_on"
    kind = name.removeprefix("parentbased_")
    bound = {"always_on": ALL, "always_off": 0}.get(kind, ALL)
    if kind == "traceidratio":
        try:
            rate = float(environment.get(SAMPLER_ARGUMENT) or 1)
        except ValueError:
            rate = 1.0
        bound = round((rate if 0 <= rate <= 1 else 1.0) * ALL)
    return name.startswith("parentbased_"), bound


def check(environment: Mapping[str, str]) -> None:
    """Raises Misconfigured if traces can't be exported as the variables say."""
    for name in exporters_of(environment):
        _exporter_class(name)


def tracing_of(environment: Mapping[str, str]) -> Tracing | None:
    """The traces of a process; None unless the variables name an exporter. Raises Misconfigured."""
    return Tracing(environment) if exporters_of(environment) else None


def _exporter_class(name: str) -> Any:
    """The class of an exporter, which a package registers by its name."""
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        try:
            return entry.load()
        except ImportError:
            break
    message = f"the exporter {name} is not installed; the extra `otel` has otlp and console"
    raise Misconfigured(EXPORTERS, message)
