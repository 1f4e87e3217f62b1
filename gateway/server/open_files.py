"""How many files and connections the process may have open, and how many of them are left for callers.

A server that runs out of file descriptors can neither be asked nor call the fleet API, so callers' connections are kept
within what the system allows, less what everything else needs.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from gateway.server.connection_limits import FILES_FREE_MIN, SURPLUS_MAX
from gateway.settings import Settings

if sys.platform != "win32":
    import resource

# Listening sockets, logs, the event loop's own, look-ups of names, connections that are being closed.
OWN_FILES = 64
# Connections that are accepted however few files may be open.
CONNECTIONS_MIN = 16


class OpenFiles(NamedTuple):
    """What the process may have open, None where the system sets no limit; `warning` is empty if that is enough."""

    files_max: int | None
    connections_max: int
    warning: str


def allow_files(settings: Settings) -> OpenFiles:
    """Raises the soft limit of open files as far as needed and allowed; of this process and of those it starts."""
    wanted = settings.http.connections_max
    upstream = settings.upstream.connections_max
    redis = settings.redis.connections_max if settings.redis.url is not None else 0
    others = upstream + redis + OWN_FILES + FILES_FREE_MIN + SURPLUS_MAX
    files_max = _raised_to(wanted + others)
    if files_max is None or files_max >= wanted + others:
        return OpenFiles(files_max, wanted, "")
    connections = min(wanted, max(CONNECTIONS_MIN, files_max - others))
    warning = (
        f"the system allows {files_max} open files (ulimit -n), and {others} are for calls ({upstream} to the fleet "
        f"API, {redis} to Redis) and for the process itself: callers get {connections} connections, not the {wanted} "
        "of GATEWAY_HTTP_CONNECTIONS_MAX"
    )
    return OpenFiles(files_max, connections, warning)


def _raised_to(files: int) -> int | None:
    """The soft limit, at least this if the hard limit allows it; None if there is none."""
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < files:
        more = files if hard == resource.RLIM_INFINITY else min(files, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        except (OSError, ValueError):  # some systems refuse what they told
            return soft
        return more
    return soft
