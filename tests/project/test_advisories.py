"""CI's check for known vulnerabilities, with stubs of the programs that query the services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / ".ci/advisories"
PYTHON = {
    "dependency": {"name": "idna", "version": "3.1"},
    "id": "GHSA-one",
    "display_id": "CVE-2030-1",
    "aliases": [],
    "summary": "reads too far",
}
NPM = {
    "react": {"via": [{"name": "react", "url": "https://advisories.test/GHSA-two", "range": "<99", "title": "leaks"}]},
    "react-dom": {"via": ["react"]},
}
NONE = {"vulnerabilities": []}, {"vulnerabilities": {}}


@pytest.mark.parametrize(
    ("python", "npm", "code", "says"),
    [
        (*NONE, 0, ["the pinned Python packages: 0 advisories", "the clients of the tests: 0 advisories"]),
        ({"vulnerabilities": [PYTHON]}, NONE[1], 1, ["CVE-2030-1: idna 3.1: reads too far"]),
        (NONE[0], {"vulnerabilities": NPM}, 1, ["GHSA-two: react <99: leaks"]),
        (None, {"message": "no such endpoint", "error": {}}, 0, ["NOT CHECKED: the pinned", "tests: no such endpoint"]),
        (None, {"vulnerabilities": NPM}, 1, ["NOT CHECKED: the pinned Python packages", "GHSA-two"]),
    ],
    ids=["none", "python", "npm", "unreachable", "half reachable"],
)
def test_known_vulnerabilities_fail_and_unreachable_services_do_not(tmp_path, python, npm, code, says):
    """An advisory is named and the exit code is 1; an unreachable service is named and the exit code is 0."""
    for name, answer in (("uv", python), ("npm", npm)):
        said = f"printf '%s' '{json.dumps(answer)}'; exit 1" if answer else "echo no route >&2; exit 2"
        stub = tmp_path / name
        stub.write_text(f'#!/bin/sh\n[ "$1" != install ] || exit 0\n{said}\n')
        stub.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run([sys.executable, SCRIPT], env=os.environ | path, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert [one for one in says if one not in ended.stdout] == []
