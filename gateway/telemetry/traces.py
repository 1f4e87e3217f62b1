"""Traces by OpenTelemetry, configured by its `OTEL_*` variables; without them nothing is traced or sent.

A request that is not sampled costs one comparison: its spans are never made, and the context that it came with goes to
the fleet API as it is. No span has a token, a header, a URL or variables, and none has so many attributes, or such long
ones, that the SDK's limits would matter.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.settings import Misconfigured
from gateway.telemetry.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind

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
    """A span that is recorded, in a sampled trace.

    It is handed to the SDK's exporters when it ends: the SDK's own spans, which many threads may change, take eight
    times as long to record.
    """

    __slots__ = ("_attributes", "_began", "_context", "_kind", "_name", "_parent", "_tracing")

    def __init__(
        self, tracing: Tracing, name: str, context: SpanContext, parent: SpanContext | None, kind: SpanKind,
        attributes: Attributes,
    ) -> None:  # fmt: skip
        self._tracing = tracing
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes = attributes
        self._began = time.time_ns()

    @property
    def traceparent(self) -> str:
        """The W3C trace context of what it calls."""
        context = self._context
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(self, name: str, attributes: Attributes, *, is_call: bool = False) -> Span:
        """Starts a span within this one; `is_call` says that it is a call to another service."""
        from opentelemetry.trace import SpanContext, SpanKind  # noqa: PLC0415 - loaded before

        own = self._context
        context = SpanContext(own.trace_id, new_span_id(), False, own.trace_flags)
        return Span(self._tracing, name, context, own, SpanKind.CLIENT if is_call else SpanKind.INTERNAL, attributes)

    def rename(self, name: str) -> None:
        """Replaces its name, once more is known of what it is about."""
        self._name = name

    def end(self, attributes: Attributes, *, failed: bool = False) -> None:
        """Ends it, with what is known only then."""
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - loaded before
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        self._tracing.export(
            ReadableSpan(
                self._name,
                self._context,
                self._parent,
                self._tracing.resource,
                {**self._attributes, **attributes},
                kind=self._kind,
                status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
                start_time=self._began,
                end_time=time.time_ns(),
                instrumentation_scope=self._tracing.scope,
            )
        )


class Tracing:
    """Starts the traces of a process, or continues those of its clients."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an optional dependency
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        name = {} if environment.get(SERVICE) else {"service.name": SERVICE_NAME}
        self.resource = Resource.create({"service.version": __version__, **name})
        self.scope = InstrumentationScope("gateway", __version__)
        self._provider = TracerProvider(resource=self.resource)
        self._processors = [BatchSpanProcessor(_exporter_class(name)()) for name in exporters_of(environment)]
        for processor in self._processors:
            self._provider.add_span_processor(processor)
        self._is_parent_based, self._bound = sampled_below(environment)
        self._sampler = None if has_standard_sampler(environment) else self._provider.sampler

    def start(self, traceparent: str | None) -> Span | None:
        """The span of an operation, within the context that it came with; None unless it is sampled."""
        if traceparent is None:
            trace_id = random.getrandbits(128) or 1
            if trace_id & ID_BITS >= self._bound:
                return None
        elif self._is_parent_based:
            if not int(traceparent[-1], 16) & SAMPLED_FLAG:
                return None
        elif int(traceparent[19:35], 16) >= self._bound:
            return None
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags  # noqa: PLC0415 - loaded before

        parent = None
        if traceparent is not None:
            parent = context_of(traceparent)
            trace_id = parent.trace_id
        if self._sampler is not None and not self._samples(trace_id, parent):
            return None
        context = SpanContext(trace_id, new_span_id(), False, TraceFlags(SAMPLED_FLAG))
        return Span(self, "GraphQL", context, parent, SpanKind.SERVER, {})

    def _samples(self, trace_id: int, parent: SpanContext | None) -> bool:
        """The decision of a sampler that is not in OpenTelemetry's specification."""
        from opentelemetry import trace  # noqa: PLC0415 - loaded before

        assert self._sampler is not None
        context = None if parent is None else trace.set_span_in_context(trace.NonRecordingSpan(parent))
        decision: Any = self._sampler.should_sample(context, trace_id, "GraphQL", trace.SpanKind.SERVER).decision
        return bool(decision.is_sampled())

    def export(self, span: ReadableSpan) -> None:
        """Queues a span that has ended for all exporters."""
        for processor in self._processors:
            processor.on_end(span)

    async def close(self) -> None:
        """Sends the last spans."""
        try:
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), SHUTDOWN)
        except TimeoutError:
            get_logger("gateway").warning("spans not sent")


def new_span_id() -> int:
    """A random id; 0 is invalid."""
    return random.getrandbits(64) or 1


def context_of(traceparent: str) -> SpanContext:
    """The context of a client's span."""
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 - loaded before

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))


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
    name = _sampler_of(environment)
    kind = name.removeprefix("parentbased_")
    bound = 0 if kind == "always_off" else ALL
    if kind == "traceidratio":
        try:
            rate = float(environment.get(SAMPLER_ARGUMENT) or 1)
        except ValueError:
            rate = 1.0
        bound = round((rate if 0 <= rate <= 1 else 1.0) * ALL)
    return name.startswith("parentbased_"), bound


def has_standard_sampler(environment: Mapping[str, str]) -> bool:
    """Whether the sampler is one of OpenTelemetry's specification."""
    return _sampler_of(environment).removeprefix("parentbased_") in ("always_on", "always_off", "traceidratio")


def _sampler_of(environment: Mapping[str, str]) -> str:
    return environment.get(SAMPLER, "").strip().lower() or "parentbased_always_on"


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
