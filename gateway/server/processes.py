"""The server's process and its workers: how they start, announce their address, and stop.

Stopping loses no connection. When the last process closes a listening socket, the kernel resets connections that wait
to be accepted. So all of them are accepted first; then they end as in `BoundedProtocol.shutdown`.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from gateway.library_internals import require_internals
from gateway.server import systemd
from gateway.server.config import ServerConfig
from gateway.server.listening import Listening
from gateway.settings import Misconfigured, Settings, variable_of
from gateway.telemetry.logs import configure_logs, flush_logs, get_logger
from gateway.telemetry.metrics import WORKER_RESTARTS, WORKERS, Metrics, Sample, forget_worker
from gateway.web.health import IS_STOPPING

require_internals(
    uvicorn.Server, "capture_signals", "handle_exit", "on_tick", "shutdown", "startup", sets=("should_exit",)
)
require_internals(
    multiprocess.Process, "always_pong", "is_alive", "target", sets=("child_conn", "parent_conn", "process")
)

# Listeners of each process on a socket, and thereby connections accepted in an event-loop iteration.
LISTENERS = 8
# Seconds to complete handshakes that have begun, and to accept all waiting connections.
HANDSHAKE = 0.003
CLOSING_MAX = 2.0
# uvicorn checks ten times a second whether to stop; the parent looks after its workers this often.
TICK = 0.15
# Seconds until a worker that ended is replaced. They double while workers end within PAUSE_MAX seconds.
PAUSE_MIN, PAUSE_MAX = 0.1, 10.0
# Seconds that a worker may take to stop in addition to `http.shutdown_timeout`.
STOP_MAX = 10.0
# Workers in a row that end before they serve, after which the parent gives up, and seconds that a worker may take until
# it serves.
FAILED_STARTS_MAX = 5
START_MAX = 60.0


class Server(uvicorn.Server):
    """Announces its address once it listens, and stops in three steps.

    For `http.shutdown_delay` seconds it is not ready, so that load balancers send their requests elsewhere, but serves
    as usual. Then it accepts all waiting connections and stops listening, and then running requests finish. A second
    signal ends the delay. If other processes listen on the same socket, their parent sets `released` instead, once it
    has closed the socket. SIGHUP calls `reload`.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        greet: Callable[[str], None] | None = None,
        released: threading.Event | None = None,
        reload: Callable[[], None] | None = None,
        listening: Listening = Listening(),  # noqa: B008 - it is immutable
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._watchdog = systemd.Watchdog()
        self._reload = reload
        self._greet = greet
        self._is_alone = released is None
        self._released = threading.Event() if released is None else released
        self._delay_ends_at: float | None = None  # None until it stops

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await self._accept_several()
            metrics = getattr(self.config.loaded_app, "metrics", None)
            if metrics is not None and isinstance(self.config, ServerConfig):
                metrics.samplers.append(self.config.limits.samples)
        if self._reload is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        if self.started and self._greet is not None:
            self._greet(_url_of(self.servers[0].sockets[0].getsockname()))
        if self.started and self._is_alone:
            systemd.notify(systemd.READY)

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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops the server; a second one ends the delay, but none that a parent shortens."""
        is_delayed = self._delay_ends_at is not None and time.monotonic() < self._delay_ends_at
        if is_delayed and not self._released.is_set():
            if self._is_alone:
                self._released.set()
            return
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now: after the delay, in which the application is not ready."""
        if self._is_alone:
            self._watchdog.beat()
        if not await super().on_tick(counter):
            return False
        if self._delay_ends_at is None:
            delay = self.config.shutdown_delay if isinstance(self.config, ServerConfig) else 0.0
            self._delay_ends_at = time.monotonic() + delay
            if not self._released.is_set():  # otherwise other processes go on
                self.lifespan.state[IS_STOPPING] = True
            if self._is_alone:
                systemd.notify(systemd.STOPPING)
            self._end_connections()
        return self._released.is_set() or time.monotonic() >= self._delay_ends_at

    def _end_connections(self) -> None:
        """From now on, responses close their connections."""
        if isinstance(self.config, ServerConfig):
            self.config.limits.is_stopping = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_connections()
        if not self._is_alone:
            await asyncio.to_thread(self._released.wait, CLOSING_MAX)
        listeners = [_duplicate(listener) for server in self.servers for listener in server.sockets]
        if self._is_alone:
            self._listening.refuse_new(listeners)
            await asyncio.sleep(HANDSHAKE)
        deadline = time.monotonic() + CLOSING_MAX
        while any(map(_has_waiting, listeners)) and time.monotonic() < deadline:  # noqa: ASYNC110 - the event loop accepts them
            await asyncio.sleep(0)
        for listener in listeners:
            listener.close()
        for _ in range(3):
            await asyncio.sleep(0)  # accepted sockets get their protocols in the next iterations
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
    """A worker process, which starts after a pause of some seconds.

    Its parent releases it by closing its end of their pipe. A worker that is released stops, also if its parent was
    killed.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], pause: float = 0.0) -> None:
        super().__init__(config, sockets)
        self.pause = pause
        self.starts_at = time.monotonic() + pause
        self.serving_since: float | None = None  # as far as the parent knows
        self._ends_by = math.inf

    @property
    def is_serving(self) -> bool:
        """Whether the process has ever served."""
        return self.serving_since is not None

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether the process will start or runs and, once it serves, responds within `timeout` seconds."""
        now = time.monotonic()
        if self.pid is None:
            if now >= self.starts_at:
                self.start()
            return True
        if self.is_serving or not self.process.is_alive():
            return super().is_alive(timeout)
        with suppress(EOFError, OSError):
            self.parent_conn.send(b"ping")
            while self.parent_conn.poll():
                if self.parent_conn.recv():
                    self.serving_since = now
        return self.is_serving or now < self.starts_at + START_MAX

    def send(self, number: int) -> None:
        """Sends a signal to the process, if it runs."""
        if self.pid is not None and self.exitcode is None:
            os.kill(self.pid, number)

    def release(self) -> None:
        """Lets the process stop, which it does without a signal, too."""
        self.parent_conn.close()
        self.child_conn.close()
        self._ends_by = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + CLOSING_MAX + STOP_MAX

    def has_ended(self) -> bool:
        """Whether the process has ended; it is killed if it takes too long after its release."""
        if time.monotonic() > self._ends_by:
            get_logger("gateway").error("worker killed, because it did not stop", pid=self.pid)
            self.end()
        has_ended = self.pid is None or self.exitcode is not None
        if has_ended and self.pid is not None:
            forget_worker(self.pid)
        return has_ended

    def end(self) -> None:
        """Kills the process and waits until it has ended."""
        if self.pid is not None:
            self.kill()
            self.join()
            forget_worker(self.pid)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to all processes; the parent handles it
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
        self.server.should_exit = True


