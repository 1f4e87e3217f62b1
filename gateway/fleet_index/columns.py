"""What is indexed of a vehicle: the table of its scalar members, and how its other members are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from math import cos, radians, sin
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from gateway.timestamps import microseconds_of
from gateway.upstream.models import (
    EARLY_STATE_NAMES,
    Capabilities,
    MasterData,
    Sharing,
    SharingFleet,
    Status,
    TelematicsUnit,
    Vehicle,
)

# Values of state properties: numbers as numbers, words as texts, and booleans as blobs. SQLite sorts them in this
# order, and `value < ''` is true for numbers only. Other values are only known to exist.
FALSE, TRUE, OTHER = b"\x00", b"\x01", b"\xff"
# State properties beyond it are no numbers, as in the schema: a sum of them must not overflow.
NUMBER_MAX = 1e300
_INT64 = 2**63

Value = str | int | float | bytes | None


class Kind(Enum):
    """How a member is stored and compared."""

    WORD = "exactly"
    TEXT = "with Unicode case folding"
    TIME = "as microseconds since the epoch"


class Column(NamedTuple):
    """A scalar member of a vehicle: its name in the schema's enums, its path in the struct, and its kind.

    The SQL column is the name in lower case. A text by which vehicles are grouped is stored as it is shown, too. Those
    that are distinct, because most vehicles have a value of their own, have an SQL index, so that a page in their order
    is read from it instead of sorting all vehicles.
    """

    name: str
    path: str
    kind: Kind
    is_group: bool = False
    is_detail: bool = False
    is_distinct: bool = False

    @property
    def column(self) -> str:
        return self.name.lower()

    @property
    def table(self) -> str:
        return "detail" if self.is_detail else "vehicle"

    @property
    def sql(self) -> str:
        """The column of the vehicle `v`, or of its details `d`."""
        return f"{self.table[0]}.{self.column}"

    @property
    def shown_sql(self) -> str:
        """The same with the value as the upstream sends it."""
        return f"d.{self.column}_shown" if self.kind is Kind.TEXT else self.sql


def _word(name: str, path: str = "", *, is_group: bool = False) -> Column:
    return Column(name, path or name.lower(), Kind.WORD, is_group)


def _text(name: str, *, is_group: bool = False) -> Column:
    return Column(name, f"master_data.{name.lower()}", Kind.TEXT, is_group)


def _time(name: str, path: str = "") -> Column:
    return Column(name, path or name.lower(), Kind.TIME)


def _distinct(*columns: Column) -> tuple[Column, ...]:
    return tuple(column._replace(is_distinct=True) for column in columns)


def _details(*columns: Column) -> tuple[Column, ...]:
    return tuple(column._replace(is_detail=True) for column in columns)


# Reading a row takes the longer the wider it is, so what is seldom asked for is in a table of its own.
COLUMNS = (
    _word("VEHICLE_ID"),
    _word("FLEET_ID", is_group=True),
    _word("STATUS", is_group=True),
    _word("LIFE_STATUS", "life_status.value", is_group=True),
    _word("OPERATION_STATUS", "operation_status.value", is_group=True),
    _word("RENTAL_STATUS", "rental_status.value", is_group=True),
    _word("SETUP_STATUS", "setup_status.value", is_group=True),
    _text("BRAND", is_group=True),
    _text("MODEL", is_group=True),
    _word("FUEL_TYPE", "master_data.fuel_type", is_group=True),
    _word("TRANSMISSION", "master_data.transmission", is_group=True),
    _word("VEHICLE_TYPE", "master_data.vehicle_type", is_group=True),
    *_distinct(
        _time("LAST_CONTACT_AT"),
        _time("CREATED_AT"),
        _time("MODIFIED_AT"),
        _time("ATTACHED_AT"),
        _text("LICENSE_PLATE"),
        _text("CUSTOM_NAME"),
    ),
    *_details(
        *_distinct(_text("VIN")),
        _text("YEAR_OF_PRODUCTION", is_group=True),
        _text("REMARK"),
        _word("VEHICLE_MODEL_ID", is_group=True),
        _word("TRANSMISSION_RAW", "master_data.transmission_raw"),
        _time("LIFE_STATUS_MODIFIED_AT", "life_status.modified_at"),
        _time("OPERATION_STATUS_MODIFIED_AT", "operation_status.modified_at"),
        _time("RENTAL_STATUS_MODIFIED_AT", "rental_status.modified_at"),
        _time("SETUP_STATUS_MODIFIED_AT", "setup_status.modified_at"),
        _word("TELEMATICS_UNIT_ID", "telematics_unit.unit_id"),
        _word("TELEMATICS_UNIT_MANUFACTURER", "telematics_unit.manufacturer", is_group=True),
        _word("TELEMATICS_UNIT_BRAND", "telematics_unit.brand", is_group=True),
        _word("TELEMATICS_UNIT_MODEL", "telematics_unit.model", is_group=True),
        _word("TELEMATICS_UNIT_FLEET_ID", "telematics_unit.fleet_id", is_group=True),
        _word("TELEMATICS_UNIT_TYPE", "telematics_unit.type", is_group=True),
        _time("TELEMATICS_UNIT_CREATED_AT", "telematics_unit.created_at"),
        _time("TELEMATICS_UNIT_MODIFIED_AT", "telematics_unit.modified_at"),
        _word("SHARING_OWNER", "sharing.owner.fleet_id", is_group=True),
        _word("SHARING_PARTNER", "sharing.partner.fleet_id", is_group=True),
        _time("SHARING_STARTS_AT", "sharing.starts_at"),
        _time("SHARING_ENDS_AT", "sharing.ends_at"),
    ),
)
BY_NAME = {column.name: column for column in COLUMNS}
# The group of a vehicle's tags, of which it may have several.
TAG = "TAG"
GROUPS = (*(column.name for column in COLUMNS if column.is_group), TAG)

_VEHICLE = [column for column in COLUMNS if not column.is_detail]
_DETAILS = [column for column in COLUMNS if column.is_detail]
_SHOWN = [column for column in COLUMNS if column.is_group and column.kind is Kind.TEXT]
# The columns of the tables after the vehicle's number: the position and its unit vector, the ids of sets of words,
# whether the vehicle is shared, those of COLUMNS, and the texts of groups as they are shown. SQLite reads a row up to
# the last column that it needs.
SET_COLUMNS = ("tags", "commands", "vehicle_state")
PLACE_COLUMNS = ("lat", "lon", "x", "y", "z")
VEHICLE_COLUMNS = (*PLACE_COLUMNS, *SET_COLUMNS, "is_shared", *(column.column for column in _VEHICLE))
DETAIL_COLUMNS = (*(column.column for column in _DETAILS), *(f"{column.column}_shown" for column in _SHOWN))

_EMPTY: dict[str, Any] = {
    "master_data": MasterData(),
    "telematics_unit": TelematicsUnit(),
    "sharing": Sharing(),
    "sharing.owner": SharingFleet(),
    "sharing.partner": SharingFleet(),
    **dict.fromkeys(("life_status", "operation_status", "rental_status", "setup_status"), Status()),
}


def _reader(column: Column) -> Callable[[Vehicle], Any]:
    *parts, member = column.path.split(".")
    get = attrgetter(member)
    if not parts:
        return get
    steps = [(attrgetter(part), _EMPTY[".".join(parts[: n + 1])]) for n, part in enumerate(parts)]
    if len(steps) == 1:
        ((part, empty),) = steps
        return lambda vehicle: get(part(vehicle) or empty)

    def read(vehicle: Vehicle) -> Any:
        found: Any = vehicle
        for part, empty in steps:
            found = part(found) or empty
        return get(found)

    return read


_STORED: dict[Kind, Callable[[str], Value]] = {
    Kind.WORD: lambda value: value,
    Kind.TEXT: str.casefold,
    Kind.TIME: microseconds_of,
}


def _readers(columns: Iterable[Column]) -> list[tuple[Callable[[Vehicle], Any], Callable[[str], Value]]]:
    return [(_reader(column), _STORED[column.kind]) for column in columns]


_OF_VEHICLE, _OF_DETAILS = _readers(_VEHICLE), _readers(_DETAILS)
_OF_SHOWN = [_reader(column) for column in _SHOWN]


def vehicle_row(vehicle: Vehicle, set_ids: Iterable[int | None]) -> list[Value]:
    """The values of VEHICLE_COLUMNS."""
    row = [None if (value := read(vehicle)) is None else stored(value) for read, stored in _OF_VEHICLE]
    return [*place_of(vehicle), *set_ids, int(vehicle.sharing is not None), *row]


def detail_row(vehicle: Vehicle) -> list[Value]:
    """The values of DETAIL_COLUMNS."""
    row = [None if (value := read(vehicle)) is None else stored(value) for read, stored in _OF_DETAILS]
    return [*row, *(read(vehicle) for read in _OF_SHOWN)]


def sets_of(vehicle: Vehicle) -> list[frozenset[str] | None]:
    """The values of SET_COLUMNS, as sets of words."""
    capabilities = vehicle.capabilities or Capabilities()
    lists: Iterable[list[str] | None] = (vehicle.tags, capabilities.commands, capabilities.vehicle_state)
    return [None if words is None else frozenset(words) for words in lists]


def place_of(vehicle: Vehicle) -> tuple[float | None, ...]:
    """The values of PLACE_COLUMNS, None where the position is missing or out of range; longitude 180 is -180."""
    state = vehicle.latest_state or {}
    found = state["position"].value if "position" in state else None
    position = found if isinstance(found, dict) else {}
    lat, lon = _degrees(position.get("lat"), 90), _degrees(position.get("lon"), 180)
    if lat is not None and lon is not None:
        east = lon if lon < 180 else -180.0  # noqa: PLR2004 - degrees; one point has one vector
        return lat, east, *unit_vector(lat, east)
    return (None,) * len(PLACE_COLUMNS)


def unit_vector(lat: float, lon: float) -> tuple[float, float, float]:
    """The point of the unit sphere at a position in degrees."""
    north, east = radians(lat), radians(lon)
    return cos(north) * cos(east), cos(north) * sin(east), sin(north)


def states_of(vehicle: Vehicle) -> dict[str, tuple[Value, int | None]]:
    """The value and the time of each state property, under its current name."""
    if not vehicle.latest_state:
        return {}
    return {
        current: (_state_value(found.value), None if found.timestamp is None else microseconds_of(found.timestamp))
        for name, found in vehicle.latest_state.items()
        if (current := EARLY_STATE_NAMES.get(name, name)) == name or current not in vehicle.latest_state
    }


def has_state(vehicle: Vehicle) -> bool:
    """Whether the fleet API sent the latest state with the vehicle, even if it is empty."""
    return vehicle.latest_state is not UNSET


def custom_fields_of(vehicle: Vehicle) -> dict[str, str]:
    """The custom fields that have a value, folded; a value that is no text is its JSON, as in the schema."""
    found = {}
    for key, value in (vehicle.custom_fields or {}).items():
        text = value if isinstance(value, str) else None if value is None else _json(value)
        if text is not None:
            found[key] = text.casefold()
    return found


def _json(value: Any) -> str | None:
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, OverflowError, RecursionError):
        return None


def _degrees(value: Any, most: int) -> float | None:
    """A number of degrees if it is in range."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -most <= value <= most:
        return float(value)
    return None


def _state_value(value: Any) -> Value:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if not isinstance(value, (int, float)) or not -NUMBER_MAX < value < NUMBER_MAX:
        return OTHER
    return value if isinstance(value, float) or -_INT64 <= value < _INT64 else float(value)
