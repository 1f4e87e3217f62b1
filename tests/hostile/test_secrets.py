"""Credentials in settings and in exception messages are never logged."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import structlog
from typer.testing import CliRunner

from gateway.cli import app
from gateway.settings import LogSettings
from gateway.telemetry.logs import WITHHELD, LibraryHandler, configure_logs, flush_logs
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess

CANARY = "canary7f3a9"
REFUSED = {
    "a port that is none": ("REDIS_URL", f"redis://:{CANARY}@localhost:port{CANARY}/0"),
    "a slash in the password": ("REDIS_URL", f"redis://:p@{CANARY}/w#rd@localhost/0"),
    "a number before the slash": ("REDIS_URL", f"redis://user:12/{CANARY}@localhost/0"),
    "a question mark in the password": ("REDIS_URL", f"redis://:{CANARY}?x@localhost/0"),
    "half an address": ("REDIS_URL", f"redis://:{CANARY}@[::1/0"),
    "a host that is none": ("REDIS_URL", f"redis://:{CANARY}@ho\u2100st/0"),
    "no number of a database": ("REDIS_URL", f"redis://localhost/{CANARY}"),
    "a parameter of Redis": ("REDIS_URL", f"redis://localhost/0?{CANARY}=1"),
    "a socket": ("REDIS_URL", f"unix:///{CANARY}"),
    "another scheme": ("REDIS_URL", f"http://:{CANARY}@localhost/0"),
    "no scheme": ("REDIS_URL", f":{CANARY}@localhost"),
    "a password of the fleet API": ("UPSTREAM_URL", f"https://user:{CANARY}@localhost"),
    "a user of the fleet API": ("UPSTREAM_URL", f"https://{CANARY}@localhost"),
    "a port of the fleet API": ("UPSTREAM_URL", f"https://localhost:{CANARY}"),
    "a query of the fleet API": ("UPSTREAM_URL", f"https://localhost/?key={CANARY}"),
    "no host of the fleet API": ("UPSTREAM_URL", f"https:///{CANARY}"),
    "a space in a URL": ("UPSTREAM_URL", f"https://localhost/ {CANARY}"),
    "an issuer's password": ("OIDC_ISSUER", f"https://user:{CANARY}@localhost"),
    "an issuer's fragment": ("OIDC_ISSUER", f"https://localhost/#{CANARY}"),
    "the keys' password": ("OIDC_JWKS_URI", f"https://user:{CANARY}@localhost/keys"),
    "an origin's password": ("HTTP_CORS_ORIGINS", f"https://a.test,https://u:{CANARY}@b.test"),
    "a password with a comma": ("HTTP_CORS_ORIGINS", f"https://u:{CANARY},/#{CANARY}@b.test"),
    "no JSON": ("UPSTREAM", f'{{"url": "https://user:{CANARY}@localhost"'),
    "JSON of another kind": ("UPSTREAM", f'{{"url": ["{CANARY}"]}}'),
    "JSON with a name that is none": ("UPSTREAM", f'{{"{CANARY}": 1}}'),
    "no number": ("WORKERS", CANARY),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_an_invalid_setting_is_not_quoted(case, monkeypatch):
    """The error of an invalid setting names the variable, without its value."""
    name, value = REFUSED[case]
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    ended = CliRunner().invoke(app, ["settings"])
    assert ended.exit_code == 2
    assert ended.stderr.startswith((f"GATEWAY_{name}", "error parsing value"))
    assert CANARY not in ended.output.lower()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("REDIS_URL", f"rediss://user:{CANARY}@localhost:6380/1?client_name=gateway", "********"),
        ("OIDC_JWKS_URI", f"https://localhost/keys?key={CANARY}", "https://localhost/keys?********"),
    ],
)
def test_settings_show_no_secret(name, value, shown, monkeypatch):
    """`gateway settings` masks possible credentials in a URL."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    listed = CliRunner().invoke(app, ["settings"])
    assert listed.exit_code == 0
    assert f"GATEWAY_{name}={shown}  [environment]" in listed.stdout
    assert CANARY not in listed.output


BROKEN_APPLICATION = f"""
import gateway.app

def broken(*_, **__):
    raise ValueError("{CANARY}")

gateway.app.build_client = broken
"""


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=thorough_only)])
@pytest.mark.parametrize("broken", ["application", "port"])
def test_a_failed_start_logs_no_secret(workers, broken, tmp_path, monkeypatch):
    """Where the application or the server can't start, the exception's type is logged, without its message."""
    if broken == "application":
        (tmp_path / "sitecustomize.py").write_text(BROKEN_APPLICATION)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    redis = f"redis://:{CANARY}@localhost:1/0"
    gateway = GatewayProcess(tmp_path, redis_url=redis, workers=workers, log_level="debug")
    with socket.socket() as taken:
        if broken == "port":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port is reserved for the gateway
            taken.bind(("127.0.0.1", gateway.port))
            taken.listen()
        try:
            assert gateway.process.wait(120) == 3
        finally:
            gateway.stop()
    assert CANARY not in gateway.output
    assert "Traceback" not in gateway.output
    kinds = [json.loads(line).get("kind") for line in gateway.output.splitlines()]
    assert ("OSError" if broken == "port" else "ValueError") in kinds


