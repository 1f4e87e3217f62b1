"""docs/security.md: every claim names a test, and the test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/security.md"
CLAIMS = re.findall(r"^\| ([A-Z].*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)


def test_the_page_has_claims():
    """Every table row but its head is read as a claim."""
    rows = re.findall(r"^\| (?!claim )", PAGE.read_text(), re.MULTILINE)
    assert len(CLAIMS) == len(rows) > 30


@pytest.mark.parametrize(("claim", "proof"), CLAIMS, ids=[claim[:50] for claim, _ in CLAIMS])
def test_a_claim_names_an_existing_test(claim, proof):
    """The second column consists of links, each with the name of a test function in the file that it leads to."""
    links = re.findall(r"\[(\w+)\]\(([^)]+)\)", proof)
    assert links, claim
    assert ", ".join(f"[{name}]({file})" for name, file in links) == proof
    for name, file in links:
        tree = ast.parse((PAGE.parent / file).resolve().read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{file} has no {name}"
        assert name.startswith("test_")
