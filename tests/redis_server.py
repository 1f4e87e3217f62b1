"""A real redis-server for tests, started from the binary on the PATH on a free port, without persistence."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import redis

from tests.programs import require, reserved_port


class RedisServer:
    """One server; it can be killed and started again on the same port. Skips where redis-server is not installed.

    `options` are further ones of its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._binary = require("redis-server", "redis-server")
        self._reserved = reserved_port()
        self.port: int = self._reserved.getsockname()[1]
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
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
            "no",  # the tests search the output of `dump`
            "--dir",
            str(self._folder),
            *self._options,
        ]
        self._process = subprocess.Popen([self._binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("redis-server did not come up")

    def close(self) -> None:
        """Stops it for good, and frees its port."""
        self.kill()
        self._reserved.close()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def dump(self) -> dict[bytes, bytes]:
        """Every key with its value, as Redis stores it."""
        with redis.Redis(port=self.port) as client:
            return {key: client.dump(key) or b"" for key in client.scan_iter()}

    def flush(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(64)
