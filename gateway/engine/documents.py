"""Documents are parsed and validated once, however often they are sent: a bounded cache by their SHA-256."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

from gateway.engine.limits import DocumentLimits, LimitExceeded, check

# How graphql-core ends the message of a document that is too long.
TOO_MANY_TOKENS = "tokens. Parsing aborted."
UNLIMITED = DocumentLimits()
# As many faults are told; finding what a misspelt name may have meant takes a millisecond for each.
FAULTS_MAX = 20
# What a schema tells of itself; `_service` is how a federation router asks.
INTROSPECTION = frozenset(("__schema", "__type", "_service"))


@dataclass(frozen=True, slots=True)
class Document:
    """A document, or what is wrong with it."""

    text: str
    digest: str
    ast: DocumentNode | None
    errors: Sequence[GraphQLError] = ()
    # What was worked out for its operations, by name: their plans, and whether they are within their limits with lists
    # of a length, whatever else their variables are. As old as the document.
    plans: dict[str | None, Any] = field(default_factory=dict, compare=False, repr=False)
    bounded: dict[tuple[str | None, int], bool] = field(default_factory=dict, compare=False, repr=False)

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The operation of that name, or the only one; None where that is none."""
        found = [
            node
            for node in (self.ast.definitions if self.ast else ())
            if isinstance(node, OperationDefinitionNode) and (name is None or (node.name and node.name.value == name))
        ]
        return found[0] if len(found) == 1 else None

    def root_fields(self, operation: OperationDefinitionNode) -> set[str]:
        """The names of an operation's root fields, through fragments, whatever directives say."""
        fragments = (
            {n.name.value: n for n in self.ast.definitions if isinstance(n, FragmentDefinitionNode)} if self.ast else {}
        )
        return set(_names(operation.selection_set, fragments))


class Text(Source):
    """A document's text; where its lines begin is worked out once, and not for each error."""

    def __init__(self, body: str) -> None:
        super().__init__(body)
        self._lines: list[int] | None = None

    def get_location(self, position: int) -> SourceLocation:
        """The line and column of a character, both counted from 1."""
        if self._lines is None:
            self._lines = [0, *(newline.end() for newline in NEWLINE.finditer(self.body))]
        line = bisect_right(self._lines, position)
        return SourceLocation(line, position + 1 - self._lines[line - 1])


NEWLINE = re.compile(r"\r\n|[\n\r]")


def digest_of(text: str) -> str:
    """The SHA-256 of a document's text, in hexadecimal, as persisted operations name it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Documents:
    """Documents by digest, the least recently used forgotten first; bounded by number and by characters.

    Without `suggestions`, faults do not tell of names that may have been meant.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        documents_max: int = 1000,
        characters_max: int = 4 * 2**20,
        limits: DocumentLimits = UNLIMITED,
        *,
        suggestions: bool = True,
    ) -> None:
        self._limits = limits
        self._suggestions = suggestions
        self._schema = schema
        self._documents_max = documents_max
        self._characters_max = characters_max
        self._known: OrderedDict[str, Document] = OrderedDict()
        self._texts: dict[str, str] = {}
        self._characters = 0

    def __len__(self) -> int:
        return len(self._known)

    def known(self, digest: str) -> Document | None:
        """A document that has been seen, by its digest."""
        text = self._texts.get(digest)
        return None if text is None else self.sent(text)

    def sent(self, text: str) -> Document | None:
        """A document that has been seen, by its text."""
        document = self._known.get(text)
        if document is not None:
            self._known.move_to_end(text)
        return document

    def read(self, text: str) -> Document:
        """The document of a text: parsed and validated now, or before."""
        document = self.sent(text)
        if document is None:
            document = self._checked(text, digest_of(text))
            self._known[text] = document
            self._texts[document.digest] = text
            self._characters += len(text)
            while len(self._known) > self._documents_max or self._characters > self._characters_max:
                _, forgotten = self._known.popitem(last=False)
                del self._texts[forgotten.digest]
                self._characters -= len(forgotten.text)
        return document

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
            return Document(text, digest, ast, tuple(map(_told, faults)))
        except GraphQLError as invalid:
            return Document(text, digest, None, (invalid,))
        except RecursionError:
            return Document(text, digest, None, (GraphQLError("The document is nested too deeply."),))


def _told(error: GraphQLError) -> GraphQLError:
    """The error, or its place alone where it is a value that Python itself refuses, such as 5,000 digits."""
    if error.original_error is None or isinstance(error.original_error, GraphQLError):
        return error
    return GraphQLError("A value of the document can't be used.", error.nodes)


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
