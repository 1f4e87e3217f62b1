"""Logs: their form and their events. What is logged is a closed set of facts; bodies, headers and URLs never are.

Nothing that an exception says is written, only its kind and where it was raised: a message may quote what it was given.
What libraries log goes the same way, without their words' arguments where they are not numbers.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from gateway.settings import LogSettings

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
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


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
