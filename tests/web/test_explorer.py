"""GraphiQL's page: complete where its files were built in, plain where they were not."""

from __future__ import annotations

import html
import json
import re

from gateway.web import explorer
from gateway.web.explorer import Explorer, examples


def config_of(page: str) -> dict:
    return json.loads(html.unescape(re.search(r'data-config="([^"]*)"', page)[1]))


def test_without_its_files_there_is_a_plain_page(monkeypatch, tmp_path):
    """A build without npm serves a page of its own that needs nothing else."""
    monkeypatch.setattr(explorer, "GRAPHIQL", tmp_path)
    page = Explorer().page().parts[0].decode()
    assert 'id="plain"' in page
    assert "graphiql.min.js" not in page
    assert config_of(page)["token"] is None


def test_the_shelf_holds_every_documented_query():
    """The examples are the documents' own, the fleet's first, each with its variables."""
    shelf = list(examples())
    assert shelf[0].name == "fleet"
    assert len(shelf) >= 9
    assert json.loads({example.name: example.variables for example in shelf}["vehicle"]) == {"id": "JQ7RP"}


def test_the_demos_token_is_in_the_page_and_escaped():
    """Text in the page can't end its attribute."""
    page = Explorer('"><script>alert(1)</script>').page().parts[0].decode()
    assert "<script>alert" not in page
    assert config_of(page)["token"] == '"><script>alert(1)</script>'
