"""An OpenID Connect issuer for tests: discovery, keys, tokens; keys can be rotated, and it can go down."""

from __future__ import annotations

import time

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ISSUER = "https://issuer.test"


class FakeIssuer:
    """Signs tokens with its one key and publishes that."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self.fetches = 0
        self.down = False

    def rotate(self, kid: str) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": kid})

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("down")
        if request.url.path == "/.well-known/openid-configuration":
            return httpx.Response(200, json={"jwks_uri": f"{ISSUER}/keys"})
        self.fetches += 1
        return httpx.Response(200, json=KeySet([self.key]).as_dict(private=False))

    def app(self) -> Starlette:
        """The same over a socket, where an issuer that is down answers 503."""

        async def answer(request: Request) -> Response:
            if self.down:
                return Response(status_code=503)
            response = self.handle(httpx.Request("GET", str(request.url)))
            return Response(response.content, response.status_code, media_type="application/json")

        return Starlette(routes=[Route("/{path:path}", answer)])

    def token(self, key: RSAKey | None = None, **claims: object) -> str:
        """A token with sound claims, but for those given; None leaves one out."""
        now = int(time.time())
        body = {"iss": ISSUER, "sub": "cl1", "aud": "fleet", "iat": now, "exp": now + 900, "fleet_id": "T7K2M",
                "scope": "vehicles.ro", **claims}  # fmt: skip
        signer = key or self.key
        return jwt.encode({"alg": "RS256", "kid": signer.kid}, {k: v for k, v in body.items() if v is not None}, signer)
