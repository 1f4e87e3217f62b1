"""`gateway serve` with settings that it refuses, in this process."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gateway import cli


def refusal_of(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What `gateway serve` writes to standard error, with status 2, before it starts anything."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("the settings were accepted")

    monkeypatch.setattr(cli, "configure_logs", fail)  # comes right after the checks
    ended = CliRunner().invoke(cli.app, ["serve"], env=environment)
    assert (ended.exit_code, ended.stdout) == (2, "")
    return ended.stderr
