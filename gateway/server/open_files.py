"""Raises the limit of open files and derives the number of client connections from it.

A process without free file descriptors can neither accept nor open connections. So client connections are limited to
the descriptors that remain after all other uses.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from gateway.server.connection_limits import FILES_FREE_MIN, SURPLUS_MAX
from gateway.settings import Settings

if sys.platform != "win32":
    import resource

# Listening sockets, logs, the event loop, DNS lookups, connections that are being closed.
OWN_FILES = 64
# Client connections that are allowed even if the limit of open files is too low.
CONNECTIONS_MIN = 16


class OpenFiles(NamedTuple):
    """The limits of open files (None: no limit) and client connections; `warning` is empty if they suffice."""

    files_max: int | None
    connections_max: int
    warning: str


def allow_files(settings: Settings) -> OpenFiles:
    """Raises the soft limit of open files as far as needed and allowed; child processes inherit it."""
    wanted = settings.http.connections_max
    upstream = settings.upstream.connections_max
    redis = settings.redis.connections_max if settings.redis.url is not None else 0
    others = upstream + redis + OWN_FILES + FILES_FREE_MIN + SURPLUS_MAX
    files_max = _raised_to(wanted + others)
    if files_max is None or files_max >= wanted + others:
        return OpenFiles(files_max, wanted, "")
    connections = min(wanted, max(CONNECTIONS_MIN, files_max - others))
    warning = (
        f"client connections are limited to {connections} instead of GATEWAY_HTTP_CONNECTIONS_MAX={wanted}: the system "
        f"allows {files_max} open files (ulimit -n), and {others} are reserved ({upstream} for the fleet API, {redis} "
        "for Redis, the rest for the process itself)"
    )
    return OpenFiles(files_max, connections, warning)


def _raised_to(files: int) -> int | None:
    """The soft limit, raised to `files` if the hard limit allows it; None if there is no limit."""
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < files:
        more = files if hard == resource.RLIM_INFINITY else min(files, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        except (OSError, ValueError):  # some systems reject values within the hard limit
            return soft
        return more
    return soft
