"""Finds the operation of a request (its document is sent, persisted or trusted) and checks whether it may run.

Prepared requests are cached by their bytes, so that a repeated request costs one lookup. The worst-case cost, which
does not depend on the variables, is checked first; the exact cost only if the worst case exceeds a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
from graphql import GraphQLError, OperationDefinitionNode, OperationType
from graphql.execution.values import VariableValues

from gateway.engine.document_limits import DocumentLimits, LimitExceeded
from gateway.engine.documents import BOUNDED_BYTES, INTROSPECTION, Document, Documents, Registrations, digest_of
from gateway.engine.plans import BoundPlan, NotMade
from gateway.engine.spacing import Spacing
from gateway.engine.variables import VariablesInvalid
from gateway.identity import Caller
from gateway.overload.admission import Admission
from gateway.schema.build import Schema
from gateway.schema.connections import FragmentKey
from gateway.schema.cost import CostModel, OperationCost
from gateway.schema.execution import Execution
from gateway.schema.pagination import Limits
from gateway.settings import GraphQLSettings, LimitSettings
from gateway.web.graphql_request import GraphQLParams, HTTPError, invalid_parameters
from gateway.web.responses import CHALLENGE, NO_TOKEN

# The longest request that is cached, in bytes.
KEY_BYTES_MAX = 4096
# The memory of a prepared request in bytes: a constant, per byte of the request (its variables may be many empty
# lists), and per fleet.
REQUEST_BYTES, DECODED_FACTOR, FRAGMENT_KEY_BYTES = 1_500, 40, 1_000
# Fleets for which a request has fragment keys.
FLEETS_MAX = 64
# The pauses after a document was parsed, as multiples of the time that took: for untrusted callers, and for all others
# and for plans.
UNTRUSTED_PAUSE, PAUSE = 1.0, 0.25
# Encoding variables again can make them longer, by less than this factor.
REENCODED_FACTOR = 8


class InvalidOperation(Exception):
    """A request whose operation may not run, with its errors."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__("operation is invalid")
        self.errors = errors


class PreparedRequest(NamedTuple):
    """An operation that may run: it is within its limits, and has a plan if it can be compiled.

    `digest` is the hash that was sent with the document, or instead of it (`is_hash_alone`). An operation that
    `is_introspection` needs no caller. `key` has the request's bytes; it is empty if the request is not cached.
    """

    document: Document
    name: str | None
    variables: Mapping[str, Any]
    plan: BoundPlan | None
    values: VariableValues | None = None
    digest: str | None = None
    is_hash_alone: bool = False
    is_introspection: bool = False
    key: bytes = b""
    fragment_keys: dict[str | None, FragmentKey | None] | None = None

    @property
    def size(self) -> int:
        """The memory of this request and its key, in bytes."""
        return REQUEST_BYTES + DECODED_FACTOR * len(self.key) + FRAGMENT_KEY_BYTES * len(self.fragment_keys or ())

    def fragment_key(self, fleet: str | None, execution: Execution, limits: Limits) -> FragmentKey | None:
        """The key of a fleet's cached fragment; None unless the response is a single connection."""
        if self.plan is None:
            return None
        keys = self.fragment_keys
        if keys is None:
            return execution.fragment_key_of(self.plan, limits, fleet)
        if fleet not in keys:
            before = self.size
            if len(keys) >= FLEETS_MAX:
                keys.clear()
            keys[fleet] = execution.fragment_key_of(self.plan, limits, fleet)
            self.document.grow(self.size - before)
        return keys[fleet]


