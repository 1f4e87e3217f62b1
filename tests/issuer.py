"""An OpenID Connect issuer for tests: discovery, keys, tokens; keys can be rotated, and it can go down."""

from __future__ import annotations

import time
import warnings
from functools import cache

import httpx
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import Key, KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ISSUER = "https://issuer.test"


def published(key: Key, **members: object) -> dict[str, object]:
    """A key as a JWK, with its `kid` only if that is among the members; None leaves a member out."""
    jwk = {**key.as_dict(private=False), "kid": None, **members}
    return {name: value for name, value in jwk.items() if value is not None}


@cache
def first_key() -> Key:
    """The key with which every issuer begins, because generating one takes a while."""
    return RSAKey.generate_key(2048, {"kid": "one"})


class FakeIssuer:
    """Signs tokens with its one key and publishes that, or `jwks` instead."""

    def __init__(self) -> None:
        self.jwks: list[object] | None = None
        self.key = first_key()
        self.fetches = 0
        self.down = False
        self.metadata: dict[str, object] = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}

    def rotate(self, kid: str) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": kid})

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("down")
        if request.url.path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=self.metadata)
        self.fetches += 1
        keys = KeySet([self.key]).as_dict(private=False)["keys"] if self.jwks is None else self.jwks
        return httpx.Response(200, json={"keys": keys})

    def app(self) -> Starlette:
        """The same over a socket, where an issuer that is down answers 503."""

        async def answer(request: Request) -> Response:
            if self.down:
                return Response(status_code=503)
            response = self.handle(httpx.Request("GET", str(request.url)))
            return Response(response.content, response.status_code, media_type="application/json")

        return Starlette(routes=[Route("/{path:path}", answer)])

    def token(self, key: Key | None = None, header: dict[str, object] | None = None, **claims: object) -> str:
        """A token with sound claims, but for those given; None leaves one out."""
        now = int(time.time())
        body = {"iss": ISSUER, "sub": "cl1", "aud": "fleet", "iat": now, "exp": now + 900, "fleet_id": "T7K2M",
                "scope": "vehicles.ro", **claims}  # fmt: skip
        signer = key or self.key
        header = header or {"alg": "RS256", "kid": signer.kid}
        body = {name: value for name, value in body.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.encode(header, body, signer, algorithms=[header["alg"]])
