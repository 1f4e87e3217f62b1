"""docs/comparison.md: every cell has its evidence, and what was not found names its searches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/comparison.md"
COMPARED, _, SEARCHED = PAGE.read_text().partition("\n## What was searched\n")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in COMPARED.splitlines() if line.startswith("| ")
]
HEADS, FEATURES = [row for row in ROWS if not row[0]], [row for row in ROWS if row[0]]


def test_the_tables_have_the_same_columns():
    """Each table compares the same products, and each feature has a cell for every one."""
    assert len(HEADS) == 4
    assert all(head == HEADS[0] for head in HEADS)
    assert {len(row) for row in FEATURES} == {len(HEADS[0])}


@pytest.mark.parametrize("row", FEATURES, ids=[row[0] for row in FEATURES])
def test_every_cell_has_its_evidence(row):
    """A cell is a link, or several; `not found` leads to the searches, where the product has a row."""
    for product, cell in zip(HEADS[0][1:], row[1:], strict=True):
        links = re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", cell)
        assert links, f"{row[0]}, {product}: {cell}"
        assert ", ".join(f"[{text}]({target})" for text, target in links) == cell
        for text, target in links:
            assert (text == "not found") == (target == "#what-was-searched"), cell
            if text == "not found":
                assert f"\n| {product} | " in SEARCHED
