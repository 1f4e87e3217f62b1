"""The OpenID Connect issuer's public keys (JWKS): discovered, cached, and refreshed in the background.

There is one fetch at a time, and at least `oidc.jwks_cooldown` seconds from the end of one to the start of the next,
also after a failure. That limits the cost of an issuer that hangs and of tokens with unknown keys.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from typing import Any

import httpx
import msgspec
from joserfc.errors import InvalidKeyTypeError
from joserfc.jwk import JWKRegistry, Key, OctKey, OKPKey, RSAKey

from gateway.errors import IssuerUnavailable
from gateway.settings import OidcSettings
from gateway.telemetry.logs import get_logger
from gateway.web.health import KEYS_EXPIRED, NO_KEYS, UP

log = get_logger("gateway.upstream")

# Limits of a document: its bytes, the chunks in which they arrive, and the keys that are read.
BYTES_MAX = 2**20
CHUNKS_MAX = 4096
KEYS_MAX = 256
# Characters of a discovered issuer in a log line.
LOGGED_MAX = 200
# RFC 7518, 3.3.
RSA_BITS_MIN = 2048
# A small compressed response may decompress to a large one.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
# Exceptions of a failed fetch: network, URL, JSON.
FAILURES = (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, OSError, ValueError, RecursionError)


class JWKSClient:
    """Caches the keys. They are refreshed after `oidc.jwks_ttl` seconds, or earlier for a token with an unknown key."""

    def __init__(self, settings: OidcSettings, network: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._network = network
        self._tls = ssl.create_default_context()
        self._keys: tuple[Key, ...] | None = None
        self._published: list[Any] | None = None  # the JSON of the keys
        self._fetched_at = -math.inf
        self._next_fetch = -math.inf
        self._fetch: asyncio.Task[None] | None = None

    def current(self) -> tuple[Key, ...] | None:
        """The cached keys; None if there are none, or if the issuer has failed for too long.

        The object is the same while the issuer publishes the same keys.
        """
        if time.monotonic() - self._fetched_at > self._settings.jwks_ttl:
            self._renew()
        return self._unexpired()

    def state(self) -> str:
        """The state of the keys, for readiness; it starts no fetch."""
        if self._keys is None:
            return NO_KEYS
        return KEYS_EXPIRED if self._unexpired() is None else UP

    async def renewed(self, seconds: float) -> tuple[Key, ...] | None:
        """The keys after a fetch, waiting at most `seconds` for it; during the cooldown nothing is fetched."""
        self._renew()
        if self._fetch is not None and seconds > 0:
            await asyncio.wait((self._fetch,), timeout=min(seconds, self._settings.timeout))
        return self._unexpired()  # without starting another fetch, which the next request would wait for

    async def close(self) -> None:
        """Cancels a running fetch; requests that wait for it get the cached keys."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait((self._fetch,))
        self._next_fetch = math.inf

    def _unexpired(self) -> tuple[Key, ...] | None:
        lasts = self._settings.jwks_ttl + self._settings.jwks_stale_if_error
        return self._keys if time.monotonic() - self._fetched_at <= lasts else None

    def _renew(self) -> None:
        """Starts a fetch, unless one is running or the cooldown has not passed."""
        if self._fetch is None and time.monotonic() >= self._next_fetch:
            self._fetch = asyncio.create_task(self._fetch_keys())

    async def _fetch_keys(self) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout), self._client() as client:
                published = await self._fetch_published(client)
            if published != self._published:
                self._keys, self._published = self._usable(published), published
            self._fetched_at = time.monotonic()
        except (IssuerUnavailable, *FAILURES) as failure:
            log.warning("issuer keys not fetched", kind=type(failure).__name__, cached=self._keys is not None)
        finally:
            self._next_fetch = time.monotonic() + self._settings.jwks_cooldown
            self._fetch = None

    def _client(self) -> httpx.AsyncClient:
        # One per fetch: cancelling a fetch may break httpx's pool, and fetches are rare.
        return httpx.AsyncClient(
            transport=self._network, timeout=self._settings.timeout, trust_env=False, verify=self._tls, headers=HEADERS
        )

    async def _fetch_published(self, client: httpx.AsyncClient) -> list[Any]:
        url = self._settings.jwks_uri
        if url is None:
            assert self._settings.issuer is not None
            url = (await self._discovered(client, self._settings.issuer)).get("jwks_uri")
        if not isinstance(url, str):
            raise IssuerUnavailable
        keys = (await _json_of(client, url)).get("keys")
        if not isinstance(keys, list):
            raise IssuerUnavailable
        return keys[:KEYS_MAX]

    async def _discovered(self, client: httpx.AsyncClient, issuer: str) -> dict[str, Any]:
        """The issuer's metadata, which have to name the issuer exactly as it is configured (Discovery 1.0, 4.3)."""
        metadata = await _json_of(client, issuer.rstrip("/") + "/.well-known/openid-configuration")
        if metadata.get("issuer") != issuer:
            discovered = str(metadata.get("issuer"))[:LOGGED_MAX]
            log.error("issuer differs from GATEWAY_OIDC_ISSUER", configured=issuer, discovered=discovered)
            raise IssuerUnavailable
        return metadata

    def _usable(self, published: list[Any]) -> tuple[Key, ...]:
        """The usable keys. Others are skipped, and logged each time that the keys have changed."""
        keys: list[Key] = []
        skipped: list[str] = []
        for jwk in published:
            try:
                keys.append(_public_key_of(jwk))
            except Exception as unusable:  # noqa: BLE001 - joserfc and cryptography raise many kinds
                skipped.append(type(unusable).__name__)
        if skipped:
            log.warning("issuer keys skipped", number=len(skipped), kinds=sorted(set(skipped)))
        if not keys:
            raise IssuerUnavailable
        return tuple(keys)


def _public_key_of(jwk: Any) -> Key:
    jwk = {name: value for name, value in jwk.items() if value is not None}  # some serialisers write absent members
    key = JWKRegistry.import_key(jwk)
    if isinstance(key, OKPKey) and key.alg == "EdDSA":
        key = JWKRegistry.import_key({**jwk, "alg": key.curve_name})  # the name in RFC 9864
    if isinstance(key, OctKey) or (isinstance(key, RSAKey) and key.raw_value.key_size < RSA_BITS_MIN):
        raise InvalidKeyTypeError("Key is a shared secret or too short.")
    return key


async def _json_of(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Fetches a JSON object, whose size is limited as it arrives; redirects are not followed."""
    body, chunks = bytearray(), 0
    async with client.stream("GET", url) as response:
        if not response.is_success or response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise IssuerUnavailable
        async for chunk in response.aiter_bytes():
            body += chunk
            chunks += 1
            if len(body) > BYTES_MAX or chunks > CHUNKS_MAX:
                raise IssuerUnavailable
    return msgspec.json.decode(body, type=dict[str, Any])
