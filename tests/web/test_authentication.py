"""The JWT authenticator: verified claims make a principal that survives rotation; other tokens are rejected."""

from __future__ import annotations

import asyncio
import time
import warnings

import httpx
import pytest
from joserfc import jws, jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.settings import OidcSettings
from gateway.web.authentication import JWTAuthenticator
from gateway.web.jwks import JWKSClient
from tests.issuer import ISSUER, FakeIssuer


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


def authenticator(issuer: FakeIssuer, **settings: object) -> JWTAuthenticator:
    oidc = OidcSettings(issuer=ISSUER, audience="fleet", **settings)
    return JWTAuthenticator(oidc, JWKSClient(oidc, httpx.MockTransport(issuer.handle)))


async def test_a_new_token_of_the_same_client_is_the_same_principal(issuer):
    """Rotation changes the token, not the principal; the fleet and the expiry come from the claims."""
    identify = authenticator(issuer)
    one, two = await identify(issuer.token(jti="1")), await identify(issuer.token(jti="2"))
    assert one.principal == two.principal
    assert one.authorization() != two.authorization()
    assert one.fleet == "T7K2M"
    assert one.expires_at == pytest.approx(time.time() + 900, abs=5)


@pytest.mark.parametrize(
    "other", [{"sub": "cl2"}, {"fleet_id": "EXFL29"}, {"scope": "vehicles"}, {"fleet_id": None}, {"client_id": "x"}]
)
async def test_another_subject_fleet_or_scope_is_another_principal(issuer, other):
    """Claims that may affect access are part of the principal."""
    identify = authenticator(issuer)
    assert (await identify(issuer.token())).principal != (await identify(issuer.token(**other))).principal


async def test_a_client_has_one_rate_limit_for_all_subjects(issuer):
    """The fleet API limits clients: a verified client is the same for all its subjects and scopes."""
    identify = authenticator(issuer)
    one = await identify(issuer.token(client_id="app", sub="one"))
    two = await identify(issuer.token(client_id="app", sub="two", scope="vehicles"))
    other = await identify(issuer.token(client_id="other", sub="one"))
    assert one.client == two.client != other.client
    assert one.principal != two.principal


async def test_scopes_in_another_order_are_the_same_principal(issuer):
    """The order of scopes has no meaning."""
    identify = authenticator(issuer)
    assert (await identify(issuer.token(scope="a b"))).principal == (
        await identify(issuer.token(scope="b a"))
    ).principal


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.test"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 2**40},
        {"iat": 2**40},
        {"sub": None},
        {"sub": 7},
    ],
)
async def test_a_token_with_wrong_claims_is_rejected(issuer, wrong):
    """Wrong or missing issuer, audience, expiry or subject, and tokens from the future, are rejected."""
    with pytest.raises(Unauthenticated):
        await authenticator(issuer)(issuer.token(**wrong))


async def test_clocks_may_differ_a_little(issuer):
    """A token that expired within the leeway is accepted, one beyond it is not."""
    now = int(time.time())
    identify = authenticator(issuer, leeway=30)
    await identify(issuer.token(exp=now - 10))
    with pytest.raises(Unauthenticated):
        await identify(issuer.token(exp=now - 40))


async def test_a_forged_token_is_rejected(issuer):
    """Another key under the same id, no signature, a shared secret, no claims, or no token at all."""
    forger = RSAKey.generate_key(2048, {"kid": "one"})
    secret = OctKey.generate_key(256, {"kid": "one"})
    header, payload, signature = issuer.token().split(".")
    claims = {"iss": ISSUER, "sub": "cl1", "aud": "fleet", "exp": int(time.time()) + 900}
    hmac = jwt.encode({"alg": "HS256", "kid": "one"}, claims, secret, algorithms=["HS256"])
    none = "eyJhbGciOiJub25lIn0." + payload + "."
    identify = authenticator(issuer)
    nothing = [
        jws.serialize_compact({"alg": "RS256", "kid": "one"}, body, issuer.key) for body in ("[1]", "7", "", "x")
    ]
    for forged in (
        *nothing,
        issuer.token(forger),
        f"{header}.{payload}.",
        f"{header}.{payload[:-4]}AAAA.{signature}",
        hmac,
        none,
        "x",
        "a.b.c",
    ):
        with pytest.raises(Unauthenticated):
            await identify(forged)


