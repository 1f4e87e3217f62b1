"""The gateway with clients from PyPI: gql, and ariadne-codegen, which generates a client from the schema."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Simulator
from tests.gateways import PLANS, TOKENS
from tests.programs import give_up, require

HERE = Path(__file__).resolve().parent
SCHEMA = HERE.parent.parent / "schema.graphql"
PACKAGES = {"gql": "gql[httpx]==4.4.0", "ariadne": "ariadne-codegen==0.19.0"}
GOOD = 'query good { good: vehicle(id: "JQ7RP") { vehicleId } }'
PARTIAL = 'query partial { good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicles(first: -1) { nodes { vehicleId } } }'
TOO_MUCH = "query much {" + " ".join(f"a{n}: vehicles(first: 500) {{ nodes {{ tags }} }}" for n in range(45)) + "}"
# Queries, their tokens, the status and the codes.
REQUESTS = [
    (GOOD, TOKENS["alice"], 200, []),
    (PARTIAL, TOKENS["alice"], 294, ["PAGE_SIZE_INVALID"]),
    (TOO_MUCH, TOKENS["alice"], 422, ["LIMIT_EXCEEDED"]),
    (GOOD, "", 401, ["UNAUTHENTICATED"]),
]


@cache
def python_with(package: str) -> list[str]:
    """The command of a Python with a client, which uv fetches once; each needs another version of graphql-core."""
    command = [require("uv", "uv"), "run", "--quiet", "--no-project", "--python", sys.executable, "--with", package]
    ended = subprocess.run([*command, "python", "-c", ""], capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        give_up("pypi", f"uv brought no client packages: {ended.stderr.strip()[-200:]}")
    return [*command, "python", str(HERE / "python_clients.py")]


@pytest.mark.parametrize("client", PACKAGES)
def test_errors_reach_the_callers_of_python_clients(serve, tmp_path, client):
    """With each status of the specification: the codes, and the data beside them."""
    simulator = Simulator(PLANS, Behaviours(rate_limit_requests=0))
    url = serve(create_app(Settings(upstream={"url": serve(simulator.app)}, log={"level": "error"}))) + "/graphql"
    for query, token, status, _ in REQUESTS:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        assert httpx.post(url, json={"query": query}, headers=headers, verify=False).status_code == status
    sent = json.dumps([(query, token) for query, token, _, _ in REQUESTS])
    command = [*python_with(PACKAGES[client]), client, url, str(SCHEMA), str(tmp_path), sent]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    answers = json.loads(ended.stdout)
    assert [answer["codes"] for answer in answers] == [codes for *_, codes in REQUESTS]
    assert all("JQ7RP" in json.dumps(answer["data"]) for answer in answers[:2])
    assert not any(answer["data"] for answer in answers[2:])
