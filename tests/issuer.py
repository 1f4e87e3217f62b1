"""An OpenID Connect issuer for tests: discovery, keys, tokens, logins; keys can be rotated, and it can go down."""

from __future__ import annotations

import hashlib
import html
import secrets
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from urllib.parse import parse_qsl, urlencode

import httpx
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import Key, KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
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


class LoginIssuer(FakeIssuer):
    """An issuer with logins for one public client: authorization code with PKCE, refresh tokens that are used once.

    Its tokens last for `seconds`, or are said to last for `claimed`. `accept` is called with each of them.
    """

    def __init__(
        self, accept: Callable[[str], None], seconds: float, claimed: float | None = None, refreshes: int | None = None
    ) -> None:
        super().__init__()
        self.refreshes = refreshes  # that are granted after a login; None for any number
        self.accept = accept
        self.seconds = seconds
        self.claimed = seconds if claimed is None else claimed
        self.url = ISSUER
        self.codes: dict[str, tuple[str, str]] = {}  # the challenge and the redirect URI of each code
        self.refresh_tokens: set[str] = set()
        self.issued: list[str] = []  # all tokens, of both kinds
        self.grants: list[str] = []

    def served_at(self, url: str) -> None:
        """Takes the address at which it is served as its name."""
        self.url = url
        paths = {"jwks_uri": "keys", "authorization_endpoint": "authorize", "token_endpoint": "token",
                 "revocation_endpoint": "revoke"}  # fmt: skip
        self.metadata = {"issuer": url, **{name: f"{url}/{path}" for name, path in paths.items()}}

    def app(self) -> Starlette:
        """The issuer over a socket; pages of any origin may read its metadata and its tokens."""

        async def document(request: Request) -> Response:
            response = self.handle(httpx.Request("GET", str(request.url)))
            return Response(response.content, response.status_code, ANY_ORIGIN, "application/json")

        routes = [
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/revoke", self._revoke, methods=["POST"]),
            Route("/{path:path}", document),
        ]
        return Starlette(routes=routes)

    async def _authorize(self, request: Request) -> Response:
        asked = request.query_params
        assert (asked["response_type"], asked["client_id"]) == ("code", "explorer")
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe()
        self.codes[code] = (asked["code_challenge"], asked["redirect_uri"])
        back = f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.url})}"
        return HTMLResponse(f'<a id="continue" href="{html.escape(back)}">Continue as Alice</a>')

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        self.grants.append(form["grant_type"])
        if form["grant_type"] == "refresh_token":
            granted = self.grants[::-1].index("authorization_code")
            is_known = form["refresh_token"] in self.refresh_tokens and granted <= (self.refreshes or granted)
            self.refresh_tokens.discard(form["refresh_token"])
        else:
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            sent = (urlsafe_b64encode(digest).rstrip(b"=").decode(), form["redirect_uri"])
            is_known = self.codes.pop(form["code"], None) == sent
        if not is_known or form["client_id"] != "explorer":
            return JSONResponse({"error": "invalid_grant"}, 400, ANY_ORIGIN)
        token = self.token(iss=self.url, exp=int(time.time() + self.seconds), jti=secrets.token_urlsafe())
        refresh_token = secrets.token_urlsafe()
        self.accept(token)
        self.refresh_tokens.add(refresh_token)
        self.issued += [token, refresh_token]
        body = {
            "access_token": token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": self.claimed,
        }
        return JSONResponse(body, headers={**ANY_ORIGIN, "Cache-Control": "no-store"})

    async def _revoke(self, request: Request) -> Response:
        self.refresh_tokens.discard(dict(parse_qsl((await request.body()).decode()))["token"])
        return Response(headers=ANY_ORIGIN)


ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}
