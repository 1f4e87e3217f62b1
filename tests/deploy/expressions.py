"""PromQL expressions of the files in deploy/, compared with the table of the gateway's metrics."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from gateway.telemetry.metrics import METRICS, PARENT_METRICS, PREFIX

ROOT = Path(__file__).parents[2]
# Labels that Prometheus adds, and that of a histogram's buckets.
TARGET = {"job", "instance"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SAMPLES = {
    f"{PREFIX}{metric.name}{suffix}": {*metric.labels, *(["le"] if suffix == "_bucket" else [])}
    for metric in (*METRICS, *PARENT_METRICS)
    for suffix in SUFFIXES[metric.kind]
}
# Labels whose values are words in the source.
WORDS = ("outcome", "code", "event", "resource", "result", "endpoint")


def problems(expression: str, recorded: dict[str, set[str]]) -> list[str]:
    """What an expression names that no gateway has; `recorded` are the labels of recording rules, by name."""
    known = {**SAMPLES, **recorded, "up": set[str]()}
    found, labels = [], set(TARGET)
    for name, selector in re.findall(r"\b((?:job:)?gateway_[\w:]+|up\b)(?:\{([^}]*)\})?", expression):
        if name not in known:
            found.append(f"no metric {name}")
            continue
        labels |= known[name]
        for label, values in re.findall(r'(\w+)\s*[!=]~?\s*"([^"]*)"', selector):
            if label not in known[name] | TARGET:
                found.append(f"{name} has no label {label}")
            elif label in WORDS:
                found += [f"no {label} {value}" for value in values.split("|") if f'"{value}"' not in source()]
    for grouping in re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", expression):
        found += [f"no label {label}" for label in re.findall(r"\w+", grouping) if label not in labels]
    return found


@cache
def source() -> str:
    """The gateway's source, without the simulator's."""
    files = (path for path in (ROOT / "gateway").rglob("*.py") if "simulator" not in path.parts)
    return "".join(path.read_text() for path in files)
