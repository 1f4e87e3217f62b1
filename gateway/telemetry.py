"""Logs: their form and their events. What is logged is a closed set of facts; bodies, headers and URLs never are."""

from __future__ import annotations

import logging
import sys

import structlog

from gateway.settings import LogSettings


def configure_logs(settings: LogSettings) -> None:
    """Structured lines on standard error: one JSON object a line, or text for people."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: structlog.types.Processor
    renderer = structlog.processors.JSONRenderer() if settings.format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks
            if settings.format == "json"
            else structlog.processors.ExceptionRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
