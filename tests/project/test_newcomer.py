"""The README's section "Change something", followed word by word in a fresh clone."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.effort import thorough_only
from tests.programs import give_up, require, reserved_port

ROOT = Path(__file__).resolve().parent.parent.parent
SECTION = (ROOT / "README.md").read_text().partition("## Change something\n")[2].partition("\n## ")[0]
CLONE, QUERY, EDIT, COMMIT = re.findall(r"```sh\n(.*?)\n```", SECTION, re.DOTALL)
TESTED = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CI"}
SOMEBODY = {f"GIT_{role}_{what}": "a@b.example" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@contextmanager
def running_demo(command: str, folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The demo, once it serves, and the environment of another terminal: with the token that it printed."""
    log = folder.parent / "demo.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process as demo:
        assert demo.stdout is not None
        try:
            token = next((line.split()[1] for line in demo.stdout if line.startswith("Token ")), None)
            assert token is not None, log.read_text()
            yield {**environment, "TOKEN": token}
        finally:
            demo.terminate()


@thorough_only
def test_the_newcomers_path_ends_with_a_commit(tmp_path):
    """Clone, demo, a first query, a changed description, the printed schema, passing tests and a commit of two files."""
    for program in ("uv", "git", "curl", "perl"):
        require(program, program)
    if not (ROOT / ".git").exists():
        give_up("git", "this is no clone, so it can't be cloned")
    environment = {name: value for name, value in os.environ.items() if name not in TESTED and "PYTEST" not in name}
    reserved = reserved_port()
    port = str(reserved.getsockname()[1])
    # One process for its few tests: others run beside them.
    environment |= {"REPOSITORY": str(ROOT), "GATEWAY_PORT": port, "PYTEST_ADDOPTS": "--numprocesses=0", **SOMEBODY}

    def run(commands: str, folder: Path, environment: dict[str, str] = environment) -> str:
        ended = subprocess.run(
            ["sh", "-ec", commands.replace(":8000", f":{port}")],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout

    *clone, demo = CLONE.splitlines()
    folder = Path(run("\n".join([*clone, "pwd"]), tmp_path).strip())
    with running_demo(demo, folder, environment) as terminal:
        answer = json.loads(run(QUERY, folder, terminal))
    reserved.close()
    assert answer["data"]["vehicle"]["masterData"]["brand"] == "Audi"
    run(EDIT, folder)
    assert re.search(r"\d+ passed", run(COMMIT, folder))
    changed = run("git show --format= --name-only", folder).split()
    assert changed == ["gateway/schema/types.py", "schema.graphql"]
    assert "Year in which the vehicle was built." in (folder / "schema.graphql").read_text()