class Operations:
    """Finds, checks and plans operations. If `trusted` documents (by id) are given, no others run."""

    def __init__(
        self,
        schema: Schema,
        execution: Execution,
        costs: CostModel,
        settings: GraphQLSettings,
        limits: LimitSettings,
        admission: Admission,
        *,
        trusted: Mapping[str, str] | None,
        nodes_max: int,
    ) -> None:
        self._execution = execution
        self._costs = costs
        self._introspection = settings.introspection
        self._limits = limits
        self._admission = admission
        self._nodes_max = nodes_max
        self._registrations = Registrations()
        self._reading: Spacing[Document] = Spacing(PAUSE)
        self._reading_untrusted: Spacing[Document] = Spacing(UNTRUSTED_PAUSE)
        self._planning: Spacing[BoundPlan | None] = Spacing(PAUSE)
        self._no_documents = partial(
            Documents,
            schema.core,
            settings.documents_bytes_max,
            limits=document_limits_of(limits),
            # Suggestions would reveal the schema name by name.
            suggestions=settings.introspection != "off",
        )
        self.trust(trusted)

    def trust(self, trusted: Mapping[str, str] | None) -> None:
        """Replaces the trusted documents. The cached ones are dropped, because they may no longer be trusted."""
        self._trusted = trusted
        self._trusted_texts = frozenset((trusted or {}).values())
        self._documents = self._no_documents()

    def remembered(self, key: bytes, caller: Caller | None) -> PreparedRequest | None:
        """The prepared request with these bytes, if it is cached. Raises InvalidOperation and HTTPError."""
        request: PreparedRequest | None = self._documents.meant_by(key)
        if request is not None:
            if request.digest is not None:
                self._check_registration(request, caller)
            if caller is None and not request.is_introspection:
                raise _no_token()
        return request

    def prepared_at_once(self, params: GraphQLParams, key: bytes, caller: Caller | None) -> PreparedRequest | None:
        """A request whose document is cached, has a plan and is within its limits in the worst case.

        None for any other, which `prepare` handles in a slot. Raises InvalidOperation and HTTPError.
        """
        document = self._documents.sent(self._text_of(params, caller))
        if document is None:
            return None
        plan = None
        name, variables = params.operation_name, params.variables or {}
        with suppress(NotMade, LimitExceeded, VariablesInvalid):  # `prepare` handles these
            plan = self._execution.prepared(document, name, variables, make=False)
        if plan is None or not self._is_within_worst_case(document, name, variables):
            return None
        is_introspection = self._check_caller(document, name, caller)
        digest = None if self._trusted is not None else params.digest
        is_remembered = len(key) <= KEY_BYTES_MAX and not self._admission.is_untrusted(caller)
        request = PreparedRequest(
            document,
            name,
            variables,
            plan,
            digest=digest,
            is_hash_alone=digest is not None and not params.query,
            is_introspection=is_introspection,
            key=key if is_remembered else b"",
            fragment_keys={} if is_remembered else None,
        )
        if is_remembered:
            self._documents.remember(key, request)
        self.keep(request, caller)
        return request

    async def prepare(self, params: GraphQLParams, caller: Caller | None, *, is_get: bool) -> PreparedRequest:
        """Any request that may run. Raises InvalidOperation, and HTTPError for a rejected request."""
        document = await self._read(self._text_of(params, caller), caller)
        digest = None if self._trusted is not None else params.digest
        name, variables = params.operation_name, params.variables or {}
        self.keep(PreparedRequest(document, name, variables, None, digest=digest), caller)
        operation = document.operation(name)
        if is_get and operation is not None and operation.operation is not OperationType.QUERY:
            raise HTTPError(405, "METHOD_NOT_ALLOWED", "Only queries are allowed with GET.", {"Allow": "POST"})
        if document.errors:
            raise InvalidOperation(list(document.errors))
        if operation is None:
            message = "Document has no operation of this name, or several operations and `operationName` is missing."
            raise InvalidOperation([_coded("OPERATION_RESOLUTION_FAILURE", message)])
        is_introspection = self._check_caller(document, name, caller)
        try:
            values = None
            if not self._is_within_worst_case(document, name, variables):
                values = self._execution.values(document, name, variables)
                self._checked_cost(document, operation, values)
            plan = await self._plan(document, name, variables, caller)
            if plan is None and values is None:
                values = self._execution.values(document, name, variables)
        except LimitExceeded as exceeded:
            raise InvalidOperation([exceeded]) from exceeded
        except VariablesInvalid as invalid:
            raise InvalidOperation(list(invalid.errors)) from invalid
        return PreparedRequest(
            document, name, variables, plan, values=values, digest=digest, is_introspection=is_introspection
        )

    def keep(self, request: PreparedRequest, caller: Caller | None) -> None:
        """Caches a request's document and registers its hash for the caller, unless the caller is untrusted."""
        if caller is None or self._trusted is not None or request.document.errors:
            return
        if not self._admission.is_untrusted(caller):
            self._documents.keep(request.document)
            if request.digest is not None:
                self._registrations.add(caller.principal, request.digest)

    def cost_of(self, request: PreparedRequest) -> OperationCost:
        """The estimated cost of a request with its variables. Raises InvalidOperation."""
        operation = request.document.operation(request.name)
        assert operation is not None
        try:
            values = request.values or self._execution.values(request.document, request.name, request.variables)
            return self._checked_cost(request.document, operation, values)
        except LimitExceeded as exceeded:
            raise InvalidOperation([exceeded]) from exceeded
        except VariablesInvalid as invalid:
            raise InvalidOperation(list(invalid.errors)) from invalid

    def check_variables(self, params: GraphQLParams, size: int) -> None:
        """Raises HTTPError if the variables of a request of `size` bytes are too large."""
        maximum = self._limits.variables_bytes
        if not params.variables or size * REENCODED_FACTOR <= maximum:
            return
        if (actual := len(msgspec.json.encode(params.variables))) > maximum:
            exceeded = LimitExceeded("variablesBytes", maximum, actual)
            assert exceeded.extensions is not None
            raise HTTPError(422, "LIMIT_EXCEEDED", exceeded.message, extensions=exceeded.extensions)

    def _text_of(self, params: GraphQLParams, caller: Caller | None) -> str:
        """The text of the document: sent, registered by the caller's principal, or trusted."""
        if self._trusted is not None:
            text = self._trusted.get(params.trusted_id or "")
            if text is None and params.query in self._trusted_texts:
                text = params.query
            if text is None:
                message = "Document is not one of the trusted documents."
                raise InvalidOperation([_coded("OPERATION_NOT_TRUSTED", message)])
            return text
        if params.query:
            if params.digest is not None and params.digest != digest_of(params.query):
                raise HTTPError(422, "PERSISTED_QUERY_MISMATCH", "`sha256Hash` does not match the query.")
            return params.query
        if params.digest is None:
            raise invalid_parameters("Request has no query.")
        document = None
        if caller is not None and self._registrations.has(caller.principal, params.digest):
            document = self._documents.known(params.digest)
        if document is None:
            raise _not_registered()
        return document.text

    def _check_registration(self, request: PreparedRequest, caller: Caller | None) -> None:
        assert request.digest is not None
        if not request.is_hash_alone:
            self.keep(request, caller)
        elif caller is None or not self._registrations.has(caller.principal, request.digest):
            raise _not_registered()

    async def _read(self, text: str, caller: Caller | None) -> Document:
        cached = self._documents.sent(text)
        if cached is not None:
            return cached
        keep = self._trusted is not None or not self._admission.is_untrusted(caller)
        reading = self._reading if keep else self._reading_untrusted
        return await reading.run(text, lambda: self._documents.read(text, keep=keep))

    def _check_caller(self, document: Document, name: str | None, caller: Caller | None) -> bool:
        """Whether an operation is only introspection, which a setting may allow without a token. Raises HTTPError."""
        fields = document.root_fields(name)
        introspects = bool(fields & INTROSPECTION)
        if introspects and self._introspection == "off":
            raise HTTPError(422, "INTROSPECTION_DISABLED", "Introspection is disabled.")
        is_introspection = introspects and fields <= INTROSPECTION | {"__typename"}
        if caller is None and not is_introspection:
            raise _no_token()
        return is_introspection

    async def _plan(
        self, document: Document, name: str | None, variables: Mapping[str, Any], caller: Caller | None
    ) -> BoundPlan | None:
        """The operation's plan, if there is one. Documents of untrusted callers are not compiled."""
        try:
            return self._execution.prepared(document, name, variables, make=False)
        except NotMade:
            if self._trusted is None and self._admission.is_untrusted(caller):
                return None
            return await self._planning.run(object(), lambda: self._execution.prepared(document, name, variables))

    def _is_within_worst_case(self, document: Document, name: str | None, variables: Mapping[str, Any]) -> bool:
        """Whether an operation is within its limits for any variables with lists of this length."""
        longest = max((len(value) for value in variables.values() if value.__class__ is list), default=1)
        if longest > self._nodes_max:
            return False
        # Lengths are rounded up, so that few worst cases have to be computed.
        length = min(self._nodes_max, max(16, 1 << (longest - 1).bit_length()))
        bounded = document.bounded.get((name, length))
        if bounded is None:
            operation = document.operation(name)
            assert document.ast is not None
            assert operation is not None
            worst = self._costs.worst_case(document.ast, operation, length)
            bounded = worst is not None and self._costs.exceeded(worst) is None
            document.bounded[name, length] = bounded
            document.grow(BOUNDED_BYTES)
        return bounded

    def _checked_cost(
        self, document: Document, operation: OperationDefinitionNode, values: VariableValues
    ) -> OperationCost:
        assert document.ast is not None
        cost = self._costs.exact(document.ast, operation, values)
        exceeded = self._costs.exceeded(cost)
        if exceeded is not None:
            raise exceeded
        return cost


def document_limits_of(settings: LimitSettings) -> DocumentLimits:
    """The limits of documents, which do not depend on variables."""
    return DocumentLimits(
        settings.document_bytes,
        settings.tokens,
        settings.depth,
        settings.root_fields,
        settings.aliases,
        settings.directives,
        settings.overlaps,
    )


def _no_token() -> HTTPError:
    return HTTPError(401, "UNAUTHENTICATED", NO_TOKEN, {"WWW-Authenticate": CHALLENGE})


def _not_registered() -> InvalidOperation:
    # Exactly the message that clients of Apollo's automatic persisted queries expect.
    return InvalidOperation([_coded("PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")])


def _coded(code: str, message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": code, "retryable": False})
