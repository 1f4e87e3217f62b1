"""Recognisable tokens go through every failure; afterwards no response, log line, metric or span holds one, and nothing
in Redis.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest
from joserfc.jwk import RSAKey

from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from tests.effort import thorough_only
from tests.gateway_process import GatewayProcess
from tests.issuer import ISSUER, FakeIssuer
from tests.journeys.test_upstream_faults import FAULTS, SHAPES
from tests.telemetry.otlp_receiver import OtlpReceiver

CANARY = "canary7f3a9"
GOOD = f"{CANARY}-good.abc~def+x/y=="
REJECTED = f"{CANARY}-rejected"
FORBIDDEN = f"{CANARY}-forbidden"
JWT = f"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.{CANARY}"
IMPATIENT = {
    "upstream_read_timeout": "0.2",
    "upstream_total_timeout": "0.3",
    "upstream_response_bytes_max": str(2**20),
    "log_level": "debug",
    "metrics_port": "0",
    "retry_backoff": "0.01",
    "limits_deadline": "3",
    "breaker_open_seconds": "0.001",  # open, and half open for the next request
    "breaker_open_seconds_max": "0.001",
}
Ask = Callable[[str, object], Awaitable[object]]


async def through_every_fault(simulator: Simulator, tokens: dict[str, str], ask: Ask) -> None:
    """Every fault of the fleet API, each for a token of its own."""
    for fault, (rule, _) in FAULTS.items():
        simulator.faults.rules[:] = [rule]
        before = simulator.requests.total
        for shape in SHAPES[:1] if rule.kind in ("latency", "stall") else SHAPES:
            await ask(tokens[fault], {"query": shape.query, "variables": shape.variables})
        assert simulator.requests.total > before
    simulator.faults.rules.clear()


@pytest.fixture
def telemetry(monkeypatch) -> Iterator[OtlpReceiver]:
    """Receives the spans of all requests."""
    receiver = OtlpReceiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield receiver
    receiver.close()


async def test_no_token_is_ever_leaked(redis, tmp_path, serve, telemetry):
    """Accepted, rejected, forbidden and malformed tokens, every fault and hostile requests: the canary is nowhere."""
    # Each fault has a client of its own, without cache entries or rate limits from earlier faults.
    struck = {fault: f"{CANARY}-{number}.abc~def+x/y==" for number, fault in enumerate(FAULTS)}
    clients = (
        Client("T7K2M#good", token=GOOD),
        Client("T7K2M#no", token=FORBIDDEN, permissions=frozenset()),
        *(Client(f"T7K2M#{fault}", token=token) for fault, token in struck.items()),
    )
    simulator = Simulator([FleetPlan("T7K2M", 250, clients=clients)], Behaviours(rate_limit_requests=0))
    gateway = GatewayProcess(tmp_path, upstream_url=serve(simulator.app), redis_url=redis.url, **IMPATIENT)
    gateway.wait_until_ready()
    outputs = []
    try:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20, verify=False) as http:

            async def ask(token: str, body: object, **headers: str) -> None:
                response = await http.post(
                    "/graphql", json=body, headers={"Authorization": f"Bearer {token}", **headers}
                )
                outputs.append(str(response.headers) + response.text)

            await through_every_fault(simulator, struck, ask)
            for token in (GOOD, REJECTED, FORBIDDEN, JWT):
                for shape in SHAPES:
                    await ask(
                        token, {"query": shape.query, "variables": shape.variables}, **{"X-Gateway-Cost": "report"}
                    )
                await ask(token, {"query": "{ vehicle(id: $x) { id } }"})
                await ask(token, {"query": f'{{ vehicle(id: "{"x" * 300}") {{ id }} }}'})
                await ask(token, [1, 2])
                await ask(token, {"query": "{ __typename }"}, **{"X-Gateway-Timeout": "x", "X-Request-Id": "bad id"})
            for header in (
                f"Bearer {GOOD} {GOOD}",
                f"Basic {CANARY}",
                f"bearer\t{CANARY}",
                CANARY,
                f"Bearer {CANARY}\u00e9",
            ):
                response = await http.post(
                    "/graphql", json={"query": "{ __typename }"}, headers={"Authorization": header.encode()}
                )
                outputs.append(str(response.headers) + response.text)
                assert response.status_code == 401
            outputs.append((await http.get("/health/ready")).text)
            outputs.append(gateway.metrics())
    finally:
        code = gateway.stop()
    assert code in (0, -signal.SIGTERM)
    assert len(outputs) > 150
    assert [answer for answer in outputs if CANARY in answer] == []
    assert CANARY not in gateway.output
    assert len(telemetry.spans) > 300
    assert [body for body in telemetry.bodies if CANARY.encode() in body] == []
    assert '"event": "request"' in gateway.output
    keys = redis.dump()
    assert keys
    assert [key for key, value in keys.items() if CANARY.encode() in key or CANARY.encode() in value] == []


@thorough_only
async def test_no_verified_token_is_ever_leaked(redis, tmp_path, serve, telemetry):
    """Tokens of an issuer, valid and invalid, with the issuer up and down: no claim, payload or signature is leaked."""
    clients = tuple(Client(f"T7K2M#{name}") for name in ("cl1", *FAULTS))
    simulator = Simulator([FleetPlan("T7K2M", 250, clients=clients)], Behaviours(rate_limit_requests=0))
    issuer = FakeIssuer()
    issuer.down = True
    issued: list[str] = []

    def token(key: RSAKey | None = None, **claims: object) -> str:
        issued.append(issuer.token(key, jti=f"{CANARY}-{len(issued)}", **claims))
        simulator.accept(issued[-1], f"T7K2M#{claims.get('sub') or 'cl1'}")
        return issued[-1]

    gateway = GatewayProcess(
        tmp_path,
        upstream_url=serve(simulator.app),
        redis_url=redis.url,
        oidc_issuer=ISSUER,
        oidc_audience="fleet",
        oidc_jwks_uri=serve(issuer.app()) + "/keys",
        oidc_jwks_cooldown="0",
        **IMPATIENT,
    )
    gateway.wait_until_ready()
    outputs = []
    try:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20, verify=False) as http:

            async def ask(bearer: str, body: object) -> int:
                response = await http.post("/graphql", json=body, headers={"Authorization": f"Bearer {bearer}"})
                outputs.append(str(response.headers) + response.text)
                return response.status_code

            async def statuses(bearer: str) -> set[int]:
                return {await ask(bearer, {"query": one.query, "variables": one.variables}) for one in SHAPES}

            assert await statuses(token()) == {503}
            issuer.down = False
            assert await statuses(token()) == {200}
            header, payload, signature = token().split(".")
            unsound = {
                "expired": token(exp=int(time.time()) - 60),
                "not yet": token(nbf=int(time.time()) + 600),
                "other audience": token(aud="other"),
                "other issuer": token(iss="https://evil.test"),
                "no subject": token(sub=None),
                "unknown key": token(RSAKey.generate_key(2048, {"kid": "unknown"})),
                "another's signature": token(RSAKey.generate_key(2048, {"kid": "one"})),
                "cut": f"{header}.{payload}.{signature[:-20]}",
                "in four parts": f"{header}.{payload}.{signature}.{signature}",
                "unsigned": f"{_encoded({'alg': 'none'})}.{payload}.",
                "its own header": f"{_encoded({'alg': 'RS256', 'kid': CANARY})}.{payload}.{signature}",
                "no JSON": f"{header}.{_encoded(CANARY)[:-1]}.{signature}",
            }
            before = simulator.requests.total
            assert {name: await statuses(bearer) for name, bearer in unsound.items()} == {
                name: {401} for name in unsound
            }
            assert simulator.requests.total == before
            # Valid, but unknown to the fleet API.
            issued.append(issuer.token(jti=f"{CANARY}-unheard", sub="unheard"))
            assert await statuses(issued[-1]) == {401}
            await through_every_fault(simulator, {fault: token(sub=fault) for fault in FAULTS}, ask)
            issuer.rotate("two")
            issuer.down = True
            assert await statuses(token()) == {401}
            issuer.down = False
            assert await statuses(issued[-1]) == {200}
            outputs.append(gateway.metrics())
    finally:
        code = gateway.stop()
    assert code in (0, -signal.SIGTERM)
    # The distinct parts of each token: its claims, the end of its payload, both ends of its signature.
    secrets = {CANARY}
    for bearer in issued:
        _, payload, signature = bearer.split(".")
        secrets |= {payload[-40:], signature[:40], signature[-40:]}
    assert len(outputs) > 250
    said = [*outputs, gateway.output, *(body.decode("latin-1") for body in telemetry.bodies)]
    assert [text for text in said if any(secret in text for secret in secrets)] == []
    assert '"event": "request"' in gateway.output
    keys = redis.dump()
    assert keys
    stored = b"".join(key + value for key, value in keys.items())
    assert [secret for secret in secrets if secret.encode() in stored] == []


def _encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_a_log_line_quotes_no_exception(capsys, monkeypatch):
    """Tokens and addresses in exceptions or log messages of libraries are not written."""
    import logging  # noqa: PLC0415 - of this test alone

    import structlog  # noqa: PLC0415

    from gateway.settings import LogSettings  # noqa: PLC0415
    from gateway.telemetry.logs import configure_logs, flush_logs  # noqa: PLC0415

    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    configure_logs(LogSettings())
    try:
        try:
            secret = f"Bearer {GOOD}"
            raise ValueError(f"{secret} at https://fleet.test/{CANARY}")  # noqa: TRY301
        except ValueError:
            structlog.get_logger().exception("failed")
            logging.getLogger("some.library").exception("sending %s to %s", secret, f"https://{CANARY}.test/x")
        logging.getLogger("some.library").warning("%s took %d of %s", CANARY, 7, {"given": CANARY})
        logging.getLogger("some.library").warning("%(what)s", {"what": CANARY})
        logging.getLogger("asyncio").error("Task exception", extra={"x": secret})
    finally:
        flush_logs(10, close=True)
        structlog.reset_defaults()
        logging.basicConfig(force=True)
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert "test_token_canary.py" in written
    assert "took 7 of" in written
    assert CANARY not in written
