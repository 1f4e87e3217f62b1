"""The server's process, and those of its workers: how they start and say where they listen."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.supervisors import multiprocess

from gateway.settings import Settings
from gateway.telemetry import configure_logs, flush_logs, get_logger


class Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, greet: Callable[[str], None] | None = None) -> None:
        super().__init__(config)
        self._greet = greet

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._greet is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._greet(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server, and afterwards end the process at once: the last lines are written before."""
        with super().capture_signals():
            try:
                yield
            finally:
                flush_logs()


class Worker(multiprocess.Process):
    """A worker process."""

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        configure_logs(Settings().log)
        self._server = Server(self.config)
        try:
            super().target(sockets)
        except Exception:  # noqa: BLE001
            # Else multiprocessing would write what the exception says.
            get_logger().critical("worker crashed", exc_info=True)
            raise SystemExit(1) from None


def serve_with_workers(config: uvicorn.Config) -> None:
    """Serves until a signal ends it; `config` names the application that every worker makes."""
    multiprocess.Process = Worker  # type: ignore[misc] # uvicorn has no parameter for it
    multiprocess.Multiprocess(config, sockets=[config.bind_socket()]).run()
