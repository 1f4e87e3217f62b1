"""Unix sockets, sockets that systemd passes, and what systemd is told."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.server.listening import bound
from gateway.settings import Misconfigured, Settings
from tests.constant_load import Load
from tests.effort import thorough_only

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
# As systemd starts a service: its process id is known only to itself.
STARTED = """
import os, sys
descriptor = int(sys.argv[1])
if descriptor:
    os.dup2(descriptor, 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gateway", "serve"])
"""
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
HALF = (
    b"POST /graphql HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n{"
)


class Systemd:
    """Starts gateways, and hears their notifications."""

    def __init__(self) -> None:
        self._address = f"@gateway-test-{os.getpid()}-{id(self)}"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind("\0" + self._address[1:])
        self._notified.settimeout(60)

    def close(self) -> None:
        self._notified.close()

    @contextmanager
    def service(self, passed: socket.socket | None = None, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """A gateway that is ready; stops it with SIGTERM at the end."""
        environment = {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
        descriptor = 0 if passed is None else passed.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", STARTED, str(descriptor)],
            env={**os.environ, "NOTIFY_SOCKET": self._address, "GATEWAY_LOG_LEVEL": "warning", **environment},
            pass_fds=[descriptor] if descriptor else [],
        )
        try:
            self.wait_for(b"READY=1")
            yield process
            process.send_signal(signal.SIGTERM)
            self.wait_for(b"STOPPING=1")
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
            process.wait()

    def wait_for(self, state: bytes) -> None:
        while self._notified.recv(100) != state:
            pass


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    systemd = Systemd()
    yield systemd
    systemd.close()


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=thorough_only)])
def test_a_unix_socket(workers, systemd, tmp_path):
    """It has its mode, replaces a stale file, loses no request when it stops, and removes the file."""
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    settings = {"unix_socket": str(path), "unix_socket_mode": "640", "workers": workers}
    with systemd.service(**settings):
        assert path.stat().st_mode & 0o777 == 0o640
        load = Load(str(path))
        load.start()
        load.wait_for_answers()
    load.wait_until_refused()
    assert load.lost == []
    assert load.last >= load.keeping
    assert not path.exists()


def test_the_clients_of_a_unix_socket_are_not_one_client(systemd, tmp_path):
    """They have no address. If they are trusted proxies, `X-Forwarded-For` has it."""
    path = str(tmp_path / "gateway.sock")
    with systemd.service(unix_socket=path, http_address_connections_max="2", http_trusted_proxies="unix"):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for client in clients:
            client.settimeout(30)
            client.connect(path)
            client.sendall(HEALTH)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        for client in clients[:3]:  # none was closed
            client.sendall(HALF)
            clients[3].sendall(HEALTH)  # so that the gateway reads them in this order
            assert clients[3].recv(1000).startswith(b"HTTP/1.1 200")
        assert clients[0].recv(1000) == b""  # the third one of this address took its place
        clients[3].sendall(HEALTH)
        assert clients[3].recv(1000).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()


@thorough_only
def test_a_passed_socket_loses_nothing_between_two_processes(systemd):
    """Connections wait until the next process accepts them."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as passed:
        load = Load(passed.getsockname())
        with systemd.service(passed, workers="2", http_shutdown_idle_timeout="0.2"):
            load.start()
            load.wait_for_answers()
        with systemd.service(passed):
            load.wait_for_answers()
            load.stop()
    assert load.lost == []


def test_the_watchdog_hears_of_a_single_process(systemd, tmp_path, monkeypatch):
    """As often as it asks for."""
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with systemd.service(unix_socket=str(tmp_path / "gateway.sock")):
        for _ in range(3):
            systemd.wait_for(b"WATCHDOG=1")


def test_a_unix_socket_that_cannot_be_used_is_refused_with_its_setting(tmp_path):
    """In one sentence, before anything starts."""
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--unix-socket", str(tmp_path / "none" / "gateway.sock")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("GATEWAY_UNIX_SOCKET: cannot listen on ")
    assert len(ended.stderr.splitlines()) == 1


def test_what_a_unix_socket_does_not_replace(tmp_path):
    """A file that is no socket, and a socket on which another process listens."""
    (tmp_path / "file").write_text("text")
    with pytest.raises(Misconfigured, match="in use"):
        bound(tmp_path / "file", 0o660)
    assert (tmp_path / "file").read_text() == "text"
    with bound(tmp_path / "socket", 0o660) as first:
        first.listen()
        with pytest.raises(Misconfigured, match="in use"):
            bound(tmp_path / "socket", 0o660)
    with pytest.raises(Misconfigured, match="too long"):
        bound(tmp_path / ("x" * 120), 0o660)


@pytest.mark.parametrize("mode", ["999", "rw", "66", "", "7777"])
def test_the_mode_of_a_unix_socket_is_octal(mode):
    """And nothing else."""
    with pytest.raises(ValidationError):
        Settings(unix_socket_mode=mode)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_are_valid(tmp_path):
    """Without a warning, if the program exists."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/gateway/bin/gateway", sys.executable)
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
