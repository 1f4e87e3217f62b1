"""The server's process, and those of its workers: how they start, say where they listen, and stop.

Nothing that was accepted is lost when they stop. A listening socket resets what waits to be accepted when the last
process closes it, so all of that is accepted first; then connections end as `BoundedProtocol.shutdown` says.
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
from uvicorn.supervisors import multiprocess

from gateway.library_internals import require_internals
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.telemetry import configure_logs, flush_logs, get_logger

require_internals(uvicorn.Server, "capture_signals", "shutdown", "startup")
require_internals(multiprocess.Process, "always_pong", "target", sets=("parent_conn",))
require_internals(multiprocess.Multiprocess, "terminate_all", sets=("processes", "sockets"))

# How often each process listens on a socket: so many connections are accepted in an iteration of the event loop.
LISTENERS = 8
# Seconds in which a connection that has begun is made; and those that all of this may take.
HANDSHAKE = 0.003
CLOSING_MAX = 2.0
# uvicorn looks ten times a second whether it is to stop.
TICK = 0.15
# Linux' number for a filter of what a socket is sent. This one, for a listening socket, drops what asks for a new
# connection (of the TCP header's flags: SYN without ACK) and lets pass what those have to say that have begun.
SO_ATTACH_FILTER = 26
LOAD_BYTE, AND, IF_EQUAL, RETURN = 0x30, 0x54, 0x15, 0x06
SYN, ACK, FLAGS_AT, ALL = 0x02, 0x10, 13, 0xFFFFFFFF
NO_NEW_ONES = [
    (LOAD_BYTE, 0, 0, FLAGS_AT),
    (AND, 0, 0, SYN | ACK),
    (IF_EQUAL, 0, 1, SYN),
    (RETURN, 0, 0, 0),
    (RETURN, 0, 0, ALL),
]


class Server(uvicorn.Server):
    """Says where it listens, once it does. Before it stops, it accepts whoever has connected.

    Where others listen on the same socket, it goes on until `released` is set.
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
        if self.started and self._greet is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._greet(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def _accept_several(self) -> None:
        """Listens several times on each socket: uvloop accepts one connection of each in an iteration of its loop.

        While iterations are long, as under load, whoever connects would wait for as many as others came before.
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
        for listener in [each for server in self.servers for each in server.sockets]:
            for _ in range(LISTENERS - 1):
                more = await loop.create_server(protocol, sock=_same(listener), backlog=self.config.backlog)
                self.servers.append(more)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._released is not None:
            await asyncio.to_thread(self._released.wait, CLOSING_MAX)
        listeners = [_same(each) for server in self.servers for each in server.sockets]
        if self._released is None:
            for listener in listeners:
                refuse_new(listener)
            await asyncio.sleep(HANDSHAKE)
        deadline = time.monotonic() + CLOSING_MAX
        while any(map(_has_waiting, listeners)) and time.monotonic() < deadline:  # noqa: ASYNC110 - the loop accepts them
            await asyncio.sleep(0)
        for listener in listeners:
            listener.close()
        for _ in range(3):
            await asyncio.sleep(0)  # what was accepted becomes a connection in the loop's next iterations
        if isinstance(self.config, ServerConfig):
            self.config.limits.is_stopping = True
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server, and afterwards end the process at once: the last lines are written before."""
        with super().capture_signals():
            try:
                yield
            finally:
                flush_logs()


class Worker(multiprocess.Process):
    """A worker process. It is released by its parent, when that closes its end of their pipe."""

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        settings = Settings()
        configure_logs(settings.log, workers=settings.workers)
        self.parent_conn.close()  # this process' copy: with it open, nobody would notice that the parent's is closed
        self._released = threading.Event()
        self._server = Server(self.config, released=self._released)
        try:
            super().target(sockets)
        except Exception:  # noqa: BLE001
            # Else multiprocessing would write what the exception says.
            get_logger().critical("worker crashed", exc_info=True)
            raise SystemExit(1) from None

    def always_pong(self) -> None:
        with suppress(EOFError, OSError):
            super().always_pong()
        self._released.set()


class Workers(multiprocess.Multiprocess):
    """The parent of the workers."""

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


def serve_with_workers(config: uvicorn.Config) -> None:
    """Serves until a signal ends it; `config` names the application that every worker makes."""
    multiprocess.Process = Worker  # type: ignore[misc] # uvicorn has no parameter for it
    Workers(config, sockets=[config.bind_socket()]).run()


def refuse_new(listener: socket.socket) -> None:
    """Lets no further connection begin, where the system can do so; who tries is refused once the socket is closed."""
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in NO_NEW_ONES))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(NO_NEW_ONES), program.buffer_info()[0])
        )


def _same(listener: socket.socket) -> socket.socket:
    """A listening socket of the event loop, which lets nobody use it, as one that can be used."""
    return socket.socket(fileno=os.dup(listener.fileno()))


def _has_waiting(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
