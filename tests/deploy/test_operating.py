"""docs/operating.md says what the files in deploy/ and the settings are; `.ci/operating` does what it says."""

from __future__ import annotations

import re

from gateway.settings import Settings, setting_infos
from tests.deploy.expressions import ROOT
from tests.deploy.test_prometheus import ALERTS

PAGE = (ROOT / "docs/operating.md").read_text()


def test_every_alert_is_explained():
    """With its severity, and no other."""
    explained = dict(re.findall(r"^\| `(Gateway\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert explained == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}


def test_settings_and_files_exist():
    """Whatever the page, the alerts and the dashboard name."""
    texts = PAGE + "".join(rule["annotations"]["description"] for rule in ALERTS.values())
    known = {info.variable for info in setting_infos(Settings())}
    assert set(re.findall(r"\bGATEWAY_[A-Z_]+[A-Z]\b", texts)) - known == set()
    named = re.findall(r"\bdeploy/[\w./-]*\w", PAGE)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_documented_time_outs_are_the_defaults():
    """Each limit is longer than the one below it, as the page says."""
    table = re.findall(r"`(GATEWAY_\w+_(?:DEADLINE|TIMEOUT))`[^|]*\| ([\d.]+) \|$", PAGE, re.MULTILINE)
    defaults = {info.variable: info.value for info in setting_infos(Settings())}
    assert len(table) == 5
    assert {name: float(value) for name, value in table} == {name: defaults[name] for name, _ in table}
    table = [(name, value) for name, value in table if name != "GATEWAY_UPSTREAM_COMMAND_TIMEOUT"]
    assert [float(value) for _, value in table] == sorted((float(value) for _, value in table), reverse=True)
