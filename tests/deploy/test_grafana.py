"""deploy/grafana: the dashboard shows only metrics that exist, and all of them."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.deploy.expressions import ROOT, SAMPLES, problems
from tests.programs import require

DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
QUERIES = [target["expr"] for panel in PANELS.values() for target in panel["targets"]]
VARIABLES = {variable["name"]: variable.get("definition", "") for variable in DASHBOARD["templating"]["list"]}


@pytest.mark.parametrize("query", [*QUERIES, *VARIABLES.values()])
def test_queries_name_metrics_labels_and_variables_that_exist(query):
    """A renamed metric or label would leave a panel empty."""
    assert problems(query, {}) == []
    assert set(re.findall(r"\$(\w+)", query)) <= {*VARIABLES, "__rate_interval"}


def test_queries_are_valid(tmp_path):
    """Prometheus' own tool parses each of them."""
    rules = [f"  - record: x{n}\n    expr: {json.dumps(query)}" for n, query in enumerate(QUERIES)]
    text = "groups:\n- name: panels\n  rules:\n" + "\n".join(rules).replace("$__rate_interval", "5m")
    (tmp_path / "rules.yaml").write_text(text)
    command = [require("promtool", "prometheus"), "check", "rules", tmp_path / "rules.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_metric_is_shown():
    """Whatever the gateway measures is on the dashboard."""
    shown = set(re.findall(r"gateway_\w+", " ".join(QUERIES)))
    histograms = {name.removesuffix("_bucket") for name in SAMPLES if name.endswith("_bucket")}
    assert {name for name in SAMPLES if not name.endswith(("_bucket", "_sum", "_count"))} - shown == set()
    assert [name for name in histograms if not shown & {f"{name}_bucket", f"{name}_count"}] == []


def test_panels_do_not_overlap():
    """Each has its place, and its number."""
    places = [
        (column, line)
        for panel in DASHBOARD["panels"]
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(column for column, _ in places) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
