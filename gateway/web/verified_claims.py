"""From a bearer token to a `Caller` by its claims, once they are verified.

Unverified claims are never looked at.
"""

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

# Signatures by public keys only: with a shared secret, whoever verifies could also sign.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
VERIFIED_MAX = 10_000
REFUSED_MAX = 1_000
# Claims that change from token to token and say nothing of whom it is for: times, and the token's id.
OF_THE_TOKEN = frozenset(("exp", "iat", "nbf", "auth_time", "jti"))
# Claims whose words may come in any order.
SCOPES = ("scope", "scp")
# Characters of a fleet's name; of a longer one the digest is taken.
FLEET_MAX = 200
# What a token raises that can't be read: besides joserfc's own errors, those of odd types and of deep nesting.
UNREADABLE = (JoseError, ValueError, TypeError, OverflowError, RecursionError)
REFUSED = "The bearer token is invalid."


class Claimed(NamedTuple):
    """What verified claims say of a caller, as `Caller` takes it; the token itself is not remembered."""

    principal: str
    expires_at: float
    fleet: str | None
    client: str


class Keys(Protocol):
    """Where an issuer's keys come from: those that are there, and those after a fetch that is waited for."""

    def current(self) -> KeySet | None: ...

    async def renewed(self, seconds: float) -> KeySet | None: ...


class JWTAuthenticator:
    """Callers by verified claims: all claims but times and the token's id make the principal, whatever the token.

    Verdicts hold for as long as the issuer's keys are the same.
    """

    def __init__(self, settings: OidcSettings, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._judged_by: KeySet | None = None
        self._verified: LRU[str, Claimed] = LRU(VERIFIED_MAX)
        self._refused: LRU[str, bool] = LRU(REFUSED_MAX)
        self._principal_claims = settings.principal_names
        self._is_told = False  # that a token lacks one of them
        self._signatures = _Signatures(algorithms=ALGORITHMS)
        required: dict[str, Any] = {"iss": {"essential": True, "value": settings.issuer}, "exp": {"essential": True}}
        if settings.audience is not None:
            required["aud"] = {"essential": True, "value": settings.audience}
        self._registry = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=settings.leeway, **required)

    async def __call__(self, token: str, seconds: float = math.inf) -> Caller:
        """The caller; if keys have to be waited for, at most so many seconds."""
        keys = self._keys.current() or await self._keys.renewed(seconds)
        if keys is None:
            raise IssuerUnavailable
        if keys is not self._judged_by:
            self._judged_by = keys
            self._verified.clear()
            self._refused.clear()
        digest = principal_of(token)
        claimed = self._verified.get(digest)
        if claimed is None or self._clock() >= claimed.expires_at:
            if digest in self._refused:
                raise Unauthenticated(REFUSED)
            claimed = await self._claimed_of(token, digest, keys, seconds)
            self._verified.put(digest, claimed)
        return Caller(token, *claimed)

    async def _claimed_of(self, token: str, digest: str, keys: KeySet, seconds: float) -> Claimed:
        try:
            try:
                payload = self._payload_of(token, keys)
            except InvalidKeyIdError:
                newer = await self._keys.renewed(seconds)
                if newer is None or newer is keys:
                    raise
                payload = self._payload_of(token, newer)
        except InvalidKeyIdError as unknown:
            raise Unauthenticated(REFUSED) from unknown
        except UNREADABLE as refused:
            # No later look at it would end in another way, unless the keys change.
            self._refused.put(digest, True)
            raise Unauthenticated(REFUSED) from refused
        try:
            return self._claimed_by(payload)
        except UNREADABLE as refused:
            raise Unauthenticated(REFUSED) from refused

    def _payload_of(self, token: str, keys: KeySet) -> bytes:
        payload = jws.deserialize_compact(token, keys, registry=self._signatures).payload
        assert payload is not None
        return payload

    def _claimed_by(self, payload: bytes) -> Claimed:
        claims = json.loads(payload, parse_constant=_not_json)
        if not isinstance(claims, dict):
            raise TypeError("no claims")
        self._registry.validate(claims)
        who = claims.get("sub") or claims.get("client_id") or claims.get("azp")
        if not isinstance(who, str):
            raise Unauthenticated("The bearer token has no subject.")
        # Numbers as they are written: 1e400 and 1e401 are one to Python, and need not be to the fleet API.
        exact: dict[str, Any] = json.loads(payload, parse_float=_Number)
        for name in SCOPES:
            if name in exact:
                exact[name] = _in_order(exact[name])
        fleet = exact.get(self._settings.fleet_claim)
        client = claims.get("client_id") or claims.get("azp") or who
        return Claimed(
            self._principal_by(exact),
            float(claims["exp"]),
            fleet if fleet is None else _fleet_named(fleet),
            principal_of("client", canonical(claims["iss"]), canonical(client)),
        )

    def _principal_by(self, claims: dict[str, Any]) -> str:
        names = self._principal_claims
        if names and claims.keys() >= names:
            parts = {name: claims[name] for name in names | {"iss"}}
        else:
            if names and not self._is_told:
                log.warning("principal claims missing", names=sorted(names - claims.keys()))
                self._is_told = True
            names = frozenset()
            parts = {name: value for name, value in claims.items() if name not in OF_THE_TOKEN}
        # Gateways that share a Redis may take their keys from elsewhere.
        trust = self._settings.jwks_uri or ""
        return principal_of("oidc", trust, canonical(sorted(names)), canonical(parts))


class _Signatures(jws.JWSRegistry):
    """joserfc's registry for tokens: without `b64`, which RFC 7797 keeps out of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.header_registry["b64"]

    def get_alg(self, name: str) -> Any:
        """The algorithm; EdDSA without a warning that RFC 9864 has other names for it, which issuers do not use yet."""
        return self.algorithms[name] if name == "EdDSA" else super().get_alg(name)


class _Number(str):
    """A number that is none of Python's integers, as it is written."""

    __slots__ = ()


def canonical(value: object) -> str:
    """JSON of which there is one for each value and one value for each: members are sorted, types stay apart."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(name)}:{canonical(value[name])}' for name in sorted(value))}}}"
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    return str(value) if isinstance(value, _Number) else json.dumps(value)


def _in_order(scopes: object) -> object:
    """Scopes, which mean the same in any order; raises TypeError for what can't be any."""
    if isinstance(scopes, str) and not isinstance(scopes, _Number):
        return " ".join(sorted(scopes.split(" ")))
    if isinstance(scopes, list):
        return sorted(scopes, key=canonical)
    if scopes is None:
        return None
    raise TypeError("odd scopes")


def _fleet_named(claim: object) -> str:
    """A fleet by the claim that names it, whatever its type; never empty, never long, and sound as UTF-8."""
    name = str(claim) if isinstance(claim, str) and claim and claim.isprintable() else canonical(claim)
    return name if len(name) <= FLEET_MAX else principal_of(name)


def _not_json(constant: str) -> object:
    raise ValueError(f"not JSON: {constant}")
