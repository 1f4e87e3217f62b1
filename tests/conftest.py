"""Fixtures used by more than one folder."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

import gateway.app
from tests.clients.packages import CLIENTS, fetch_packages
from tests.redis_server import RedisServer

pytest_plugins = ["tests.gateways"]

# Container images often set this variable. The tests start hundreds of processes, and without compiled files each would
# compile all modules anew, which takes most of its start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# `uv run pytest --hypothesis-profile thorough`, as in CI, tries more; see tests/effort.py for tests without
# hypothesis. No deadline: the speed of a machine proves nothing.
settings.register_profile("ordinary", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.register_profile("exhaustive", max_examples=2_000, deadline=None)
settings.load_profile("ordinary")


# It takes 70 ms, and the gateways of a process can share the schema, which never changes.
gateway.app.build_schema = cache(gateway.app.build_schema)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No workers for a single file, since files are distributed whole; else one more than CPUs, since tests wait."""
    if len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file():
        return 0
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Fetches the packages of the client tests meanwhile, which takes a minute or two the first time."""
    is_worker, paths = hasattr(config, "workerinput"), [Path(each.partition("::")[0]).resolve() for each in config.args]
    if not is_worker and shutil.which("npm") and any(path == CLIENTS or path in CLIENTS.parents for path in paths):
        threading.Thread(target=fetch_packages, daemon=True).start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Client tests wait for those packages meanwhile, and no long file is the last: upstream and writes come first."""
    files = list(dict.fromkeys(item.path for item in items))
    others = [path for path in files if CLIENTS not in path.parents]
    first = len(others) * 2 // 3
    order = [*others[first:], *(path for path in files if CLIENTS in path.parents), *others[:first]]
    items.sort(key=lambda item: order.index(item.path))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints one line for each reason to skip, however many tests it concerns."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    for reason, number in reasons.items():
        terminalreporter.write_line(f"{number} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis(redis_process: RedisServer) -> RedisServer:
    """An empty, real Redis. It is started again if the test before has killed it."""
    if not redis_process.is_running:
        redis_process.start()
    redis_process.flush()
    return redis_process
