"""The project is what it says: its structure, its schema file, its documents and its two commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.schema.build import print_sdl
from gateway.settings import Settings, knobs

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
TRACKED = [ROOT / name for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()]
TEXTS = [path for path in TRACKED if path.is_file() and path.suffix not in (".png", ".ico")]


def test_import_contracts_hold():
    """No file imports what its station may not know."""
    found = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_the_schema_file_is_current():
    """schema.graphql is what `gateway schema print` prints."""
    assert (ROOT / "schema.graphql").read_text() == print_sdl()


def test_every_setting_is_documented():
    """docs/settings.md has each variable with its help; `uv run .ci/settings-page` writes it."""
    page = (ROOT / "docs/settings.md").read_text()
    for knob in knobs(Settings(), environ={}):
        assert f"| `{knob.variable}` |" in page
        assert knob.help in page


def test_changelog_and_version_agree():
    """The newest release in the changelog is the package's version."""
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__


def test_the_readmes_commands_are_those_that_ci_runs():
    """One command to run, one to test, and CI calls the latter as it stands."""
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert commands[:2] == ["pip install uv && uv run gateway demo", "pip install uv && uv run pytest"]
    assert f"\n{commands[1]}\n" in (ROOT / ".ci/run").read_text()


def test_every_error_code_is_in_the_readme():
    """The README's table of codes has every code that errors.py has."""
    codes = set(re.findall(r'^    code = "([A-Z_]+)"', (ROOT / "gateway/errors.py").read_text(), re.MULTILINE))
    assert {code for code in codes if f"`{code}`" not in README} == set()


@pytest.mark.parametrize("page", [path for path in TRACKED if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    """Relative links in Markdown name files that exist."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_no_room_is_called_after_nothing():
    """No file is named utils, helpers, common or base."""
    assert [path for path in TRACKED if path.stem in ("utils", "helpers", "common", "base")] == []


def test_no_registry_is_named():
    """No tracked file names a package registry's host, and lock files hold no resolved addresses."""
    hosts = re.compile("|".join(["pypi" + r"\.org", "python" + "hosted", "npmjs" + r"\.(org|com)"]))
    assert [path for path in TEXTS if hosts.search(path.read_text(errors="ignore"))] == []
    for lock in (path for path in TRACKED if path.name == "package-lock.json"):
        assert '"resolved"' not in json.dumps(json.loads(lock.read_text()))


def test_every_test_says_what_holds():
    """Each test function has a docstring."""
    bare = []
    for path in TRACKED:
        if path.name.startswith("test_") and path.suffix == ".py":
            text = path.read_text()
            bare += re.findall(r"^(?:async )?def (test_\w+)\([^)]*\)[^:]*:\n(?!    r?\"\"\")", text, re.MULTILINE)
    assert bare == []
