"""An issuer that hangs, fails or responds without end, and forged tokens: callers with valid tokens notice nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.gateways import serving
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, AttackedGateway
from tests.issuer import ISSUER, FakeIssuer

QUERY = "{ vehicles(first: 3) { nodes { vehicleId } } }"
# The attacked gateway's, in seconds. Calls that wait for the issuer take the time-out, others far less.
TTL, PAUSE, TIMEOUT = 0.4, 0.5, 4.0


class OddIssuer(FakeIssuer):
    """An issuer over a socket, which behaves as `mode` says."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = "sound"
        self.sound = 0  # valid responses
        self.beside: list[object] = []  # its other keys

    def app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            self.fetches += 1
            keys = {"keys": [*self.beside, *KeySet([self.key]).as_dict(private=False)["keys"]]}
            while self.mode == "hangs":  # noqa: ASYNC110 - the mode is set from another thread
                await asyncio.sleep(0.02)
            if self.mode == "redirects":
                return RedirectResponse(str(request.url))
            if self.mode in ("dribbles", "endless", "pieces"):
                return StreamingResponse(self._parts(json.dumps(keys).encode()))
            self.sound += self.mode == "sound"
            return JSONResponse(keys, 503 if self.mode == "fails" else 200)

        return Starlette(routes=[Route("/{path:path}", answer)])

    async def _parts(self, body: bytes) -> AsyncIterator[bytes]:
        mode = self.mode
        piece, seconds = {"dribbles": (1, 0.05), "endless": (2**16, 0), "pieces": (1, 0)}[mode]
        while self.mode == mode:
            for start in range(0, len(body), piece):
                yield body[start : start + piece]
                await asyncio.sleep(seconds)
                if self.mode != mode:
                    return
            body = b" " * 2**16