async def test_each_kind_of_key_verifies(issuer):
    """RSA keys and keys on elliptic and Edwards curves verify tokens."""
    for number, (key, alg) in enumerate(
        (
            (RSAKey.generate_key(2048, {"kid": "0"}), "PS384"),
            (ECKey.generate_key("P-256", {"kid": "1"}), "ES256"),
            (OKPKey.generate_key("Ed25519", {"kid": "2"}), "EdDSA"),
        )
    ):
        issuer.key = key
        claims = {"iss": ISSUER, "sub": f"cl{number}", "aud": "fleet", "exp": int(time.time()) + 900}
        header = {"alg": alg, "kid": str(number)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            token = jwt.encode(header, claims, key, algorithms=[alg])
        await authenticator(issuer)(token)


async def test_rotated_keys_are_found(issuer):
    """A token with a new key causes a fetch of the keys; unknown keys can't cause it often."""
    identify = authenticator(issuer, jwks_cooldown=0)
    await identify(issuer.token())
    issuer.rotate("two")
    await identify(issuer.token())
    assert issuer.fetches == 2
    cooling_down = authenticator(issuer, jwks_cooldown=60)
    await cooling_down(issuer.token())
    fetched = issuer.fetches
    unknown = RSAKey.generate_key(2048, {"kid": "unknown"})
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await cooling_down(issuer.token(unknown, jti=str(number)))
    assert issuer.fetches == fetched


async def test_an_issuer_outage_does_not_reject_the_token(issuer):
    """Without keys the issuer is reported as unavailable; with cached keys, an outage is not noticed."""
    issuer.down = True
    identify = authenticator(issuer, jwks_cooldown=0)
    with pytest.raises(IssuerUnavailable):
        await identify(issuer.token())
    issuer.down = False
    await identify(issuer.token())
    issuer.down = True
    await identify(issuer.token(jti="2"))


async def test_keys_end_when_the_issuer_has_failed_for_too_long(issuer):
    """Old keys are used for a bounded time while the issuer fails, and again once it has recovered."""
    identify = authenticator(issuer, jwks_ttl=0.05, jwks_stale_if_error=0.15, jwks_cooldown=0)
    token = issuer.token()
    await identify(token)
    issuer.down = True
    await asyncio.sleep(0.1)
    await identify(token)
    await asyncio.sleep(0.15)
    with pytest.raises(IssuerUnavailable):
        await identify(token)
    issuer.down = False
    await asyncio.sleep(0.01)  # a fetch that failed may be under way
    await identify(token)


async def test_a_token_ends_with_the_key_that_signed_it(issuer):
    """When the issuer withdraws a key, its tokens are rejected, even if they were verified before."""
    identify = authenticator(issuer, jwks_ttl=0.05, jwks_cooldown=0)
    token = issuer.token()
    await identify(token)
    issuer.rotate("two")
    await asyncio.sleep(0.06)
    await identify(token)  # starts a fetch of the keys
    await asyncio.sleep(0.02)
    with pytest.raises(Unauthenticated):
        await identify(token)


async def test_a_stop_ends_the_fetch_under_way():
    """A request that waits for the keys gets an error, and no task is left running."""

    async def silent(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    oidc = OidcSettings(issuer=ISSUER)
    keys = JWKSClient(oidc, httpx.MockTransport(silent))
    waiting = asyncio.create_task(JWTAuthenticator(oidc, keys)("a.b.c"))
    await asyncio.sleep(0.01)
    await keys.close()
    with pytest.raises(IssuerUnavailable):
        await waiting
    assert await keys.renewed(1.0) is None  # for requests that end later
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_signature_is_verified_once(issuer, monkeypatch):
    """A repeated forged token is rejected without another verification while the keys are the same."""
    calls = []
    original = jws.deserialize_compact
    monkeypatch.setattr(jws, "deserialize_compact", lambda *args, **more: (calls.append(1), original(*args, **more))[1])
    identify = authenticator(issuer)
    forged = issuer.token(RSAKey.generate_key(2048, {"kid": "one"}))
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await identify(forged)
    assert len(calls) == 1


async def test_an_issuer_without_usable_keys_is_unavailable(issuer):
    """An empty key set, or one without a usable key, counts as a failed fetch and replaces no keys."""
    identify = authenticator(issuer, jwks_ttl=0.01, jwks_cooldown=0)
    token = issuer.token()
    for published in ([], [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]):
        issuer.handle = lambda request, keys=published: httpx.Response(200, json={"jwks_uri": ISSUER, "keys": keys})
        empty = authenticator(issuer, jwks_cooldown=0)
        for _ in range(2):
            with pytest.raises(IssuerUnavailable):
                await empty(token)
    del issuer.handle
    await identify(token)
    issuer.handle = lambda request: httpx.Response(200, json={"jwks_uri": ISSUER, "keys": []})
    await asyncio.sleep(0.02)
    for _ in range(3):
        await identify(token)
        await asyncio.sleep(0.01)
