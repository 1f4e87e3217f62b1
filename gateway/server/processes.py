"""The server's process and its workers: how they start, announce their address, and stop.

Stopping loses no connection. When the last process closes a listening socket, the kernel resets connections that wait
to be accepted. So all of them are accepted first; then they end as in `BoundedProtocol.shutdown`.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from gateway.library_internals import require_internals
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.telemetry.logs import configure_logs, flush_logs, get_logger
from gateway.telemetry.metrics import WORKER_RESTARTS, WORKERS, Metrics, Sample, forget_worker

require_internals(uvicorn.Server, "capture_signals", "shutdown", "startup")
require_internals(multiprocess.Process, "always_pong", "is_alive", "target", sets=("parent_conn", "process"))
require_internals(
    multiprocess.Multiprocess, "keep_subprocess_alive", "terminate_all", sets=("processes", "should_exit", "sockets")
)

# Listeners of each process on a socket, and thereby connections accepted in an event-loop iteration.
LISTENERS = 8
# Seconds to complete handshakes that have begun, and to accept all waiting connections.
HANDSHAKE = 0.003
CLOSING_MAX = 2.0
# uvicorn checks ten times a second whether to stop.
TICK = 0.15
# Workers in a row that end before they serve, after which the parent gives up, and seconds that a worker may take until
# it serves.
FAILED_STARTS_MAX = 5
START_MAX = 60.0
# Linux' option for a packet filter on a socket. This filter drops packets that open a new connection (SYN without ACK
# among the flags of the TCP header) and passes those of handshakes that have begun.
SO_ATTACH_FILTER = 26
LOAD_BYTE, AND, IF_EQUAL, RETURN = 0x30, 0x54, 0x15, 0x06
SYN, ACK, FLAGS_AT, ALL = 0x02, 0x10, 13, 0xFFFFFFFF
NO_NEW_CONNECTIONS = [
    (LOAD_BYTE, 0, 0, FLAGS_AT),
    (AND, 0, 0, SYN | ACK),
    (IF_EQUAL, 0, 1, SYN),
    (RETURN, 0, 0, 0),
    (RETURN, 0, 0, ALL),
]


class Server(uvicorn.Server):
    """Announces its address once it listens, and accepts all waiting connections before it stops.

    If other processes listen on the same socket, it continues until `released` is set.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        greet: Callable[[str], None] | None = None,
        released: threading.Event | None = None,
    ) -> None:
        super().__init__(config)
        self._greet = greet
        self._released = released

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await self._accept_several()
            metrics = getattr(self.config.loaded_app, "metrics", None)
            if metrics is not None and isinstance(self.config, ServerConfig):
                metrics.samplers.append(self.config.limits.samples)
        if self.started and self._greet is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._greet(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def _accept_several(self) -> None:
        """Listens several times on each socket: uvloop accepts one connection per listener and iteration.

        Otherwise, under load, a new connection would wait for one long iteration per connection before it.
        """
        loop = asyncio.get_running_loop()
        http: Any = self.config.http_protocol_class
        protocol = partial(
            http,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=loop,
        )
        for listener in [listener for server in self.servers for listener in server.sockets]:
            for _ in range(LISTENERS - 1):
                another = await loop.create_server(protocol, sock=_duplicate(listener), backlog=self.config.backlog)
                self.servers.append(another)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._released is not None:
            await asyncio.to_thread(self._released.wait, CLOSING_MAX)
        listeners = [_duplicate(listener) for server in self.servers for listener in server.sockets]
        if self._released is None:
            for listener in listeners:
                refuse_new(listener)
            await asyncio.sleep(HANDSHAKE)
        deadline = time.monotonic() + CLOSING_MAX
        while any(map(_has_waiting, listeners)) and time.monotonic() < deadline:  # noqa: ASYNC110 - the event loop accepts them
            await asyncio.sleep(0)
        for listener in listeners:
            listener.close()
        for _ in range(3):
            await asyncio.sleep(0)  # accepted sockets get their protocols in the next iterations
        if isinstance(self.config, ServerConfig):
            self.config.limits.is_stopping = True
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server and then end the process; log lines are written before that."""
        with super().capture_signals():
            try:
                yield
            finally:
                flush_logs()


class Worker(multiprocess.Process):
    """A worker process. Its parent releases it by closing its end of their pipe."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.is_serving = False  # whether it has ever been, as far as the parent knows
        self._start_ends_at = time.monotonic() + START_MAX

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether the process runs and, once it serves, responds within `timeout` seconds."""
        if self.is_serving or not self.process.is_alive():
            return super().is_alive(timeout)
        with suppress(EOFError, OSError):
            self.parent_conn.send(b"ping")
            while self.parent_conn.poll():
                self.is_serving = self.parent_conn.recv()
        return self.is_serving or time.monotonic() < self._start_ends_at

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        settings = Settings()
        configure_logs(settings.log, workers=settings.workers)
        self.parent_conn.close()  # this process' copy; while it is open, the pipe has no end of file
        self._released = threading.Event()
        self._server = Server(self.config, released=self._released)
        try:
            super().target(sockets)
        except Exception:  # noqa: BLE001
            # Otherwise multiprocessing would print the exception's message.
            get_logger().critical("worker crashed", exc_info=True)
            raise SystemExit(1) from None

    def always_pong(self) -> None:
        with suppress(EOFError, OSError):
            super().always_pong()
        self._released.set()


class Workers(multiprocess.Multiprocess):
    """The parent of the workers."""

    processes: list[Worker]  # type: ignore[assignment] # see serve_with_workers()
    failed_starts = 0
    restarts = 0
    metrics: Metrics

    def samples(self) -> Iterator[Sample]:
        """The workers that serve, and how many were replaced."""
        yield WORKERS, (), sum(1 for worker in self.processes if worker.is_serving)
        yield WORKER_RESTARTS, (), self.restarts

    @property
    def has_given_up(self) -> bool:
        """Whether too many workers in a row have ended before they served."""
        return self.failed_starts >= FAILED_STARTS_MAX

    def keep_subprocess_alive(self) -> None:
        """Replaces the workers that have ended or hang, until it gives up."""
        log = get_logger("gateway")
        for index, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            was_serving = worker.is_serving
            if worker.is_alive(self.config.timeout_worker_healthcheck):
                if worker.is_serving and not was_serving:
                    self.failed_starts = 0
                    log.info("worker started", pid=worker.pid)
                continue
            worker.kill()
            worker.join()
            if worker.pid is not None:
                forget_worker(worker.pid)
            self.failed_starts += not was_serving
            log.error("worker ended" if was_serving else "worker not started", pid=worker.pid, exitcode=worker.exitcode)
            if self.has_given_up:
                log.critical("giving up, because workers do not start", attempts=self.failed_starts)
                for other in self.processes:
                    if not other.is_serving:
                        other.kill()  # it may hang
                self.should_exit.set()
                return
            self.processes[index] = Worker(self.config, self.sockets)
            self.processes[index].start()
            self.restarts += 1
        self.metrics.sample()

    def terminate_all(self) -> None:
        """Ends all workers. They accept connections until this process has closed its listening sockets."""
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGTERM)
        time.sleep(TICK)
        for listener in self.sockets:
            refuse_new(listener)
        time.sleep(HANDSHAKE)
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def serve_with_workers(config: uvicorn.Config, metrics: Metrics) -> None:
    """Serves until a signal arrives; `config` names the factory with which each worker builds the application.

    `metrics` are those of this process, their parent.

    Exits with STARTUP_FAILURE, as with one process, if it can't listen or if the workers do not start.
    """
    multiprocess.Process = Worker  # type: ignore[misc] # uvicorn has no parameter for it
    workers = Workers(config, sockets=[config.bind_socket()])
    workers.metrics = metrics
    metrics.samplers.append(workers.samples)
    workers.run()
    if workers.has_given_up:
        raise SystemExit(STARTUP_FAILURE)


def refuse_new(listener: socket.socket) -> None:
    """Drops new connections, if the system supports that; their clients are refused once the socket is closed."""
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in NO_NEW_CONNECTIONS))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(NO_NEW_CONNECTIONS), program.buffer_info()[0])
        )


def _duplicate(listener: socket.socket) -> socket.socket:
    """A usable duplicate of a listening socket that belongs to the event loop."""
    return socket.socket(fileno=os.dup(listener.fileno()))


def _has_waiting(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
