"""Blocks imports of optional packages that a library would import only because they are installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blocked(name: str) -> Iterator[None]:
    """Makes the import of a package fail within the block, unless it is already imported.

    `None` in `sys.modules` has that effect.
    """
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]
