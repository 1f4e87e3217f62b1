"""Compiles selections into Python functions that convert source objects to response objects.

A field is plain if its value depends only on its object: it is the member of that name, or the result of a pure
function (`PLAIN`). A field that has to be loaded (`BATCH`) is deferred; deferred fields are loaded level by level, for
all objects of a level at once. If a selection cannot be compiled, or a value does not have the type of its field, an
exception is raised, and the generic executor runs the operation instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import msgspec
from graphql import (
    FieldNode,
    GraphQLEnumType,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLScalarType,
    GraphQLSchema,
    is_abstract_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
)
from graphql.execution.collect_fields import FieldDetails

from gateway.engine.arguments import constant_arguments
from gateway.engine.fallbacks import NotCompilable, UnexpectedValue
from gateway.engine.leaves import EXACT, UNCHANGED, Leaf

# Keys of a field's metadata.
PLAIN = "plain"  # a function from the object to the value, or the name of a member
BY_NAME = "by_name"  # a function from the field's name to such a function
# `async (context, objects) -> values`, for all objects of a level, and `arguments=…` if the field has any
BATCH = "batch"
UNLESS = "unless"  # the plain value that means that the field has to be loaded
NEEDS = "needs"  # the members that a plain function reads: names, or a function from the field's name to them
OWN = "own"  # whether the loaded value is part of the object, so that the fragment may be cached

Details = list[FieldDetails]
# The members of an object that a projection reads, with the members of each, or None for all.
Needs = dict[str, "Needs | None"]
Collect = Callable[[GraphQLObjectType, Details], Mapping[str, Details]]
Append = Callable[[tuple[Any, dict[str, Any]]], None]
Complete = Callable[[Any, Sequence[Append]], Any]

# The prefix of a type name in the needs of an object of an abstract type.
ON = "on "
# Compiled fields of all projections of an operation. More would take too long, and usual clients send fewer.
FIELDS_MAX = 2_000
# Bytes of memory of a projection: fixed, and per character of its source. tracemalloc shows 3.8 to 4.1 per character.
PROJECTION_BYTES = 4_000
SOURCE_FACTOR = 4.5


def unexpected(*_: Any) -> Any:
    """Raises UnexpectedValue."""
    raise UnexpectedValue


class DeferredField(NamedTuple):
    """A field that has to be loaded: its response key, its loader, and the function that completes its values."""

    key: str
    batch: Callable[[Any, list[Any]], Awaitable[Sequence[Any]]]
    complete: str
    own: bool


class Deferral(NamedTuple):
    """The source of the deferral of a field, and of the condition under which it is deferred; empty for always."""

    condition: str
    append: str

    @property
    def source(self) -> str:
        return f"{self.condition} and {self.append}" if self.condition else self.append


class Projection:
    """A compiled selection of a field, made by `compile_field`; `size` is its memory in bytes.

    `key` is a unique number, under which its fragments are cached; the projection itself would stay in memory.
    """

    def __init__(
        self,
        names: dict[str, Any],
        complete: Complete,
        deferred: Sequence[tuple[DeferredField, Complete]],
        needs: Needs | None,
        size: int,
    ) -> None:
        self._names = names
        self.complete = complete
        self.size = size
        self.key = next(_KEYS)
        self._deferred = deferred
        self.needs = needs
        self.reads = bool(deferred)  # whether fields may have to be loaded; if not, `complete` is enough

    def __del__(self) -> None:
        # Breaks the reference cycle of the functions and their globals, which would wait for the garbage collector.
        self._names.clear()

    def at_once(self, value: Any) -> Any | None:
        """The projection of an object; None if some of its fields have to be loaded."""
        groups: list[list[Any]] = [[] for _ in self._deferred]
        completed = self.complete(value, [group.append for group in groups])
        return None if any(groups) else completed

    async def run(self, value: Any, context: Any) -> tuple[Any, bool]:
        """The projection of a value, and whether it depends only on that value."""
        if not self._deferred:
            return self.complete(value, ()), True
        groups: list[list[tuple[Any, dict[str, Any]]]] = [[] for _ in self._deferred]
        appends = [group.append for group in groups]
        completed, own = self.complete(value, appends), True
        while level := [index for index, group in enumerate(groups) if group]:
            waiting = [(index, groups[index][:]) for index in level]
            for index in level:
                groups[index].clear()
            reads = [self._deferred[index][0].batch(context, [o for o, _ in pairs]) for index, pairs in waiting]
            read = [await reads[0]] if len(reads) == 1 else await asyncio.gather(*reads)
            for (index, pairs), values in zip(waiting, read, strict=True):
                field, complete = self._deferred[index]
                own = own and field.own
                for (_, projected), found in zip(pairs, values, strict=True):
                    # An error would pass as an object if only `__typename` is selected.
                    projected[field.key] = (
                        unexpected() if isinstance(found, BaseException) else complete(found, appends)
                    )
        return completed, own


_KEYS = count()


class Budget:
    """The number of fields that may still be compiled for an operation."""

    def __init__(self) -> None:
        self._left = FIELDS_MAX

    def take(self) -> None:
        """Counts a field. Raises NotCompilable if there are too many."""
        self._left -= 1
        if self._left < 0:
            raise NotCompilable


class Types:
    """The types of a schema; `forms` are the base classes of the objects of some types.

    Objects of `shared` types have a member `rendered`, which is not None if later responses may have the same object.
    """

    def __init__(self, schema: GraphQLSchema, forms: Mapping[str, type], shared: Collection[str] = ()) -> None:
        self.schema = schema
        self.forms = forms
        self.shared = shared
        self._leaves: dict[str, Leaf] = {}

    def leaf(self, kind: GraphQLScalarType | GraphQLEnumType) -> Leaf:
        """The coercion of a scalar or an enum."""
        leaf = self._leaves.get(kind.name)
        if leaf is None:
            leaf = self._leaves[kind.name] = Leaf(kind)
        return leaf


def compile_field(
    types: Types, collect: Collect, kind: GraphQLOutputType, details: Details, budget: Budget
) -> Projection:
    """The projection of values of a type. Raises NotCompilable if the selection has none or is too large."""
    try:
        return _Compiler(types, collect, budget).projection(kind, details)
    except (GraphQLError, SyntaxError, RecursionError, MemoryError) as unfit:
        raise NotCompilable from unfit  # the last three are Python's errors for deeply nested code


class TypeDispatch(dict[type, Any]):
    """The function for an object of an abstract type, by the object's class; `of` has them by base class."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[type, Any] = {}

    def __missing__(self, kind: type) -> Any:
        found = next((function for form, function in self.of.items() if issubclass(kind, form)), unexpected)
        self[kind] = found
        return found


