"""Selections compiled, once, into Python functions that turn source objects into what an answer holds of them.

A field is plain if its value needs nothing but its object: the member of its name, or what a pure function makes of the
object (`PLAIN`). A field that has to be read for (`BATCH`) is deferred; deferred fields are filled level by level, for
all objects of a level at once. Where a selection has no compiled form, or a value does not have the type of its field,
an exception is raised, and the generic executor answers instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

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

from gateway.engine.fallbacks import NotCompilable, UnexpectedValue
from gateway.engine.leaves import AS_IT_IS, EXACT, Leaf

# What a field's metadata may say of it.
PLAIN = "plain"  # its value as a function of its object alone, or the name of a member
BY_NAME = "by_name"  # such a function, made of the field's own name
BATCH = "batch"  # `async (context, objects) -> values`: what it reads, for all objects of a level
UNLESS = "unless"  # what the plain value is where it has to be read after all
NEEDS = "needs"  # the members that a plain function reads: names, or what makes them of the field's own name
OWN = "own"  # whether what is read belongs to the object itself, so that the projection may be kept with it

Details = list[FieldDetails]
# What a projection reads of an object: its members, and of each all (None) or what it reads of that in turn.
Needs = dict[str, "Needs | None"]
Collect = Callable[[GraphQLObjectType, Details], Mapping[str, Details]]
Append = Callable[[tuple[Any, dict[str, Any]]], None]
Complete = Callable[[Any, Sequence[Append]], Any]

# Stands before the name of a type in what is read of an object that may be of several.
ON = "on "
# Code that is too large to compile quickly is none that anybody's client sends; of all projections of an operation.
FIELDS_MAX = 2_000
# What a projection takes in memory, in bytes: by itself, and for each character of its source. Measured with
# tracemalloc: 3.8 to 4.1 for a character.
PROJECTION_BYTES = 4_000
SOURCE_FACTOR = 4.5


def unexpected(*_: Any) -> Any:
    """Gives up on the projection of a value."""
    raise UnexpectedValue


class DeferredField(NamedTuple):
    """A field that has to be read for: its key in the answer, what reads it, and what completes its values."""

    key: str
    batch: Callable[[Any, list[Any]], Awaitable[Sequence[Any]]]
    complete: str
    own: bool


class Projection:
    """What becomes of a field's value; made by `compile_field`. `size` is what it takes in memory, in bytes.

    What is made by it is kept under its `key`, a number that no other has, because it would be kept alive itself.
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
        self.reads = bool(deferred)  # whether anything may have to be read; if not, `complete` alone will do

    def __del__(self) -> None:
        # Its functions and the names that they use hold each other: else they would be left to the collector.
        self._names.clear()

    def at_once(self, value: Any) -> Any | None:
        """The projection of an object; None if some of its fields have to be read for."""
        groups: list[list[Any]] = [[] for _ in self._deferred]
        completed = self.complete(value, [group.append for group in groups])
        return None if any(groups) else completed

    async def run(self, value: Any, context: Any) -> tuple[Any, bool]:
        """The projection of a value, and whether it is made of that value alone."""
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
                for (_, answer), found in zip(pairs, values, strict=True):
                    # An error looks like an object where nothing but a `__typename` is asked of it.
                    answer[field.key] = unexpected() if isinstance(found, BaseException) else complete(found, appends)
        return completed, own


_KEYS = count()


class Budget:
    """How many more fields may be compiled for one operation."""

    def __init__(self) -> None:
        self._left = FIELDS_MAX

    def take(self) -> None:
        """Takes a field; raises NotCompilable where there are too many."""
        self._left -= 1
        if self._left < 0:
            raise NotCompilable


class Types:
    """What is known of a schema's types.

    `forms` says what the objects of some are, in whatever form they come.
    """

    def __init__(self, schema: GraphQLSchema, forms: Mapping[str, type]) -> None:
        self.schema = schema
        self.forms = forms
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
    """The projection of values of a type through a selection; raises NotCompilable if there is none, or too large."""
    try:
        return _Compiler(types, collect, budget).projection(kind, details)
    except (GraphQLError, SyntaxError, RecursionError, MemoryError) as unfit:
        raise NotCompilable from unfit  # the last three are what Python says of code that nests too deeply


