"""From token to caller: verified claims make a principal that survives rotation, and nothing else gets in."""

from __future__ import annotations

import time

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.settings import OidcSettings
from gateway.upstream.issuer import Issuer
from gateway.web.verified_claims import VerifiedClaims
from tests.issuer import ISSUER, FakeIssuer


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


def verifier(issuer: FakeIssuer, **settings: object) -> VerifiedClaims:
    oidc = OidcSettings(issuer=ISSUER, audience="fleet", **settings)
    return VerifiedClaims(oidc, Issuer(oidc, httpx.MockTransport(issuer.handle)))


async def test_a_new_token_of_the_same_client_is_the_same_principal(issuer):
    """Rotation changes the token, not the principal; the fleet and the expiry come from the claims."""
    identify = verifier(issuer)
    one, two = await identify(issuer.token(jti="1")), await identify(issuer.token(jti="2"))
    assert one.principal == two.principal
    assert one.authorization() != two.authorization()
    assert one.fleet == "T7K2M"
    assert one.expires_at == pytest.approx(time.time() + 900, abs=5)


@pytest.mark.parametrize(
    "other", [{"sub": "cl2"}, {"fleet_id": "EXFL29"}, {"scope": "vehicles"}, {"fleet_id": None}, {"client_id": "x"}]
)
async def test_another_subject_fleet_or_scope_is_another_principal(issuer, other):
    """Whatever decides what may be seen is part of the principal."""
    identify = verifier(issuer)
    assert (await identify(issuer.token())).principal != (await identify(issuer.token(**other))).principal


async def test_a_client_has_one_pace_whoever_it_calls_for(issuer):
    """The fleet API limits clients: what is verified of one is the same for its other subjects and scopes."""
    identify = verifier(issuer)
    one = await identify(issuer.token(client_id="app", sub="one"))
    two = await identify(issuer.token(client_id="app", sub="two", scope="vehicles"))
    other = await identify(issuer.token(client_id="other", sub="one"))
    assert one.client == two.client != other.client
    assert one.principal != two.principal


async def test_scopes_in_another_order_are_the_same_principal(issuer):
    """The order of scopes decides nothing."""
    identify = verifier(issuer)
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
async def test_a_token_with_wrong_claims_is_refused(issuer, wrong):
    """Wrong or missing issuer, audience, expiry or subject, and tokens from the future, do not get in."""
    with pytest.raises(Unauthenticated):
        await verifier(issuer)(issuer.token(**wrong))


async def test_clocks_may_differ_a_little(issuer):
    """A token that expired within the leeway is taken, one beyond it is not."""
    now = int(time.time())
    identify = verifier(issuer, leeway=30)
    await identify(issuer.token(exp=now - 10))
    with pytest.raises(Unauthenticated):
        await identify(issuer.token(exp=now - 40))


async def test_a_forged_token_is_refused(issuer):
    """Another key under the same id, no signature, a shared secret, or no token at all."""
    forger = RSAKey.generate_key(2048, {"kid": "one"})
    secret = OctKey.generate_key(256, {"kid": "one"})
    header, payload, signature = issuer.token().split(".")
    claims = {"iss": ISSUER, "sub": "cl1", "aud": "fleet", "exp": int(time.time()) + 900}
    hmac = jwt.encode({"alg": "HS256", "kid": "one"}, claims, secret, algorithms=["HS256"])
    none = "eyJhbGciOiJub25lIn0." + payload + "."
    identify = verifier(issuer)
    for forged in (
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


async def test_rotated_keys_are_found(issuer):
    """A token under a new key makes the keys be fetched again; unknown keys can't make that happen often."""
    identify = verifier(issuer, keys_pause=0)
    await identify(issuer.token())
    issuer.rotate("two")
    await identify(issuer.token())
    assert issuer.fetches == 2
    patient = verifier(issuer, keys_pause=60)
    await patient(issuer.token())
    fetched = issuer.fetches
    unknown = RSAKey.generate_key(2048, {"kid": "unknown"})
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await patient(issuer.token(unknown, jti=str(number)))
    assert issuer.fetches == fetched


async def test_an_issuer_that_is_down_is_no_verdict_on_the_token(issuer):
    """Without keys no token can be judged; with keys, an outage is not noticed."""
    issuer.down = True
    identify = verifier(issuer)
    with pytest.raises(IssuerUnavailable):
        await identify(issuer.token())
    issuer.down = False
    await identify(issuer.token())
    issuer.down = True
    await identify(issuer.token(jti="2"))
