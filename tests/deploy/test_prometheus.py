"""deploy/prometheus: its rules name only metrics that exist, fire when they should, and are explained to operators."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from tests.deploy.expressions import ROOT, TARGET, problems
from tests.programs import require

FOLDER = ROOT / "deploy/prometheus"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
RECORDED = {rule["record"]: TARGET for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_metrics_labels_and_values_that_exist(rule):
    """A renamed metric, label, outcome, code or event would make an alert silent."""
    assert problems(rule["expr"], RECORDED) == []


def test_unknown_names_are_found():
    """What the test above is for."""
    expression = 'sum by (jab) (gateway_errors_total{code="NO"}) + gateway_connections{code="INTERNAL"} + gateway_error'
    assert problems(expression, {}) == [
        "no code NO",
        "gateway_connections has no label code",
        "no metric gateway_error",
        "no label jab",
    ]


def test_rules_fire_when_they_should():
    """Prometheus' own tool reads the files and runs their unit tests, which cover every alert."""
    promtool = require("promtool", "prometheus")
    for command in (["check", "config", "prometheus.yaml"], ["test", "rules", "rules_test.yaml"]):
        ran = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert set(re.findall(r'alertname="(\w+)"', (FOLDER / "rules_test.yaml").read_text())) == ALERTS.keys()
