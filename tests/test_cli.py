"""The command line, as people use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli import app
from tests.effort import thorough_only
from tests.programs import require, reserved_port

GATEWAY = [sys.executable, "-m", "gateway"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GATEWAY, *arguments], env=CLEAN | environ, capture_output=True, text=True, timeout=60, check=False
    )


def show_settings(**environ: str) -> Result:
    """`gateway settings` within this process, without the settings of the tests' own environment."""
    without = {name: None for name in os.environ if name.startswith("GATEWAY_")}
    return CliRunner().invoke(app, ["settings"], env=without | environ)


@contextmanager
def running(*arguments: str, says: str, **environ: str) -> Iterator[re.Match[str]]:
    """A command that keeps running; gives its output once that matches."""
    process = subprocess.Popen([*GATEWAY, *arguments], env=CLEAN | environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = ""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            line = process.stdout.readline()
            assert line, f"ended after: {said}"
            said += line
            if found := re.search(says, said, re.DOTALL):
                yield found
                break
        else:
            pytest.fail(f"said only: {said}")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
    assert process.returncode in (0, -15)


def test_the_demos_curl_works_as_it_is_printed():
    """`gateway demo` prints a curl command whose response has vehicles."""
    require("curl", "curl")
    with running("demo", "--port", "0", "--vehicles", "30", says=r"(curl .*?'\n)") as found:
        answer = subprocess.check_output(["/bin/sh", "-c", found[1]], text=True)
    assert '"vehicleId":"JQ7RP"' in answer
    assert answer.count("vehicleId") == 3


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=thorough_only)])
def test_serve_works_over_any_server_that_speaks_the_api(workers):
    """`gateway serve --upstream-url` over a simulator in another process, with one worker and with several."""
    simulating = running("simulate", "--vehicles", "30", says=r"Fleet API  (\S+).*Token      (\S+)")
    with reserved_port() as reserved, simulating as upstream:
        port = str(reserved.getsockname()[1])
        options = ["--upstream-url", upstream[1], "--port", port, "--workers", workers]
        process = subprocess.Popen(
            [*GATEWAY, "serve", *options], env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/health/ready")
            query = {"query": '{ vehicle(id: "JQ7RP") { vehicleId } }'}
            answer = httpx.post(
                f"{url}/graphql", json=query, headers={"Authorization": f"Bearer {upstream[2]}"}, verify=False
            )
        finally:
            process.terminate()
            process.wait(20)
    assert answer.json() == {"data": {"vehicle": {"vehicleId": "JQ7RP"}}}


def test_the_schema_is_printed_and_checked(tmp_path: Path):
    """`schema check` passes on the output of `schema print`, and fails with a diff on anything else."""
    file = tmp_path / "schema.graphql"
    file.write_text(run("schema", "print").stdout)
    assert run("schema", "check", str(file)).returncode == 0
    file.write_text(file.read_text().replace("type Vehicle ", "type Car "))
    stale = run("schema", "check", str(file))
    assert stale.returncode == 1
    assert "-type Car implements Node" in stale.stdout
    assert run("schema", "check", str(tmp_path / "none")).returncode == 2


def test_settings_show_their_value_and_source():
    """Default, environment and command line are distinguished; secrets are hidden."""
    listed = run(
        "settings",
        "--port",
        "9000",
        GATEWAY_UPSTREAM_PAGE_SIZE="50",
        GATEWAY_REDIS_URL="redis://:hunter2@localhost/0",
        gateway_workers="2",
    ).stdout
    assert "GATEWAY_WORKERS=2  [environment]" in listed
    assert "GATEWAY_PORT=9000  [command line]" in listed
    assert "GATEWAY_UPSTREAM_PAGE_SIZE=50  [environment]" in listed
    assert "GATEWAY_PAGINATION_PAGE_MAX=500  [default]" in listed
    assert "GATEWAY_REDIS_URL=********  [environment]" in listed
    assert "hunter2" not in listed


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_UPSTREAM_PAGE_SIZE", "many"),
        ("GATEWAY_UPSTREAM_PAGE_SIZE", "0"),
        ("GATEWAY_UPSTREAM_URL", "ftp://fleet"),
        ("GATEWAY_LOG_LEVEL", "loud"),
        ("GATEWAY_PORT", "tcp"),
        ("GATEWAY_PORT", "http://10.0.0.1:8000"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:8000/path"),
        ("GATEWAY_PORT", "tcp://user@10.0.0.1:8000"),
        ("GATEWAY_UPSTREAM_URL", "tcp://10.0.0.1:8000"),
        ("GATEWAY_UPSTREAM", "http://fleet"),
        ("GATEWAY_RATE_LIMIT", '{"share":'),
        ("GATEWAY_CACHE", "[]"),
    ],
)
def test_a_bad_setting_ends_the_program_with_its_name(variable, value):
    """One line names the invalid variable; there is no traceback."""
    ended = show_settings(**{variable: value})
    assert ended.exit_code == 2  # an exception would give 1
    assert ended.stderr.startswith(f"{variable}: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "closest"),
    [
        ("GATEWAY_TIMEOUT", None),
        ("GATEWAY_CAHCE_ENABLED", "GATEWAY_CACHE_ENABLED"),
        ("GATEWAY_UPSTREAM_PAGESIZE", "GATEWAY_UPSTREAM_PAGE_SIZE"),
        ("GATEWAY_UPSTREAM__URL", "GATEWAY_UPSTREAM_URL"),
        ("GATEWAY_PROT", "GATEWAY_PORT"),
        ("GATEWAY_SERVER_HOST", None),
        ("gateway_worker", "GATEWAY_WORKERS"),
    ],
)
def test_an_unknown_variable_causes_a_warning(variable, closest):
    """A name that begins with GATEWAY_ and is no setting is most likely misspelt. Its value is not printed."""
    ended = show_settings(**{variable: "hunter2"})
    assert ended.exit_code == 0
    suggested = f" (did you mean {closest}?)" if closest else ""
    assert ended.stderr == f"warning: ignored variables: {variable} is not a setting{suggested}\n"
    assert "hunter2" not in ended.stdout


