"""The instructions of the Dockerfile, for tests of the image without a container engine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _stages() -> list[list[tuple[str, str]]]:
    """Each stage's instructions with their arguments, without the FROM."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    stages: list[list[tuple[str, str]]] = []
    for name, arguments in lines:
        if name == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append((name, arguments))
    return stages


BUILD, FINAL = _stages()


def arguments_of(name: str, stage: Iterable[tuple[str, str]] = FINAL) -> list[str]:
    """The arguments of each instruction of this name."""
    return [arguments for other, arguments in stage if other == name]


def variables(instruction: str) -> dict[str, str]:
    """The image's labels or, with `ENV`, its environment; `$PATH` in it is that of the base image."""
    pairs = [pair.partition("=") for line in arguments_of(instruction) for pair in shlex.split(line)]
    return {name: value.replace("$PATH", BASE_PATH) for name, _, value in pairs}


def health_check(environment: Mapping[str, str], *python: str) -> int:
    """The exit code of the health check's command, which this command carries out as Python."""
    (check,) = arguments_of("HEALTHCHECK")
    program, *arguments = json.loads(check.partition(" CMD ")[2])
    assert program == "python"
    return subprocess.call([*python, *arguments], env=environment, stderr=subprocess.DEVNULL)
