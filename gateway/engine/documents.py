"""Parses and validates documents, and caches them within a memory limit that includes the data derived from them."""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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
    specified_rules,
    validate,
)
from graphql.validation import ASTValidationRule, OverlappingFieldsCanBeMergedRule, ValidationContext

from gateway.concurrency.lru import LRU
from gateway.engine.document_limits import DocumentLimits, LimitExceeded, check

# The end of graphql-core's message for a document with too many tokens.
TOO_MANY_TOKENS = "tokens. Parsing aborted."
UNLIMITED = DocumentLimits()
# Validation errors that are reported; finding suggestions for a misspelt name takes a millisecond.
FAULTS_MAX = 20
# Introspection fields; federation routers use `_service`.
INTROSPECTION = frozenset(("__schema", "__type", "_service"))
# Bytes of memory of a parsed document beside its text: fixed, and per token. tracemalloc shows 390 to 620 per token,
# depending on the number of syntax nodes.
DOCUMENT_BYTES = 4_000
TOKEN_BYTES = 600
# The offset of a line, which is stored once an error was located.
LINE_BYTES = 4
# The result of the limits for an operation and a length of lists.
BOUNDED_BYTES = 250
# What is reported of an operation.
INFO_BYTES = 300
# The names of the root fields of an operation.
ROOT_FIELDS_BYTES = 400
# Registered hashes, of about 250 bytes each.
REGISTERED_MAX = 40_000


class CachedRequest(Protocol):
    """A prepared request that is cached by its body; `size` is its size in memory, including the body."""

    @property
    def document(self) -> Document: ...

    @property
    def size(self) -> int: ...


class OperationInfo(NamedTuple):
    """What logs, metrics and traces say of an operation: its name, its kind and the hash of its document."""

    name: str
    kind: str
    digest: str


@dataclass(slots=True, eq=False)
class Document:
    """A document, or its errors; `size` is its accounted memory in bytes."""

    text: str
    digest: str
    ast: DocumentNode | None
    errors: Sequence[GraphQLError] = ()
    # Data derived from its operations, by name: plans, and whether the operation is within the limits for all variables
    # whose lists have at most a given length.
    plans: dict[str | None, Any] = field(default_factory=dict, repr=False)
    bounded: dict[tuple[str | None, int], bool] = field(default_factory=dict, repr=False)
    _infos: dict[str | None, OperationInfo] = field(default_factory=dict, repr=False)
    _root_fields: dict[str | None, frozenset[str]] = field(default_factory=dict, repr=False)
    # The bodies of cached requests that use it.
    bodies: set[bytes] = field(default_factory=set, repr=False)
    size: int = 0
    cache: Documents | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        tokens = 0 if self.ast is None else self.ast.token_count or 0
        lines = self.text.count("\n") + self.text.count("\r")
        # Names and strings are copies of parts of the text, so the text counts twice.
        self.size = DOCUMENT_BYTES + 2 * sys.getsizeof(self.text) + TOKEN_BYTES * tokens + LINE_BYTES * lines

    def grow(self, size: int) -> None:
        """Adds the size of derived data; negative if data was removed."""
        self.size += size
        if self.cache is not None:
            self.cache.add_size(size)

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation of that name, or the only one; None if there is none, or several without a name."""
        found = [
            node
            for node in (self.ast.definitions if self.ast else ())
            if isinstance(node, OperationDefinitionNode) and (name is None or (node.name and node.name.value == name))
        ]
        return found[0] if len(found) == 1 else None

    def info(self, name: str | None) -> OperationInfo:
        """What is reported of an operation that exists."""
        known = self._infos.get(name)
        if known is None:
            operation = self.operation(name)
            assert operation is not None
            own_name = operation.name.value if operation.name else ""
            known = self._infos[name] = OperationInfo(own_name, operation.operation.value, self.digest)
            self.grow(INFO_BYTES)
        return known

    def root_fields(self, name: str | None) -> frozenset[str]:
        """The names of an operation's root fields, including those in fragments and under directives."""
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
    """The text of a document, with line offsets that are computed once instead of for each error."""

    def __init__(self, body: str) -> None:
        super().__init__(body)
        self._lines: array[int] | None = None

    def get_location(self, position: int) -> SourceLocation:
        """The line and column of a character, starting at 1."""
        if self._lines is None:
            self._lines = array("I", (0, *(newline.end() for newline in NEWLINE.finditer(self.body))))
        line = bisect_right(self._lines, position)
        return SourceLocation(line, position + 1 - self._lines[line - 1])


NEWLINE = re.compile(r"\r\n|[\n\r]")


