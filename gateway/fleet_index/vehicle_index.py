"""The vehicles of one principal in an in-memory SQLite database, and queries over them.

All methods are synchronous and must be called from one thread at a time; only `interrupt` may be called from another.
A query returns a single row, because the thread has to wait for the GIL after each one; rows within it are JSON.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct, field

from gateway.errors import CursorInvalid, FilterUnsupported, InputInvalid
from gateway.fleet_index.columns import (
    BY_NAME,
    DETAIL_COLUMNS,
    GROUPS,
    TAG,
    TRUE,
    VEHICLE_COLUMNS,
    Kind,
    Value,
    custom_fields_of,
    detail_row,
    has_state,
    place_of,
    sets_of,
    states_of,
    vehicle_row,
)
from gateway.fleet_index.conditions import (
    DETAILS,
    Condition,
    Given,
    Known,
    Names,
    SortField,
    compile_order,
    compile_where,
    side_id,
    state_side,
)
from gateway.upstream.field_masks import decode_masked
from gateway.upstream.models import EARLY_STATE_NAMES, Vehicle, decoded
from gateway.upstream.pages import VehiclePage

# The values of the sort fields and the vehicle's id; only texts, numbers, booleans and None.
SortKey = tuple[Any, ...]

# Memory of a vehicle beside the database and its page: 18 MB were measured for 10,000, of which SQLite counts 9 MB.
ENTRY_BYTES = 900
_INT64 = 2**63

_TYPES = {Kind.TIME: "INTEGER", Kind.WORD: "TEXT", Kind.TEXT: "TEXT"}
_COLUMN_TYPES = {column.column: _TYPES[column.kind] for column in BY_NAME.values()}


def _columns(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_COLUMN_TYPES.get(name, '')}" for name in names)


# A state's value has no type, so that SQLite converts nothing.
_TABLES = f"""
PRAGMA temp_store = MEMORY;
PRAGMA secure_delete = OFF;
CREATE TABLE vehicle (id INTEGER PRIMARY KEY, {_columns(VEHICLE_COLUMNS)});
CREATE UNIQUE INDEX vehicle_by_id ON vehicle (vehicle_id);
CREATE TABLE detail (id INTEGER PRIMARY KEY, {_columns(DETAIL_COLUMNS)});
CREATE INDEX detail_by_unit ON detail (telematics_unit_id) WHERE telematics_unit_id IS NOT NULL;
CREATE TABLE state (id INTEGER PRIMARY KEY, value, timestamp INTEGER);
CREATE TABLE custom (id INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE word (word TEXT, set_id INTEGER, PRIMARY KEY (word, set_id)) WITHOUT ROWID;
CREATE VIRTUAL TABLE place USING rtree (id, south, north, west, east);
{"".join(f"CREATE INDEX by_{c.column} ON {c.table} ({c.column});" for c in BY_NAME.values() if c.is_distinct)}
"""
_PUT_VEHICLE = f"INSERT OR REPLACE INTO vehicle VALUES ({', '.join('?' * (len(VEHICLE_COLUMNS) + 1))})"
_PUT_DETAIL = f"INSERT OR REPLACE INTO detail VALUES ({', '.join('?' * (len(DETAIL_COLUMNS) + 1))})"


class QueryInterrupted(Exception):
    """A query was ended by `interrupt`."""


class Stats(Struct, frozen=True, gc=False):
    """The smallest and the largest number, the average, and the count of vehicles that have a number."""

    min: float | None
    max: float | None
    avg: float | None
    count: int


class _Item(Struct):
    vehicle_id: str = field(name="id")


class _Entry(Struct, gc=False):
    """Where a vehicle is: its number in the database, and its JSON in the body of a page."""

    number: int
    page: VehiclePage
    start: int
    end: int
    has_state: bool

    @property
    def json(self) -> bytes:
        return self.page.body[self.start : self.end]


class _Numbers:
    """Numbers of names, so that rows are narrow; a name keeps its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def known(self, name: str) -> int:
        """The number of a name, or -1."""
        return self._numbers.get(name, -1)


class _Sets:
    """Sets of words, which most vehicles share: each is stored once while a vehicle has it."""

    def __init__(self) -> None:
        self._ids: dict[frozenset[str], int] = {}
        self._uses: Counter[frozenset[str]] = Counter()
        self._next_id = 0

    def add(self, words: frozenset[str], new: list[frozenset[str]]) -> int:
        """The id of a set, which is appended to `new` if no vehicle had it before."""
        self._uses[words] += 1
        if words not in self._ids:
            self._ids[words] = self._next_id
            self._next_id += 1
            new.append(words)
        return self._ids[words]

    def remove(self, words: frozenset[str]) -> None:
        self._uses[words] -= 1

    def unused(self) -> list[tuple[str, int]]:
        """The rows of sets that no vehicle has any more, which are forgotten."""
        rows = []
        for words in [words for words, uses in self._uses.items() if not uses]:
            del self._uses[words]
            rows += self.rows([words])
            del self._ids[words]
        return rows

    def rows(self, sets: Iterable[frozenset[str]]) -> list[tuple[str, int]]:
        return [(word, self._ids[words]) for words in sets for word in words]


class _Changes:
    """Rows to write, collected over a page."""

    def __init__(self) -> None:
        self.vehicles: list[list[Value]] = []
        self.details: list[list[Value]] = []
        self.gone: list[tuple[int]] = []
        self.places: list[tuple[float, ...]] = []
        self.no_places: list[tuple[int]] = []
        self.states: list[tuple[int, Value, int | None]] = []
        self.no_states: list[tuple[int]] = []
        self.customs: list[tuple[int, str]] = []
        self.no_customs: list[tuple[int]] = []
        self.new_sets: list[frozenset[str]] = []


class VehicleIndex:
    """One principal's vehicles; `known` has the words of each enum by column name, without which there is no UNKNOWN.

    Vehicles are decoded from the pages that they came with, which are kept for that.
    """

    def __init__(self, known: Known) -> None:
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.executescript(_TABLES)
        self._entries: dict[str, _Entry] = {}
        # The number of entries of each page.
        self._pages: Counter[VehiclePage] = Counter()
        self._complete: dict[VehiclePage, int] = {}
        self._next_number = 1
        self._without_state = 0
        self._state_names = _Numbers()
        self._custom_names = _Numbers()
        self._sets = _Sets()
        self._names = Names(known, self._state_names.known, self._custom_names.known)
        self._database_bytes = self._page_bytes = 0
        # Held while `interrupt` runs, so that it ends a query, but no change.
        self._lock = Lock()
        self._is_querying = False
        self._measure()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """The memory of the database, the entries, and the bodies of the pages that the vehicles are in."""
        return self._database_bytes + self._page_bytes + ENTRY_BYTES * len(self._entries)

    def close(self) -> None:
        """Frees the memory."""
        self._database.close()
        self._entries.clear()
        self._pages.clear()
        self._complete.clear()

    def __del__(self) -> None:
        self._database.close()  # which Python 3.13 warns of otherwise

    def put(self, page: VehiclePage) -> int:
        """Indexes the vehicles of a page; returns how many were new or had changed. Raises msgspec's errors."""
        if page in self._complete and self._pages[page] == self._complete[page]:
            return 0
        places = _places_of(page)
        changed: list[tuple[str, int, int]] = []
        changes = _Changes()
        body = page.body
        for vehicle_id, (start, end) in places.items():
            entry = self._entries.get(vehicle_id)
            if entry is None or entry.json != body[start:end]:
                changed.append((vehicle_id, start, end))
            else:
                self._move(entry, page, start, end)
        vehicles = [decoded(body[start:end], Vehicle) for _, start, end in changed]
        for (vehicle_id, start, end), vehicle in zip(changed, vehicles, strict=True):
            self._put(vehicle_id, vehicle, page, start, end, changes)
        self._complete[page] = len(places)
        self._write(changes)
        return len(changed)

    def retain(self, ids: set[str]) -> int:
        """Removes all other vehicles; returns how many."""
        gone = [vehicle_id for vehicle_id in self._entries if vehicle_id not in ids]
        changes = _Changes()
        for vehicle_id in gone:
            self._remove(vehicle_id, changes)
        if gone:
            self._write(changes)
        return len(gone)

    def remove(self, vehicle_id: str) -> None:
        """Removes a vehicle if it is there."""
        if vehicle_id in self._entries:
            changes = _Changes()
            self._remove(vehicle_id, changes)
            self._write(changes)

    def vehicle(self, vehicle_id: str, mask: type[Vehicle] | None = None) -> Vehicle | None:
        """A vehicle decoded from its page, with a mask or in full; None if it is not there."""
        entry = self._entries.get(vehicle_id)
        if entry is None:
            return None
        return decoded(entry.json, Vehicle) if mask is None else decode_masked(entry.json, mask)

    def select(
        self,
        where: Given | None,
        order_by: Sequence[Given] | None,
        *,
        now: float,
        limit: int,
        after: SortKey | None = None,
        before: SortKey | None = None,
        backward: bool = False,
        units: bool = False,
    ) -> list[tuple[str, SortKey]]:
        """The first vehicles that match, or with `backward` the last ones, in order, with their sort keys.

        Only those after and before the given sort keys, which need not be of vehicles that are still there. Values that
        are missing come last in either direction, and ties are in the order of ids. `units` is for filters of
        telematics units. Raises InputInvalid, CursorInvalid, FilterUnsupported and QueryInterrupted.
        """
        condition = self._condition(where, now, units=units)
        order = compile_order(order_by, self._names)
        if self._without_state and any(sort_field.uses_state for sort_field in order):
            raise FilterUnsupported("orderBy")
        keys = [(f"k{n}", sort_field.ascending) for n, sort_field in enumerate(order)]
        joins = " ".join(dict.fromkeys([*condition.joins, *(sort_field.join for sort_field in order)]))
        parameters = [value for sort_field in order for value in sort_field.parameters]
        columns = ", ".join(
            [*(f"{sort_field.sql} AS k{n}" for n, sort_field in enumerate(order)), "v.vehicle_id AS key_id"]
        )
        parameters += condition.parameters
        bounds = []
        for argument, key, later in (("after", after, True), ("before", before, False)):
            if key is not None:
                bounds.append(_beyond(keys, _checked_key(key, order, argument), later=later))
                parameters += bounds[-1][1]
        beyond = "".join(f" AND {sql}" for sql, _ in bounds)
        sorting = ", ".join(
            [_sorted_by(name, ascending=ascending, backward=backward) for name, ascending in keys]
            + [f"key_id {'DESC' if backward else 'ASC'}"]
        )
        values = ", ".join(["key_id", *(part for name, _ in keys for part in (f"typeof({name})", _exact(name)))])
        found = self._query(
            f"SELECT json_group_array(json_array({values})) FROM (SELECT {columns} FROM vehicle v {joins} "
            f"WHERE {condition.sql}{beyond} ORDER BY {sorting} LIMIT ?)",
            [*parameters, limit],
        )
        rows = [(row[0], (*_values(row[1:]), row[0])) for row in msgspec.json.decode(found[0])]
        return rows[::-1] if backward else rows

    def count(self, where: Given | None, *, now: float, units: bool = False) -> int:
        """How many vehicles match. Raises InputInvalid, FilterUnsupported and QueryInterrupted."""
        condition = self._condition(where, now, units=units)
        (number,) = self._query(
            f"SELECT count(*) FROM vehicle v {' '.join(condition.joins)} WHERE {condition.sql}", condition.parameters
        )
        return number  # type: ignore[no-any-return]

    def groups(
        self, by: Sequence[str], where: Given | None, *, now: float, limit: int
    ) -> list[tuple[tuple[str | None, ...], int]]:
        """The largest groups of vehicles with equal values, and how many each has; `by` has names of `GROUPS`.

        None stands for missing values. Texts that differ in case are one group, which shows one of them. With TAG, a
        vehicle counts once for each of its tags. Raises InputInvalid, FilterUnsupported and QueryInterrupted.
        """
        if not by or not {*by} <= {*GROUPS}:
            raise InputInvalid("`by` must have at least one item.", "by")
        condition = self._condition(where, now)
        grouped = [_GROUP_SQL[name] for name in by]
        joins = [*condition.joins, *(DETAILS for shown, _ in grouped if shown.startswith("d.") or "(d." in shown)]
        if TAG in by:
            joins.append("LEFT JOIN word t ON t.set_id = v.tags")
        tables = " ".join(["vehicle v", *dict.fromkeys(joins)])
        columns = ", ".join(f"{shown} AS g{n}" for n, (shown, _) in enumerate(grouped))
        keys = ", ".join(f"g{n}" for n in range(len(grouped)))
        sorting = ", ".join(f"g{n} NULLS LAST" for n in range(len(grouped)))
        found = self._query(
            f"SELECT json_group_array(json_array({keys}, number)) FROM (SELECT {columns}, count(*) AS number "
            f"FROM {tables} WHERE {condition.sql} GROUP BY {', '.join(sql for _, sql in grouped)} "
            f"ORDER BY number DESC, {sorting} LIMIT ?)",
            [*condition.parameters, limit],
        )
        return [(tuple(row[:-1]), row[-1]) for row in msgspec.json.decode(found[0])]

    def stats(self, state_property: str, where: Given | None, *, now: float) -> Stats:
        """Statistics of a state property's numbers. Raises InputInvalid, FilterUnsupported and QueryInterrupted."""
        if self._without_state:
            raise FilterUnsupported("of")
        condition = self._condition(where, now)
        side = state_side(self._state_names.known(EARLY_STATE_NAMES.get(state_property, state_property)))
        value, joins = side.value, " ".join(dict.fromkeys([*condition.joins, side.join]))
        found = self._query(
            f"SELECT min({value}), max({value}), avg({value}), count(*) FROM vehicle v {joins} "
            f"WHERE {value} < '' AND {condition.sql}",
            condition.parameters,
        )
        return Stats(*found)

    def unit(self, manufacturer: str | None, brand: str | None, unit_id: str) -> str | None:
        """The id of the vehicle with the telematics unit of a key; the first one, if there are several."""
        (found,) = self._query(
            f"SELECT min(v.vehicle_id) FROM vehicle v {DETAILS} WHERE d.telematics_unit_id = ? "
            "AND d.telematics_unit_manufacturer IS ? AND d.telematics_unit_brand IS ?",
            [unit_id, manufacturer, brand],
        )
        return found  # type: ignore[no-any-return]

    def interrupt(self) -> None:
        """Ends the query that is running, if any; it raises QueryInterrupted. May be called from another thread."""
        with self._lock:
            if self._is_querying:
                self._database.interrupt()

    def _condition(self, where: Given | None, now: float, *, units: bool = False) -> Condition:
        condition = compile_where(where, self._names, now, units=units)
        if condition.uses_state and self._without_state:
            raise FilterUnsupported("where")
        return condition

    def _query(self, sql: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
        self._set_querying(True)
        try:
            return self._database.execute(sql, parameters).fetchone()  # type: ignore[no-any-return]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_INTERRUPT":
                raise QueryInterrupted from error
            raise
        finally:
            self._set_querying(False)

    def _set_querying(self, value: bool) -> None:  # noqa: FBT001 - the value of the flag
        with self._lock:
            self._is_querying = value

    def _put(
        self, vehicle_id: str, vehicle: Vehicle, page: VehiclePage, start: int, end: int, changes: _Changes
    ) -> None:
        entry = self._entries.get(vehicle_id)
        if entry is None:
            number, old = self._next_number, None
            self._next_number += 1
        else:
            number, old = entry.number, decoded(entry.json, Vehicle)
            self._forget(entry)
        entry = self._entries[vehicle_id] = _Entry(number, page, start, end, has_state(vehicle))
        self._without_state += not entry.has_state
        self._pages[page] += 1
        self._page_bytes += len(page.body) if self._pages[page] == 1 else 0
        self._change(number, old, vehicle, changes)
        set_ids = [None if words is None else self._sets.add(words, changes.new_sets) for words in sets_of(vehicle)]
        changes.vehicles.append([number, *vehicle_row(vehicle, set_ids)])
        changes.details.append([number, *detail_row(vehicle)])

    def _remove(self, vehicle_id: str, changes: _Changes) -> None:
        entry = self._entries.pop(vehicle_id)
        self._change(entry.number, decoded(entry.json, Vehicle), None, changes)
        self._forget(entry)
        changes.gone.append((entry.number,))

    def _change(self, number: int, old: Vehicle | None, new: Vehicle | None, changes: _Changes) -> None:
        """Collects the rows of side tables that differ; the old vehicle is decoded again to know its rows."""
        names, fields = self._state_names.of, self._custom_names.of
        before = states_of(old) if old else {}
        after = states_of(new) if new else {}
        changes.no_states += [(side_id(names(name), number),) for name in before if name not in after]
        changes.states += [
            (side_id(names(name), number), *row) for name, row in after.items() if before.get(name) != row
        ]
        before_fields = custom_fields_of(old) if old else {}
        after_fields = custom_fields_of(new) if new else {}
        changes.no_customs += [(side_id(fields(name), number),) for name in before_fields if name not in after_fields]
        changes.customs += [
            (side_id(fields(name), number), value)
            for name, value in after_fields.items()
            if before_fields.get(name) != value
        ]
        was, place = (place_of(old)[:2] if old else (None, None)), (place_of(new)[:2] if new else (None, None))
        if place != was:
            lat, lon = place
            if lat is not None and lon is not None:
                changes.places.append((number, lat, lat, lon, lon))
            else:
                changes.no_places.append((number,))
        for words in sets_of(old) if old else ():
            if words is not None:
                self._sets.remove(words)

    def _move(self, entry: _Entry, page: VehiclePage, start: int, end: int) -> None:
        self._forget_page(entry.page)
        entry.page, entry.start, entry.end = page, start, end
        self._pages[page] += 1
        self._page_bytes += len(page.body) if self._pages[page] == 1 else 0

    def _forget(self, entry: _Entry) -> None:
        self._without_state -= not entry.has_state
        self._forget_page(entry.page)

    def _forget_page(self, page: VehiclePage) -> None:
        self._pages[page] -= 1
        if not self._pages[page]:
            del self._pages[page]
            self._complete.pop(page, None)
            self._page_bytes -= len(page.body)

    def _write(self, changes: _Changes) -> None:
        many = self._database.executemany
        self._database.execute("BEGIN")
        for table in ("vehicle", "detail"):
            many(f"DELETE FROM {table} WHERE id = ?", changes.gone)
        many(_PUT_VEHICLE, changes.vehicles)
        many(_PUT_DETAIL, changes.details)
        many("DELETE FROM place WHERE id = ?", changes.no_places)
        many("INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?)", changes.places)
        many("DELETE FROM state WHERE id = ?", changes.no_states)
        many("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", sorted(changes.states, key=_id))
        many("DELETE FROM custom WHERE id = ?", changes.no_customs)
        many("INSERT OR REPLACE INTO custom VALUES (?, ?)", sorted(changes.customs, key=_id))
        many("INSERT INTO word VALUES (?, ?)", self._sets.rows(changes.new_sets))
        many("DELETE FROM word WHERE word = ? AND set_id = ?", self._sets.unused())
        self._database.execute("COMMIT")
        self._measure()

    def _measure(self) -> None:
        self._database_bytes = self._database.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()[0]


def _group_sql(name: str) -> tuple[str, str]:
    """What is shown of a group, and by what it is grouped."""
    if name == TAG:
        return "t.word", "t.word"
    column = BY_NAME[name]
    return f"min({column.shown_sql})" if column.kind is Kind.TEXT else column.sql, column.sql


_GROUP_SQL = {name: _group_sql(name) for name in GROUPS}


def _places_of(page: VehiclePage) -> dict[str, tuple[int, int]]:
    """Where the JSON of each vehicle is in the body; of vehicles with the same id only the last one."""
    body, places = page.body, {}
    for start, end in page.places:
        places[_item.decode(body[start:end]).vehicle_id] = start, end
    return places


_id = itemgetter(0)
_item = msgspec.json.Decoder(_Item)


def _sorted_by(name: str, *, ascending: bool, backward: bool) -> str:
    if backward:
        return f"{name} {'DESC' if ascending else 'ASC'} NULLS FIRST"
    return f"{name} {'ASC' if ascending else 'DESC'} NULLS LAST"


def _beyond(keys: Sequence[tuple[str, bool]], values: Sequence[Value], *, later: bool) -> tuple[str, list[Value]]:
    """The condition on rows after, or before, a sort key, and its parameters."""
    *rest, vehicle_id = values
    sql, parameters = f"key_id {'>' if later else '<'} ?", [vehicle_id]
    for (name, ascending), value in reversed(list(zip(keys, rest, strict=True))):
        if value is None:
            # Missing values are last.
            beyond = "FALSE" if later else f"{name} IS NOT NULL"
            sql = f"({beyond} OR ({name} IS NULL AND {sql}))"
        else:
            beyond = f"{name} {'>' if ascending == later else '<'} ?" + (f" OR {name} IS NULL" if later else "")
            sql = f"({beyond} OR ({name} = ? AND {sql}))"
            parameters = [value, value, *parameters]
    return sql, parameters


def _exact(name: str) -> str:
    """A value for JSON: SQLite writes no blobs, and rounds numbers to 15 digits, except in `quote`."""
    return f"CASE typeof({name}) WHEN 'real' THEN quote({name}) WHEN 'blob' THEN hex({name}) ELSE {name} END"


def _values(row: Sequence[Any]) -> list[Any]:
    return [
        float(value) if kind == "real" else value == TRUE.hex() if kind == "blob" else value
        for kind, value in zip(row[::2], row[1::2], strict=True)
    ]


def _checked_key(key: SortKey, order: Sequence[SortField], argument: str) -> list[Value]:
    """The values of a sort key as SQLite has them. Raises CursorInvalid if they can't be of this order."""
    if len(key) != len(order) + 1 or key[-1].__class__ is not str:
        raise CursorInvalid(argument)
    for value, sort_field in zip(key, order, strict=False):
        if value is not None and value.__class__ not in sort_field.types:
            raise CursorInvalid(argument)
        if value.__class__ is int and not -_INT64 <= value < _INT64:
            raise CursorInvalid(argument)
    return [_FLAGS[value] if value.__class__ is bool else value for value in key]


_FLAGS = {False: b"\x00", True: TRUE}
