"""Programs that some tests need beside Python.

Tests of a missing program are skipped, and one line at the end says why. In CI they fail instead, since a skipped
test could hide a failure there, unless TESTS_MAY_SKIP names the program.
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import NoReturn

import pytest


def require(program: str, package: str) -> str:
    """The path of a program; without it the test is skipped or, in CI, fails."""
    path = shutil.which(program)
    if path is None:
        give_up(program, f"{program} is not installed: apt-get install {package}")
    return path


def give_up(program: str, reason: str) -> NoReturn:
    """Skips or fails a test that lacks a program."""
    if os.environ.get("CI") and program not in os.environ.get("TESTS_MAY_SKIP", "").split():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def reserved_port() -> socket.socket:
    """A socket bound to a free port: while it is open nothing else is given that port, and a server can bind it.

    It never listens, so that on Linux a server that sets SO_REUSEADDR, as all do, can bind the same port.
    """
    free = socket.socket()
    free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    free.bind(("127.0.0.1", 0))
    return free
