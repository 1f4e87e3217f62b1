"""docs/front-end.md: its code compiles and runs, its commands print what it says, and its table has every error code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.simulator.fleet import Fleet
from tests.clients.test_real_clients import node, packages
from tests.code_blocks import files_of, outputs_of, write_files
from tests.effort import thorough_only
from tests.gateways import serving

__all__ = ["packages"]  # pytest finds the fixture here, too

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs/front-end.md"
TOKEN = "client-token"


class Application:
    """The page's code in a folder, compiled, and the fleet that it shows."""

    def __init__(self, folder: Path, variant: str = "") -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_files(PAGE, folder)
        shutil.copy(ROOT / "schema.graphql", folder)
        command = ["node", "build_page.mjs", str(folder), variant]
        ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        self.folder, self.variant = folder, variant

    def shown_by(self, client: str, url: str) -> list[list[str]]:
        """The vehicle ids and labels on screen once all pages are loaded."""
        return node("front_end.mjs", str(self.folder), client, url, TOKEN, self.variant)


@pytest.fixture(scope="module")
def application(packages: None) -> Application:
    return Application(HERE / "generated" / "page")


@pytest.fixture(scope="module")
def trusted(packages: None) -> Application:
    return Application(HERE / "generated" / "trusted", "trusted")


class World:
    """A fleet of 250 vehicles, one of them with an unknown fuel type, and a gateway in front of it."""

    def __init__(self, serve: Any, **graphql: Any) -> None:
        simulator = Simulator(
            [FleetPlan(vehicles=250, clients=(Client("T7K2M#one", token=TOKEN),))], Behaviours(rate_limit_requests=0)
        )
        self.fleet: Fleet = simulator.fleets["T7K2M"]
        self.fleet.edit(self.fleet.ids[7], fuel_type="AMMONIA")
        settings = Settings(upstream={"url": serve(simulator.app)}, graphql=graphql, log={"level": "error"})
        self.url = serve(create_app(settings))


@pytest.mark.parametrize("client", [pytest.param("relay", marks=thorough_only), "apollo", "urql"])
def test_the_application_of_the_page_shows_the_whole_fleet(serve, application, client):
    """Page by page, in order, and an unknown enum value under its original name."""
    world = World(serve)
    shown = application.shown_by(client, f"{world.url}/graphql")
    assert [vehicle for vehicle, _ in shown] == world.fleet.ids
    assert shown[7][1] == "AMMONIA"
    assert {"Petrol", "Diesel", "Electric"} <= {label for _, label in shown}


@pytest.mark.parametrize(
    ("client", "manifest"),
    [
        pytest.param("relay", "relay-documents.json", marks=thorough_only),
        ("apollo", "src/gql/persisted-documents.json"),
    ],
)
def test_the_manifests_of_the_page_are_trusted_documents(serve, trusted, client, manifest):
    """The check accepts the manifest, and the application sends its ids to a gateway that executes nothing else."""
    file = trusted.folder / manifest
    command = [sys.executable, "-m", "gateway", "operations", "check", str(file)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    world = World(serve, trusted_documents=str(file))
    url = f"{world.url}/graphql"
    assert [vehicle for vehicle, _ in trusted.shown_by(client, url)] == world.fleet.ids
    other = httpx.post(
        url, json={"query": "{ __typename }"}, headers={"Authorization": f"Bearer {TOKEN}"}, verify=False
    )
    assert other.json()["errors"][0]["extensions"]["code"] == "OPERATION_NOT_TRUSTED"


def test_the_table_of_actions_has_every_error_code(application):
    """The page's function does for each code of docs/errors.md what the page's table says; `all others` are reports."""
    page = (ROOT / "docs/errors.md").read_text()
    codes = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    retryable = set(re.findall(r"^\| `([A-Z_]+)` \| yes \|", page, re.MULTILINE))
    retryable |= set(re.findall(r"^\| `([A-Z_]+)` \|.*; retryable", page, re.MULTILINE))
    rows = re.findall(r"^\| (sign in|retry|start over|explain) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    said = {code: action for action, row in rows for code in re.findall(r"`([A-Z_]+)`", row)}
    assert said.keys() <= codes
    script = "const { actionFor } = require(process.argv[1]); const of = JSON.parse(process.argv[2]); "
    script += "console.log(JSON.stringify(Object.fromEntries(of.map((one) => [one.code, actionFor(one)]))))"
    errors = [{"code": code, "retryable": code in retryable} for code in sorted(codes)]
    command = ["node", "-e", script, str(application.folder / "out/errors.js"), json.dumps(errors)]
    done = json.loads(subprocess.check_output(command, text=True))
    assert done == {code: said.get(code, "report") for code in codes}


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The URL of a gateway over the demo's fleet."""
    simulator = Simulator([FleetPlan("T7K2M", 1000, clients=(Client("T7K2M#one", token=TOKEN),))])
    settings = {"log": {"level": "error"}}
    with serving(simulator.app) as fleet, serving(create_app(Settings(upstream={"url": fleet}, **settings))) as url:
        yield url


def test_the_commands_of_the_page_print_what_it_says(demo, tmp_path):
    """In the page's order, since the second one finds the first one's page in the cache; ages differ."""
    write_files(PAGE, tmp_path)
    scripts = [name for name in files_of(PAGE) if name.endswith(".sh")]
    assert len(scripts) == 4
    for name in scripts:
        environment = {**os.environ, "GATEWAY": demo, "TOKEN": TOKEN}
        printed = subprocess.check_output(["sh", tmp_path / name], env=environment, text=True)
        assert without_age(printed) == without_age(outputs_of(PAGE)[name]), name


def without_age(text: str) -> Any:
    return json.loads(re.sub(r'"oldestAge":[\d.]+', '"oldestAge":0', text))
