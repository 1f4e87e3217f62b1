"""The OpenID Connect issuer's public keys: discovered, kept, and fetched again when a token names an unknown one."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import httpx
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from gateway.errors import IssuerUnavailable
from gateway.settings import OidcSettings

KEYS_BYTES_MAX = 2**20


class Issuer:
    """Fetches the keys once every `keys_ttl` seconds, and at most every `keys_pause` for an unknown key's sake."""

    def __init__(self, settings: OidcSettings, wire: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(
            transport=wire, timeout=settings.timeout, trust_env=False, verify=ssl.create_default_context()
        )
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def keys(self, *, refresh: bool = False) -> KeySet:
        """The issuer's keys; `refresh` asks for newer ones because a token names a key that is not among them."""
        async with self._one_at_a_time:
            age = time.monotonic() - self._fetched_at
            if self._keys is None or age > (self._settings.keys_pause if refresh else self._settings.keys_ttl):
                try:
                    self._keys = await self._fetched()
                    self._fetched_at = time.monotonic()
                except IssuerUnavailable:
                    if self._keys is None:
                        raise
            return self._keys

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _fetched(self) -> KeySet:
        url = self._settings.keys_url
        if url is None:
            assert self._settings.issuer is not None
            url = (await self._json(self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration")).get(
                "jwks_uri"
            )
        if not isinstance(url, str):
            raise IssuerUnavailable
        try:
            return KeySet.import_key_set(await self._json(url))  # type: ignore[arg-type]
        except (JoseError, KeyError, TypeError, ValueError) as odd:
            raise IssuerUnavailable from odd

    async def _json(self, url: str) -> dict[str, Any]:
        try:
            answer = await self._client.get(url, headers={"Accept": "application/json"})
            if answer.is_success and len(answer.content) <= KEYS_BYTES_MAX:
                return msgspec.json.decode(answer.content, type=dict[str, Any])
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError) as failed:
            raise IssuerUnavailable from failed
        raise IssuerUnavailable
