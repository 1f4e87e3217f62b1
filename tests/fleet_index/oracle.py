"""Filters and orders over the JSON of vehicles in plain Python, by the documented rules, without the index's code."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from math import cos, radians, sin

EARTH = 6371008.8
EARLY = {"fuel_level_in_percent": "state_of_charge_or_fuel_level_in_percent"}
DURATIONS = {"PT0S": 0, "PT2H": 7200, "P1D": 86400, "P1000D": 86400000, "PT30M": 1800}


def object_of(value):
    return value if isinstance(value, dict) else {}


def word(value):
    return value if isinstance(value, str) else None


def words(value):
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def time(value):
    """Microseconds since the epoch."""
    if not isinstance(value, str) or "T" not in value:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def fold(text):
    return None if text is None else text.casefold()


class Reader:
    """What the schema shows of a vehicle's JSON."""

    def __init__(self, raw):
        self.raw = raw
        self.id = raw["id"]
        self.data = object_of(raw.get("master_data"))
        unit = object_of(raw.get("telematics_unit"))
        self.unit = unit if word(unit.get("id")) is not None else None
        self.sharing = raw["sharing"] if isinstance(raw.get("sharing"), dict) else None

    def enum(self, name):
        """The shown and the raw word."""
        if name in {"lifeStatus", "operationStatus", "rentalStatus", "setupStatus"}:
            value = word(object_of(self.raw.get(name.removesuffix("Status") + "_status")).get("value"))
        elif name == "status":
            value = word(self.raw.get("status"))
        elif name == "type":
            value = word((self.unit or {}).get("type"))
        elif name == "transmission":
            value = word(self.data.get("transmission")) or word(self.data.get("gear_box"))
            return ("MANUAL" if value == "MANUAL_SHIFT" else value or None), value
        else:
            value = word(self.data.get({"fuelType": "fuel_type", "vehicleType": "vehicle_type"}[name]))
        return value, value

    def changed(self, name):
        return time(object_of(self.raw.get(name.removesuffix("Status") + "_status")).get("modified_at"))

    def text(self, name):
        value = self.data.get(name)
        if name == "year_of_production" and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return word(value)

    def state(self, name):
        """The value, or None, of a property and its time."""
        state = object_of(self.raw.get("latest_state"))
        usable = {key: value for key, value in state.items() if isinstance(value, dict)}
        name = EARLY.get(name, name)
        found = usable.get(name)
        if found is None:
            found = usable.get(next((early for early, now in EARLY.items() if now == name), name), {})
        return found.get("value"), time(found.get("timestamp"))

    def position(self):
        value = self.state("position")[0]
        lat, lon = object_of(value).get("lat"), object_of(value).get("lon")
        if not number(lat) or not number(lon) or not -90 <= lat <= 90 or not -180 <= lon <= 180:
            return None
        return lat, (-180.0 if lon == 180 else lon)

    def custom(self, key):
        value = object_of(self.raw.get("custom_fields")).get(key)
        if value is None or isinstance(value, str):
            return fold(value)
        return fold(json.dumps(value, separators=(",", ":"), ensure_ascii=False))

    def words(self, name):
        if name == "tags":
            return words(self.raw.get("tags"))
        return words(object_of(self.raw.get("capabilities")).get(name))


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def snake(name):
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)


def is_null(given, value):
    return given.get("isNull") is None or given["isNull"] == (value is None)


def text_matches(value, given, fold=lambda text: text):
    if not is_null(given, value):
        return False
    tests = {
        "eq": lambda sought: value == fold(sought),
        "in": lambda sought: value in [fold(each) for each in sought],
        "startsWith": lambda sought: value.startswith(fold(sought)),
        "contains": lambda sought: fold(sought) in value,
    }
    return all(
        value is not None and tests[name](sought)
        for name, sought in given.items()
        if name in tests and sought is not None
    )


def time_matches(value, given, now):
    if not is_null(given, value):
        return False
    tests = {
        "before": lambda limit: value < time(limit),
        "after": lambda limit: value > time(limit),
        "ageAtLeast": lambda age: round(now * 1e6) - value >= DURATIONS[age] * 1_000_000,
        "ageAtMost": lambda age: round(now * 1e6) - value <= DURATIONS[age] * 1_000_000,
    }
    return all(value is not None and tests[name](limit) for name, limit in given.items() if name in tests and limit)