def digest_of(text: str) -> str:
    """The SHA-256 of a document's text in hexadecimal, as in persisted queries."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII | re.IGNORECASE)


def sha256_of_id(document_id: str) -> str | None:
    """The SHA-256 that an id of a document is, as by `digest_of`: in any case, with or without `sha256:`."""
    found = _SHA256.fullmatch(document_id)
    return found and found[1].lower()


# Requests that are remembered by their bytes.
BODIES_MAX = 512


class Documents:
    """An LRU cache of valid documents by text and digest, and of prepared requests, within `bytes_max` bytes of memory.

    A document is evicted together with the data derived from it. Without `suggestions`, validation errors do not
    suggest names of the schema.
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
        self._rules_with_caches: list[OverlappingFieldsCanBeMergedRule] = []
        self._rules = _rules(self._rules_with_caches)
        self._known: LRU[str, Document] = LRU(bytes_max=bytes_max, size_of=_size_of)
        self._texts: dict[str, str] = {}
        self._bodies: LRU[bytes, CachedRequest] = LRU(BODIES_MAX)

    @property
    def bytes_used(self) -> int:
        """The memory of the documents and the data derived from them, in bytes."""
        return self._known.bytes

    def __len__(self) -> int:
        return len(self._known)

    def known(self, digest: str) -> Document | None:
        """The cached document of a digest."""
        text = self._texts.get(digest)
        return None if text is None else self.sent(text)

    def sent(self, text: str) -> Document | None:
        """The cached document of a text."""
        return self._known.get(text)

    def read(self, text: str, *, keep: bool = True) -> Document:
        """The document of a text, from the cache or parsed and validated now; `keep` adds it to the cache."""
        document = self.sent(text)
        if document is None:
            document = self._checked(text, digest_of(text))
            if keep:
                self.keep(document)
        return document

    def keep(self, document: Document) -> None:
        """Adds a document to the cache, if it is valid and not too large."""
        if document.errors or document.text in self._known:
            return
        self._texts[document.digest] = document.text
        document.cache = self
        self._forget(self._known.put(document.text, document))
        if document.text not in self._known:
            self._forget([(document.text, document)])

    def add_size(self, size: int) -> None:
        """Adds to the size of the cache, and evicts documents if it is too large."""
        self._forget(self._known.grow(size))

    def meant_by(self, body: bytes) -> Any:
        """The cached request with this body, if its document is cached."""
        request = self._bodies.get(body)
        if request is not None:
            self._known.touch(request.document.text)
        return request

    def remember(self, body: bytes, request: CachedRequest) -> None:
        """Caches a request by its body, until it or its document is evicted."""
        document = request.document
        if document.cache is not self or body in self._bodies:
            return
        document.bodies.add(body)
        for oldest, dropped in self._bodies.put(body, request):
            dropped.document.bodies.remove(oldest)
            dropped.document.grow(-dropped.size)
        document.grow(request.size)

    def _forget(self, dropped: list[tuple[str, Document]]) -> None:
        for _, document in dropped:
            del self._texts[document.digest]
            document.cache = None
            # A running operation may still use the document and cache it again.
            for body in document.bodies:
                request = self._bodies.drop(body)
                assert request is not None
                document.size -= request.size
            document.bodies.clear()

    def _parsed(self, text: str) -> DocumentNode:
        try:
            return parse(Text(text), max_tokens=self._limits.tokens)
        except GraphQLSyntaxError as invalid:
            # Only the message identifies this error. With two errors, the number of tokens is reported.
            if TOO_MANY_TOKENS in invalid.message:
                raise LimitExceeded("tokens", self._limits.tokens) from invalid
            raise

    def _faults_of(self, ast: DocumentNode) -> list[GraphQLError]:
        """The validation errors of a document."""
        suggests = self._suggestions
        try:
            return validate(self._schema, ast, self._rules, max_errors=FAULTS_MAX, hide_suggestions=not suggests)
        finally:
            # Their caches are as large as the document, and in reference cycles, which the garbage collector would find
            # only after many documents, and then take long.
            for rule in self._rules_with_caches:
                vars(rule).clear()
            self._rules_with_caches.clear()

    def _checked(self, text: str, digest: str) -> Document:
        try:
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > self._limits.document_bytes:
                raise LimitExceeded("documentBytes", self._limits.document_bytes, size)
            ast = self._parsed(text)
            check(ast, self._limits)
            faults = self._faults_of(ast)
            _cut(ast)
            return Document(text, digest, ast, tuple(map(_presentable, faults)))
        except GraphQLError as invalid:
            return Document(text, digest, None, (invalid,))
        except RecursionError:
            return Document(text, digest, None, (GraphQLError("Document is nested too deeply."),))


def _rules(made: list[OverlappingFieldsCanBeMergedRule]) -> list[type[ASTValidationRule]]:
    """The validation rules of the specification; `made` gets each instance of that with a cache."""

    class FieldsCanBeMerged(OverlappingFieldsCanBeMergedRule):
        def __init__(self, context: ValidationContext) -> None:
            super().__init__(context)
            made.append(self)

    return [FieldsCanBeMerged if rule is OverlappingFieldsCanBeMergedRule else rule for rule in specified_rules]


def _size_of(_: str, document: Document) -> int:
    return document.size


def _cut(document: DocumentNode) -> None:
    """Unlinks the tokens of a document, whose reference cycles only the garbage collector could free."""
    token = document.loc and document.loc.start_token
    while token:
        following, token.prev, token.next = token.next, None, None
        token = following


class Registrations:
    """Persisted queries: the hashes that principals have registered by sending them together with the documents.

    Registrations are not shared. Otherwise a hash would reveal whether others have sent the document.
    """

    def __init__(self) -> None:
        self._registered: LRU[bytes, bool] = LRU(REGISTERED_MAX)

    def __len__(self) -> int:
        return len(self._registered)

    def add(self, principal: str, digest: str) -> None:
        """Registers a hash for a principal; the least recently used registrations are evicted."""
        self._registered.put(_key_of(principal, digest), True)

    def has(self, principal: str, digest: str) -> bool:
        """Whether a principal has registered a hash."""
        return self._registered.touch(_key_of(principal, digest))


def _key_of(principal: str, digest: str) -> bytes:
    """A key of fixed length for a digest of any length."""
    return hashlib.sha256(f"{principal}\n{digest}".encode("utf-8", "surrogatepass")).digest()


def _presentable(error: GraphQLError) -> GraphQLError:
    """The error; one from Python itself, such as for a number of 5,000 digits, becomes a generic one."""
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