def links_of(service: str, address: str, protocol: str = "tcp") -> dict[str, str]:
    """The variables that Kubernetes sets for a service with the ports 8000 and 9090, of which the first has a name."""
    links = {
        f"{service}_SERVICE_HOST": address.strip("[]"),
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP_API": "8000",
        f"{service}_PORT": f"{protocol}://{address}:8000",
    }
    for port in ("8000", "9090"):
        start = f"{service}_PORT_{port}_{protocol.upper()}"
        links |= {
            start: f"{protocol}://{address}:{port}",
            f"{start}_PROTO": protocol,
            f"{start}_PORT": port,
            f"{start}_ADDR": address.strip("[]"),
        }
    return links


@pytest.mark.parametrize("address", ["10.0.0.1", "[fd00::1]"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_service_links_are_ignored(address, protocol):
    """Variables of services called gateway, gateway-redis or gateway-cache are no settings, nor is GATEWAY_PORT then."""
    services = ("GATEWAY", "GATEWAY_REDIS", "GATEWAY_CACHE", "GATEWAY_RATE_LIMIT")
    links = {name: value for service in services for name, value in links_of(service, address, protocol).items()}
    ended = show_settings(**links, GATEWAY_CACHE_ENABLED="false")
    assert ended.exit_code == 0
    assert "GATEWAY_PORT=8000  [default]" in ended.stdout
    assert "GATEWAY_CACHE_ENABLED=false  [environment]" in ended.stdout
    assert len(ended.stderr.splitlines()) == 1
    assert sorted(re.findall(r"GATEWAY_\w+", ended.stderr)) == sorted(links)
    assert address not in ended.stderr


def test_a_port_on_the_command_line_replaces_a_service_link():
    """Where Kubernetes has set GATEWAY_PORT for a service, the option still sets the port."""
    listed = run("settings", "--port", "9000", GATEWAY_PORT="tcp://10.0.0.1:8000")
    assert "GATEWAY_PORT=9000  [command line]" in listed.stdout
    assert listed.stderr == ""


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_ignored_variables_are_logged_in_one_line(command, tmp_path: Path):
    """The gateway starts, and one log line names the variables."""
    environ = (
        CLEAN | links_of("GATEWAY_REDIS", "10.0.0.1") | {"GATEWAY_CAHCE_ENABLED": "0", "GATEWAY_LOG_FORMAT": "json"}
    )
    options = {"serve": ["--port", "0"], "demo": ["--port", "0", "--vehicles", "1"]}[command]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [*GATEWAY, command, *options], env=environ, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        assert "GraphQL" in process.stdout.readline()
        process.terminate()
        process.wait(20)
        process.stdout.close()
        log.seek(0)
        (line,) = [line for line in log if "ignored variables" in line]
    assert "GATEWAY_CAHCE_ENABLED is not a setting (did you mean GATEWAY_CACHE_ENABLED?)" in line
    assert all(name in line for name in links_of("GATEWAY_REDIS", "10.0.0.1"))
    assert "10.0.0.1" not in line


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [("http://api.example", True), ("https://api.example", False), ("http://LOCALHOST.:8001", False),
     ("http://127.0.0.2", False), ("http://[0:0:0:0:0:0:0:1]", False), ("http://localhost.example", True)],
)  # fmt: skip
def test_an_unencrypted_upstream_of_another_machine_causes_a_warning(url, is_warned, monkeypatch):
    """The names and addresses of this machine may have any form."""
    monkeypatch.setenv("GATEWAY_UPSTREAM_URL", url)
    ended = CliRunner().invoke(app, ["settings"])
    assert ("GATEWAY_UPSTREAM_URL is not https" in ended.stderr) is is_warned


def test_the_version_is_printed():
    """`gateway --version` prints it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(url, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{url} did not come up")