class Workers:
    """The parent of the workers: replaces those that end, restarts them one after the other, and stops them.

    `restarts` is the number of workers that ended or hung and were replaced.
    """

    def __init__(
        self,
        config: ServerConfig,
        sockets: list[socket.socket],
        metrics: Metrics,
        check: Callable[[], None] = lambda: None,
        refuse_new: Callable[[Iterable[socket.socket]], None] = lambda _: None,
    ) -> None:
        self.restarts = 0
        self.failed_starts = 0
        self.is_stopping = False
        self.processes = [Worker(config, sockets) for _ in range(config.workers)]
        self._config = config
        self._sockets = sockets
        self._check = check
        self._metrics = metrics
        metrics.samplers.append(self.samples)
        self._refuse_new = refuse_new
        self._is_announced = False
        self._watchdog = systemd.Watchdog()
        self._to_restart: deque[Worker] = deque()
        self._successor: Worker | None = None  # of the first one to restart
        self._retired: Worker | None = None  # a restarted one whose requests are finishing
        self._signals: deque[int] = deque()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signals.append(number))

    def samples(self) -> Iterator[Sample]:
        """The workers that serve, and how many were replaced."""
        yield WORKERS, (), sum(1 for worker in self.processes if worker.is_serving)
        yield WORKER_RESTARTS, (), self.restarts

    @property
    def has_given_up(self) -> bool:
        """Whether too many workers in a row have ended before they served."""
        return self.failed_starts >= FAILED_STARTS_MAX

    def run(self) -> None:
        """Serves until a signal arrives, or until it gives up."""
        while not self.is_stopping:
            self.tick()
            time.sleep(TICK)
        self.stop()

    def tick(self) -> None:
        """Obeys signals, looks after each worker, and continues a restart."""
        while self._signals:
            if self._signals.popleft() != signal.SIGHUP:
                self.is_stopping = True
                return
            self.restart()
        self.keep_alive()
        self._metrics.sample()
        if self.is_stopping:
            return
        self._continue_restart()
        self._watchdog.beat()
        if not self._is_announced and all(worker.is_serving for worker in self.processes):
            self._is_announced = True
            systemd.notify(systemd.READY)

    def keep_alive(self) -> None:
        """Starts the workers, and replaces those that have ended or hang, until it gives up."""
        for index, worker in enumerate(self.processes):
            was_serving = worker.is_serving
            if self._is_alive(worker):
                if worker.is_serving and not was_serving:
                    self.failed_starts = 0
                continue
            worker.end()
            self.failed_starts += not was_serving
            log = get_logger("gateway")
            log.error("worker ended" if was_serving else "worker not started", pid=worker.pid, exitcode=worker.exitcode)
            if self.has_given_up:
                log.critical("giving up, because workers do not start", attempts=self.failed_starts)
                for other in self.processes:
                    if not other.is_serving:
                        other.end()  # it may hang
                self.is_stopping = True
                return
            self.restarts += 1
            lived = 0.0 if worker.serving_since is None else time.monotonic() - worker.serving_since
            self.processes[index] = Worker(self._config, self._sockets, next_pause(worker.pause, lived))

    def restart(self) -> None:
        """Restarts all workers one after the other, if the settings are valid. Each serves until its successor does."""
        log = get_logger("gateway")
        try:
            self._check()
        except Misconfigured as misconfigured:
            variable = variable_of(misconfigured.setting)
            log.error("workers not restarted", variable=variable, reason=str(misconfigured))  # noqa: TRY400 - no bug
            return
        log.info("restarting workers")
        self._to_restart = deque(self.processes)

    def _continue_restart(self) -> None:
        """Takes the next step of a restart without waiting, so that signals are obeyed meanwhile."""
        if self._retired is not None and not self._retired.has_ended():
            return  # so there is one process more than workers, at most
        self._retired = None
        while self._to_restart and self._to_restart[0] not in self.processes:
            self._to_restart.popleft()  # it ended, so its successor has started
        if not self._to_restart:
            self._end_successor()
        elif self._successor is None:
            self._successor = Worker(self._config, self._sockets)
        elif not self._is_alive(self._successor):
            get_logger("gateway").error("workers not restarted, because a new one did not start")
            self._to_restart.clear()
            self._end_successor()
        elif self._successor.is_serving:
            self._retired = self._to_restart.popleft()
            self.processes[self.processes.index(self._retired)] = self._successor
            self._successor = None
            self._retired.release()

    def _end_successor(self) -> None:
        if self._successor is not None:
            self._successor.end()
            self._successor = None

    def _is_alive(self, worker: Worker) -> bool:
        was_serving = worker.is_serving
        is_alive = worker.is_alive(self._config.timeout_worker_healthcheck)
        if worker.is_serving and not was_serving:
            get_logger("gateway").info("worker started", pid=worker.pid)
        return is_alive

    def stop(self) -> None:
        """Ends all workers. They accept connections until this process has closed its listening sockets.

        During the delay they are not ready; a second signal ends it.
        """
        systemd.notify(systemd.STOPPING)
        self._end_successor()
        for worker in self.processes:
            worker.send(signal.SIGTERM)
        ends_at = time.monotonic() + self._config.shutdown_delay
        while time.monotonic() < ends_at and not self._signals:
            time.sleep(TICK)
        time.sleep(TICK)
        self._refuse_new(self._sockets)
        time.sleep(HANDSHAKE)
        for listener in self._sockets:
            listener.close()
        for worker in self.processes:
            worker.release()
        self._signals.clear()
        ending = [*self.processes, *([] if self._retired is None else [self._retired])]
        while ending := [worker for worker in ending if not worker.has_ended()]:
            while self._signals:
                number = self._signals.popleft()
                for worker in ending:
                    worker.send(number)  # a second SIGINT ends requests
            time.sleep(TICK)


def next_pause(pause: float, lived: float) -> float:
    """Seconds until the successor of a worker starts, by the pause before that one and the seconds that it served."""
    return PAUSE_MIN if lived >= PAUSE_MAX else min(PAUSE_MAX, max(PAUSE_MIN, 2 * pause))


def serve_with_workers(config: ServerConfig, check: Callable[[], None], listening: Listening, metrics: Metrics) -> None:
    """Serves until a signal arrives; `config` names the factory with which each worker builds the application.

    SIGHUP restarts the workers, unless `check` raises Misconfigured. `metrics` are those of this process, their parent.
    Exits with STARTUP_FAILURE, as with one process, if it can't listen or if the workers do not start.
    """
    workers = Workers(config, listening.sockets or [config.bind_socket()], metrics, check, listening.refuse_new)
    workers.run()
    if workers.has_given_up:
        raise SystemExit(STARTUP_FAILURE)


def _url_of(address: Any) -> str:
    """The URL of a listening socket's address; that of a unix socket is its path."""
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _duplicate(listener: socket.socket) -> socket.socket:
    """A usable duplicate of a listening socket that belongs to the event loop."""
    return socket.socket(fileno=os.dup(listener.fileno()))


def _has_waiting(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
