"""Trusted documents: a manifest of operations, in Relay's form or in Apollo's, by the ids that clients send."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from graphql import GraphQLSchema

from gateway.engine.documents import Documents, digest_of

APOLLO = "apollo-persisted-query-manifest"


class ManifestInvalid(ValueError):
    """A manifest that can't be read; its text says why."""


def read_manifest(path: Path) -> Mapping[str, str]:
    """A manifest's documents by id; Relay writes `{id: text}`, Apollo a list of operations with `id` and `body`."""
    try:
        said: Any = msgspec.json.decode(path.read_bytes())
    except OSError as missing:
        raise ManifestInvalid(f"cannot read {path}: {missing.strerror}") from missing
    except msgspec.DecodeError as garbled:
        raise ManifestInvalid(f"{path} is not JSON: {garbled}") from garbled
    if isinstance(said, dict) and said.get("format") == APOLLO:
        said = {entry["id"]: entry["body"] for entry in _entries(said.get("operations"))}
    if not isinstance(said, dict) or not all(isinstance(text, str) for text in said.values()):
        raise ManifestInvalid(f"{path} is neither a Relay nor an Apollo manifest")
    return said


def problems_of(manifest: Mapping[str, str], schema: GraphQLSchema) -> list[str]:
    """A line for each operation that does not run against the schema, and for each id that is not its text's digest."""
    documents, problems = Documents(schema), []
    for name, text in manifest.items():
        problems += [f"{name}: {error.message}" for error in documents.read(text).errors]
        if len(name) == len(digest_of("")) and name != digest_of(text):
            problems.append(f"{name}: looks like a SHA-256, but not of this text")
    return problems


def _entries(operations: Any) -> list[dict[str, str]]:
    if isinstance(operations, list) and all(
        isinstance(o, dict) and isinstance(o.get("id"), str) and isinstance(o.get("body"), str) for o in operations
    ):
        return operations
    raise ManifestInvalid("an Apollo manifest has operations with id and body")
