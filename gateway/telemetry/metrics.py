"""Metrics for Prometheus: the table of all of them, their registry, and the management port that serves them.

Labels have few values: none is a token, an id or a principal. Events are counted as they happen; gauges, and what other
parts count themselves, are sampled every second. With several workers each process writes its values to files in a
shared folder, from which the parent process adds them up; so those of a worker that was killed are not lost.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gateway import __version__
from gateway.settings import MetricsSettings, Misconfigured
from gateway.telemetry.logs import EVENTS, LoggedRequest, dropped_lines

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PREFIX = "gateway_"
# Variable with the folder of the values of several processes, which prometheus-client reads when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# A file system in memory, which never delays a write, and which is writable even in most read-only containers.
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name
SAMPLED_EVERY = 1.0
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OTHER = "other"
# The labels of responses that are sent as they were rendered before.
RENDERED = ("response", "hit")


class Metric(NamedTuple):
    """A metric without its prefix; `workers` says how the gauges of several workers are combined."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    workers: Literal["livesum", "livemax", "livemin"] = "livesum"


OPERATIONS = Metric(
    "operation_duration_seconds", "histogram", "Duration of GraphQL requests, by the operation's name and kind, and "
    "by outcome.", ("name", "kind", "outcome"),
)  # fmt: skip
OPERATION_CALLS = Metric(
    "operation_upstream_calls", "counter", "Upstream calls that operations made.", ("name", "kind")
)
ERRORS = Metric("errors", "counter", "Errors in responses, by code.", ("code",))
OTHER_REQUESTS = Metric(
    "other_requests", "counter", "HTTP requests that are not for GraphQL operations: health, GraphiQL, unknown paths.",
    ("status",),
)  # fmt: skip
RUNNING = Metric("operations_running", "gauge", "Operations that have a slot.")
QUEUED = Metric("operations_queued", "gauge", "Operations that wait for a slot.")
SLOTS = Metric("operation_slots", "gauge", "Slots for operations, which are fewer while the CPU is saturated.")
REJECTIONS = Metric("rejected_requests", "counter", "Requests rejected with 503 before they were parsed, because "
    "their caller's queue is full.",
)  # fmt: skip
UPSTREAM_CALLS = Metric(
    "upstream_call_duration_seconds", "histogram", "Duration of upstream calls, by endpoint and by HTTP status, or "
    "the kind of failure; each attempt counts.", ("endpoint", "status"),
)  # fmt: skip
RETRIES = Metric("upstream_retries", "counter", "Upstream calls that were repeated.", ("endpoint",))
COALESCED = Metric("upstream_coalesced", "counter", "Reads that shared another one's upstream call.", ("endpoint",))
UPSTREAM_CONNECTIONS = Metric("upstream_connections", "gauge", "Connections to the fleet API.", ("state",))
UPSTREAM_QUEUED = Metric("upstream_calls_queued", "gauge", "Upstream calls that wait for a connection.")
WRITES = Metric(
    "writes", "counter", "Writes, by kind and by outcome: executed, rejected, unknown, or not_made if they were not "
    "sent or not permitted. Those that repeat the key of another are not counted.", ("kind", "outcome"),
)  # fmt: skip
CIRCUIT_OPEN = Metric("circuit_open", "gauge", "1 while the circuit breaker is open or half open.", workers="livemax")
CIRCUIT_CHANGES = Metric("circuit_changes", "counter", "Times that the circuit opened or closed.", ("to",))
RATE_REMAINING = Metric(
    "rate_limit_remaining_ratio", "gauge", "Smallest share of its calls per window that any client has left, from 0 "
    "to 1.", workers="livemin",
)  # fmt: skip
RATE_WAITS = Metric("rate_limit_wait_seconds", "histogram", "Time that upstream calls waited for the rate limiter.")
CACHE_READS = Metric(
    "cache_reads", "counter", "Reads of the cache, by resource and by result: hit, stale or miss. A `response` is a "
    "hit if it is sent as it was rendered before.", ("resource", "result"),
)  # fmt: skip
CACHE_BYTES = Metric("cache_bytes", "gauge", "Memory of cached entries, in bytes.", ("resource",))
CACHE_ENTRIES = Metric("cache_entries", "gauge", "Cached entries in memory.", ("resource",))
CACHE_EVICTIONS = Metric("cache_evictions", "counter", "Entries dropped because the cache was full.", ("resource",))
CONNECTIONS = Metric("connections", "gauge", "Connections of clients.")
LOOP_LAG = Metric("event_loop_lag_seconds", "histogram", "Delay of a timer that is due ten times a second.")
CPU = Metric(
    "cpu_utilization_ratio", "gauge", "CPU utilisation of the busiest process' event loop, from 0 to 1, with the "
    "time that it waited for a CPU.", workers="livemax",
)  # fmt: skip
EVENT_COUNTS = Metric(
    "events", "counter", "Events that the log reports, by kind: warnings, errors, and `plan fallbacks` from compiled "
    "plans to the generic executor.", ("event", "kind"),
)  # fmt: skip
LOG_LINES_DROPPED = Metric("log_lines_dropped", "counter", "Log lines that could not be written.")
BUILD = Metric(
    "build_info", "gauge", "1, with the versions of the gateway and of Python.", ("version", "python"), "livemax"
)
METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
# Those of the parent of several workers.
WORKERS = Metric("workers", "gauge", "Worker processes that serve.", workers="livemax")
WORKER_RESTARTS = Metric("worker_restarts", "counter", "Worker processes that ended and were replaced.")
PARENT_METRICS = (WORKERS, WORKER_RESTARTS, EVENT_COUNTS, LOG_LINES_DROPPED)

