"""Compiles `where` and `orderBy` to SQL. Values and names are bound parameters; the text of SQL has none of them.

A condition on a missing or odd value is NULL or false in SQL, so it does not match. `not` matches all that its
condition does not match, which is `IS NOT TRUE`; `and` and `or` need nothing, because both are monotone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from math import isfinite
from typing import Any, NamedTuple

import msgspec

from gateway.errors import InputInvalid
from gateway.fleet_index.columns import BY_NAME, FALSE, TRUE, Kind, unit_vector
from gateway.fleet_index.places import HALF_EARTH, Box, box_around, box_of, chord_squared, polygon_of
from gateway.timestamps import microseconds_of
from gateway.upstream.models import EARLY_STATE_NAMES

CONDITIONS_MAX = 100
DEPTH_MAX = 10
ORDER_KEYS_MAX = 8
POINTS_MIN, POINTS_MAX = 3, 200
# SQLite's limit is 32,766 by default; the rest is for the order and the cursor.
PARAMETERS_MAX = 30_000
# State properties and custom fields, each of which is a join. SQLite's limit is 64; the rest is for the order.
SIDES_MAX = 50
AGE_MAX = timedelta(days=365_000)
# The word for values outside an enum.
UNKNOWN = "UNKNOWN"
# The squared chord is at most 4. As an integer of this fraction it is exact in every language; 1 is about 6 mm.
DISTANCE_SCALE = 2**60

Known = Mapping[str, frozenset[str]]
Ids = Callable[[str], int]
Given = Mapping[str, Any]

WORD_COLUMNS = {"vehicleId": "VEHICLE_ID", "fleetId": "FLEET_ID", "vehicleModelId": "VEHICLE_MODEL_ID"}
STATUS_COLUMNS = {
    "status": "STATUS",
    "lifeStatus": "LIFE_STATUS",
    "operationStatus": "OPERATION_STATUS",
    "rentalStatus": "RENTAL_STATUS",
    "setupStatus": "SETUP_STATUS",
}
TIME_COLUMNS = {
    "createdAt": "CREATED_AT",
    "modifiedAt": "MODIFIED_AT",
    "attachedAt": "ATTACHED_AT",
    "lastContactAt": "LAST_CONTACT_AT",
}
TEXT_COLUMNS = {
    "vin": "VIN",
    "licensePlate": "LICENSE_PLATE",
    "brand": "BRAND",
    "model": "MODEL",
    "customName": "CUSTOM_NAME",
    "yearOfProduction": "YEAR_OF_PRODUCTION",
    "remark": "REMARK",
}
DATA_ENUM_COLUMNS = {"fuelType": "FUEL_TYPE", "transmission": "TRANSMISSION", "vehicleType": "VEHICLE_TYPE"}
UNIT_WORD_COLUMNS = {
    "unitId": "TELEMATICS_UNIT_ID",
    "manufacturer": "TELEMATICS_UNIT_MANUFACTURER",
    "brand": "TELEMATICS_UNIT_BRAND",
    "model": "TELEMATICS_UNIT_MODEL",
    "fleetId": "TELEMATICS_UNIT_FLEET_ID",
}
UNIT_TIME_COLUMNS = {"createdAt": "TELEMATICS_UNIT_CREATED_AT", "modifiedAt": "TELEMATICS_UNIT_MODIFIED_AT"}
SHARING_WORD_COLUMNS = {"owner": "SHARING_OWNER", "partner": "SHARING_PARTNER"}
SHARING_TIME_COLUMNS = {"startsAt": "SHARING_STARTS_AT", "endsAt": "SHARING_ENDS_AT"}
# The column that has the upstream's word, where that is not the same.
RAW_COLUMNS = {"TRANSMISSION": "TRANSMISSION_RAW"}


class Names(NamedTuple):
    """What the compilation needs of the index: the words of enums by column, and the ids of names; -1 if unknown."""

    known: Known
    state: Ids
    custom: Ids


class Condition(NamedTuple):
    """A condition on the vehicle `v` and on the tables of `joins`."""

    sql: str
    parameters: list[Any]
    joins: list[str]
    uses_state: bool


class SortField(NamedTuple):
    """A value by which vehicles are sorted, of the vehicle `v` or of the table of `join`."""

    sql: str
    ascending: bool
    # The types of its values in a sort key.
    types: tuple[type, ...]
    parameters: tuple[Any, ...] = ()
    join: str = ""
    uses_state: bool = False


class Side(NamedTuple):
    """A table of values by name: the row of one name, or NULL where a vehicle has none."""

    alias: str
    join: str

    @property
    def value(self) -> str:
        return f"{self.alias}.value"

    @property
    def timestamp(self) -> str:
        return f"{self.alias}.timestamp"


DETAILS = "JOIN detail d ON d.id = v.id"


def state_side(name: int) -> Side:
    """The state property of a number."""
    return _side("state", name)


def custom_side(name: int) -> Side:
    """The custom field of a number."""
    return _side("custom", name)


def side_id(name: int, vehicle: int) -> int:
    """The id of the row of a name and a vehicle, by their numbers.

    Rows of one name are in the order of their vehicles, and SQLite finds the next one by a step instead of a search.
    """
    return (name << 32) + vehicle


def _side(table: str, name: int) -> Side:
    alias = f"{table}_{name % 2**32}"  # -1 is no name
    return Side(alias, f"LEFT JOIN {table} {alias} ON {alias}.id = {side_id(name, 0)} + v.id")


def compile_where(where: Given | None, names: Names, now: float, *, units: bool = False) -> Condition:
    """A filter of vehicles, or of telematics units; `now` is in seconds since the epoch. Raises InputInvalid."""
    compiler = _Compiler(names, round(now * 1_000_000))
    sql = (compiler.unit if units else compiler.vehicle)(where or {}, "where", 1)
    if units:
        sql = f"({compiler.sql_of('TELEMATICS_UNIT_ID')} IS NOT NULL AND {sql})"
    return Condition(sql, compiler.parameters, list(compiler.joins), compiler.uses_state)


def compile_order(order_by: Sequence[Given] | None, names: Names) -> list[SortField]:
    """The fields of an order. Raises InputInvalid."""
    if len(order_by or ()) > ORDER_KEYS_MAX:
        raise InputInvalid(f"`orderBy` has more than {ORDER_KEYS_MAX} items.", "orderBy")
    return [_sort_field(given, n, names) for n, given in enumerate(order_by or ())]


def _sort_field(given: Given, number: int, names: Names) -> SortField:
    path = f"orderBy[{number}]"
    ascending = _word(given.get("direction") or "ASC") == "ASC"
    sources = ("field", "stateProperty", "stateTimestamp", "customField", "distanceFrom")
    chosen = [name for name in sources if given.get(name) is not None]
    if len(chosen) != 1:
        raise InputInvalid(
            f"`{path}` must have exactly one of {', '.join(f'`{name}`' for name in sources)}.", "orderBy"
        )
    (source,) = chosen
    value = given[source]
    if source == "field":
        column = BY_NAME[_word(value)]
        types = (int,) if column.kind is Kind.TIME else (str,)
        return SortField(column.sql, ascending, types, join=DETAILS if column.is_detail else "")
    if source == "distanceFrom":
        lat, lon = _position(value, f"{path}.distanceFrom", "orderBy")
        sql = f"CAST({_CHORD} * {DISTANCE_SCALE} AS INTEGER)"
        return SortField(sql, ascending, (int,), _chord_parameters(lat, lon), uses_state=True)
    if source == "customField":
        side = custom_side(names.custom(value))
        return SortField(side.value, ascending, (str,), join=side.join)
    side = state_side(names.state(_current(value)))
    if source == "stateTimestamp":
        return SortField(side.timestamp, ascending, (int,), join=side.join, uses_state=True)
    sql = f"nullif({side.value}, x'ff')"  # OTHER
    return SortField(sql, ascending, (int, float, str, bool), join=side.join, uses_state=True)


_CHORD = "((v.x - ?) * (v.x - ?) + (v.y - ?) * (v.y - ?) + (v.z - ?) * (v.z - ?))"


def _chord_parameters(lat: float, lon: float) -> tuple[float, ...]:
    x, y, z = unit_vector(lat, lon)
    return x, x, y, y, z, z


def _current(name: str) -> str:
    return EARLY_STATE_NAMES.get(name, name)


def _word(value: Any) -> str:
    """The word of an enum's value: GraphQL coerces it to a member of the Python enum."""
    return str(getattr(value, "value", value))


