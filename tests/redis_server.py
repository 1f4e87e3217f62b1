"""A real redis-server for tests, started from the binary on the PATH on a free port; it keeps nothing on disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

BINARY = shutil.which("redis-server")


class RedisServer:
    """One server; it can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert BINARY is not None
        options = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--rdbcompression",
            "no",  # what `dump` gives is searched
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen([BINARY, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("redis-server did not come up")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def dump(self) -> dict[bytes, bytes]:
        """Every key with what it holds, as Redis stores it."""
        with redis.Redis(port=self.port) as client:
            return {key: client.dump(key) or b"" for key in client.scan_iter()}

    def flush(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(64)


def require_redis() -> None:
    """Skips on a machine without redis-server, except in CI, where a skipped test would hide something."""
    if BINARY is None:
        message = "redis-server is not installed: apt-get install redis-server"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
