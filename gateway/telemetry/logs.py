"""Logs: configuration, format and the request log. Bodies, headers and URLs are never logged.

An exception is logged by its type and frames, never by its message, which may quote its arguments. A library's message
is logged only if it is a constant in the library's code, with arguments that are numbers.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import json
import logging
import re
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from gateway.import_blocking import blocked
from gateway.settings import LOG_COMPONENTS, LogSettings, listed
from gateway.telemetry.log_writer import LogWriter

with blocked("rich"):  # takes six megabytes to colour tracebacks, which are not logged
    import structlog

# Possible credentials and addresses.
SECRET = re.compile(r"(?i)bearer\s+\S+|eyJ[\w-]{5,}\.[\w-]+\.[\w-]*|[a-z][a-z0-9+.-]*://\S+")
REDACTED = "[redacted]"
# The component of loggers without one.
SERVER = "server"
# Replaces messages of libraries that may contain arguments.
WITHHELD = "library message withheld"
# Limits of the characters of a text and the frames of an exception.
TEXT_MAX = 2000
FRAMES_MAX = 30
# How often this process has logged each event, as a warning or worse, and each kind of a counted one. Events are
# constants in the code; others, and those above the limit, count as one.
EVENTS: Counter[tuple[str, str]] = Counter()
EVENTS_MAX = 500
EVENT_FORM = re.compile(r"[A-Za-z0-9 ,'_-]{1,60}")
OTHER_EVENT = "other", ""
# The events of EventCounters, which count them themselves.
COUNTED: set[str] = set()
# Seconds that an exiting process waits for its last lines to be written.
FLUSH_SECONDS = 1.0


def configure_logs(settings: LogSettings, *, workers: int = 1) -> None:
    """Configures structured logs on standard error, as JSON lines or text. Libraries log only warnings and errors.

    This includes uncaught exceptions and Python's warnings. Lines that are already queued are still written. Several
    `workers` share standard error.
    """
    flush_logs(0, close=True)
    renderer: structlog.types.Processor
    renderer = structlog.processors.JSONRenderer() if settings.format == "json" else structlog.dev.ConsoleRenderer()
    add_time = structlog.processors.TimeStamper(fmt="iso", utc=True)

    def dropped(number: int) -> str:
        event = {"number": number, "event": "log lines dropped", "level": "warning"}
        return str(renderer(None, "warning", add_time(None, "warning", event)))

    writer = LogWriter(sys.stderr, settings.queue_bytes_max, dropped, is_shared=workers > 1)
    loggers = {component: _logger_class(level_of(settings, component), writer) for component in LOG_COMPONENTS}

    def bound(logger: LogWriter | _Component, processors: Any, context: Any) -> Any:
        component = logger.name if isinstance(logger, _Component) else SERVER
        return loggers[component](logger, processors, context)

    structlog.configure(
        processors=[structlog.stdlib.add_log_level, add_time, count_event, frames_only, redacted, renderer],
        wrapper_class=bound,  # type: ignore[arg-type] # structlog calls it
        logger_factory=_Factory(writer),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[LibraryHandler()], force=True)
    sys.excepthook = _crashed
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_crashed
    warnings.showwarning = _warned
    atexit.unregister(flush_logs)
    atexit.register(flush_logs)


def level_of(settings: LogSettings, component: str) -> str:
    """The minimum level of a component."""
    levels = dict(item.split("=") for item in listed(settings.levels))
    return levels.get(component, settings.level)


def _logger_class(level: str, writer: LogWriter) -> Any:
    filtering: Any = structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])

    class Logger(filtering):  # type: ignore[misc]
        """A logger that never raises: a line that can't be formatted is counted as dropped."""

        def _proxy_to_logger(self, method_name: str, event: str | None = None, **more: Any) -> None:
            try:
                super()._proxy_to_logger(method_name, event, **more)
            except Exception:  # noqa: BLE001
                writer.lose()

    return Logger


class _Component:
    """A component's lines, which all go to one writer."""

    def __init__(self, name: str, writer: LogWriter) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = writer.msg


class _Factory:
    """A logger factory for structlog: a logger's name begins with its component, after `gateway.`."""

    def __init__(self, writer: LogWriter) -> None:
        self.writer = writer

    def __call__(self, name: str = "") -> LogWriter | _Component:
        component = name.removeprefix("gateway").lstrip(".")
        return _Component(component if component in LOG_COMPONENTS else SERVER, self.writer)


def flush_logs(seconds: float = FLUSH_SECONDS, *, close: bool = False) -> None:
    """Waits until queued lines are written, at most `seconds`. `close` then closes the writer."""
    factory = structlog.get_config()["logger_factory"]
    if isinstance(factory, _Factory):
        if seconds:
            factory.writer.flush(seconds)
        if close:
            factory.writer.close()


def dropped_lines() -> int:
    """How many lines this process could not write."""
    factory = structlog.get_config()["logger_factory"]
    return factory.writer.dropped if isinstance(factory, _Factory) else 0