def enum_matches(found, given, known):
    shown, raw = found
    if not is_null(given, shown):
        return False
    listed = None if shown is None else shown if shown in known else "UNKNOWN"
    if given.get("in") is not None and listed not in given["in"]:
        return False
    return given.get("rawIn") is None or (raw is not None and raw in given["rawIn"])


def words_match(value, given):
    if not is_null(given, value):
        return False
    if given.get("any") is not None and not {*given["any"]} & {*(value or ())}:
        return False
    if given.get("all") and (value is None or not {*given["all"]} <= {*value}):
        return False
    return not given.get("none") or (value is not None and not {*given["none"]} & {*value})


def state_matches(found, given, now):
    value, timestamp = found
    if not is_null(given, value) or not time_matches(timestamp, given.get("timestamp") or {}, now):
        return False
    if not text_matches(word(value), {name: given.get(name) for name in ("eq", "in")}):
        return False
    tests = {
        "gt": lambda n: value > n,
        "gte": lambda n: value >= n,
        "lt": lambda n: value < n,
        "lte": lambda n: value <= n,
    }
    if not all(
        number(value) and tests[name](limit) for name, limit in given.items() if name in tests and limit is not None
    ):
        return False
    return given.get("is") is None or (isinstance(value, bool) and value == given["is"])


def chord(place, lat, lon):
    def vector(lat, lon):
        return cos(radians(lat)) * cos(radians(lon)), cos(radians(lat)) * sin(radians(lon)), sin(radians(lat))

    x, y, z = ((a - b) * (a - b) for a, b in zip(vector(*place), vector(lat, lon), strict=True))
    return x + y + z


def place_matches(place, given):
    ((form, area),) = given.items()
    if form == "isNull":
        return area == (place is None)
    if place is None:
        return False
    lat, lon = place
    if form == "circle":
        return chord(place, area["lat"], area["lon"]) <= 4 * sin(area["radiusInMeters"] / EARTH / 2) ** 2
    if form == "box":
        west, east = area["west"], area["east"]
        inside = [
            west <= x <= east if west <= east else (x >= west or x <= east) for x in {lon, 180 if lon == -180 else lon}
        ]
        return area["south"] <= lat <= area["north"] and any(inside)
    return any(is_inside(lat, lon + turn, area["points"]) for turn in (-720, -360, 0, 360, 720))


def is_inside(lat, lon, points):
    corners, last = [], None
    for point in points:
        x = point["lon"]
        while last is not None and x - last > 180:
            x -= 360
        while last is not None and x - last < -180:
            x += 360
        corners.append((point["lat"], x))
        last = x
    inside = False
    for (y1, x1), (y2, x2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 > lat) != (y2 > lat) and lon < (x2 - x1) * (lat - y1) / (y2 - y1) + x1:
            inside = not inside
    return inside


def matches(vehicle, where, known, now):
    """Whether a vehicle matches a VehicleFilter."""
    return all(member_matches(vehicle, name, given, known, now) for name, given in where.items() if given is not None)


def unit_matches(vehicle, where, known, now):
    """Whether a vehicle has a unit that matches a TelematicsUnitFilter."""

    def inner(where):
        return all(
            any(map(inner, given)) if name == "or"
            else all(map(inner, given)) if name == "and"
            else not inner(given) if name == "not"
            else matches(vehicle, given, known, now) if name == "vehicle"
            else unit_member_matches(vehicle, name, given, known, now)
            for name, given in where.items()
            if given is not None
        )  # fmt: skip

    return vehicle.unit is not None and inner(where)


def unit_member_matches(vehicle, name, given, known, now):
    unit = vehicle.unit or {}
    if name == "isNull":
        return given == (vehicle.unit is None)
    if name == "type":
        return enum_matches(vehicle.enum("type"), given, known["TELEMATICS_UNIT_TYPE"])
    if name.endswith("At"):
        return time_matches(time(unit.get(snake(name))), given, now)
    return text_matches(word(unit.get("id" if name == "unitId" else snake(name))), given)


