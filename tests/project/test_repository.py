"""The project's structure, schema file, documents and commands are consistent."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from gateway import __version__, errors
from gateway.engine import document_limits as limits
from gateway.schema.build import print_sdl
from gateway.web.explorer import GRAPHIQL

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLIENTS = ROOT / "tests/clients/packages.py"
EXPLORER = ROOT / ".ci/explorer"
WRITTEN_BY_TOOLS = {"__pycache__", "build", "dist", "node_modules", "uv.lock"}


def _files() -> list[Path]:
    """The project's files: what git tracks, or, in an unpacked archive, all but what tools write."""
    try:
        names = subprocess.check_output(
            ["git", "ls-files"], cwd=ROOT, text=True, stderr=subprocess.DEVNULL
        ).splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = []
    tracked = [ROOT / name for name in names]
    found = tracked or [path for path in ROOT.rglob("*") if not _is_by_tools(path.relative_to(ROOT))]
    return sorted(path for path in found if path.is_file())


def _is_by_tools(path: Path) -> bool:
    hidden = path.parts[0].startswith(".") and path.parts[0] not in (".ci", ".dockerignore", ".gitignore")
    return hidden or not WRITTEN_BY_TOOLS.isdisjoint(path.parts)


FILES = _files()
TEXTS = [path for path in FILES if path.suffix not in (".png", ".ico")]
PAGES = [path for path in FILES if path.suffix == ".md"]


def test_import_contracts_hold():
    """No file imports a package that its contract forbids."""
    found = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_schema_file_is_current():
    """schema.graphql is what `gateway schema print` prints."""
    assert (ROOT / "schema.graphql").read_text() == print_sdl()


def test_every_setting_and_metric_is_documented():
    """docs/settings.md has each variable, its default and its help, and docs/metrics.md each metric, as `uv run .ci/reference-pages` writes them."""
    command = [sys.executable, ROOT / ".ci/reference-pages", "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_every_dependency_has_its_reason():
    """The decision on dependencies has a line for each one in pyproject.toml, and for no other."""
    named = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
    named += [one for group in PYPROJECT["dependency-groups"].values() for one in group]
    page = (ROOT / "docs/decisions/0001-dependencies.md").read_text()
    reasons = re.findall(r"^\| ([a-z][a-z0-9-]*) \| .+ \|$", page, re.MULTILINE)
    assert sorted(set(reasons) - {"library"}) == sorted(re.split(r"[^a-z0-9-]", one)[0] for one in named)


def test_changelog_and_version_agree():
    """The newest release in the changelog is the package's version."""
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__


def test_the_readmes_commands_are_those_that_ci_runs():
    """One command to run, one to test, and CI runs the latter unchanged: without Node, and with the long tests."""
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert commands[:2] == ["pip install uv && uv run gateway demo", "pip install uv && uv run pytest"]
    script = (ROOT / ".ci/run").read_text()
    without, thorough = (part.rpartition("\n(\n")[2] for part in script.split(f"\n{commands[1]}\n)\n")[:2])
    assert "export PATH=$without_node TESTS_MAY_SKIP=node" in without
    assert 'export PYTEST_ADDOPTS="--hypothesis-profile thorough"' in thorough


@pytest.mark.parametrize("failing", ["pip install uv", "uv run pytest"])
def test_ci_stops_at_the_first_failure(failing, tmp_path):
    """CI stops after a failed installation or test run."""
    for name in ("pip", "uv", "redis-server", "promtool", "curl", "javac", "node", "npm", "chromium"):
        stub = tmp_path / name
        stub.write_text(f'#!/bin/sh\n[ "{name} $*" != "{failing}" ]\n')
        stub.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ci = subprocess.run([ROOT / ".ci/run"], env=os.environ | path, capture_output=True, text=True, check=False)
    assert ci.returncode != 0
    assert ci.stdout.rstrip().splitlines()[-1].startswith("== Tests, as the README says")


def test_every_error_code_is_documented_and_no_other():
    """docs/errors.md has a row for each code in the gateway's source, and for no other."""
    text = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py") if "simulator" not in path.parts)
    said = set(
        re.findall(
            r'(?:code(?:: ClassVar\[str\])? = |_coded\(|"code": |_?refuse\(\d+, |(?:error|HTTPError)\(\d+, |= \(\d+, )'
            r'"([A-Z_]+)"',
            text,
        )
    )
    said |= {"GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED"}
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE))
    assert said == documented


