"""Code blocks of documents: those with a file name as a comment in their first line, and the output below a script."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"^```\w+\n(?://|#) ([\w./-]+)\n(.*?)^```\n(?:\n```json\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def files_of(page: Path) -> dict[str, str]:
    """The named blocks of a page by file name, without the line that names them."""
    return {name: text for name, text, _ in _BLOCK.findall(page.read_text())}


def outputs_of(page: Path) -> dict[str, str]:
    """The JSON blocks that follow named blocks, by the file name of the latter."""
    return {name: output for name, _, output in _BLOCK.findall(page.read_text()) if output}


def write_files(page: Path, folder: Path) -> None:
    """Writes the named blocks of a page into a folder."""
    for name, text in files_of(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
