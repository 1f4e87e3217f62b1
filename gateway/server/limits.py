"""The limits and counters that all connections of a process share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gateway.concurrency.loop_tick import TickBatch
from gateway.server.connection_limits import ClosedConnections, ConnectionLimits
from gateway.server.unread_responses import UnreadResponses
from gateway.settings import Settings
from gateway.telemetry.logs import EventCounter
from gateway.telemetry.metrics import CONNECTIONS, Sample


class Flushable(Protocol):
    """A connection with a response that has not been written."""

    def flush(self) -> None:
        """Writes the response."""


class ServerLimits:
    """Limits and counters, which each connection reads and updates."""

    def __init__(self, settings: Settings, connections_max: int | None = None, files_max: int | None = None) -> None:
        http = settings.http
        self.header_bytes_max = http.header_bytes_max
        self.request_timeout = http.request_timeout
        self.shutdown_idle_timeout = http.shutdown_idle_timeout
        self.inflight_body_bytes_max = http.inflight_body_bytes_max
        # The bytes of all incomplete bodies, and of all requests that wait for an earlier response.
        self.inflight_body_bytes = 0
        self.pipelined_bytes = 0
        # Cached responses of an event-loop iteration are written together, because the first one wakes the clients'
        # machine. That gains a tenth of the throughput; for responses with upstream calls it costs more than it gains.
        self.write_batch: TickBatch[Flushable] = TickBatch(_flush_all)
        self.rejections = EventCounter("requests rejected before parsing")
        self.closed_connections = ClosedConnections()
        self.connection_limits = ConnectionLimits(http, self.closed_connections, connections_max, files_max)
        self.unread = UnreadResponses(http, self.closed_connections)
        self.is_stopping = False

    def samples(self) -> Iterator[Sample]:
        """The connections."""
        yield CONNECTIONS, (), len(self.connection_limits)


def _flush_all(connections: list[Flushable]) -> None:
    for connection in connections:
        connection.flush()