@contextmanager
def logging_configured(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict]]]:
    """Returns the lines logged within the block when called; afterwards logging is restored."""

    def logged() -> list[dict]:
        flush_logs(10)
        written = capsys.readouterr().err
        assert CANARY not in written
        return [json.loads(line) for line in written.splitlines()]

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as hooks:
        for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
            hooks.setattr(module, name, getattr(module, name))
        warnings.simplefilter("always")
        configure_logs(LogSettings())
        try:
            yield logged
        finally:
            flush_logs(1, close=True)
            structlog.reset_defaults()
            logging.basicConfig(force=True)


def test_only_constant_messages_of_libraries_are_logged(capsys):
    """Formatted messages may quote anything: they are withheld, and the location of the call is logged."""
    with logging_configured(capsys) as lines:
        log = logging.getLogger("some.library")
        failure = ValueError(f"at {CANARY}")
        log.error(f"failed: {failure}")  # noqa: G004
        log.error(str(failure))
        log.error(failure)
        log.error(f"{CANARY} took %d", 7)  # noqa: G004
        log.warning("took %d of %s", 7, CANARY)
        log.addHandler(LibraryHandler())
        log.propagate = False  # pytest's own handler would raise
        log.warning("took %d", CANARY)
        log.propagate = True
        log.handlers.clear()
        log.warning("plain", stack_info=True, extra={"x": CANARY})
        record = logging.makeLogRecord({"msg": CANARY, "levelno": 40, "exc_text": CANARY, "name": CANARY[:0]})
        logging.getLogger().handle(record)
        events = lines()
        assert [line["event"] for line in events] == [
            *[WITHHELD] * 4, "took 7 of [redacted]", "took %d", "plain", WITHHELD,
        ]  # fmt: skip
        assert events[2]["kind"] == "ValueError"
        assert all("test_secrets.py" in line["at"] for line in events[:-1])


async def test_pythons_own_error_output_is_logged_instead(capsys):
    """Crashes of the program, a thread, a task or a destructor, and warnings: their type, without their message."""
    with logging_configured(capsys) as lines:

        def fail() -> None:
            raise RuntimeError(CANARY)

        async def fail_later() -> None:
            fail()

        class Broken:
            def __del__(self) -> None:
                fail()

        try:
            fail()
        except RuntimeError as failure:
            sys.excepthook(RuntimeError, failure, failure.__traceback__)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        del thread
        task = asyncio.create_task(fail_later())
        await asyncio.wait([task])
        del task
        Broken()
        gc.collect()
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.01)
        warnings.warn(CANARY, UserWarning, stacklevel=1)
        # Objects that an earlier test left open may be found here, too.
        events = [line for line in lines() if line["kind"] != "ResourceWarning"]
        assert [line["kind"] for line in events] == ["RuntimeError"] * 5 + ["UserWarning"]
        assert all("fail" in line["frames"][-1] for line in events[:-1])


def test_a_log_call_raises_nothing(capsys):
    """With a value that can't be formatted, or a stack that is almost full, the line is counted as lost."""

    class Broken:
        def __repr__(self) -> str:
            raise ValueError(CANARY)

    logged: list[bool] = []

    def deep() -> None:
        try:
            deep()
        except RecursionError:
            if not logged:
                logged.append(True)
                log.exception("deep")
                logging.getLogger("some.library").exception("deep")
            raise

    with logging_configured(capsys) as lines:
        log = structlog.get_logger()
        log.error("broken", value=Broken())
        with pytest.raises(RecursionError):
            deep()
        log.error("whole")
        events = lines()
    assert "whole" in [line["event"] for line in events]
    assert sum(line["number"] for line in events if line["event"] == "log lines dropped") >= 1


def test_log_lines_are_bounded(capsys):
    """Texts and tracebacks are cut at a bound."""
    with logging_configured(capsys) as lines:

        def deep(levels: int) -> None:
            if not levels:
                raise OSError(28, CANARY)
            deep(levels - 1)

        try:
            deep(500)
        except OSError:
            structlog.get_logger().exception("x" * 10**6)
        (line,) = lines()
        assert line["errno"] == "ENOSPC"
        assert len(json.dumps(line)) < 8000