def test_documented_errors_are_correct():
    """docs/errors.md has each error's status, whether it can be retried, and the name of each limit."""
    page = (ROOT / "docs/errors.md").read_text()
    text = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    refused = {(code, status) for status, code in re.findall(r'(?:_refuse|refusal|Refused)\((\d+), "([A-Z_]+)"', text)}
    assert refused - {("INTERNAL", "500")} <= set(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", page, re.MULTILINE))

    def family(kind: type[errors.GatewayError]) -> set[tuple[str, bool]]:
        return {(kind.code, kind.retryable)}.union(*map(family, kind.__subclasses__()))

    documented = {
        (code, said == "yes") for code, said in re.findall(r"^\| `([A-Z_]+)` \| (yes|no) \|", page, re.MULTILINE)
    }
    assert documented == family(errors.UpstreamError) - {("INTERNAL", False), ("UNAUTHENTICATED", False)}
    (named,) = re.findall(r"^`limit` is one of (.*?);", page, re.MULTILINE | re.DOTALL)
    assert re.findall(r"`(\w+)`", named) == list(limits._WORDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_targets(page):
    """Relative links in Markdown name existing files and headings."""
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, link


def test_no_file_has_a_vague_name():
    """No file or folder is named utils, helpers, common or base."""
    vague = {"utils", "helpers", "common", "base"}
    assert [path for path in FILES if not vague.isdisjoint({*path.relative_to(ROOT).parts[:-1], path.stem})] == []


def test_no_registry_is_named():
    """No file names a package registry's host, and lock files hold no resolved addresses."""
    hosts = re.compile("|".join(["pypi" + r"\.org", "python" + "hosted", "npmjs" + r"\.(org|com)"]))
    assert [path for path in TEXTS if hosts.search(path.read_text(errors="ignore"))] == []
    for lock in (path for path in FILES if path.name == "package-lock.json"):
        assert '"resolved"' not in json.dumps(json.loads(lock.read_text()))


def test_the_wheel_includes_third_party_licences():
    """THIRD-PARTY-LICENSES is packaged and names each package in GraphiQL's bundle with its version."""
    assert "THIRD-PARTY-LICENSES" in PYPROJECT["project"]["license-files"]
    page = (ROOT / "THIRD-PARTY-LICENSES").read_text()
    named = {name for line in re.findall(r"^(.+)\n-{80}$", page, re.MULTILINE) for name in line.split(", ")}
    locked = json.loads((EXPLORER / "package-lock.json").read_text())["packages"]
    versions = {
        f"{path.rpartition('node_modules/')[2]}@{package['version']}" for path, package in locked.items() if path
    }
    assert named - versions == set()
    assert {"graphiql", "monaco-editor", "react-dom"} <= {name.rpartition("@")[0] for name in named}
    if GRAPHIQL.joinpath("packages.json").is_file():
        bundled = json.loads(GRAPHIQL.joinpath("packages.json").read_text(encoding="utf-8"))
        assert {f"{package['name']}@{package['version']}" for package in bundled} == named


def test_npm_runs_no_scripts():
    """Each call of npm that fetches packages disables their scripts."""
    fetching = re.compile(r'\bnpm"?,? [\["]?"?(?:ci|install|pack)\b')
    calling = {path: path.read_text() for path in FILES if path.parts[-2] == ".ci" or path.name == "Dockerfile"}
    calling |= {path: path.read_text() for path in (CLIENTS, EXPLORER / "build.mjs")}
    calls = [path for path, text in calling.items() if fetching.search(text)]
    assert {CLIENTS, EXPLORER / "build.mjs"} <= {*calls}
    assert [path for path in calls if "--ignore-scripts" not in calling[path]] == []
    for folder in (CLIENTS.parent, EXPLORER):
        assert "ignore-scripts=true" in (folder / ".npmrc").read_text().splitlines()


def test_the_image_uses_pinned_versions():
    """Base images are named by digest, and uv by a version that the project allows."""
    text = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases
    assert set(bases) == {"${PYTHON}"}
    assert re.search(r"^ARG PYTHON=python:\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    (pinned,) = re.findall(r"pip install --no-cache-dir uv==([\d.]+)$", text, re.MULTILINE)
    assert Version(pinned) in SpecifierSet(PYPROJECT["tool"]["uv"]["required-version"])


def test_every_test_says_what_holds():
    """Each test function has a docstring."""
    bare = []
    for path in FILES:
        if path.name.startswith("test_") and path.suffix == ".py":
            functions = (node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "args"))
            tests = [one for one in functions if getattr(one, "name", "").startswith("test_")]
            bare += [f"{path.name}: {one.name}" for one in tests if ast.get_docstring(one) is None]
    assert bare == []


def test_names_are_the_usual_ones():
    """Words that only this code base had do not come back, in code, tests or documents."""
    # Written backwards, so that this file has none of them either.
    words = [
        word[::-1]
        for word in (
            "dnarre",
            "yllat",
            "ecneitap",
            "daor?.trohs",
            "daor?.gnol",
            "xobtuo",
            "regnarts",
            "dnah_ta",
            "sllac_kciuq",
        )
    ]
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    listed = subprocess.run(
        ["git", "ls-files", "gateway", "tests", "docs", "README.md", "schema.graphql"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = []
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".graphql") and path.is_file():
            found += [f"{name}: {match[0]}" for match in pattern.finditer(path.read_text())]
    assert found == []