class LibraryHandler(logging.Handler):
    """Logs the records of libraries in the gateway's format."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger("library")
        method = log.warning if record.levelno < logging.ERROR else log.error
        try:
            message = _safe_message(record)
        except Exception:  # noqa: BLE001 - a log call must not raise
            message = WITHHELD
        failure = record.msg if isinstance(record.msg, BaseException) else record.exc_info
        location = f"{_relative(record.pathname)}:{record.lineno} {record.funcName}"
        method(message, logger=record.name, at=location, exc_info=failure)


def _safe_message(record: logging.LogRecord) -> str:
    """The message of a record if it is a constant in the code that logged it, with its numbers filled in."""
    if not (isinstance(record.msg, str) and _is_literal(record)):
        return WITHHELD
    numbers_only(record)
    try:
        return record.getMessage().strip()
    except Exception:  # noqa: BLE001 - the arguments do not match the format string
        return record.msg.strip()


def _is_literal(record: logging.LogRecord) -> bool:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - as logging itself finds its callers
    while frame is not None:
        if frame.f_lineno == record.lineno and frame.f_code.co_filename == record.pathname:
            return record.msg in frame.f_code.co_consts
        frame = frame.f_back
    return False


def _crashed(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
    get_logger().critical("crashed", exc_info=failure)


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_type is not SystemExit:
        get_logger().error("thread crashed", exc_info=crash.exc_value)


def _unraisable(failure: sys.UnraisableHookArgs) -> None:
    get_logger().error("unraisable exception", exc_info=failure.exc_value)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    get_logger().warning("Python warning", kind=category.__name__, at=f"{_relative(filename)}:{lineno}")


@asynccontextmanager
async def failures_logged(event: str) -> AsyncIterator[None]:
    """Logs an exception that leaves the block, because the caller would log its message, or nothing."""
    try:
        yield
    except Exception:
        get_logger().exception(event)
        raise


get_logger = structlog.get_logger
# Hexadecimal digits of a principal in logs.
PRINCIPAL_DIGITS = 12
SERVICE_UNAVAILABLE = 503
# Different codes of a response's errors.
CODES_MAX = 8


def _now() -> str:
    """The current time in the format of structlog's time stamps."""
    whole, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second(whole)}.{microseconds:06d}Z"


@lru_cache(1)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class LoggedOperation(NamedTuple):
    """What is logged and counted of an operation, which may not have been found or run.

    `digest` is the document's hash, `principal` a short digest of the caller's. `calls` are the upstream calls. `age`
    is that of the oldest data in seconds. It may be `stale`, and may have been `rendered` before.
    """

    name: str
    kind: str
    digest: str
    outcome: str
    principal: str
    calls: int
    age: int
    stale: bool
    rendered: bool


class LoggedRequest(NamedTuple):
    """What is logged and counted of a request; `codes` and `flow_ids` are those of its errors.

    An id that is not the gateway's `own_id` may contain a secret.
    """

    request_id: str
    own_id: bool
    trace_id: str | None
    method: str
    status: int
    seconds: float
    codes: tuple[str, ...]
    flow_ids: tuple[str, ...]
    operation: LoggedOperation | None


def _members(request: LoggedRequest) -> dict[str, Any]:
    """The members of a request's line; those that say nothing are left out."""
    members: dict[str, Any] = {"request_id": request.request_id, "trace_id": request.trace_id}
    operation = request.operation
    if operation is not None:
        members |= {"principal": operation.principal, "operation": operation.name, "kind": operation.kind}
    members = {name: value for name, value in members.items() if value}
    members |= {"method": request.method, "status": request.status, "ms": round(request.seconds * 1000, 2)}
    if operation is not None:
        members |= {"outcome": operation.outcome, "calls": operation.calls, "age": operation.age}
        if operation.stale:
            members["stale"] = True
    if request.codes:
        members["errors"] = list(dict.fromkeys(request.codes))[:CODES_MAX]
    if request.flow_ids:
        members["flow_ids"] = list(dict.fromkeys(request.flow_ids))[:CODES_MAX]
    return members


def _json_members(request: LoggedRequest) -> str:
    """The same as JSON, for a third of the time unless there are errors.

    Nothing needs escaping: methods are HTTP tokens, and ids and names have no quotes.
    """
    operation, start, more = request.operation, "", ""
    if request.codes or request.flow_ids or (operation is not None and operation.stale):
        return json.dumps(_members(request))[1:-1] + ", "
    trace = "" if request.trace_id is None else f'"trace_id": "{request.trace_id}", '
    if operation is not None:
        name, kind, _, outcome, principal, calls, age, *_ = operation
        start = f'"principal": "{principal}", ' if principal else ""
        start += f'"operation": "{name}", ' if name else ""
        start += f'"kind": "{kind}", ' if kind else ""
        more = f'"outcome": "{outcome}", "calls": {calls}, "age": {age}, '
    return (
        f'"request_id": "{request.request_id}", {trace}{start}"method": "{request.method}", '
        f'"status": {request.status}, "ms": {round(request.seconds * 1000, 2)}, {more}'
    )


