"""A check at start for names inside libraries that are not part of their public interface.

The versions of these libraries are bounded, but an installation may ignore the bounds. A missing name then ends the
start with the library and the name, instead of failing in a request or changing what happens without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any


class IncompatibleLibrary(ImportError):
    """A library lacks a name that the gateway uses."""


def require_internals(owner: Any, *names: str, sets: tuple[str, ...] = ()) -> None:
    """Raises IncompatibleLibrary unless a class has these attributes, and its `__init__` `sets` those of instances."""
    initializer: Callable[..., Any] = owner.__init__
    assigned = getattr(getattr(initializer, "__code__", None), "co_names", ())
    missing = [name for name in names if not hasattr(owner, name)] + [name for name in sets if name not in assigned]
    if missing:
        library = owner.__module__.partition(".")[0]
        raise IncompatibleLibrary(
            f"{library} {_version_of(library)} is not supported: {owner.__name__} has no {', '.join(missing)}."
        )


def _version_of(library: str) -> str:
    return version({"graphql": "graphql-core"}.get(library, library))
