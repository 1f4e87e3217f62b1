"""Documents are parsed and validated once, however often they are sent: a cache that is bounded by the memory that they
take with everything derived from them.
"""

from __future__ import annotations

import gc
import hashlib
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Source,
    SourceLocation,
    parse,
    validate,
)

from gateway.concurrency.lru import LRU
from gateway.engine.limits import DocumentLimits, LimitExceeded, check

# How graphql-core ends the message of a document that is too long.
TOO_MANY_TOKENS = "tokens. Parsing aborted."
UNLIMITED = DocumentLimits()
# As many faults are told; finding what a misspelt name may have meant takes a millisecond for each.
FAULTS_MAX = 20
# What a schema tells of itself; `_service` is how a federation router asks.
INTROSPECTION = frozenset(("__schema", "__type", "_service"))
# What a parsed document takes in memory beside its text, in bytes: by itself, and for each token. Measured with
# tracemalloc: 390 to 620 for a token, by how many syntax nodes it makes.
DOCUMENT_BYTES = 4_000
TOKEN_BYTES = 600
# Where a line begins, which is known once an error was told.
LINE_BYTES = 4
# A document's result of the limits, by operation and length.
BOUNDED_BYTES = 250
# The names of an operation's root fields.
ROOT_FIELDS_BYTES = 400
# After how many bytes of documents the collector is asked to look at what validating them has left in circles: a large
# one's is as large as itself, and by its own count of objects the collector comes after sixty megabytes.
VALIDATED_BYTES = 4 * 2**20
# Registrations of hashes that are remembered, each in some 250 bytes.
REGISTERED_MAX = 40_000


class Meaning(Protocol):
    """What the body of a request means, and the bytes that it takes in memory with that body."""

    @property
    def document(self) -> Document: ...

    @property
    def size(self) -> int: ...


@dataclass(slots=True, eq=False)
class Document:
    """A document, or what is wrong with it; `size` is the memory in bytes that it is accounted with."""

    text: str
    digest: str
    ast: DocumentNode | None
    errors: Sequence[GraphQLError] = ()
    # What was worked out for its operations, by name: their plans, and whether they are within their limits with lists
    # of a length, whatever else their variables are. As old as the document.
    plans: dict[str | None, Any] = field(default_factory=dict, repr=False)
    bounded: dict[tuple[str | None, int], bool] = field(default_factory=dict, repr=False)
    _root_fields: dict[str | None, frozenset[str]] = field(default_factory=dict, repr=False)
    # The bodies of requests that send it and whose meaning is remembered.
    bodies: set[bytes] = field(default_factory=set, repr=False)
    size: int = 0
    keeper: Documents | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        tokens = 0 if self.ast is None else self.ast.token_count or 0
        lines = self.text.count("\n") + self.text.count("\r")
        # Names and strings are copies of parts of the text.
        self.size = DOCUMENT_BYTES + 2 * sys.getsizeof(self.text) + TOKEN_BYTES * tokens + LINE_BYTES * lines

    def grow(self, size: int) -> None:
        """Accounts for what was derived from it, in bytes; less than 0 where that is gone."""
        self.size += size
        if self.keeper is not None:
            self.keeper.grew(size)

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation of that name, or the only one; None where that is none."""
        found = [
            node
            for node in (self.ast.definitions if self.ast else ())
            if isinstance(node, OperationDefinitionNode) and (name is None or (node.name and node.name.value == name))
        ]
        return found[0] if len(found) == 1 else None

    def root_fields(self, name: str | None) -> frozenset[str]:
        """The names of an operation's root fields, through fragments, whatever directives say."""
        known = self._root_fields.get(name)
        if known is None:
            operation = self.operation(name)
            assert operation is not None
            assert self.ast is not None
            fragments = {n.name.value: n for n in self.ast.definitions if isinstance(n, FragmentDefinitionNode)}
            known = self._root_fields[name] = frozenset(_names(operation.selection_set, fragments))
            self.grow(ROOT_FIELDS_BYTES)
        return known


class Text(Source):
    """A document's text; where its lines begin is worked out once, and not for each error."""

    def __init__(self, body: str) -> None:
        super().__init__(body)
        self._lines: array[int] | None = None

    def get_location(self, position: int) -> SourceLocation:
        """The line and column of a character, both counted from 1."""
        if self._lines is None:
            self._lines = array("I", (0, *(newline.end() for newline in NEWLINE.finditer(self.body))))
        line = bisect_right(self._lines, position)
        return SourceLocation(line, position + 1 - self._lines[line - 1])


NEWLINE = re.compile(r"\r\n|[\n\r]")


