"""The names inside libraries that the gateway uses are looked for at start."""

from __future__ import annotations

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.library_internals import IncompatibleLibrary, require_internals


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, as another version may have it."""

    def __init__(self) -> None:
        self.parser = None


Protocol.__module__ = "uvicorn.protocols.http.another"


def test_names_that_are_there_pass():
    """Those of the class, inherited ones included, and those that its initializer sets."""
    require_internals(Protocol, "on_url", sets=("parser",))


def test_a_missing_name_ends_the_start():
    """The error names the library with its version, and every missing name."""
    with pytest.raises(IncompatibleLibrary, match=r"^uvicorn [0-9.]+ is not supported: Protocol has no x, pipeline\.$"):
        require_internals(Protocol, "on_url", "x", sets=("parser", "pipeline"))
