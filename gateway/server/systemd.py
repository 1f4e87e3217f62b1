"""Tells systemd that the service is ready, stopping or alive (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time

from gateway.telemetry.logs import get_logger

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


def notify(state: str) -> None:
    """Sends a state to the socket in NOTIFY_SOCKET, which may be abstract; does nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.connect("\0" + address[1:] if address.startswith("@") else address)
            sending.sendall(state.encode())
    except OSError as failure:
        get_logger("gateway").warning("systemd not notified", state=state, errno=failure.errno)


class Watchdog:
    """Sends a sign of life twice in each interval of WATCHDOG_USEC, if systemd asks for it."""

    def __init__(self) -> None:
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 if is_ours else 0.0
        self._next = 0.0

    def beat(self) -> None:
        """Is to be called more often than that."""
        now = time.monotonic()
        if self._seconds and now >= self._next:
            self._next = now + self._seconds
            notify(ALIVE)