class TypeDispatch(dict[type, Any]):
    """The function for an object of an abstract type, by the object's class; `of` has them by the forms of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[type, Any] = {}

    def __missing__(self, kind: type) -> Any:
        found = next((function for form, function in self.of.items() if issubclass(kind, form)), unexpected)
        self[kind] = found
        return found


class Reading:
    """What is read of an object, as it becomes known."""

    def __init__(self) -> None:
        self._members: dict[str, Reading] = {}
        self._is_all = False

    def all(self) -> None:
        """All of it is."""
        self._is_all = True

    def member(self, name: str) -> Reading:
        """A member is; the result takes what is read of that."""
        return self._members.setdefault(name, Reading())

    def told(self) -> Needs | None:
        """The members, or None for all of them."""
        return None if self._is_all else {name: member.told() for name, member in self._members.items()}


class _Compiler:
    """Writes the functions of one projection. `o` is an object, `h` the appends of deferred fields."""

    def __init__(self, types: Types, collect: Collect, budget: Budget) -> None:
        self._types = types
        self._budget = budget
        self._collect = collect
        self._functions: list[str] = []
        self._names: dict[str, Any] = {"unexpected": unexpected, "each": _each, "LISTS": (list, tuple)}
        self._deferred: list[DeferredField] = []
        self._dispatches: list[tuple[TypeDispatch, dict[type, str]]] = []

    def projection(self, kind: GraphQLOutputType, details: Details) -> Projection:
        needs: Reading = Reading()
        complete = self._function(kind, details, needs)
        source = "\n".join(self._functions)
        exec(compile(source, "<projection>", "exec"), self._names)  # noqa: S102 - of a caller's text it holds GraphQL names alone
        for dispatch, functions in self._dispatches:
            dispatch.of.update({form: self._names[name] for form, name in functions.items()})
        deferred = [(field, self._names[field.complete]) for field in self._deferred]
        size = PROJECTION_BYTES + int(SOURCE_FACTOR * len(source))
        return Projection(self._names, self._names[complete], deferred, needs.told(), size)

    def _function(self, kind: GraphQLOutputType, details: Details, reading: Reading) -> str:
        name = self._new("complete")
        body = self._value(kind, details, "o", reading)
        self._functions.append(f"def {name}(o, h):\n    return {body}\n")
        return name

    def _value(self, kind: GraphQLOutputType, details: Details, expression: str, reading: Reading) -> str:
        null = "None"
        if is_non_null_type(kind):
            kind, null = kind.of_type, "unexpected()"
        v = self._new("v")
        bound = f"({v} := {expression})"
        if isinstance(kind, (GraphQLScalarType, GraphQLEnumType)):
            reading.all()
            return self._leaf(kind, bound, v, null)
        if is_list_type(kind):
            item = self._function(kind.of_type, details, reading)
            # Who asks for objects by their keys may ask for one more than once.
            each = f"each({item}, {v}, h)" if _is_abstract(kind.of_type) else f"[{item}(i, h) for i in {v}]"
            body = f"{each} if type({v}) in LISTS else unexpected()"
        elif is_abstract_type(kind):
            body = self._dispatched(kind, details, v, reading)
        elif is_object_type(kind):
            body = self._object(kind, details, v, reading)
        else:
            raise NotCompilable
        return f"({null} if {bound} is None else {body})"

    def _leaf(self, kind: GraphQLScalarType | GraphQLEnumType, bound: str, v: str, null: str) -> str:
        checked = self._types.leaf(kind)
        coerce = self._constant(checked.coerce)
        otherwise = f"{null} if {v} is None else {coerce}({v})"
        test = AS_IT_IS.get(kind.name)
        if kind.name == "Float":
            otherwise = f"float({v}) if type({v}) is int and {EXACT.format(v)} else {otherwise}"
        if test is not None:
            return f"({v} if type({bound}) is {test.format(v)} else {otherwise})"
        known = self._constant(checked.known)
        return f"({known}.get({v}) or {coerce}({v}) if type({bound}) is str else {otherwise})"

    def _dispatched(self, kind: Any, details: Details, v: str, reading: Reading) -> str:
        functions = {}
        for owner in self._types.schema.get_possible_types(kind):
            form = self._types.forms.get(owner.name)
            if form is None:
                raise NotCompilable(owner.name)
            functions[form] = self._function(owner, details, reading.member(ON + owner.name))
        dispatch = TypeDispatch()
        self._dispatches.append((dispatch, functions))
        return f"{self._constant(dispatch)}[type({v})]({v}, h)"

    def _object(self, kind: GraphQLObjectType, details: Details, v: str, reading: Reading) -> str:
        parts, left = [], []
        for key, selected in self._collect(kind, details).items():
            self._budget.take()
            node: FieldNode = selected[0].node
            if node.name.value == "__typename":
                parts.append(f"{key!r}: {kind.name!r}")
                continue
            definition = kind.fields.get(node.name.value)
            field = f"{kind.name}.{node.name.value}"
            if definition is None or definition.args:
                raise NotCompilable(field)
            value, deferral = self._field(definition, field, key, selected, v, reading)
            parts.append(f"{key!r}: {value}")
            left += [deferral] if deferral else []
        body = "{" + ", ".join(parts) + "}"
        if left:
            d = self._new("d")
            body = f"(({d} := {body}), {', '.join(deferral.format(d=d) for deferral in left)})[0]"
        if kind.name in self._types.forms:
            form = self._constant(self._types.forms[kind.name])
            body = f"{body} if isinstance({v}, {form}) else unexpected()"
        return body

    def _field(
        self, definition: GraphQLField, field: str, key: str, selected: Details, v: str, reading: Reading
    ) -> tuple[str, str | None]:
        """A field's value, and what defers the field, where it may have to be read for."""
        own = definition.extensions.get("strawberry-definition")
        if own is None:
            raise NotCompilable(field)
        told = own.metadata
        plain, batch = told.get(PLAIN), told.get(BATCH)
        if BY_NAME in told:
            plain = told[BY_NAME](own.python_name)
        if plain is None and batch is None and own.is_basic_field:
            plain = own.python_name
        if plain is None and batch is None:
            raise NotCompilable(field)
        within = self._within(plain, told.get(NEEDS), own.python_name, reading)
        if batch is None:
            return self._value(definition.type, selected, self._plain(plain, v), within), None
        index = len(self._deferred)
        self._deferred.append(DeferredField(key, batch, "", bool(told.get(OWN))))
        complete = self._function(definition.type, selected, Reading())
        self._deferred[index] = self._deferred[index]._replace(complete=complete)
        append = f"h[{index}](({v}, {{d}}))"
        if plain is None:
            return "None", append
        t, missing = self._new("t"), self._constant(told[UNLESS])
        value = self._value(definition.type, selected, t, within)
        return f"(None if ({t} := {self._plain(plain, v)}) is {missing} else {value})", f"{t} is {missing} and {append}"

    def _within(self, plain: Any, needs: Any, name: str, reading: Reading) -> Reading:
        """Notes what a field reads of its object; what is read of its value in turn is noted in the result."""
        if isinstance(plain, str):
            return reading.member(plain)
        if needs is None:
            reading.all()
            return Reading()
        for member in needs(name) if callable(needs) else needs:
            reading.member(member).all()
        return Reading()

    def _plain(self, plain: str | Callable[[Any], Any], v: str) -> str:
        return f"{v}.{plain}" if isinstance(plain, str) else f"{self._constant(plain)}({v})"

    def _constant(self, value: Any) -> str:
        name = self._new("k")
        self._names[name] = value
        return name

    def _new(self, kind: str) -> str:
        self._names["#"] = number = self._names.get("#", 0) + 1
        return f"{kind}{number}"


def _each(complete: Complete, objects: Sequence[Any], appends: Sequence[Append]) -> list[Any]:
    """What becomes of each object; of one that is there several times once."""
    keys = list(map(id, objects))
    once = dict(zip(keys, objects, strict=True))
    if len(once) == len(keys):
        return [complete(each, appends) for each in objects]
    completed = dict(zip(once, [complete(each, appends) for each in once.values()], strict=True))
    return list(map(completed.__getitem__, keys))


def _is_abstract(kind: GraphQLOutputType) -> bool:
    return is_abstract_type(kind.of_type if is_non_null_type(kind) else kind)