# A sampled value: what a gauge is, or what a counter has counted since the process started.
Sample = tuple[Metric, tuple[str, ...], float]
Sampler = Callable[[], Iterable[Sample]]


class Metrics:
    """Counts nothing: the metrics of a process whose management port is off."""

    samplers: list[Sampler]

    def __init__(self) -> None:
        self.samplers = []

    def count(self, metric: Metric, labels: tuple[str, ...] = (), number: float = 1) -> None:
        """Adds to a counter."""

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Adds a value to a histogram."""

    def observe_requests(self, requests: list[LoggedRequest]) -> None:
        """Counts the requests of an event-loop iteration, and their errors."""

    def sample(self) -> None:
        """Takes the values of all samplers."""

    async def sample_forever(self) -> None:
        """Takes them every second, and for the last time when it is cancelled."""
        try:
            while True:
                self.sample()
                await asyncio.sleep(SAMPLED_EVERY)
        finally:
            self.sample()


class PrometheusMetrics(Metrics):
    """Metrics in a registry of prometheus-client.

    `names` are the operation names of trusted documents. Of other operations the first names that succeed are used.
    """

    def __init__(
        self, settings: MetricsSettings, names: Iterable[str] = (), metrics: tuple[Metric, ...] = METRICS
    ) -> None:
        import prometheus_client  # noqa: PLC0415 - see FOLDER

        super().__init__()
        self.registry = prometheus_client.CollectorRegistry()
        self._names = set(names)
        self._names_max = len(self._names) + settings.operation_names_max
        self._metrics: dict[Metric, Any] = {}
        kinds: dict[str, Any] = {
            "counter": prometheus_client.Counter,
            "gauge": prometheus_client.Gauge,
            "histogram": prometheus_client.Histogram,
        }
        for metric in metrics:
            more: dict[str, Any] = {}
            if metric.kind == "gauge":
                more["multiprocess_mode"] = metric.workers
            elif metric.kind == "histogram":
                more["buckets"] = SECONDS
            self._metrics[metric] = kinds[metric.kind](
                PREFIX + metric.name, metric.help, metric.labels, registry=self.registry, **more
            )
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._sampled: dict[tuple[str, tuple[str, ...]], float] = {}
        self.samplers.append(event_samples)
        if BUILD in metrics:
            self._child(BUILD, (__version__, platform.python_version())).set(1)

    def count(self, metric: Metric, labels: tuple[str, ...] = (), number: float = 1) -> None:
        self._child(metric, labels).inc(number)

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        self._child(metric, labels).observe(value)

    def observe_requests(self, requests: list[LoggedRequest]) -> None:
        durations: dict[tuple[str, ...], list[float]] = {}
        rendered = 0
        for request in requests:
            operation = request.operation
            if operation is None:
                self.count(OTHER_REQUESTS, (str(request.status),))
            else:
                name, kind = operation.name, operation.kind
                if name not in self._names:
                    name = self._label_of(name, operation.outcome)
                durations.setdefault((name, kind, operation.outcome), []).append(request.seconds)
                rendered += operation.rendered
                if operation.calls:
                    self.count(OPERATION_CALLS, (name, kind), operation.calls)
            for code in request.codes:
                self.count(ERRORS, (code,))
        for labels, seconds in durations.items():
            _observe_all(self._child(OPERATIONS, labels), seconds)
        if rendered:
            self.count(CACHE_READS, RENDERED, rendered)

    def sample(self) -> None:
        for sampler in self.samplers:
            for metric, labels, value in sampler():
                child = self._child(metric, labels)
                if metric.kind == "gauge":
                    child.set(value)
                    continue
                # A part that was created anew counts from zero again.
                before = self._sampled.get((metric.name, labels), 0)
                self._sampled[metric.name, labels] = value
                child.inc(value - before if value >= before else value)

    def _label_of(self, name: str, outcome: str) -> str:
        # Names of operations that fail would be a way to fill the set.
        if not name or outcome not in ("success", "partial") or len(self._names) >= self._names_max:
            return OTHER if name else ""
        self._names.add(name)
        return name

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        key = metric.name, labels
        child = self._children.get(key)
        if child is None:
            made = self._metrics[metric]
            child = self._children[key] = made.labels(*labels) if labels else made
        return child


def _observe_all(histogram: Any, values: list[float]) -> None:
    """Adds values to a histogram of prometheus-client, which has no method for several: a lock each would cost more."""
    if len(values) == 1:
        histogram.observe(values[0])
        return
    histogram._sum.inc(sum(values))  # noqa: SLF001
    for index, number in Counter(bisect_left(SECONDS, value) for value in values).items():
        histogram._buckets[index].inc(number)  # noqa: SLF001


def metrics_of(settings: MetricsSettings, names: Iterable[str] = (), metrics: tuple[Metric, ...] = METRICS) -> Metrics:
    """The metrics of a process, by the settings."""
    return Metrics() if settings.port is None else PrometheusMetrics(settings, names, metrics)


def event_samples() -> Iterator[Sample]:
    """The events that this process has logged, and the lines that it could not."""
    yield LOG_LINES_DROPPED, (), dropped_lines()
    for event_and_kind, number in list(EVENTS.items()):
        yield EVENT_COUNTS, event_and_kind, number


@contextmanager
def shared_folder(settings: MetricsSettings) -> Iterator[None]:
    """Makes the folder for the values of several processes, which find it in the environment.

    Raises Misconfigured if there is no folder that can be written to.
    """
    if settings.port is None:
        yield
        return
    parent = MEMORY if os.access(MEMORY, os.W_OK) else None
    try:
        folder = tempfile.mkdtemp(prefix="gateway-metrics-", dir=parent)
    except OSError as failure:
        message = f"no folder for the values of several workers can be written to ({failure.strerror})"
        raise Misconfigured("metrics.port", message) from failure
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


def forget_worker(pid: int) -> None:
    """Drops the gauges of a worker that has ended; what it has counted stays."""
    if FOLDER in os.environ:
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - see FOLDER

        mark_process_dead(pid)  # type: ignore[no-untyped-call]


@contextmanager
def served(settings: MetricsSettings, host: str, metrics: Metrics) -> Iterator[int | None]:
    """Serves metrics on the management port, in a thread; those of all workers if there is a shared folder.

    Yields the port, which is another one if the setting is 0.

    Raises Misconfigured if the port can't be used.
    """
    if not isinstance(metrics, PrometheusMetrics):
        yield None
        return
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - see FOLDER
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

    registry: CollectorRegistry = metrics.registry
    if FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    assert settings.port is not None
    try:
        server, thread = start_http_server(settings.port, settings.host or host, registry)
    except OSError as failure:
        raise Misconfigured("metrics.port", f"can't listen on port {settings.port} ({failure.strerror})") from failure
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
