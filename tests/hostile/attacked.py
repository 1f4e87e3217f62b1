"""A gateway that is served as it ships, with measurements of an attack's effect on it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.simulator import Behaviours, Simulator
from tests.gateway_process import GatewayProcess
from tests.gateways import PLANS, TOKENS

# The most CPU seconds in a row and bytes of memory that requests with invalid or valid tokens may take.
INVALID_TOKEN_CPU_MAX, VALID_TOKEN_CPU_MAX = 0.25, 1.0
MEMORY_MAX = 150 * 2**20


@dataclass
class Harm:
    """The effect of an attack: the longest time in which `/health/live` did not respond, how much CPU time of that the
    event loop's thread used, failed health checks, and growth of memory in bytes.

    On a machine with other load `blocked` includes that; `cpu` is the gateway's own part.
    """

    blocked: float = 0.0
    cpu: float = 0.0
    failed: int = 0
    memory: int = 0


class AttackedGateway:
    """`gateway serve` as a process of its own over a simulator."""

    def __init__(self, folder: Path, serve, **environment: str) -> None:
        self.simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
        settings = {"upstream_url": serve(self.simulator.app), "log_level": "warning", **environment}
        self.gateway = GatewayProcess(folder, **settings)
        self.gateway.wait_until_ready()
        self.address = ("127.0.0.1", self.gateway.port)
        self.pid = self.gateway.process.pid
        probe = [sys.executable, str(Path(__file__).with_name("health_probe.py"))]
        self._probe = subprocess.Popen(
            [*probe, str(self.gateway.port), str(self.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @contextmanager
    def measured(self) -> Iterator[Harm]:
        """Measures the effect of the block; the result is filled in at its end."""
        harm = Harm()
        before = self.memory("VmRSS")
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # resets the peak
        self._command("start")
        time.sleep(0.05)  # a check is under way when the attack begins
        try:
            yield harm
        finally:
            measured_values = self._command("stop")
            harm.blocked, harm.cpu, harm.failed = (
                measured_values["blocked"],
                measured_values["cpu"],
                measured_values["failed"],
            )
            harm.memory = self.memory("VmHWM") - before

    def memory(self, kind: str = "VmRSS") -> int:
        """Memory of the gateway in bytes, current (`VmRSS`) or peak (`VmHWM`)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{kind}:")[2].split()[0]) * 1024

    def say(self, *parts: bytes, timeout: float = 60) -> bytes:
        """The response to raw bytes on one connection, until the gateway closes it or is silent for `timeout`."""
        with socket.create_connection(self.address, timeout=timeout) as connection:
            said = b""
            try:
                for part in parts:
                    connection.sendall(part)
                while more := connection.recv(2**20):
                    said += more
            except (TimeoutError, ConnectionError):
                pass
            return said

    def post(self, body: bytes | dict, token: str = "x", **headers: str) -> tuple[int, bytes]:
        """Status and body of the response to a GraphQL request by POST."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.say(request(raw, token, **headers))
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), rest

    def _command(self, command: str) -> dict[str, Any]:
        assert self._probe.stdin is not None
        assert self._probe.stdout is not None
        self._probe.stdin.write(f"{command}\n")
        self._probe.stdin.flush()
        return json.loads(self._probe.stdout.readline())

    def stop(self) -> None:
        self._probe.kill()
        self._probe.wait()
        for pipe in (self._probe.stdin, self._probe.stdout):
            assert pipe is not None
            pipe.close()
        self.gateway.stop()


def request(body: bytes, token: str = "x", **headers: str) -> bytes:
    """A POST to /graphql as raw bytes; the connection is closed after the response."""
    fields = {
        "Host": "localhost",
        "Authorization": f"Bearer {TOKENS.get(token, token)}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /graphql HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def code_of(body: bytes) -> str:
    """The code of a response's first error."""
    return json.loads(body)["errors"][0]["extensions"]["code"]