class NeedsBuilder:
    """Collects the members of an object that a projection reads."""

    def __init__(self) -> None:
        self._members: dict[str, NeedsBuilder] = {}
        self._is_all = False

    def all(self) -> None:
        """Adds all members."""
        self._is_all = True

    def member(self, name: str) -> NeedsBuilder:
        """Adds a member; the result collects the members of its value."""
        return self._members.setdefault(name, NeedsBuilder())

    def build(self) -> Needs | None:
        """The members, or None for all."""
        return None if self._is_all else {name: member.build() for name, member in self._members.items()}


class _Compiler:
    """Writes the functions of one projection. `o` is an object, `h` the appends of deferred fields."""

    def __init__(self, types: Types, collect: Collect, budget: Budget) -> None:
        self._types = types
        self._budget = budget
        self._collect = collect
        self._functions: list[str] = []
        self._names: dict[str, Any] = {
            "unexpected": unexpected, "each": _each, "render": _render, "LISTS": (list, tuple),
        }  # fmt: skip
        self._deferred: list[DeferredField] = []
        self._dispatches: list[tuple[TypeDispatch, dict[type, str]]] = []

    def projection(self, kind: GraphQLOutputType, details: Details) -> Projection:
        needs: NeedsBuilder = NeedsBuilder()
        complete = self._function(kind, details, needs)
        source = "\n".join(self._functions)
        exec(compile(source, "<projection>", "exec"), self._names)  # noqa: S102 - of a client's text it has only GraphQL names
        for dispatch, functions in self._dispatches:
            dispatch.of.update({form: self._names[name] for form, name in functions.items()})
        deferred = [(field, self._names[field.complete]) for field in self._deferred]
        size = PROJECTION_BYTES + int(SOURCE_FACTOR * len(source))
        return Projection(self._names, self._names[complete], deferred, needs.build(), size)

    def _function(self, kind: GraphQLOutputType, details: Details, builder: NeedsBuilder) -> str:
        name = self._new("complete")
        body = self._value(kind, details, "o", builder)
        self._functions.append(f"def {name}(o, h):\n    return {body}\n")
        return name

    def _value(self, kind: GraphQLOutputType, details: Details, expression: str, builder: NeedsBuilder) -> str:
        null = "None"
        if is_non_null_type(kind):
            kind, null = kind.of_type, "unexpected()"
        v = self._new("v")
        bound = f"({v} := {expression})"
        if isinstance(kind, (GraphQLScalarType, GraphQLEnumType)):
            builder.all()
            return self._leaf(kind, bound, v, null)
        if is_list_type(kind):
            item = self._function(kind.of_type, details, builder)
            # A list by keys may have an object more than once.
            each = f"each({item}, {v}, h)" if _is_abstract(kind.of_type) else f"[{item}(i, h) for i in {v}]"
            body = f"{each} if type({v}) in LISTS else unexpected()"
        elif is_abstract_type(kind):
            body = self._dispatched(kind, details, v, builder)
        elif is_object_type(kind):
            body = self._object(kind, details, v, builder)
        else:
            raise NotCompilable
        return f"({null} if {bound} is None else {body})"

    def _leaf(self, kind: GraphQLScalarType | GraphQLEnumType, bound: str, v: str, null: str) -> str:
        checked = self._types.leaf(kind)
        coerce = self._constant(checked.coerce)
        otherwise = f"{null} if {v} is None else {coerce}({v})"
        test = UNCHANGED.get(kind.name)
        if kind.name == "Float":
            otherwise = f"float({v}) if type({v}) is int and {EXACT.format(v)} else {otherwise}"
        if test is not None:
            return f"({v} if type({bound}) is {test.format(v)} else {otherwise})"
        known = self._constant(checked.known)
        return f"({known}.get({v}) or {coerce}({v}) if type({bound}) is str else {otherwise})"

    def _dispatched(self, kind: Any, details: Details, v: str, builder: NeedsBuilder) -> str:
        functions = {}
        for owner in self._types.schema.get_possible_types(kind):
            form = self._types.forms.get(owner.name)
            if form is None:
                raise NotCompilable(owner.name)
            functions[form] = self._function(owner, details, builder.member(ON + owner.name))
        dispatch = TypeDispatch()
        self._dispatches.append((dispatch, functions))
        return f"{self._constant(dispatch)}[type({v})]({v}, h)"

    def _object(self, kind: GraphQLObjectType, details: Details, v: str, builder: NeedsBuilder) -> str:
        parts: list[str] = []
        deferrals: list[Deferral] = []
        deferred_before = len(self._deferred)
        for key, selected in self._collect(kind, details).items():
            self._budget.take()
            node: FieldNode = selected[0].node
            if node.name.value == "__typename":
                parts.append(f"{key!r}: {kind.name!r}")
                continue
            definition = kind.fields.get(node.name.value)
            field = f"{kind.name}.{node.name.value}"
            if definition is None:
                raise NotCompilable(field)
            value, deferral = self._field(definition, field, key, selected, v, builder)
            parts.append(f"{key!r}: {value}")
            deferrals += [deferral] if deferral else []
        body = "{" + ", ".join(parts) + "}"
        if deferrals:
            d = self._new("d")
            body = f"(({d} := {body}), {', '.join(each.source.format(d=d) for each in deferrals)})[0]"
        has_deferred_below = len(self._deferred) > deferred_before + len(deferrals)
        if kind.name in self._types.shared and not has_deferred_below and all(each.condition for each in deferrals):
            r, b, own = self._new("r"), self._new("b"), self._constant(object())
            is_deferred = " or ".join([f"not ({b} := {body})", *(each.condition for each in deferrals)])
            body = f"{b} if {is_deferred} else render({v}, {own}, {b})"
            body = f"({r}[1] if ({r} := {v}.rendered) and {r}[0] is {own} else {body})"
        if kind.name in self._types.forms:
            form = self._constant(self._types.forms[kind.name])
            body = f"{body} if isinstance({v}, {form}) else unexpected()"
        return body

    def _field(
        self, definition: GraphQLField, field: str, key: str, selected: Details, v: str, builder: NeedsBuilder
    ) -> tuple[str, Deferral | None]:
        """The source of a field's value and, if it may have to be loaded, of its deferral."""
        own = definition.extensions.get("strawberry-definition")
        if own is None:
            raise NotCompilable(field)
        metadata = own.metadata
        plain, batch = metadata.get(PLAIN), metadata.get(BATCH)
        if BY_NAME in metadata:
            plain = metadata[BY_NAME](own.python_name)
        if plain is None and batch is None and own.is_basic_field:
            plain = own.python_name
        if plain is None and batch is None:
            raise NotCompilable(field)
        within = self._within(plain, metadata.get(NEEDS), own.python_name, builder)
        if definition.args:
            if batch is None:
                raise NotCompilable(field)
            batch = partial(batch, arguments=constant_arguments(definition, selected[0].node))
        if batch is None:
            return self._value(definition.type, selected, self._plain(plain, v), within), None
        index = len(self._deferred)
        self._deferred.append(DeferredField(key, batch, "", bool(metadata.get(OWN))))
        complete = self._function(definition.type, selected, NeedsBuilder())
        self._deferred[index] = self._deferred[index]._replace(complete=complete)
        append = f"h[{index}](({v}, {{d}}))"
        if plain is None:
            return "None", Deferral("", append)
        t, missing = self._new("t"), self._constant(metadata[UNLESS])
        value = self._value(definition.type, selected, t, within)
        return f"(None if ({t} := {self._plain(plain, v)}) is {missing} else {value})", Deferral(
            f"{t} is {missing}", append
        )

    def _within(self, plain: Any, needs: Any, name: str, builder: NeedsBuilder) -> NeedsBuilder:
        """Adds the members that a field reads of its object; the result collects those of its value."""
        if isinstance(plain, str):
            return builder.member(plain)
        if needs is None:
            builder.all()
            return NeedsBuilder()
        for member in needs(name) if callable(needs) else needs:
            builder.member(member).all()
        return NeedsBuilder()

    def _plain(self, plain: str | Callable[[Any], Any], v: str) -> str:
        return f"{v}.{plain}" if isinstance(plain, str) else f"{self._constant(plain)}({v})"

    def _constant(self, value: Any) -> str:
        name = self._new("k")
        self._names[name] = value
        return name

    def _new(self, kind: str) -> str:
        self._names["#"] = number = self._names.get("#", 0) + 1
        return f"{kind}{number}"


def _render(shared: Any, key: object, completed: dict[str, Any]) -> Any:
    """A completed object; one that later responses may have, too, is encoded now, and its JSON kept for them."""
    if shared.rendered is None:
        return completed
    rendered = msgspec.Raw(msgspec.json.encode(completed))
    shared.rendered = key, rendered
    return rendered


def _each(complete: Complete, objects: Sequence[Any], appends: Sequence[Append]) -> list[Any]:
    """Completes objects; one that occurs several times is completed once."""
    keys = list(map(id, objects))
    once = dict(zip(keys, objects, strict=True))
    if len(once) == len(keys):
        return [complete(each, appends) for each in objects]
    completed = dict(zip(once, [complete(each, appends) for each in once.values()], strict=True))
    return list(map(completed.__getitem__, keys))


def _is_abstract(kind: GraphQLOutputType) -> bool:
    return is_abstract_type(kind.of_type if is_non_null_type(kind) else kind)