def digest_of(text: str) -> str:
    """The SHA-256 of a document's text, in hexadecimal, as persisted operations name it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# Bodies of requests whose meaning is remembered.
BODIES_MAX = 512


class Documents:
    """Valid documents by text and by digest, and the bodies of requests that send them, within `bytes_max` bytes of
    memory; the least recently used documents are forgotten first, with everything derived from them.

    Without `suggestions`, faults do not tell of names that may have been meant.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        bytes_max: int = 64 * 2**20,
        limits: DocumentLimits = UNLIMITED,
        *,
        suggestions: bool = True,
    ) -> None:
        self._limits = limits
        self._suggestions = suggestions
        self._schema = schema
        self._known: LRU[str, Document] = LRU(bytes_max=bytes_max, size_of=_size_of)
        self._texts: dict[str, str] = {}
        self._bodies: LRU[bytes, Meaning] = LRU(BODIES_MAX)
        self._validated = 0

    @property
    def bytes_used(self) -> int:
        """What the documents take in memory, with everything derived from them."""
        return self._known.bytes

    def __len__(self) -> int:
        return len(self._known)

    def known(self, digest: str) -> Document | None:
        """A document that has been seen, by its digest."""
        text = self._texts.get(digest)
        return None if text is None else self.sent(text)

    def sent(self, text: str) -> Document | None:
        """A document that has been seen, by its text."""
        return self._known.get(text)

    def read(self, text: str, *, keep: bool = True) -> Document:
        """The document of a text: parsed and validated now, or before; with `keep` the next one who sends it has it."""
        document = self.sent(text)
        if document is None:
            document = self._checked(text, digest_of(text))
            self._validated += document.size
            if self._validated > VALIDATED_BYTES:
                self._validated = 0
                gc.collect(1)
            if keep:
                self.keep(document)
        return document

    def keep(self, document: Document) -> None:
        """Keeps a document, if it is valid and there is room for it at all."""
        if document.errors or document.text in self._known:
            return
        self._texts[document.digest] = document.text
        document.keeper = self
        self._forget(self._known.put(document.text, document))
        if document.text not in self._known:
            self._forget([(document.text, document)])

    def grew(self, size: int) -> None:
        """What is kept takes so many bytes more; the documents that there is no room for are forgotten."""
        self._forget(self._known.grow(size))

    def meant_by(self, body: bytes) -> Any:
        """What a body was found to mean, while its document is kept."""
        meaning = self._bodies.get(body)
        if meaning is not None:
            self._known.touch(meaning.document.text)
        return meaning

    def remember(self, body: bytes, meaning: Meaning) -> None:
        """Remembers what a body means, as long as its document is kept, or until too many others came."""
        document = meaning.document
        if document.keeper is not self or body in self._bodies:
            return
        document.bodies.add(body)
        for oldest, dropped in self._bodies.put(body, meaning):
            dropped.document.bodies.remove(oldest)
            dropped.document.grow(-dropped.size)
        document.grow(meaning.size)

    def _forget(self, dropped: list[tuple[str, Document]]) -> None:
        for _, document in dropped:
            del self._texts[document.digest]
            document.keeper = None
            # A request that runs it may still hold it, and have it kept again.
            for body in document.bodies:
                meaning = self._bodies.drop(body)
                assert meaning is not None
                document.size -= meaning.size
            document.bodies.clear()

    def _parsed(self, text: str) -> DocumentNode:
        try:
            return parse(Text(text), max_tokens=self._limits.tokens)
        except GraphQLSyntaxError as invalid:
            # Told by its words alone; a document that has both faults is told of its size.
            if TOO_MANY_TOKENS in invalid.message:
                raise LimitExceeded("tokens", self._limits.tokens) from invalid
            raise

    def _checked(self, text: str, digest: str) -> Document:
        try:
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._limits.document_bytes:
                raise LimitExceeded("documentBytes", self._limits.document_bytes, size)
            ast = self._parsed(text)
            check(ast, self._limits)
            faults = validate(self._schema, ast, max_errors=FAULTS_MAX, hide_suggestions=not self._suggestions)
            _cut(ast)
            return Document(text, digest, ast, tuple(map(_told, faults)))
        except GraphQLError as invalid:
            return Document(text, digest, None, (invalid,))
        except RecursionError:
            return Document(text, digest, None, (GraphQLError("Document is nested too deeply."),))


def _size_of(_: str, document: Document) -> int:
    return document.size


def _cut(document: DocumentNode) -> None:
    """Takes a document's tokens apart, which hold each other: else it would be left to the collector."""
    token = document.loc and document.loc.start_token
    while token:
        following, token.prev, token.next = token.next, None, None
        token = following


class Registrations:
    """Which principals have sent a document together with its hash: they may send the hash alone from then on.

    The hash of a text that others have sent says nothing: else anybody could find out by it whether they had.
    """

    def __init__(self) -> None:
        self._registered: LRU[bytes, bool] = LRU(REGISTERED_MAX)

    def __len__(self) -> int:
        return len(self._registered)

    def add(self, principal: str, digest: str) -> None:
        """Remembers that a principal has sent the text of a digest; the least recently used are forgotten."""
        self._registered.put(_key_of(principal, digest), True)

    def has(self, principal: str, digest: str) -> bool:
        """Whether it has."""
        return self._registered.touch(_key_of(principal, digest))


def _key_of(principal: str, digest: str) -> bytes:
    """Of one length, whatever a caller sends as a digest."""
    return hashlib.sha256(f"{principal}\n{digest}".encode("utf-8", "surrogatepass")).digest()


def _told(error: GraphQLError) -> GraphQLError:
    """The error, or its place alone where it is a value that Python itself refuses, such as 5,000 digits."""
    if error.original_error is None or isinstance(error.original_error, GraphQLError):
        return error
    return GraphQLError("Document contains an invalid value.", error.nodes)


def _names(
    selections: SelectionSetNode, fragments: dict[str, FragmentDefinitionNode], seen: frozenset[str] = frozenset()
) -> list[str]:
    names = []
    for selection in selections.selections:
        if isinstance(selection, FieldNode):
            names.append(selection.name.value)
        elif isinstance(selection, InlineFragmentNode):
            names += _names(selection.selection_set, fragments, seen)
        elif (
            isinstance(selection, FragmentSpreadNode)
            and (name := selection.name.value) in fragments
            and name not in seen
        ):
            names += _names(fragments[name].selection_set, fragments, seen | {name})
    return names