class RequestLog:
    """Logs a line per request, formatted without structlog, because there are so many of them.

    Of rejections with 503 only the first in each second is logged, together with the number of the others.
    """

    def __init__(self, settings: LogSettings) -> None:
        self._log = get_logger("gateway.web")
        self._formats_json = settings.format == "json"
        self._is_on = level_of(settings, "web") in ("debug", "info")
        self._slow, self._costly = settings.slow_operation, settings.costly_operation
        self._second = 0
        self._unlogged = 0
        self._writer = structlog.get_config()["logger_factory"]("gateway.web")

    def write(self, requests: list[LoggedRequest]) -> None:
        """Logs the requests of an event-loop iteration."""
        lines = [line for request in requests if (line := self._line_of(request)) is not None]
        if lines:
            self._writer.info("\n".join(lines))

    def _line_of(self, request: LoggedRequest) -> str | None:
        """The line of a request, unless it was written otherwise; one that was slow or costly is logged once more."""
        if request.status == SERVICE_UNAVAILABLE and not self.count_rejection():
            return None
        operation = request.operation
        if operation is not None and (request.seconds >= self._slow or operation.calls >= self._costly):
            event = "slow operation" if request.seconds >= self._slow else "costly operation"
            self._log.warning(event, document=operation.digest, **_members(request))
        if not self._is_on:
            return None
        # A JSON Web Token is the only kind of secret that fits into an id.
        if not self._formats_json or (not request.own_id and "eyj" in request.request_id.lower()):
            self._log.info("request", **_members(request))
            return None
        return f'{{{_json_members(request)}"event": "request", "level": "info", "timestamp": "{_now()}"}}'

    def write_internal_error(self, request_id: str) -> None:
        """Logs the exception that is being handled as an internal error of a request."""
        self._log.error("internal error", request_id=request_id, exc_info=True)

    def count_rejection(self) -> bool:
        """Counts a rejection; returns whether it is logged."""
        second = int(time.monotonic())
        if second == self._second:
            self._unlogged += 1
            return False
        if self._unlogged:
            self._log.warning("requests rejected", number=self._unlogged)
        self._second, self._unlogged = second, 0
        return True


class EventCounter:
    """Logs frequent events: the first at once, then the number of each kind every second; `fields` are in each line."""

    def __init__(self, event: str, level: str = "warning", **fields: str) -> None:
        COUNTED.add(event)
        self._event = event
        self._level = level
        self._fields = fields
        self._counts: dict[str, int] = {}
        self._waiting: asyncio.AbstractEventLoop | None = None

    def count(self, kind: str, loop: asyncio.AbstractEventLoop) -> None:
        """Counts an event; `kind` is one of a few constants."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        add_event(self._event, kind.partition(":")[0])
        if self._waiting is not loop:
            self._write(loop)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        counts, self._counts = self._counts, {}
        self._waiting = loop if counts else None
        if counts:
            getattr(get_logger("gateway.web"), self._level)(self._event, **self._fields, **counts)
            loop.call_later(1, self._write, loop)


def add_event(event: str, kind: str, number: int = 1) -> None:
    """Counts an event in EVENTS."""
    key = event, kind
    if key not in EVENTS and (len(EVENTS) >= EVENTS_MAX or not all(map(EVENT_FORM.fullmatch, (event, kind or "-")))):
        key = OTHER_EVENT
    EVENTS[key] += number


def count_event(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Counts a line that is at least a warning, unless its events were counted before."""
    if event["event"] not in COUNTED and event["level"] not in ("debug", "info"):
        number, kind = event.get("number", 1), event.get("reason", "")
        name = event["event"] if "logger" not in event else "library message"
        add_event(str(name), str(kind), number if isinstance(number, int) else 1)
    return event


def numbers_only(record: logging.LogRecord) -> bool:
    """Redacts the arguments of a record that are not numbers, because they may contain secrets."""
    if isinstance(record.args, Mapping):
        record.args = {name: _number_or_not(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(map(_number_or_not, record.args))
    return True


def _number_or_not(value: object) -> object:
    return value if isinstance(value, int | float) else REDACTED


def frames_only(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces an exception by its type and frames, innermost last, without values and messages."""
    exc_info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    failure = exc_info[1] if isinstance(exc_info, tuple) else sys.exception() if exc_info is True else exc_info
    if isinstance(failure, BaseException):
        event["kind"] = type(failure).__name__
        if isinstance(failure, OSError) and failure.errno is not None:
            event["errno"] = errno.errorcode.get(failure.errno, failure.errno)
        frames = [
            f"{_relative(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(failure.__traceback__)
        ]
        event["frames"] = frames[-FRAMES_MAX:]
    return event


def _relative(path: str) -> str:
    return path.rpartition("site-packages/")[2]


def redacted(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redacts possible credentials and addresses in all texts."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = SECRET.sub(REDACTED, value[:TEXT_MAX])
    return event