class World:
    """A gateway that verifies tokens, and its issuer."""

    def __init__(self, stack: ExitStack, folder) -> None:
        self.issuer = OddIssuer()
        self.issuer.mode = "hangs"
        serve = lambda app: stack.enter_context(serving(app))  # noqa: E731 - as the fixture does
        self.attacked = AttackedGateway(
            folder,
            serve,
            oidc_issuer=ISSUER,
            oidc_audience="fleet",
            oidc_jwks_uri=serve(self.issuer.app()) + "/keys",
            oidc_jwks_ttl=str(TTL),
            oidc_jwks_cooldown=str(PAUSE),
            oidc_timeout=str(TIMEOUT),
        )
        stack.callback(self.attacked.stop)

    def tokens(self, number: int = 1, **claims: object) -> list[str]:
        """Different tokens of one client, which the fleet API accepts."""
        tokens = [self.issuer.token(jti=f"{time.time()}-{each}", **claims) for each in range(number)]
        for token in tokens:
            self.attacked.simulator.accept(token, "T7K2M#alice")
        return tokens

    async def ask(self, *tokens: str, **headers: str) -> tuple[set[int], float]:
        """The responses to all tokens at once, and the seconds until the last of them."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self.attacked.gateway.url, timeout=20, limits=limits, verify=False
        ) as http:
            began = time.monotonic()
            fields = [{"Authorization": f"Bearer {token}", **headers} for token in tokens]
            answers = await asyncio.gather(*(http.post("/graphql", json={"query": QUERY}, headers=h) for h in fields))
            return {answer.status_code for answer in answers}, time.monotonic() - began

    async def until_sound(self) -> None:
        """Restores the issuer, and waits until the gateway has its keys, which are then a little stale."""
        self.issuer.mode, sound = "sound", self.issuer.sound
        deadline = time.monotonic() + 20
        while self.issuer.sound == sound or (await self.ask(*self.tokens()))[0] != {200}:
            assert time.monotonic() < deadline
            await self.ask(*self.tokens())
            await asyncio.sleep(0.1)
        await asyncio.sleep(max(TTL, PAUSE) + 0.1)

    @contextmanager
    def fetches(self) -> Iterator[None]:
        """Makes the gateway fetch keys within the block, at once and then at most once per cooldown."""
        before, began = self.issuer.fetches, time.monotonic()
        yield
        assert 1 <= self.issuer.fetches - before <= 1 + (time.monotonic() - began) / PAUSE


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("issuer"))


async def test_no_caller_waits_past_its_deadline(world):
    """Without keys a hanging issuer gets one request for all callers, each of which waits until its deadline."""
    with world.fetches():
        statuses, seconds = await world.ask(*world.tokens(30), **{"X-Gateway-Timeout": "0.3"})
        assert (statuses, seconds < TIMEOUT) == ({503}, True)
    world.issuer.mode = "fails"
    with world.fetches():
        await asyncio.sleep(PAUSE)
        for _ in range(3):
            assert (await world.ask(*world.tokens(30)))[0] == {503}
    world.issuer.mode = "hangs"
    await asyncio.sleep(PAUSE)
    statuses, seconds = await world.ask(*world.tokens(5))
    assert (statuses, seconds < 2 * TIMEOUT) == ({503}, True)


@pytest.mark.parametrize("mode", ["hangs", "fails", "dribbles", "endless", "pieces", "redirects"])
async def test_cached_keys_are_used_while_the_issuer_fails(world, mode):
    """With cached keys no caller waits, the issuer gets one request, and its response takes no time or memory."""
    await world.until_sound()
    world.issuer.mode = mode
    with world.attacked.measured() as harm, world.fetches():
        for _ in range(3):
            statuses, seconds = await world.ask(*world.tokens(10))
            assert (statuses, seconds < TIMEOUT) == ({200}, True)
            await asyncio.sleep(0.1)
    assert harm.cpu <= INVALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX


async def test_an_unusable_key_is_skipped(world):
    """Odd keys of any kind are skipped; a token under a good key beside them is accepted."""
    sound = RSAKey.generate_key(2048, {"kid": "odd"}).as_dict(private=False)
    world.issuer.beside = [
        None, 7, "x", [], {}, {"kty": "RSA"}, {"kty": 7}, {"kty": ["RSA"]}, {"kty": "AKP", "pub": "x"}, {**sound, "n": "!"},
        {**sound, "n": "", "kid": "e"}, {**sound, "e": "AA"}, {**sound, "n": 7}, {**sound, "kid": 7}, {**sound, "use": "x"},
        {**sound, "use": ["sig"], "key_ops": ["verify"]}, {**sound, "key_ops": "x"}, {**sound, "n": sound["n"][:80]},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": "P-0", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "one"},
        {**sound, "d": "AQAB"}, {**sound, "x5c": 7}, {"kty": "RSA", "n": {"a": []}, "e": []},
    ]  # fmt: skip
    world.issuer.rotate("two")
    try:
        await world.until_sound()
        assert (await world.ask(*world.tokens()))[0] == {200}
        assert world.attacked.gateway.output.count("issuer keys skipped") == 1
    finally:
        world.issuer.beside = []


async def test_unknown_keys_are_fetched_once_per_cooldown(world):
    """Thirty at once are one fetch, those in the cooldown none; all are rejected, and a new key is found."""
    await world.until_sound()
    keys = [RSAKey.generate_key(2048, {"kid": f"unknown-{number}"}) for number in range(3)]
    unknown = [world.issuer.token(keys[number % 3], jti=str(number)) for number in range(30)]
    with world.fetches():
        for _ in range(3):
            statuses, seconds = await world.ask(*unknown)
            assert (statuses, seconds < TIMEOUT) == ({401}, True)
    world.issuer.rotate("three")
    await asyncio.sleep(PAUSE)
    assert (await world.ask(*world.tokens()))[0] == {200}


async def test_unknown_keys_wait_until_their_deadline(world):
    """A token with an unknown key waits for a hanging issuer until its deadline; others are not delayed."""
    await world.until_sound()
    world.issuer.mode = "hangs"
    unknown = world.issuer.token(RSAKey.generate_key(2048, {"kid": "unknown"}))
    statuses, seconds = await world.ask(*[unknown] * 20, **{"X-Gateway-Timeout": "0.3"})
    assert (statuses, seconds < TIMEOUT) == ({401}, True)
    statuses, seconds = await world.ask(*world.tokens(5))
    assert (statuses, seconds < TIMEOUT) == ({200}, True)


def encoded(part: object) -> str:
    return (
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).rstrip(b"=").decode()
    )


SIGNED = {"alg": "RS256", "kid": "sound"}
HEADS = [
    ["alg"], "alg", 1, None, {}, {"alg": "none"}, {"alg": "HS256", "kid": "sound"}, {"alg": ["RS256"], "kid": "sound"},
    {"alg": {}, "kid": "sound"}, {"alg": "RS256"}, {"alg": "RS256", "kid": 7}, {"alg": "RS256", "kid": ["sound"]},
    {"alg": "RS256", "kid": {}}, {"alg": "RS256", "kid": "\ud800"}, {"alg": "RS256", "kid": "x" * 400},
    {"alg": "ES256", "kid": "sound"}, {"alg": "PS512", "kid": "sound"}, {**SIGNED, "crit": ["exp"], "exp": 1},
    {"alg": "EdDSA", "kid": "sound"},
    {**SIGNED, "crit": 7}, {**SIGNED, "crit": [["b64"]]}, {**SIGNED, "crit": ["b64"], "b64": False},
    {**SIGNED, "jwk": {"kty": "RSA"}}, {**SIGNED, "jku": "http://127.0.0.1:1/keys"}, {**SIGNED, "x5c": [7]},
    {**SIGNED, "typ": 7}, b"[" * 370, b"\xff\xfe", b"NaN", b"", b"1" * 380, b'{"alg":' + b"[" * 360,
]  # fmt: skip


async def test_forged_tokens_are_rejected_cheaply(world):
    """For any three parts of a token the status is 401, at the cost of one signature check."""
    world.issuer.rotate("sound")
    await world.until_sound()
    header, payload, signature = world.tokens()[0].split(".")
    forged = [f"{encoded(head)}.{payload}.{signature}" for head in HEADS]
    forged += [f"{header}.{part}.{signature}" for part in ("", "A", encoded(b"[" * 20_000), "A" * 30_000)]
    forged += [f"{header}.{payload}.{part}" for part in ("", "A", "A" * 342, "A" * 20_000, f"{signature}.{signature}")]
    forged += [".", "..", "A" * 30_000, "." * 30_000]
    with world.attacked.measured() as harm:
        assert (await world.ask(*forged))[0] == {401}
        flood = [f"{header}.{encoded(str(number).encode())}.{signature}" for number in range(100)]
        assert (await world.ask(*flood))[0] == {401}
    assert harm.cpu <= INVALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX


@pytest.mark.parametrize(
    "claim",
    ['"a":' + "[" * 8000 + "]" * 8000, '"a":' + "[" * 700 + "]" * 700, '"a":NaN', '"exp":1e400', f'"a":{"9" * 5000}',
     '"scope":{}', '"scope":1.5', '"jti":7', '"fleet_id":"\\ud800"', '"client_id":"\\ud800"', '"fleet_id":[{}]',
     f'"fleet_id":"{"x" * 15_000}"'],
)  # fmt: skip
async def test_odd_claims_under_a_good_signature_are_no_bug(world, claim):
    """Tokens of the issuer with any claims are accepted or rejected; none is an internal error."""
    if world.issuer.key.kid != "sound":
        world.issuer.rotate("sound")
        await world.until_sound()
    claims = {"iss": ISSUER, "sub": "c", "aud": "fleet", "exp": int(time.time()) + 900}
    body = f"{json.dumps(claims)[:-1]},{claim}}}".encode()
    token = jws.serialize_compact({"alg": "RS256", "kid": "sound"}, body, world.issuer.key)
    world.attacked.simulator.accept(token, "T7K2M#alice")
    (status,) = (await world.ask(token))[0]
    assert status in (200, 401)
