"""What the server listens on: a host and a port, a unix socket, or the sockets that systemd passes."""

from __future__ import annotations

import array
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gateway.settings import Misconfigured, Settings

# The first descriptor that systemd passes.
PASSED = 3
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


def drop_packets(listeners: Iterable[socket.socket]) -> None:
    """Drops new connections, if the system supports that; their clients are refused once the socket is closed."""
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in NO_NEW_CONNECTIONS))
    for listener in listeners:
        with suppress(OSError):
            listener.setsockopt(
                socket.SOL_SOCKET,
                SO_ATTACH_FILTER,
                struct.pack("HP", len(NO_NEW_CONNECTIONS), program.buffer_info()[0]),
            )


class Listening(NamedTuple):
    """The sockets, or None for the host and the port, and how to refuse new connections before they are closed."""

    sockets: list[socket.socket] | None = None
    refuse_new: Callable[[Iterable[socket.socket]], None] = drop_packets


def listening_on(settings: Settings, environ: MutableMapping[str, str] = os.environ) -> Listening:
    """The sockets that systemd passes, a unix socket, or those of the host and the port. Raises Misconfigured."""
    passed = passed_sockets(environ)
    if passed:
        if settings.unix_socket is not None:
            raise Misconfigured("unix_socket", "can't be used with a socket that systemd passes")
        # systemd listens on: new connections wait for the next process. A filter would stay in place.
        return Listening(passed, lambda _: None)
    if settings.unix_socket is None:
        return Listening()
    path = Path(settings.unix_socket)
    listener = bound(path, int(settings.unix_socket_mode, 8))
    own = path.stat().st_ino

    def remove(_: Iterable[socket.socket]) -> None:
        """Removes the file, unless another process has replaced it."""
        with suppress(FileNotFoundError):
            if path.stat().st_ino == own:
                path.unlink()

    return Listening([listener], remove)


def passed_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd passes to this process, but not to its children."""
    number, process = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=descriptor) for descriptor in range(PASSED, PASSED + int(number))]
    for passed in sockets:
        passed.set_inheritable(False)
    return sockets


def bound(path: Path, mode: int) -> socket.socket:
    """A unix socket with a file of this mode. A file that a process left behind is replaced. Raises Misconfigured."""
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o777 & ~mode)
    try:
        _remove_stale(path)
        listener.bind(str(path))
    except OSError as failure:
        listener.close()
        raise Misconfigured("unix_socket", f"cannot listen on {path}: {failure.strerror or failure}") from failure
    finally:
        os.umask(umask)
    return listener


def _remove_stale(path: Path) -> None:
    """Removes a socket on which no process listens."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return  # binding fails
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