def _position(given: Given, path: str, argument: str) -> tuple[float, float]:
    return _degrees(given, "lat", 90, path, argument), _degrees(given, "lon", 180, path, argument)


def _degrees(given: Given, member: str, most: int, path: str, argument: str) -> float:
    value = float(given[member])
    if not -most <= value <= most:
        raise InputInvalid(f"`{path}.{member}` must be between -{most} and {most}.", argument)
    return value


class _Compiler:
    """Compiles one filter. Each method returns SQL and appends its parameters in the same order."""

    def __init__(self, names: Names, now: int) -> None:
        self.parameters: list[Any] = []
        self.joins: dict[str, None] = {}
        self.uses_state = False
        self._names = names
        self._now = now
        self._conditions_left = CONDITIONS_MAX

    def vehicle(self, where: Given, path: str, depth: int) -> str:
        """A VehicleFilter."""
        return self._filter(where, path, depth, self.vehicle, self._vehicle_member)

    def unit(self, where: Given, path: str, depth: int) -> str:
        """A TelematicsUnitFilter."""

        def member(name: str, given: Any, path: str) -> str:
            if name == "vehicle":
                return self.vehicle(given, path, depth + 1)
            return self._unit_member(name, given, path)

        return self._filter(where, path, depth, self.unit, member)

    def _filter(
        self,
        where: Given,
        path: str,
        depth: int,
        nested: Callable[[Given, str, int], str],
        member: Callable[[str, Any, str], str],
    ) -> str:
        if depth > DEPTH_MAX:
            raise InputInvalid(f"`{path}` is nested more than {DEPTH_MAX} levels deep.", "where")
        found = []
        for name, given in where.items():
            at = f"{path}.{name}"
            if given is None:
                continue
            if name in {"and", "or"}:
                self._count(at, len(given))
                inner = [nested(each, f"{at}[{n}]", depth + 1) for n, each in enumerate(given)]
                found.append(_and(inner) if name == "and" else _or(inner))
            elif name == "not":
                self._count(at)
                found.append(f"({nested(given, at, depth + 1)} IS NOT TRUE)")
            else:
                found.append(member(name, given, at))
        return _and(found)

    def _vehicle_member(self, name: str, given: Given, path: str) -> str:
        if name in WORD_COLUMNS:
            return _and(self._words(self.sql_of(WORD_COLUMNS[name]), given, path))
        if name in STATUS_COLUMNS:
            return self._enum(STATUS_COLUMNS[name], given, path)
        if name in TIME_COLUMNS:
            return _and(self._time(self.sql_of(TIME_COLUMNS[name]), given, path))
        return {
            "masterData": self._master_data,
            "tags": lambda given, path: self._set("v.tags", given, path),
            "customField": self._custom_field,
            "telematicsUnit": lambda given, path: _and(
                [self._unit_member(name, value, f"{path}.{name}") for name, value in _members(given)]
            ),
            "capabilities": self._capabilities,
            "sharing": self._sharing,
            "state": self._state,
            "position": self._place,
        }[name](given, path)

    def _unit_member(self, name: str, given: Any, path: str) -> str:
        if name == "isNull":
            return self._is_null(self.sql_of("TELEMATICS_UNIT_ID"), given, path)
        if name == "type":
            return self._enum("TELEMATICS_UNIT_TYPE", given, path)
        if name in UNIT_TIME_COLUMNS:
            return _and(self._time(self.sql_of(UNIT_TIME_COLUMNS[name]), given, path))
        return _and(self._words(self.sql_of(UNIT_WORD_COLUMNS[name]), given, path))

    def _master_data(self, given: Given, path: str) -> str:
        found = []
        for name, value in _members(given):
            at = f"{path}.{name}"
            if name in TEXT_COLUMNS:
                found += self._words(self.sql_of(TEXT_COLUMNS[name]), value, at, str.casefold)
            else:
                found.append(self._enum(DATA_ENUM_COLUMNS[name], value, at))
        return _and(found)

    def _capabilities(self, given: Given, path: str) -> str:
        columns = {"commands": "v.commands", "vehicleState": "v.vehicle_state"}
        return _and([self._set(columns[name], value, f"{path}.{name}") for name, value in _members(given)])

    def _sharing(self, given: Given, path: str) -> str:
        found = []
        for name, value in _members(given):
            at = f"{path}.{name}"
            if name == "isNull":
                self._count(at)
                found.append("v.is_shared = 0" if value else "v.is_shared = 1")
            elif name in SHARING_TIME_COLUMNS:
                found += self._time(self.sql_of(SHARING_TIME_COLUMNS[name]), value, at)
            else:
                found += self._words(self.sql_of(SHARING_WORD_COLUMNS[name]), value, at)
        return _and(found)

    def _words(self, sql: str, given: Given, path: str, stored: Callable[[str], str] = lambda text: text) -> list[str]:
        """The members of a filter of words or texts; `stored` makes of a text what the index has of it."""
        if "eq" in given and given["eq"] is None:
            raise InputInvalid(f"`{path}.eq` is null. Use `isNull: true` for missing values.", "where")
        found: list[str] = []
        for name, value, at in self._with_value(sql, given, path, found):
            self._count(at)
            if name == "eq":
                found.append(f"{sql} = {self._bind(stored(value), at)}")
            elif name == "in":
                found.append(f"{sql} IN {self._list([stored(each) for each in value], at)}")
            elif name == "startsWith":
                found.append(self._prefix(sql, stored(value), at))
            elif name == "contains":
                found.append(f"instr({sql}, {self._bind(stored(value), at)}) > 0")
        return found

    def _with_value(self, sql: str, given: Given, path: str, found: list[str]) -> Iterator[tuple[str, Any, str]]:
        """The members about a value, each with its path; `isNull` is compiled, and added to `found`."""
        for name, value in _members(given):
            at = f"{path}.{name}"
            if name == "isNull":
                found.append(self._is_null(sql, value, at))
            else:
                yield name, value, at

    def _prefix(self, sql: str, prefix: str, path: str) -> str:
        """Texts from the prefix up to the first one that sorts after all with it."""
        found = f"{sql} >= {self._bind(prefix, path)}"
        while prefix and prefix[-1] == "\U0010ffff":
            prefix = prefix[:-1]
        if not prefix:
            return found
        following = ord(prefix[-1]) + 1
        last = chr(0xE000 if following == 0xD800 else following)  # noqa: PLR2004 - surrogates are no characters
        return f"{found} AND {sql} < {self._bind(prefix[:-1] + last, path)}"

    def _enum(self, column: str, given: Given, path: str) -> str:
        """The members of a filter of an open enum."""
        sql = self.sql_of(column)
        found: list[str] = []
        for name, value, at in self._with_value(sql, given, path, found):
            if name == "modifiedAt":
                found += self._time(self.sql_of(f"{column}_MODIFIED_AT"), value, at)
            else:
                self._count(at)
                words = [_word(each) for each in value]
                if name == "rawIn":
                    found.append(f"{self.sql_of(RAW_COLUMNS.get(column, column))} IN {self._list(words, at)}")
                elif UNKNOWN in words:
                    others = sorted(self._names.known[column] - {UNKNOWN, *words})
                    found.append(f"{sql} NOT IN {self._list(others, at)} AND {sql} IS NOT NULL")
                else:
                    found.append(f"{sql} IN {self._list(words, at)}")
        return _and(found)

    def _time(self, sql: str, given: Given, path: str) -> list[str]:
        found: list[str] = []
        for name, value, at in self._with_value(sql, given, path, found):
            self._count(at)
            if name in {"before", "after"}:
                limit = microseconds_of(value)
                if limit is None:
                    raise InputInvalid(f"`{at}` is not a timestamp by RFC 3339.", "where")
                found.append(f"{sql} {'<' if name == 'before' else '>'} {self._bind(limit, at)}")
            else:
                limit = self._now - _age(value, at)
                found.append(f"{sql} {'<=' if name == 'ageAtLeast' else '>='} {self._bind(limit, at)}")
        return found

    def _set(self, sql: str, given: Given, path: str) -> str:
        """The members of a filter of a set of words, whose id is in the column `sql`."""
        found: list[str] = []
        for name, value, at in self._with_value(sql, given, path, found):
            self._count(at)
            words = sorted({*value})
            if name == "any":
                found.append(f"{sql} IN (SELECT set_id FROM word WHERE word IN {self._list(words, at)})")
            elif words and name == "none":
                listed = self._list(words, at)
                found.append(f"{sql} IS NOT NULL AND {sql} NOT IN (SELECT set_id FROM word WHERE word IN {listed})")
            elif words:
                sets = f"SELECT set_id FROM word WHERE word IN {self._list(words, at)} GROUP BY set_id"
                found.append(f"{sql} IN ({sets} HAVING count(*) = {self._bind(len(words), at)})")
        return _and(found)

    def _custom_field(self, given: Given, path: str) -> str:
        values = {name: value for name, value in given.items() if name != "key"}
        side = self._joined(custom_side(self._names.custom(given["key"])))
        return _and(self._words(side.value, values, path, str.casefold))

    def _state(self, given: Given, path: str) -> str:
        self.uses_state = True
        side = self._joined(state_side(self._names.state(_current(given["property"]))))
        timestamp = given.get("timestamp") or {}
        return _and(
            [*self._state_values(side.value, given, path), *self._time(side.timestamp, timestamp, f"{path}.timestamp")]
        )

    def _state_values(self, sql: str, given: Given, path: str) -> list[str]:
        found = self._words(sql, {name: given[name] for name in ("eq", "in", "isNull") if name in given}, path)
        for name, operator in (("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<=")):
            if (value := given.get(name)) is not None:
                at = f"{path}.{name}"
                self._count(at)
                if not isfinite(number := float(value)):
                    raise InputInvalid(f"`{at}` must be a finite number.", "where")
                found.append(f"{sql} {operator} {self._bind(number, at)} AND {sql} < ''")
        if (value := given.get("is")) is not None:
            at = f"{path}.is"
            self._count(at)
            found.append(f"{sql} = {self._bind(TRUE if value else FALSE, at)}")
        return found

    def _joined(self, side: Side) -> Side:
        self.joins[side.join] = None
        if len(self.joins) - (DETAILS in self.joins) > SIDES_MAX:
            raise InputInvalid(f"`where` names more than {SIDES_MAX} state properties and custom fields.", "where")
        return side

    def _place(self, given: Given, path: str) -> str:
        self.uses_state = True
        found = []
        for name, value in _members(given):
            at = f"{path}.{name}"
            if name == "isNull":
                found.append(self._is_null("v.lat", value, at))
            else:
                self._count(at)
                found.append({"circle": self._circle, "box": self._box, "polygon": self._polygon}[name](value, at))
        return _and(found)

    def _circle(self, given: Given, path: str) -> str:
        lat, lon = _position(given, path, "where")
        radius = float(given["radiusInMeters"])
        if not 0 < radius <= HALF_EARTH:
            raise InputInvalid(
                f"`{path}.radiusInMeters` must be above 0 and at most {HALF_EARTH:.0f}.",
                "where",
            )
        near = self._in_box(box_around(lat, lon, radius), "v.id", path)
        self.parameters += _chord_parameters(lat, lon)
        return f"({near} AND {_CHORD} <= {self._bind(chord_squared(radius), path)})"

    def _box(self, given: Given, path: str) -> str:
        south, north = (_degrees(given, name, 90, path, "where") for name in ("south", "north"))
        west, east = (_degrees(given, name, 180, path, "where") for name in ("west", "east"))
        if south > north:
            raise InputInvalid(f"`{path}.south` must not be greater than `north`.", "where")
        box = box_of(south, west, north, east)
        near = self._in_box(box, "v.id", path)
        lats = f"v.lat BETWEEN {self._bind(south, path)} AND {self._bind(north, path)}"
        lons = _or(
            [f"v.lon BETWEEN {self._bind(start, path)} AND {self._bind(end, path)}" for start, end in box.longitudes]
        )
        return f"({near} AND {lats} AND {lons})"

    def _polygon(self, given: Given, path: str) -> str:
        points = given["points"]
        if not POINTS_MIN <= len(points) <= POINTS_MAX:
            raise InputInvalid(f"`{path}.points` must have {POINTS_MIN} to {POINTS_MAX} items.", "where")
        polygon = polygon_of([_position(point, f"{path}.points[{n}]", "where") for n, point in enumerate(points)])
        if polygon is None:
            raise InputInvalid(f"`{path}` must not enclose a pole.", "where")
        rows = ", ".join(f"({', '.join(self._bind(number, path) for number in edge)})" for edge in polygon.edges)
        west = self._bind(polygon.west, path)
        near = self._in_box(polygon.box, "p.id", path)
        # A ray to the east crosses the edges of a polygon an odd number of times if it starts inside.
        return (
            f"v.id IN (WITH edge (lat1, lon1, lat2, lon2) AS MATERIALIZED (VALUES {rows}) "
            f"SELECT id FROM (SELECT p.id, p.lat, CASE WHEN p.lon < {west} THEN p.lon + 360 ELSE p.lon END AS lon "
            f"FROM vehicle p WHERE {near}) AS near WHERE (SELECT count(*) FROM edge "
            "WHERE (lat1 > near.lat) <> (lat2 > near.lat) "
            "AND near.lon < (lon2 - lon1) * (near.lat - lat1) / (lat2 - lat1) + lon1) % 2 = 1)"
        )

    def _in_box(self, box: Box, vehicle: str, path: str) -> str:
        """Roughly in a box: the R*Tree has 32-bit numbers."""
        south, north = box.south, box.north
        found = []
        for west, east in box.longitudes:
            self.parameters += (north, south, east, west)
            found.append(
                f"{vehicle} IN (SELECT id FROM place WHERE south <= ? AND north >= ? AND west <= ? AND east >= ?)"
            )
        return _or(found)

    def sql_of(self, name: str) -> str:
        """The column of a name."""
        column = BY_NAME[name]
        if column.is_detail:
            self.joins[DETAILS] = None
        return column.sql

    def _is_null(self, sql: str, value: bool, path: str) -> str:  # noqa: FBT001 - GraphQL's value
        self._count(path)
        return f"{sql} IS NULL" if value else f"{sql} IS NOT NULL"

    def _list(self, values: Sequence[Any], path: str) -> str:
        return f"({', '.join(self._bind(value, path) for value in values)})"

    def _bind(self, value: Any, path: str) -> str:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputInvalid(f"`{path}` is not valid Unicode.", "where") from None
        self.parameters.append(value)
        if len(self.parameters) > PARAMETERS_MAX:
            raise InputInvalid(f"`where` has more than {PARAMETERS_MAX} values.", "where")
        return "?"

    def _count(self, path: str, number: int = 1) -> None:
        self._conditions_left -= number
        if self._conditions_left < 0:
            raise InputInvalid(f"`where` has more than {CONDITIONS_MAX} conditions, the last one at `{path}`.", "where")


def _members(given: Given) -> list[tuple[str, Any]]:
    """The members that are not null."""
    return [(name, value) for name, value in given.items() if value is not None]


def _and(conditions: Sequence[str]) -> str:
    return f"({' AND '.join(conditions)})" if conditions else "TRUE"


def _or(conditions: Sequence[str]) -> str:
    return f"({' OR '.join(conditions)})" if conditions else "FALSE"


def _age(text: str, path: str) -> int:
    """A duration in microseconds."""
    try:
        age = msgspec.convert(text, timedelta)
    except (msgspec.ValidationError, OverflowError):
        raise InputInvalid(f"`{path}` is not a duration by ISO 8601, such as `PT2H` or `P1D`.", "where") from None
    if not timedelta() <= age <= AGE_MAX:
        raise InputInvalid(f"`{path}` must be between 0 and {AGE_MAX.days} days.", "where")
    return age // timedelta(microseconds=1)
