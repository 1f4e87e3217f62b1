"""GraphiQL's page: complete where it was bundled, plain where it was not."""

from __future__ import annotations

import html
import json
import re

import pytest

from gateway.app import check
from gateway.settings import Misconfigured, Settings
from gateway.web import explorer
from gateway.web.explorer import Explorer, examples

ISSUER = "https://login.example.com/realms/fleet"


def text_of(page: Explorer) -> str:
    return page.page().parts[0].decode()


def policy_of(page: Explorer) -> str:
    return dict(page.page().fields)[b"content-security-policy"].decode()


def config_of(page: str) -> dict:
    return json.loads(html.unescape(re.search(r'data-config="([^"]*)"', page)[1]))


@pytest.fixture
def bundled(monkeypatch, tmp_path) -> None:
    """A build with a bundle, whose page is as short as possible."""
    monkeypatch.setattr(explorer, "GRAPHIQL", tmp_path)
    (tmp_path / "index.html").write_text('<link nonce="{{nonce}}"><div data-config="{{config}}">')


def test_without_its_bundle_there_is_a_plain_page(monkeypatch, tmp_path):
    """A build without npm serves a page of its own that needs nothing else, until there is a bundle."""
    monkeypatch.setattr(explorer, "GRAPHIQL", tmp_path)
    page = Explorer(Settings())
    assert 'id="plain"' in text_of(page)
    assert config_of(text_of(page))["token"] is None
    (tmp_path / "index.html").write_text('<div data-config="{{config}}">')
    assert 'id="plain"' not in text_of(page)


def test_the_shelf_holds_every_documented_query():
    """The examples are the documents' own, the fleet's first, each with its variables."""
    shelf = list(examples())
    assert shelf[0].name == "fleet"
    assert len(shelf) >= 9
    assert json.loads({example.name: example.variables for example in shelf}["vehicle"]) == {"id": "JQ7RP"}


def test_the_demos_token_is_in_the_page_and_escaped():
    """Text in the page can't end its attribute."""
    page = text_of(Explorer(Settings(), '"><script>alert(1)</script>'))
    assert "<script>alert" not in page
    assert config_of(page)["token"] == '"><script>alert(1)</script>'


@pytest.mark.usefixtures("bundled")
def test_each_page_allows_the_styles_of_its_own_nonce():
    """A nonce is used once; scripts and evaluated text have no exception."""
    page = Explorer(Settings())
    seen = set()
    for _ in range(3):
        response = page.page()
        (nonce,) = re.findall('nonce="(.*?)"', response.parts[0].decode())
        policy = dict(response.fields)[b"content-security-policy"].decode()
        assert f"style-src-elem 'self' 'nonce-{nonce}';" in policy
        assert "script-src 'self';" in policy
        assert "unsafe-eval" not in policy
        seen.add(nonce)
    assert len(seen) == 3


def test_with_a_client_the_page_may_log_in_at_the_issuer():
    """The policy allows the issuer's origin and the configured ones; without a client only this server."""
    oidc = {"issuer": ISSUER}
    assert config_of(text_of(Explorer(Settings(oidc=oidc))))["login"] is None
    assert "connect-src 'self';" in policy_of(Explorer(Settings(oidc=oidc)))
    client = {"oidc_client_id": "explorer", "oidc_origins": "https://tokens.example.com"}
    page = Explorer(Settings(oidc=oidc, explorer=client))
    assert config_of(text_of(page))["login"] == {"issuer": ISSUER, "clientId": "explorer", "scope": "openid"}
    assert "connect-src 'self' https://login.example.com https://tokens.example.com;" in policy_of(page)


def test_a_client_needs_an_issuer():
    """A setting that would be ignored is an error."""
    with pytest.raises(Misconfigured, match="GATEWAY_OIDC_ISSUER"):
        check(Settings(explorer={"oidc_client_id": "explorer"}))
