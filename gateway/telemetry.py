"""Logs: their form and their events. What is logged is a closed set of facts; bodies, headers and URLs never are.

Nothing that an exception says is written, only its kind and where it was raised: a message may quote what it was given.
What libraries log goes the same way, without their words' arguments where they are not numbers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from gateway.lean_imports import without
from gateway.settings import LogSettings

with without("rich"):  # six megabytes that would colour tracebacks, of which none is logged
    import structlog

# What may be a credential or an address, wherever it stands.
SECRET = re.compile(r"(?i)bearer\s+\S+|eyJ[\w-]{5,}\.[\w-]+\.[\w-]*|[a-z][a-z0-9+.-]*://\S+")
REDACTED = "[redacted]"


def configure_logs(settings: LogSettings) -> None:
    """Structured lines on standard error: one JSON object a line, or text for people; of libraries only warnings."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: structlog.types.Processor
    renderer = structlog.processors.JSONRenderer() if settings.format == "json" else structlog.dev.ConsoleRenderer()
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        frames_only,
        redacted,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(numbers_only)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


get_logger = structlog.get_logger
SERVICE_UNAVAILABLE = 503


def _now() -> str:
    """The time as the other lines tell it."""
    whole, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second(whole)}.{microseconds:06d}Z"


@lru_cache(1)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class RequestLog:
    """A line for each request, as the other lines are but written without their machinery: there are many of them.

    Refusals come in floods, and a line for each would be part of the flood: each second its first has one, which tells
    how many had none.
    """

    def __init__(self, settings: LogSettings) -> None:
        self._log = get_logger("gateway.web")
        self._by_hand = settings.format == "json"
        self._is_on = settings.level in ("debug", "info")
        self._second = 0
        self._silent = 0
        self._lines: list[str] = []

    def write(self, request_id: str, method: str, status: int, began: float, *, own_id: bool = False) -> None:
        """A request ended; `began` is of `time.perf_counter`. Any id but the gateway's own may hold what is secret."""
        if status == SERVICE_UNAVAILABLE and not self.refused():
            return
        if not self._is_on:
            return
        milliseconds = round((time.perf_counter() - began) * 1000, 2)
        if not self._by_hand or (not own_id and SECRET.search(request_id)):
            self._log.info("request", request_id=request_id, method=method, status=status, ms=milliseconds)
            return
        # Nothing here needs escaping: a method is a token of HTTP, an id of letters, digits and three marks.
        self._lines.append(
            f'{{"request_id": "{request_id}", "method": "{method}", "status": {status}, "ms": {milliseconds}, '
            f'"event": "request", "level": "info", "timestamp": "{_now()}"}}\n'
        )
        if len(self._lines) == 1:
            self._write_soon()

    def broke(self, request_id: str) -> None:
        """A request met the bug that is being handled."""
        self._log.error("internal error", request_id=request_id, exc_info=True)

    def _write_soon(self) -> None:
        """Writes at the end of this turn of the event loop: what ends in one turn is written at once."""
        try:
            asyncio.get_running_loop().call_soon(self._write_lines)
        except RuntimeError:
            self._write_lines()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        sys.stderr.write("".join(lines))

    def refused(self) -> bool:
        """Counts a refusal; whether it is one that has a line."""
        second = int(time.monotonic())
        if second == self._second:
            self._silent += 1
            return False
        if self._silent:
            self._log.warning("requests refused", number=self._silent)
        self._second, self._silent = second, 0
        return True


class EventCounter:
    """Logs what may come in floods: the first at once, then each second how many there were of each kind."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._counts: dict[str, int] = {}
        self._is_waiting = False

    def count(self, kind: str, loop: asyncio.AbstractEventLoop) -> None:
        """Counts one; `kind` is one of few words of the gateway's own."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if not self._is_waiting:
            self._write(loop)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        counts, self._counts = self._counts, {}
        self._is_waiting = bool(counts)
        if counts:
            get_logger("gateway.web").warning(self._event, **counts)
            loop.call_later(1, self._write, loop)


def numbers_only(record: logging.LogRecord) -> bool:
    """Of what a library fills into its words only numbers are written: the rest may be what it was given."""
    if isinstance(record.args, Mapping):
        record.args = {name: _number_or_not(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(map(_number_or_not, record.args))
    return True


def _number_or_not(value: object) -> object:
    return value if isinstance(value, int | float) else REDACTED


def frames_only(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception becomes its kind and the lines it came through, innermost last; neither values nor messages."""
    given = event.pop("exc_info", None)
    failure = given[1] if isinstance(given, tuple) else sys.exception() if given is True else given
    if isinstance(failure, BaseException):
        event["kind"] = type(failure).__name__
        event["frames"] = [
            f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(failure.__traceback__)
        ]
    return event


def redacted(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Whatever looks like a credential or an address is taken out of every text."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = SECRET.sub(REDACTED, value)
    return event
