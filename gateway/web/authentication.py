"""Authenticates bearer tokens as JWTs of an OpenID Connect issuer. Unverified claims are never used."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwa import EdDSAAlgorithm, JWSAlgModel
from joserfc.jwk import Key, OKPKey

from gateway.concurrency.lru import LRU
from gateway.errors import IssuerUnavailable, Unauthenticated
from gateway.identity import Caller, principal_of
from gateway.settings import OidcSettings
from gateway.telemetry.logs import get_logger

log = get_logger("gateway.web")

# Asymmetric signatures only: with a shared secret, a verifier could also sign. RFC 9864 replaces EdDSA by the name of
# the curve; the other names are fully specified already.
ALGORITHMS = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "Ed448", "EdDSA",
]  # fmt: skip
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


class KeyNotFound(Exception):
    """The keys do not determine whether a token is valid; newer ones may. The message is for the caller."""


class Keys(Protocol):
    """The source of an issuer's keys: the cached ones, or those after a fetch."""

    def current(self) -> Sequence[Key] | None: ...

    async def renewed(self, seconds: float) -> Sequence[Key] | None: ...


class JWTAuthenticator:
    """Identifies callers by verified claims. The principal consists of all claims except times and the token's id.

    Results are cached until the issuer's keys change.
    """

    def __init__(self, settings: OidcSettings, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._cached_for: Sequence[Key] | None = None
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

    async def _verify(self, token: str, digest: str, keys: Sequence[Key], seconds: float) -> CallerClaims:
        try:
            try:
                payload = self._payload_of(token, keys)
            except KeyNotFound:
                newer = await self._keys.renewed(seconds)
                if newer is None or newer is keys:
                    raise
                payload = self._payload_of(token, newer)
        except KeyNotFound as unknown:
            raise Unauthenticated(str(unknown)) from unknown
        except INVALID as failure:
            # The result is the same until the keys change.
            self._rejected.put(digest, True)
            raise Unauthenticated(INVALID_MESSAGE) from failure
        try:
            return self._caller_claims(payload)
        except INVALID as failure:
            raise Unauthenticated(INVALID_MESSAGE) from failure

    def _payload_of(self, token: str, keys: Sequence[Key]) -> bytes:
        signed = jws.extract_compact(token.encode(), registry=self._signatures)
        header = signed.headers()
        self._signatures.check_header(header)
        kid = header.get("kid")
        key = signing_key(keys, self._signatures.get_alg(header["alg"]), kid)
        if not jws.validate_compact(signed, key, registry=self._signatures):
            if kid is None or key.kid is None:
                raise KeyNotFound(INVALID_MESSAGE)  # The issuer may have replaced the key.
            raise BadSignatureError
        assert signed.payload is not None
        return signed.payload

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
    """joserfc's registry, which ignores unknown header parameters that are not in `crit` (RFC 7515, 4).

    `b64` in `crit` is unknown, because RFC 7797 forbids it in JWTs.
    """

    # Certificates in `x5c` take kilobytes. The server limits the bytes of all header fields.
    max_header_length = 2**20

    def __init__(self, **options: Any) -> None:
        super().__init__(strict_check_header=False, **options)
        self.algorithms = {**self.algorithms, "EdDSA": _EdDSA()}
        del self.header_registry["b64"]


class _EdDSA(EdDSAAlgorithm):
    """EdDSA as the algorithm of the key's curve, without joserfc's warning that RFC 9864 deprecates the name."""

    security_warning = ""

    def check_key(self, key: Key) -> None:
        curve = "Ed448" if isinstance(key, OKPKey) and key.curve_name == "Ed448" else "Ed25519"
        jws.JWSRegistry.algorithms[curve].check_key(key)


class _Number(str):
    """A number that is not an integer, in its original spelling."""

    __slots__ = ()


def signing_key(keys: Sequence[Key], algorithm: JWSAlgModel, kid: str | None) -> Key:
    """The one key that can have signed a token with this header. Raises KeyNotFound if there is none or several.

    Without a `kid`, in the token or in the keys, the algorithm and the use of the keys have to leave one.
    """
    named = keys if kid is None else [key for key in keys if key.kid == kid] or [key for key in keys if key.kid is None]
    candidates = [key for key in named if _verifies(key, algorithm)]
    if len(candidates) > 1:  # The same key may be published more than once.
        candidates = [*{key.thumbprint(): key for key in candidates}.values()]
    if len(candidates) == 1:
        return candidates[0]
    number = "More than one key" if candidates else "No key"
    header = "`alg`, and it has no `kid`" if kid is None else "`alg` and `kid`"
    raise KeyNotFound(f"{number} of the issuer matches the bearer token's {header}.")


def _verifies(key: Key, algorithm: JWSAlgModel) -> bool:
    """Whether the type, curve, `alg`, `use` and `key_ops` of a key allow that it verifies an algorithm's signatures."""
    try:
        algorithm.check_key(key)
        key.check_key_op("verify")
    except JoseError:
        return False
    return True


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
