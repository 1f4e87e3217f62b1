"""The JWT authenticator: verified claims make a principal that survives rotation; other tokens are rejected."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.identity import principal_of
from gateway.settings import OidcSettings
from gateway.web.authentication import FLEET_MAX, JWTAuthenticator, canonical
from gateway.web.jwks import JWKSClient
from tests.issuer import ISSUER, FakeIssuer, published


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


def authenticator(issuer: FakeIssuer, **settings: object) -> JWTAuthenticator:
    oidc = OidcSettings(issuer=ISSUER, audience="fleet", **settings)
    return JWTAuthenticator(oidc, JWKSClient(oidc, httpx.MockTransport(issuer.handle)))


def encoded(part: bytes) -> str:
    return urlsafe_b64encode(part).rstrip(b"=").decode()


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


RSA, RSA_TWO = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
P256, P256_TWO, P384 = ECKey.generate_key("P-256"), ECKey.generate_key("P-256"), ECKey.generate_key("P-384")
ED25519, ED448, X25519 = (OKPKey.generate_key(curve) for curve in ("Ed25519", "Ed448", "X25519"))


@pytest.mark.parametrize(
    ("key", "alg"),
    [(RSA, "RS256"), (RSA, "PS384"), (P256, "ES256"), (P384, "ES384"), (ED25519, "EdDSA"), (ED25519, "Ed25519"),
     (ED448, "EdDSA"), (ED448, "Ed448")],
)  # fmt: skip
@pytest.mark.parametrize("kid", ["one", None])
async def test_each_algorithm_verifies(issuer, key, alg, kid):
    """RSA keys and keys on elliptic and Edwards curves, with and without `kid`, also under the names of RFC 9864."""
    header = {"alg": alg} if kid is None else {"alg": alg, "kid": kid}
    for designed in {None, alg, "EdDSA" if key in (ED25519, ED448) else alg, key.get("crv") if alg == "EdDSA" else alg}:
        issuer.jwks = [published(key, kid=kid, alg=designed)]
        await authenticator(issuer)(issuer.token(key, header))


OTHERS = [published(P256), published(P384), published(ED448), published(X25519)]


@pytest.mark.parametrize(
    ("signer", "header", "jwks"),
    [
        # The algorithm, use and operations of the keys leave one.
        (RSA, {"alg": "RS256"}, [published(RSA, kid="a"), *OTHERS]),
        (RSA, {"alg": "RS256"}, [published(RSA_TWO, use="enc"), published(RSA, use="sig")]),
        (RSA, {"alg": "RS256"}, [published(RSA_TWO, key_ops=["encrypt"]), published(RSA, key_ops=["verify"])]),
        (RSA, {"alg": "RS256"}, [published(RSA_TWO, alg="PS256"), published(RSA, alg="RS256")]),
        (RSA, {"alg": "RS256"}, [published(RSA_TWO, alg="RSA-OAEP"), published(RSA)]),
        (RSA, {"alg": "RS256"}, [published(RSA_TWO, kid=7), published(RSA)]),
        (RSA, {"alg": "RS256"}, [published(RSA, kid="a", alg="RS256"), published(RSA, kid="b")]),  # one key twice
        (P256, {"alg": "ES256"}, [published(RSA), *OTHERS]),
        (ED25519, {"alg": "EdDSA"}, [published(ED25519, alg="EdDSA"), published(X25519), published(ED448, use="enc")]),
        (ED25519, {"alg": "Ed25519"}, [published(ED25519), *OTHERS]),
        (ED448, {"alg": "EdDSA"}, OTHERS),
        # A `kid` is that of several keys, or of none.
        (RSA, {"alg": "RS256", "kid": "a"}, [published(P256, kid="a"), published(RSA, kid="a"), published(RSA_TWO)]),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(RSA_TWO, kid="a", use="enc"), published(RSA, kid="a")]),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(RSA), published(RSA_TWO, kid="b")]),
        (RSA, {"alg": "RS256", "kid": ""}, [published(RSA, kid=""), published(RSA_TWO, kid="b")]),
    ],
)  # fmt: skip
async def test_a_token_whose_header_leaves_one_key_is_accepted(issuer, signer, header, jwks):
    """`kid`, `alg`, the type and curve of the keys, their `use` and `key_ops` choose the key together."""
    issuer.jwks = jwks
    await authenticator(issuer)(issuer.token(signer, header))


WITHOUT_KID = "key of the issuer matches the bearer token's `alg`, and it has no `kid`."
WITH_KID = "key of the issuer matches the bearer token's `alg` and `kid`."


@pytest.mark.parametrize(
    ("signer", "header", "jwks", "message"),
    [
        (RSA, {"alg": "RS256"}, [published(RSA, kid="a"), published(RSA_TWO, kid="b")], f"More than one {WITHOUT_KID}"),
        (RSA, {"alg": "RS256"}, [published(RSA), published(RSA_TWO)], f"More than one {WITHOUT_KID}"),
        (P256, {"alg": "ES256"}, [published(P256), published(P256_TWO)], f"More than one {WITHOUT_KID}"),
        (ED25519, {"alg": "EdDSA"}, [published(ED25519), published(ED448)], f"More than one {WITHOUT_KID}"),
        (P256, {"alg": "ES256"}, [published(P384), published(RSA)], f"No {WITHOUT_KID}"),
        (RSA, {"alg": "RS256"}, [published(RSA, use="enc")], f"No {WITHOUT_KID}"),
        (RSA, {"alg": "RS256"}, [published(RSA, key_ops=["sign"])], f"No {WITHOUT_KID}"),
        (RSA, {"alg": "RS256"}, [published(RSA, alg="PS256")], f"No {WITHOUT_KID}"),
        (ED25519, {"alg": "Ed25519"}, [published(ED25519, alg="Ed448"), published(P256)], f"No {WITHOUT_KID}"),
        (ED25519, {"alg": "EdDSA"}, [published(X25519), published(X25519, alg="EdDSA")], f"No {WITHOUT_KID}"),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(RSA, kid="b")], f"No {WITH_KID}"),
        (RSA, {"alg": "RS256", "kid": ""}, [published(RSA, kid="b")], f"No {WITH_KID}"),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(P256, kid="a"), published(RSA)], f"No {WITH_KID}"),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(RSA, kid="a", alg="RS512")], f"No {WITH_KID}"),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(RSA, kid="a"), published(RSA_TWO, kid="a")],
         f"More than one {WITH_KID}"),
        (RSA, {"alg": "RS256", "kid": "a"}, [published(RSA), published(RSA_TWO)], f"More than one {WITH_KID}"),
    ],
)  # fmt: skip
async def test_a_token_whose_header_leaves_no_key_or_several_is_rejected(issuer, signer, header, jwks, message):
    """No key is tried; the message names what the header lacks."""
    issuer.jwks = jwks
    with pytest.raises(Unauthenticated) as rejected:
        await authenticator(issuer)(issuer.token(signer, header))
    assert str(rejected.value) == message


def signed(issuer: FakeIssuer, header: dict[str, object]) -> str:
    """A valid token with exactly this header, which may be one that libraries refuse to sign."""
    _, payload, _ = issuer.token(RSA, {"alg": "RS256"}).split(".")
    head = f"{encoded(json.dumps(header).encode())}.{payload}"
    return f"{head}.{encoded(RSA.private_key.sign(head.encode(), PKCS1v15(), SHA256()))}"


@pytest.mark.parametrize("kid", [7, None, ["a"], {}, True])
async def test_a_kid_of_another_type_is_not_an_absent_one(issuer, kid):
    """A token whose `kid` is not a string is invalid, although the only key would verify it."""
    issuer.jwks = [published(RSA)]
    with pytest.raises(Unauthenticated):
        await authenticator(issuer)(signed(issuer, {"alg": "RS256", "kid": kid}))


@pytest.mark.parametrize(
    "more",
    [{"nonce": "1"}, {"pi.atm": "2"}, {"client_id": "x", "iss": None}, {"org.example": {"a": [1]}}, {"b64": True},
     {"x5c": ["MII" * 1500]}, {"typ": "at+jwt", "x5t#S256": "abc"}],
)  # fmt: skip
async def test_unknown_header_parameters_are_ignored(issuer, more):
    """As RFC 7515 (4) requires: Entra ID adds `nonce`, PingFederate `pi.atm`; certificates make a header long."""
    issuer.jwks = [published(RSA)]
    await authenticator(issuer)(signed(issuer, {"alg": "RS256", **more}))


@pytest.mark.parametrize(
    "more",
    [{"nonce": "1", "crit": ["nonce"]}, {"crit": ["exp"], "exp": 1}, {"b64": False}, {"b64": False, "crit": ["b64"]},
     {"b64": True, "crit": ["b64"]}, {"crit": ["absent"]}, {"crit": "nonce"}],
)  # fmt: skip
async def test_unknown_critical_header_parameters_are_rejected(issuer, more):
    """A parameter that must be understood, or that changes how the payload is encoded."""
    issuer.jwks = [published(RSA)]
    with pytest.raises(Unauthenticated):
        await authenticator(issuer)(signed(issuer, {"alg": "RS256", **more}))


async def test_members_of_a_key_that_are_null_are_absent(issuer):
    """Some issuers write every member of their classes."""
    issuer.jwks = [published(RSA) | dict.fromkeys(("kid", "use", "alg", "key_ops", "x5c", "d"))]
    await authenticator(issuer)(issuer.token(RSA, {"alg": "RS256"}))


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("kid", [None, "a"])
async def test_a_token_never_chooses_a_shared_secret(issuer, alg, kid):
    """A token signed with the text of a public key, or with a published secret, as the secret is rejected."""
    secret = OctKey.generate_key(256).as_dict()["k"]
    issuer.jwks = [published(RSA, kid=kid), {"kty": "oct", "k": secret} | ({"kid": kid} if kid else {})]
    _, payload, _ = issuer.token(RSA, {"alg": "RS256"}).split(".")
    head = f"{encoded(json.dumps({'alg': alg} if kid is None else {'alg': alg, 'kid': kid}).encode())}.{payload}"
    for shared in (RSA.as_pem(private=False), urlsafe_b64decode(f"{secret}==")):
        signature = hmac.digest(shared, head.encode(), f"sha{alg[2:]}")
        with pytest.raises(Unauthenticated):
            await authenticator(issuer)(f"{head}.{encoded(signature)}")


@pytest.mark.parametrize("header", [{"alg": "RS256"}, {"alg": "RS256", "kid": "a"}])
async def test_a_rotated_key_without_kid_is_found(issuer, header):
    """A signature that the only key does not verify causes a fetch, once per cooldown; a retry is then accepted."""
    issuer.jwks = [published(RSA)]
    identify = authenticator(issuer, jwks_cooldown=0)
    await identify(issuer.token(RSA, header))
    issuer.jwks = [published(RSA_TWO)]
    await identify(issuer.token(RSA_TWO, header))
    assert issuer.fetches == 2
    with pytest.raises(Unauthenticated):
        await identify(issuer.token(RSA, header, jti="old"))
    early = issuer.token(RSA, header, jti="early")
    with pytest.raises(Unauthenticated):
        await identify(early)
    issuer.jwks = [published(RSA)]
    await identify(early)
    cooling_down = authenticator(issuer, jwks_cooldown=60)
    await cooling_down(issuer.token(RSA, header))
    fetched = issuer.fetches
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await cooling_down(issuer.token(RSA_TWO, header, jti=str(number)))
    assert issuer.fetches == fetched


@pytest.mark.parametrize("discovered", [f"{ISSUER}/", ISSUER.upper(), "https://evil.test", "", None, 7, [ISSUER]])
async def test_a_discovered_issuer_that_differs_is_never_used(issuer, discovered):
    """Keys of another issuer, or of one without a name, are as unavailable as none; the log names the setting."""
    issuer.metadata = {"jwks_uri": f"{ISSUER}/keys", **({} if discovered is None else {"issuer": discovered})}
    identify = authenticator(issuer, jwks_cooldown=0)
    with structlog.testing.capture_logs() as logs, pytest.raises(IssuerUnavailable):
        await identify(issuer.token())
    assert issuer.fetches == 0
    event = next(event for event in logs if event["log_level"] == "error")
    assert event["event"] == "issuer differs from GATEWAY_OIDC_ISSUER"
    assert (event["configured"], event["discovered"]) == (ISSUER, str(discovered))
    issuer.metadata["issuer"] = ISSUER
    await identify(issuer.token())


async def test_an_issuer_with_a_path_or_slash_is_discovered_below_it(issuer):
    """The name ends with a slash only in the tokens and the metadata, not in the path of discovery."""
    name = f"{ISSUER}/realms/fleet/"
    issuer.metadata["issuer"] = name
    asked = []
    oidc = OidcSettings(issuer=name, audience="fleet")

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        path = request.url.path.removeprefix("/realms/fleet")
        return issuer.handle(httpx.Request("GET", f"{ISSUER}{path}"))

    await JWTAuthenticator(oidc, JWKSClient(oidc, httpx.MockTransport(handle)))(issuer.token(iss=name))
    assert asked[0] == "/realms/fleet/.well-known/openid-configuration"


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
    original = jws.validate_compact
    monkeypatch.setattr(jws, "validate_compact", lambda *args, **more: (calls.append(1), original(*args, **more))[1])
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
    for jwks in ([], [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]):
        issuer.handle = lambda request, keys=jwks: httpx.Response(
            200, json={"issuer": ISSUER, "jwks_uri": ISSUER, "keys": keys}
        )
        empty = authenticator(issuer, jwks_cooldown=0)
        for _ in range(2):
            with pytest.raises(IssuerUnavailable):
                await empty(token)
    del issuer.handle
    await identify(token)
    issuer.handle = lambda request: httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": ISSUER, "keys": []})
    await asyncio.sleep(0.02)
    for _ in range(3):
        await identify(token)
        await asyncio.sleep(0.01)


async def test_configured_claims_alone_make_the_principal(issuer):
    """With the issuer; others may differ, and the choice of claims is part of it."""
    identify = authenticator(issuer, principal_claims="sub, fleet_id")
    same = [(await identify(issuer.token(**claims))).principal for claims in ({}, {"scope": "x"}, {"name": "y"})]
    others = [(await identify(issuer.token(**claims))).principal for claims in ({"sub": "x"}, {"fleet_id": "y"})]
    of_all = (await authenticator(issuer)(issuer.token())).principal
    assert len({*same}) == 1
    assert len({same[0], *others, of_all}) == 4


async def test_a_token_without_a_configured_claim_is_told_apart_by_all_claims(issuer):
    """Which is logged once, with the names of the claims."""
    identify = authenticator(issuer, principal_claims="sub, org")
    with structlog.testing.capture_logs() as logs:
        one, other = [(await identify(issuer.token(scope=scope))).principal for scope in "ab"]
    assert one != other
    assert one == (await authenticator(issuer)(issuer.token(scope="a"))).principal
    warnings = [log["names"] for log in logs if log["event"] == "principal claims missing"]
    assert warnings == [["org"]]
    with structlog.testing.capture_logs() as logs:
        await authenticator(issuer, principal_claims="sub")(issuer.token())
        await authenticator(issuer)(issuer.token())
    assert not [log for log in logs if log["event"] == "principal claims missing"]


@pytest.mark.parametrize("claims", [{"client_id": "app"}, {"azp": "app"}, {"client_id": "app", "azp": "other"}])
async def test_the_client_is_a_subject_too(issuer, claims):
    """Of a token without `sub`; it has the rate limit of that client."""
    identify = authenticator(issuer)
    caller = await identify(issuer.token(sub=None, **claims))
    assert caller.client == (await identify(issuer.token(sub="one", **claims))).client
    assert caller.client == (await identify(issuer.token(sub="app"))).client


@pytest.mark.parametrize(
    ("claim", "fleet"),
    [
        ("T7K2M", "T7K2M"),
        (None, None),
        (7, "7"),
        ("", '""'),
        ("a\nb", '"a\\nb"'),
        (["a", 1], '["a",1]'),
        ({"b": 1, "a": None}, '{"a":null,"b":1}'),
        ("x" * FLEET_MAX, "x" * FLEET_MAX),
        ("x" * (FLEET_MAX + 1), principal_of("x" * (FLEET_MAX + 1))),
    ],
)
async def test_the_fleet_is_a_short_printable_text(issuer, claim, fleet):
    """Whatever its claim is; without one there is none."""
    assert (await authenticator(issuer)(issuer.token(fleet_id=claim))).fleet == fleet


@pytest.mark.parametrize(
    ("name", "scopes", "is_valid"),
    [("scope", 7, False), ("scp", 1.5, False), ("scp", {"a": 1}, False), ("scope", ["b", 1], True)],
)
async def test_scopes_are_words_or_a_list(issuer, name, scopes, is_valid):
    """Any other type is rejected."""
    token = issuer.token(**{name: scopes})
    if is_valid:
        await authenticator(issuer)(token)
        return
    with pytest.raises(Unauthenticated):
        await authenticator(issuer)(token)


def test_different_values_have_different_canonical_texts():
    """Of whatever types; only the order of members has no meaning."""
    values = [1, "1", 1.5, True, None, "null", [], {}, [1], ["1"], [[1]], [1, 2], [2, 1], {"a": 1}, {"a": "1"}, "", "é"]
    assert len({canonical(value) for value in values}) == len(values)
    assert canonical({"b": [1, {"d": 1, "c": 2}], "a": 1}) == '{"a":1,"b":[1,{"c":2,"d":1}]}'


async def test_keys_are_fetched_once_for_all_tokens(issuer):
    """Claims that were verified are used until the token expires; then they are verified again."""
    now = time.time()
    oidc = OidcSettings(issuer=ISSUER, audience="fleet", leeway=0)
    identify = JWTAuthenticator(oidc, JWKSClient(oidc, httpx.MockTransport(issuer.handle)), lambda: now)
    token = issuer.token(iat=int(now), exp=int(now) + 10)
    assert (await identify(token)).expires_at == int(now) + 10
    await identify(issuer.token(iat=int(now), jti="2"))
    now += 9
    await identify(token)
    now += 2
    with pytest.raises(Unauthenticated):
        await identify(token)
    assert issuer.fetches == 1