def member_matches(vehicle, name, given, known, now):  # noqa: C901, PLR0911 - one for each member
    def inner(where):
        return matches(vehicle, where, known, now)

    if name in {"and", "or"}:
        return (all if name == "and" else any)(map(inner, given))
    if name == "not":
        return not inner(given)
    if name in {"vehicleId", "fleetId", "vehicleModelId"}:
        return text_matches(word(vehicle.raw.get("id" if name == "vehicleId" else snake(name))), given)
    if name == "status" or name.endswith("Status"):
        return enum_matches(vehicle.enum(name), given, known[snake(name).upper()]) and (
            not given.get("modifiedAt") or time_matches(vehicle.changed(name), given["modifiedAt"], now)
        )
    if name.endswith("At"):
        return time_matches(time(vehicle.raw.get(snake(name))), given, now)
    if name == "masterData":
        return all(
            enum_matches(vehicle.enum(member), inner_given, known[snake(member).upper()])
            if member in {"fuelType", "transmission", "vehicleType"}
            else text_matches(fold(vehicle.text(snake(member))), inner_given, fold)
            for member, inner_given in given.items()
        )
    if name == "tags":
        return words_match(vehicle.words("tags"), given)
    if name == "capabilities":
        return all(words_match(vehicle.words(snake(member)), inner_given) for member, inner_given in given.items())
    if name == "customField":
        return text_matches(vehicle.custom(given["key"]), given, fold)
    if name == "telematicsUnit":
        return all(unit_member_matches(vehicle, member, each, known, now) for member, each in given.items())
    if name == "sharing":
        return all(sharing_matches(vehicle, member, inner_given, now) for member, inner_given in given.items())
    if name == "state":
        return state_matches(vehicle.state(given["property"]), given, now)
    return place_matches(vehicle.position(), given)


def sharing_matches(vehicle, name, given, now):
    sharing = vehicle.sharing or {}
    if name == "isNull":
        return given == (vehicle.sharing is None)
    if name.endswith("At"):
        return time_matches(time(sharing.get(snake(name))), given, now)
    return text_matches(word(object_of(sharing.get(name)).get("fleet_id")), given)


def sort_value(vehicle, key):
    """A value that sorts as the schema says, or None."""
    if key.get("distanceFrom"):
        place = vehicle.position()
        return (
            None if place is None else int(chord(place, key["distanceFrom"]["lat"], key["distanceFrom"]["lon"]) * 2**60)
        )
    if key.get("customField") is not None:
        return vehicle.custom(key["customField"])
    if key.get("stateTimestamp") is not None:
        return vehicle.state(key["stateTimestamp"])[1]
    if key.get("stateProperty") is not None:
        value = vehicle.state(key["stateProperty"])[0]
        return (
            (0, value)
            if number(value)
            else (1, value)
            if isinstance(value, str)
            else (2, value)
            if isinstance(value, bool)
            else None
        )
    return FIELDS[key["field"]](vehicle)


FIELDS = {
    "VEHICLE_ID": lambda v: v.id,
    "LIFE_STATUS": lambda v: v.enum("lifeStatus")[0],
    "LIFE_STATUS_MODIFIED_AT": lambda v: v.changed("lifeStatus"),
    "LAST_CONTACT_AT": lambda v: time(v.raw.get("last_contact_at")),
    "BRAND": lambda v: fold(v.text("brand")),
    "LICENSE_PLATE": lambda v: fold(v.text("license_plate")),
    "YEAR_OF_PRODUCTION": lambda v: fold(v.text("year_of_production")),
    "TRANSMISSION": lambda v: v.enum("transmission")[0],
    "TELEMATICS_UNIT_ID": lambda v: word((v.unit or {}).get("id")),
    "SHARING_OWNER": lambda v: word(object_of((v.sharing or {}).get("owner")).get("fleet_id")),
}


def ordered(vehicles, order_by):
    """Vehicles in order: nulls last in both directions, ties by id."""

    def compare(one, other):
        for key in order_by:
            a, b = sort_value(one, key), sort_value(other, key)
            if a != b:
                if a is None or b is None:
                    return 1 if a is None else -1
                return (1 if a > b else -1) * (-1 if key.get("direction") == "DESC" else 1)
        return (one.id > other.id) - (one.id < other.id)

    return sorted(vehicles, key=cmp_to_key(compare))
