"""Asks a gateway's `/health/live` again and again, each time over a new connection; run as a program of its own.

`python health_probe.py PORT PID` reads lines from its standard input, and answers each with a line of JSON: `start` begins
a measurement, `stop` ends it and tells the longest time without an answer. It is a process of its own so that whatever
the test does meanwhile does not count as the gateway's delay.
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


def answers(port: int, deadline: float) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=deadline) as connection:
            connection.settimeout(deadline)
            connection.sendall(REQUEST)
            return connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def processor_seconds(pid: int) -> float:
    """What the event loop's thread has used of a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main(port: int, pid: int) -> None:
    longest = busiest = 0.0
    asked = failed = 0
    while True:
        # Read by the line without a buffer, which `select` would not know of.
        if select.select([0], [], [], INTERVAL if asked else None)[0]:
            command = b"".join(iter(lambda: os.read(0, 1).strip(), b"")).decode()
            told = {"blocked": longest, "busy": busiest, "asked": asked, "failed": failed}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            if not command:
                return
            longest = busiest = 0.0
            failed, asked = 0, 1 if command == "start" else 0
            continue
        began, used = time.monotonic(), processor_seconds(pid)
        while not answers(port, 60):
            failed += 1
            if time.monotonic() - began > 60:
                break
            time.sleep(INTERVAL)
        asked += 1
        longest = max(longest, time.monotonic() - began)
        busiest = max(busiest, processor_seconds(pid) - used)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
