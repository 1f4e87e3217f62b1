"""Polls a gateway's `/health/live`, each time over a new connection; run as a program of its own.

`python health_probe.py PORT PID` reads commands from its standard input, and prints a line of JSON for each: `start`
begins a measurement, `stop` ends it and reports the longest time without a response. It is a separate process so that
the test's own work does not count as the gateway's delay.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from pathlib import Path

INTERVAL = 0.02
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def responds(port: int, deadline: float) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=deadline) as connection:
            connection.settimeout(deadline)
            connection.sendall(REQUEST)
            return connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """CPU time of the event loop's thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main(port: int, pid: int) -> None:
    longest = most_cpu = 0.0
    checks = failed = 0
    while True:
        # Lines are read unbuffered, since `select` does not see a buffer.
        if select.select([0], [], [], INTERVAL if checks else None)[0]:
            command = b"".join(iter(lambda: os.read(0, 1).strip(), b"")).decode()
            values = {"blocked": longest, "cpu": most_cpu, "checks": checks, "failed": failed}
            sys.stdout.write(json.dumps(values) + "\n")
            sys.stdout.flush()
            if not command:
                return
            longest = most_cpu = 0.0
            failed, checks = 0, 1 if command == "start" else 0
            continue
        began, used = time.monotonic(), cpu_seconds(pid)
        while not responds(port, 60):
            failed += 1
            if time.monotonic() - began > 60:
                break
            time.sleep(INTERVAL)
        checks += 1
        longest = max(longest, time.monotonic() - began)
        most_cpu = max(most_cpu, cpu_seconds(pid) - used)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
