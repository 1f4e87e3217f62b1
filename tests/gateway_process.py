"""`gateway serve` as a process of its own, with all of its output."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.programs import reserved_port


class GatewayProcess:
    """The served gateway; `output` is everything it has written so far.

    `files_max` is the soft and hard limit of open files; with a file descriptor as `output` the gateway writes there
    instead of to a file in the folder.
    """

    def __init__(
        self,
        folder: Path,
        files_max: tuple[int, int] | None = None,
        *,
        output: int | None = None,
        **environment: str,
    ) -> None:
        self._reserved = reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._metrics_url: str | None = None
        self._log = folder / "gateway.log"
        self._written = self._log.open("wb")
        settings = {f"GATEWAY_{name.upper()}": value for name, value in environment.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--port", str(self.port)],
            env={**os.environ, **settings},
            stdout=self._written if output is None else output,
            stderr=subprocess.STDOUT,
        )
        if files_max is not None:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, files_max)

    def wait_until_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=2, verify=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.output
            time.sleep(0.05)
        raise TimeoutError(self.output)

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_output(self, pattern: str, seconds: float = 10) -> None:
        """Waits until its output matches a regular expression: lines are written some time after the event."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def metrics(self) -> str:
        """What its management port serves, in Prometheus' text format."""
        if self._metrics_url is None:
            served = r'"port": (\d+), "event": "metrics served"'
            self.wait_for_output(served, 60)
            (port,) = re.findall(served, self.output)
            self._metrics_url = f"http://127.0.0.1:{port}/metrics"
        return httpx.get(self._metrics_url, verify=False).text

    def workers(self) -> list[int]:
        """The process ids of its workers, without multiprocessing's resource tracker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def wait_for_workers(self, number: int, seconds: float = 30) -> None:
        """Waits until it has this many workers: a killed one is replaced within a moment."""
        deadline = time.monotonic() + seconds
        while len(self.workers()) != number:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def memory(self) -> int:
        """The memory of its largest worker, in bytes."""
        kilobytes = []
        for pid in self.workers() or [self.process.pid]:
            status = Path(f"/proc/{pid}/status").read_text()
            kilobytes.append(int(status.partition("VmRSS:")[2].split()[0]))
        return max(kilobytes) * 1024

    def open_files(self) -> int:
        """The number of files and connections that any worker has open, at most."""
        return max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.workers() or [self.process.pid])

    def stop(self) -> int:
        """Stops it as an operator would; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._written.close()
            self._reserved.close()
