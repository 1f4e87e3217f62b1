"""Trusted documents: reads a manifest in Relay's or Apollo's format, which maps ids to documents."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from graphql import GraphQLSchema, GraphQLSyntaxError, OperationDefinitionNode, parse

from gateway.engine.documents import Documents, digest_of, sha256_of_id

APOLLO = "apollo-persisted-query-manifest"


class ManifestInvalid(ValueError):
    """An unreadable manifest; the message says why."""


def read_manifest(path: Path) -> Mapping[str, str]:
    """The documents of a manifest by id: Relay's `{id: text}`, or Apollo's list of operations with `id` and `body`.

    Ids that are a SHA-256 are normalised. Raises ManifestInvalid.
    """
    try:
        content: Any = msgspec.json.decode(path.read_bytes())
    except OSError as missing:
        raise ManifestInvalid(f"cannot read {path}: {missing.strerror}") from missing
    except msgspec.DecodeError as garbled:
        raise ManifestInvalid(f"{path} is not JSON: {garbled}") from garbled
    if isinstance(content, dict) and content.get("format") == APOLLO:
        entries = [(entry["id"], entry["body"]) for entry in _entries(content.get("operations"))]
    elif isinstance(content, dict) and all(isinstance(text, str) for text in content.values()):
        entries = list(content.items())
    else:
        raise ManifestInvalid(f"{path} is neither a Relay nor an Apollo manifest")
    documents: dict[str, str] = {}
    for name, text in entries:
        if documents.setdefault(sha256_of_id(name) or name, text) != text:
            raise ManifestInvalid(f"{path} has different documents with the id {name}")
    return documents


def operation_names(manifest: Mapping[str, str]) -> set[str]:
    """The names of all operations of a manifest; documents that can't be parsed have none."""
    names = set()
    for text in manifest.values():
        with suppress(GraphQLSyntaxError):
            names |= {
                node.name.value
                for node in parse(text).definitions
                if isinstance(node, OperationDefinitionNode) and node.name
            }
    return names


def problems_of(manifest: Mapping[str, str], schema: GraphQLSchema) -> list[str]:
    """One line per operation that is invalid for the schema, and per SHA-256 id that does not match its document."""
    documents, problems = Documents(schema), []
    for name, text in manifest.items():
        problems += [f"{name}: {error.message}" for error in documents.read(text).errors]
        if sha256_of_id(name) is not None and name != digest_of(text):
            problems.append(f"{name}: id looks like a SHA-256 hash but does not match the document")
    return problems


def _entries(operations: Any) -> list[dict[str, str]]:
    if isinstance(operations, list) and all(
        isinstance(o, dict) and isinstance(o.get("id"), str) and isinstance(o.get("body"), str) for o in operations
    ):
        return operations
    raise ManifestInvalid("operations of an Apollo manifest need an id and a body")
