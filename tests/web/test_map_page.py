"""The map's page and its files."""

from __future__ import annotations

import html
import json
import re

from gateway.web.map_page import MapPage


def config_of(page: str) -> dict[str, object]:
    return json.loads(html.unescape(re.search(r'data-config="([^"]*)"', page)[1]))


async def test_the_map_loads_only_its_own_files(gateway):
    """Scripts and styles only from this server, none of them inline, and the page has no token of its own."""
    page = await gateway.http.get("/map")
    assert page.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<style|style=|<script>|\bon\w+=|https?:", page.text)
    assert config_of(page.text) == {"endpoint": "graphql", "token": None}
    named = re.findall(r'(?:src|href)="(map/[^"]*)"', page.text)
    script = await gateway.http.get("/map/map.js")
    named += [f"map/{name}" for name in re.findall(r'from "./(.*?)"', script.text)]
    assert sorted(named) == ["map/api.js", "map/chart.js", "map/map.css", "map/map.js"]
    for name in named:
        file = await gateway.http.get(f"/{name}")
        assert (file.status_code, file.headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)", file.text)
    for name in ("index.html", "..%2Fmap_page.py", "nowhere"):
        assert (await gateway.http.get(f"/map/{name}")).status_code == 404


async def test_the_map_is_served_where_graphiql_is(start):
    """With one setting for both."""
    gateway = await start(http__graphiql=False)
    assert (await gateway.http.get("/map")).status_code == 404
    assert (await gateway.http.get("/map/map.js")).status_code == 404


def test_the_token_of_the_demo_is_escaped():
    """Text in the page can't end its attribute."""
    token = '"><script>alert(1)</script>'
    page = MapPage(token).page
    assert "<script>alert" not in page
    assert config_of(page)["token"] == token
