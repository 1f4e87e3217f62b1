"""From a bearer token to a `Caller` by its claims, once they are verified.

Unverified claims are never looked at.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from gateway.errors import Unauthenticated
from gateway.identity import Caller, principal_of
from gateway.settings import OidcSettings

# Signatures by public keys only: with a shared secret, whoever verifies could also sign.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
VERIFIED_MAX = 10_000


class Claimed(NamedTuple):
    """What verified claims say of a caller, as `Caller` takes it; the token itself is not remembered."""

    principal: str
    expires_at: float
    fleet: str | None
    client: str


class Keys(Protocol):
    """Where an issuer's keys come from."""

    async def keys(self, *, refresh: bool = False) -> KeySet: ...


class VerifiedClaims:
    """Callers by verified claims: a principal is issuer, subject or client, fleet and scopes, whatever the token."""

    def __init__(self, settings: OidcSettings, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._verified: OrderedDict[str, Claimed] = OrderedDict()
        required: dict[str, Any] = {"iss": {"essential": True, "value": settings.issuer}, "exp": {"essential": True}}
        if settings.audience is not None:
            required["aud"] = {"essential": True, "value": settings.audience}
        self._registry = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=settings.leeway, **required)

    async def __call__(self, token: str) -> Caller:
        digest = principal_of(token)
        claimed = self._verified.get(digest)
        if claimed is None or self._clock() >= claimed.expires_at:
            claimed = self._verified[digest] = await self._claimed_of(token)
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        return Caller(token, *claimed)

    async def _claimed_of(self, token: str) -> Claimed:
        try:
            try:
                claims = _decoded(token, await self._keys.keys())
            except InvalidKeyIdError:
                claims = _decoded(token, await self._keys.keys(refresh=True))
            self._registry.validate(claims)
            return self._claimed_by(claims)
        except (JoseError, ValueError, TypeError, OverflowError) as refused:
            raise Unauthenticated("The bearer token is not valid here.") from refused

    def _claimed_by(self, claims: dict[str, Any]) -> Claimed:
        who = claims.get("sub") or claims.get("client_id") or claims.get("azp")
        if not isinstance(who, str):
            raise Unauthenticated("The bearer token names no subject.")
        fleet = claims.get(self._settings.fleet_claim)
        fleet = fleet if isinstance(fleet, str) else None
        scope = claims.get("scope") or claims.get("scp") or ""
        scopes = sorted(scope.split() if isinstance(scope, str) else map(str, scope))
        kinds = "\x01".join(str(claims.get(name, "")) for name in ("client_id", "azp"))
        principal = principal_of("oidc", str(claims["iss"]), who, kinds, fleet or "", " ".join(scopes))
        client = principal_of("client", str(claims["iss"]), str(claims.get("client_id") or claims.get("azp") or who))
        return Claimed(principal, float(claims["exp"]), fleet, client)


def _decoded(token: str, keys: KeySet) -> dict[str, Any]:
    return dict(jwt.decode(token, keys, algorithms=ALGORITHMS).claims)
