"""The OpenID Connect issuer's public keys: discovered, cached, and renewed behind the callers who use them.

There is one fetch at a time, and whatever comes of it is remembered: the next one is `keys_pause` seconds later at the
earliest, whoever wants it. So neither an issuer that hangs nor tokens that name unknown keys cost more than that.
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
from joserfc.jwk import JWKRegistry, Key, KeySet, OctKey, RSAKey

from gateway.errors import IssuerUnavailable
from gateway.settings import OidcSettings
from gateway.telemetry import get_logger

log = get_logger("gateway.upstream")

# Bounds of a document: bytes as they come, pieces that they may come in, keys that are looked at.
BYTES_MAX = 2**20
PIECES_MAX = 4096
KEYS_MAX = 256
# RFC 7518, 3.3.
RSA_BITS_MIN = 2048
# Compressed, a small answer may be a large one.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
# What can go wrong with an answer: the network, its URL, its JSON.
BROKEN = (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, OSError, ValueError, RecursionError)


class JWKSClient:
    """Has the keys ready; they are renewed after `keys_ttl` seconds, or earlier for a token that names another key."""

    def __init__(self, settings: OidcSettings, network: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._network = network
        self._tls = ssl.create_default_context()
        self._keys: KeySet | None = None
        self._published: list[Any] | None = None  # what the keys were read from
        self._fetched_at = -math.inf
        self._next_fetch = -math.inf
        self._fetch: asyncio.Task[None] | None = None

    def current(self) -> KeySet | None:
        """The keys, without waiting; None where there are none, or where the issuer has failed for too long.

        It is the same object for as long as the issuer publishes the same keys.
        """
        age = time.monotonic() - self._fetched_at
        if age > self._settings.jwks_ttl:
            self._renew()
            if age > self._settings.jwks_ttl + self._settings.jwks_stale_if_error:
                return None
        return self._keys

    async def renewed(self, seconds: float) -> KeySet | None:
        """The keys after a fetch, which is waited for at most so many seconds; within the pause there is none."""
        self._renew()
        if self._fetch is not None and seconds > 0:
            await asyncio.wait((self._fetch,), timeout=min(seconds, self._settings.timeout))
        return self.current()

    async def close(self) -> None:
        """Ends a fetch under way; whoever waits for it gets what was there before."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait((self._fetch,))
        self._next_fetch = math.inf

    def _renew(self) -> None:
        """Begins a fetch, unless one is under way or the last one was only just."""
        if self._fetch is None and time.monotonic() >= self._next_fetch:
            self._fetch = asyncio.create_task(self._fetched())

    async def _fetched(self) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout), self._client() as client:
                published = await self._published_by(client)
            if published != self._published:
                self._keys, self._published = self._key_set_of(published), published
            self._fetched_at = time.monotonic()
        except (IssuerUnavailable, *BROKEN) as failed:
            log.warning("issuer keys not fetched", kind=type(failed).__name__, cached=self._keys is not None)
        finally:
            self._next_fetch = time.monotonic() + self._settings.jwks_cooldown
            self._fetch = None

    def _client(self) -> httpx.AsyncClient:
        # One for each fetch: a fetch that is cancelled leaves httpx's pool in disorder, and there is one an hour.
        return httpx.AsyncClient(
            transport=self._network, timeout=self._settings.timeout, trust_env=False, verify=self._tls, headers=HEADERS
        )

    async def _published_by(self, client: httpx.AsyncClient) -> list[Any]:
        url = self._settings.jwks_uri
        if url is None:
            assert self._settings.issuer is not None
            discovery = self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
            url = (await _json_of(client, discovery)).get("jwks_uri")
        if not isinstance(url, str):
            raise IssuerUnavailable
        keys = (await _json_of(client, url)).get("keys")
        if not isinstance(keys, list):
            raise IssuerUnavailable
        return keys[:KEYS_MAX]

    def _key_set_of(self, published: list[Any]) -> KeySet:
        """The keys that can verify a token; others are skipped, and logged when they are seen first."""
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
        return KeySet(keys)


def _public_key_of(jwk: Any) -> Key:
    key = JWKRegistry.import_key(jwk)
    key.ensure_kid()
    if isinstance(key, OctKey) or (isinstance(key, RSAKey) and key.raw_value.key_size < RSA_BITS_MIN):
        raise InvalidKeyTypeError("A shared secret, or a key that is too short.")
    return key


async def _json_of(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object, counted against its bounds as it arrives; a redirect is not followed."""
    body, pieces = bytearray(), 0
    async with client.stream("GET", url) as answer:
        if not answer.is_success or answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise IssuerUnavailable
        async for piece in answer.aiter_bytes():
            body += piece
            pieces += 1
            if len(body) > BYTES_MAX or pieces > PIECES_MAX:
                raise IssuerUnavailable
    return msgspec.json.decode(body, type=dict[str, Any])
