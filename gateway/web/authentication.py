"""Authenticates bearer tokens as JWTs of an OpenID Connect issuer. Unverified claims are never used."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from joserfc import jws, jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from gateway.concurrency.lru import LRU
from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.identity import Caller, principal_of
from gateway.settings import OidcSettings
from gateway.telemetry import get_logger

log = get_logger("gateway.web")

# Asymmetric signatures only: with a shared secret, a verifier could also sign.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
VERIFIED_MAX = 10_000
REJECTED_MAX = 1_000
# Claims that differ in every token and do not identify the caller: times, and the token's id.
PER_TOKEN = frozenset(("exp", "iat", "nbf", "auth_time", "jti"))
# Claims that are lists of words in any order.
SCOPES = ("scope", "scp")
# Characters of a fleet's name; a longer one is replaced by its digest.
FLEET_MAX = 200
# Exceptions for an invalid token: joserfc's own, and those for unexpected types and deep nesting.
INVALID = (JoseError, ValueError, TypeError, OverflowError, RecursionError)
INVALID_MESSAGE = "The bearer token is invalid."


class CallerClaims(NamedTuple):
    """A caller's verified claims, in the order of `Caller`'s parameters; the token itself is not cached."""

    principal: str
    expires_at: float
    fleet: str | None
    client: str


class Keys(Protocol):
    """The source of an issuer's keys: the cached ones, or those after a fetch."""

    def current(self) -> KeySet | None: ...

    async def renewed(self, seconds: float) -> KeySet | None: ...


class JWTAuthenticator:
    """Identifies callers by verified claims. The principal consists of all claims except times and the token's id.

    Results are cached until the issuer's keys change.
    """

    def __init__(self, settings: OidcSettings, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._cached_for: KeySet | None = None
        self._verified: LRU[str, CallerClaims] = LRU(VERIFIED_MAX)
        self._rejected: LRU[str, bool] = LRU(REJECTED_MAX)
        self._principal_claims = settings.principal_names
        self._has_warned = False  # that a token lacks one of them
        self._signatures = _Signatures(algorithms=ALGORITHMS)
        required: dict[str, Any] = {"iss": {"essential": True, "value": settings.issuer}, "exp": {"essential": True}}
        if settings.audience is not None:
            required["aud"] = {"essential": True, "value": settings.audience}
        self._registry = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=settings.leeway, **required)

    async def __call__(self, token: str, seconds: float = math.inf) -> Caller:
        """The caller of a token; waits at most `seconds` for keys. Raises Unauthenticated and IssuerUnavailable."""
        keys = self._keys.current() or await self._keys.renewed(seconds)
        if keys is None:
            raise IssuerUnavailable
        if keys is not self._cached_for:
            self._cached_for = keys
            self._verified.clear()
            self._rejected.clear()
        digest = principal_of(token)
        claims = self._verified.get(digest)
        if claims is None or self._clock() >= claims.expires_at:
            if digest in self._rejected:
                raise Unauthenticated(INVALID_MESSAGE)
            claims = await self._verify(token, digest, keys, seconds)
            self._verified.put(digest, claims)
        return Caller(token, *claims)

    async def _verify(self, token: str, digest: str, keys: KeySet, seconds: float) -> CallerClaims:
        try:
            try:
                payload = self._payload_of(token, keys)
            except InvalidKeyIdError:
                newer = await self._keys.renewed(seconds)
                if newer is None or newer is keys:
                    raise
                payload = self._payload_of(token, newer)
        except InvalidKeyIdError as unknown:
            raise Unauthenticated(INVALID_MESSAGE) from unknown
        except INVALID as failure:
            # The result is the same until the keys change.
            self._rejected.put(digest, True)
            raise Unauthenticated(INVALID_MESSAGE) from failure
        try:
            return self._caller_claims(payload)
        except INVALID as failure:
            raise Unauthenticated(INVALID_MESSAGE) from failure

    def _payload_of(self, token: str, keys: KeySet) -> bytes:
        payload = jws.deserialize_compact(token, keys, registry=self._signatures).payload
        assert payload is not None
        return payload

    def _caller_claims(self, payload: bytes) -> CallerClaims:
        claims = json.loads(payload, parse_constant=_not_json)
        if not isinstance(claims, dict):
            raise TypeError("claims are not an object")
        self._registry.validate(claims)
        subject = claims.get("sub") or claims.get("client_id") or claims.get("azp")
        if not isinstance(subject, str):
            raise Unauthenticated("The bearer token has no subject.")
        # Numbers keep their spelling: 1e400 and 1e401 are equal in Python, but perhaps not to the fleet API.
        exact: dict[str, Any] = json.loads(payload, parse_float=_Number)
        for name in SCOPES:
            if name in exact:
                exact[name] = _sorted_scopes(exact[name])
        fleet = exact.get(self._settings.fleet_claim)
        client = claims.get("client_id") or claims.get("azp") or subject
        return CallerClaims(
            self._principal(exact),
            float(claims["exp"]),
            fleet if fleet is None else _fleet_name(fleet),
            principal_of("client", canonical(claims["iss"]), canonical(client)),
        )

    def _principal(self, claims: dict[str, Any]) -> str:
        names = self._principal_claims
        if names and claims.keys() >= names:
            parts = {name: claims[name] for name in names | {"iss"}}
        else:
            if names and not self._has_warned:
                log.warning("principal claims missing", names=sorted(names - claims.keys()))
                self._has_warned = True
            names = frozenset()
            parts = {name: value for name, value in claims.items() if name not in PER_TOKEN}
        # Gateways that share a Redis may use different keys.
        jwks_uri = self._settings.jwks_uri or ""
        return principal_of("oidc", jwks_uri, canonical(sorted(names)), canonical(parts))


class _Signatures(jws.JWSRegistry):
    """joserfc's registry without the header parameter `b64`, which RFC 7797 forbids in JWTs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.header_registry["b64"]

    def get_alg(self, name: str) -> Any:
        """The algorithm; EdDSA without the warning about RFC 9864's new names, which issuers do not use yet."""
        return self.algorithms[name] if name == "EdDSA" else super().get_alg(name)


class _Number(str):
    """A number that is not an integer, in its original spelling."""

    __slots__ = ()


def canonical(value: object) -> str:
    """Canonical JSON: members are sorted, and different values, also of different types, never have the same text."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(name)}:{canonical(value[name])}' for name in sorted(value))}}}"
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    return str(value) if isinstance(value, _Number) else json.dumps(value)


def _sorted_scopes(scopes: object) -> object:
    """Scopes in a fixed order, because their order has no meaning. Raises TypeError for another type."""
    if isinstance(scopes, str) and not isinstance(scopes, _Number):
        return " ".join(sorted(scopes.split(" ")))
    if isinstance(scopes, list):
        return sorted(scopes, key=canonical)
    if scopes is None:
        return None
    raise TypeError("scopes are neither a string nor a list")


def _fleet_name(claim: object) -> str:
    """The fleet's name from a claim of any type; never empty or long, and valid UTF-8."""
    name = str(claim) if isinstance(claim, str) and claim and claim.isprintable() else canonical(claim)
    return name if len(name) <= FLEET_MAX else principal_of(name)


def _not_json(constant: str) -> object:
    raise ValueError(f"not JSON: {constant}")
