"""Random vehicles with missing and odd values, and random filters and orders over them."""

from __future__ import annotations

from tests.fleet_index.oracle import DURATIONS, FIELDS

ODD = [None, 7, True, [], {}, [None], {"value": []}, ["x"], 1e308, 10**25]
TEXTS = [
    "Audi",
    "AUDI",
    "audi",
    "Škoda",
    "škoda",
    "STRASSE",
    "straße",
    "",
    "a\x00b",
    "%",
    "a_b",
    "\U0010ffff",
    "'; --",
    "NIU",
    "N1",
    "ﬃ",
]
TIMES = [
    "2026-11-29T08:00:00Z",
    "2026-11-29T09:59:59.999999Z",
    "2026-11-29T11:00:00+02:00",
    "2026-11-28T10:00:00Z",
    "2024-05-14T08:41:12.5Z",
    "2031-01-01T00:00:00Z",
]
BAD_TIMES = ["yesterday", "2024-02-30T00:00:00Z", "", "2024-05-14"]
IDS = ["JQ7RP", "K3WX8", "Z90BD", "a", "B", ""]
STATUS = {
    "status": ["CONNECTED_VEHICLE", "ON_THE_MOON", "UNKNOWN"],
    "lifeStatus": ["ONLINE", "OFFLINE", "NEW", "UNKNOWN"],
    "operationStatus": ["OPERATING", "GARAGE", "NEW", "UNKNOWN"],
    "rentalStatus": ["IN_RENTAL", "NOT_IN_RENTAL", "NEW", "UNKNOWN"],
    "setupStatus": ["IN_PROGRESS", "SUCCEEDED", "FAILED", "UNKNOWN"],
}
DATA_ENUMS = {
    "fuelType": ["PETROL", "ELECTRIC", "URANIUM", "UNKNOWN"],
    "transmission": ["MANUAL", "AUTOMATIC", "MANUAL_SHIFT", "UNKNOWN"],
    "vehicleType": ["CAR", "MOPED", "SUBMARINE", "UNKNOWN"],
}
UNIT_TYPES = ["RETROFIT", "OEM", "BORROWED", "UNKNOWN"]
TAGS = ["in_maintenance", "station_a", "station_b", "", "ä"]
KEYS = ["color", "seats", "", "missing"]
PROPERTIES = [
    "state_of_charge_or_fuel_level_in_percent",
    "fuel_level_in_percent",
    "central_lock",
    "driving_enabled",
    "position",
    "new",
    "missing",
]
VALUES = [
    0,
    1,
    60,
    60.0,
    0.1,
    0.30000000000000004,
    -5,
    2**53 + 1,
    2**63,
    -(2**63),
    10**400,
    1e300,
    1e-300,
    5e-324,
    True,
    False,
    "LOCKED",
    "60",
    "",
    "a\x00b",
    None,
    [],
    {"a": 1},
    "x" * 300,
]
PLACES = [
    (50.9, 8.0),
    (50.91, 8.01),
    (0.0, 180.0),
    (0.0, -180.0),
    (10.0, 179.5),
    (-10.0, -179.5),
    (90.0, 0.0),
    (-90.0, 12.0),
    (91.0, 0.0),
    (0.0, 181.0),
    (0, 0),
    (51.0, 8.1),
]


def vehicle(rng, vehicle_id):
    """A vehicle as JSON; any member may be missing, null or of another type."""

    def some(make, odd=0.06):
        dice = rng.random()
        return MISSING if dice < 0.12 else rng.choice(ODD) if dice < 0.12 + odd else make()

    def members(**made):
        return {name: value for name, value in made.items() if value is not MISSING}

    def time():
        return rng.choice(TIMES if rng.random() < 0.9 else BAD_TIMES)

    def status(name):
        return lambda: members(value=some(lambda: rng.choice(STATUS[name])), modified_at=some(time))

    def place():
        lat, lon = rng.choice(PLACES) if rng.random() < 0.5 else (rng.uniform(-90, 90), rng.uniform(-180, 180))
        return members(lat=some(lambda: lat), lon=some(lambda: lon))

    def prop(name):
        return lambda: members(value=some(place) if name == "position" else rng.choice(VALUES), timestamp=some(time))

    text, ident = (lambda: rng.choice(TEXTS)), (lambda: rng.choice(IDS))
    party = lambda: members(fleet_id=some(ident), name=some(text))  # noqa: E731
    return {
        "id": vehicle_id,
        "latest_state": rng.choice([None, {}]) if rng.random() < 0.1 else members(**{name: some(prop(name), 0.02) for name in PROPERTIES[:-1]}),
        **members(
            status=some(lambda: rng.choice(STATUS["status"])),
            fleet_id=some(ident),
            vehicle_model_id=some(ident),
            last_contact_at=some(time),
            created_at=some(time),
            modified_at=some(time),
            attached_at=some(time),
            master_data=some(
                lambda: members(
                    **{name: some(text) for name in ("vin", "license_plate", "brand", "model", "custom_name", "remark")},
                    year_of_production=some(lambda: rng.choice(["2019", 2019, "2020"])),
                    fuel_type=some(lambda: rng.choice(DATA_ENUMS["fuelType"])),
                    transmission=some(lambda: rng.choice(DATA_ENUMS["transmission"])),
                    gear_box=some(lambda: rng.choice(["MANUAL_SHIFT", "AUTOMATIC"])),
                    vehicle_type=some(lambda: rng.choice(DATA_ENUMS["vehicleType"])),
                )
            ),
            custom_fields=some(lambda: members(**{key: some(text, 0.2) for key in KEYS[:-1]})),
            tags=some(lambda: rng.sample(TAGS, rng.randint(0, 3))),
            capabilities=some(lambda: members(commands=some(lambda: rng.sample(TAGS, rng.randint(0, 3))), vehicle_state=some(lambda: rng.sample(TAGS, 2)))),
            life_status=some(status("lifeStatus")),
            operation_status=some(status("operationStatus")),
            rental_status=some(status("rentalStatus")),
            setup_status=some(status("setupStatus")),
            telematics_unit=some(
                lambda: members(
                    id=some(ident), brand=some(text), model=some(text), manufacturer=some(text), fleet_id=some(ident),
                    type=some(lambda: rng.choice(UNIT_TYPES)), created_at=some(time), modified_at=some(time),
                )
            ),
            sharing=some(lambda: members(owner=some(party), partner=some(party), starts_at=some(time), ends_at=some(time))),
        ),
    }  # fmt: skip


MISSING = object()


class Filters:
    """Random filters and orders."""

    def __init__(self, rng):
        self.rng = rng

    def some(self, **made):
        """One or two of the members."""
        names = self.rng.sample(list(made), min(len(made), self.rng.choice([1, 1, 1, 2])))
        return {name: made[name]() for name in names}

    def flag(self):
        return self.rng.random() < 0.5

    def list_of(self, values):
        return [self.rng.choice(values) for _ in range(self.rng.choice([0, 1, 1, 2, 3]))]

    def ids(self, values=IDS):
        return self.some(eq=lambda: self.rng.choice(values), **{"in": lambda: self.list_of(values)}, isNull=self.flag)

    def text(self):
        def part():
            text = self.rng.choice(TEXTS)
            return text[: self.rng.randint(0, len(text))].swapcase()

        return self.some(
            eq=lambda: self.rng.choice(TEXTS),
            **{"in": lambda: self.list_of(TEXTS)},
            startsWith=part,
            contains=part,
            isNull=self.flag,
        )

    def time(self):
        return self.some(
            before=lambda: self.rng.choice(TIMES), after=lambda: self.rng.choice(TIMES), isNull=self.flag,
            ageAtLeast=lambda: self.rng.choice([*DURATIONS]), ageAtMost=lambda: self.rng.choice([*DURATIONS]),
        )  # fmt: skip

    def enum(self, values, *, timed=False):
        known = [
            value
            for value in values
            if value not in {"NEW", "ON_THE_MOON", "URANIUM", "MANUAL_SHIFT", "SUBMARINE", "BORROWED"}
        ]
        more = {"modifiedAt": self.time} if timed else {}
        return self.some(
            **{"in": lambda: self.list_of(known)}, rawIn=lambda: self.list_of(values), isNull=self.flag, **more
        )

    def words(self):
        return self.some(
            any=lambda: self.list_of(TAGS),
            all=lambda: self.list_of(TAGS),
            none=lambda: self.list_of(TAGS),
            isNull=self.flag,
        )

    def unit(self):
        return self.some(
            unitId=self.ids, fleetId=self.ids, createdAt=self.time, modifiedAt=self.time,
            **{name: lambda: self.ids(TEXTS) for name in ("manufacturer", "brand", "model")},
            type=lambda: self.enum(UNIT_TYPES),
        )  # fmt: skip

    def state(self):
        numbers = [
            value
            for value in VALUES
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e308
        ]
        limits = {name: lambda: float(self.rng.choice(numbers)) for name in ("gt", "gte", "lt", "lte")}
        texts = [value for value in VALUES if isinstance(value, str)]
        return {"property": self.rng.choice(PROPERTIES)} | self.some(
            eq=lambda: self.rng.choice(texts), **{"in": lambda: self.list_of(texts), "is": self.flag}, **limits, timestamp=self.time, isNull=self.flag
        )  # fmt: skip

    def point(self):
        lat, lon = self.rng.choice([(50.9, 8.0), (0.0, 179.9), (-89.0, 3.0), (0.0, -180.0), (10.0, 180.0)])
        return {"lat": lat, "lon": lon}

    def place(self):
        form = self.rng.choice(["circle", "box", "polygon", "isNull"])
        if form == "circle":
            return {form: self.point() | {"radiusInMeters": 10 ** self.rng.uniform(0, 7.3)}}
        if form == "box":
            south, north = sorted(self.rng.choice([self.rng.uniform(-90, 90), 0.0, 50.9]) for _ in range(2))
            west, east = (self.rng.choice([self.rng.uniform(-180, 180), 180.0, -180.0, 179.5, 8.0]) for _ in range(2))
            return {form: {"south": south, "west": west, "north": north, "east": east}}
        if form == "polygon":
            middle, width = self.rng.uniform(-180, 180), self.rng.uniform(1, 85)
            points = [
                {"lat": self.rng.uniform(-89, 89), "lon": (middle + self.rng.uniform(-width, width) + 180) % 360 - 180}
                for _ in range(self.rng.randint(3, 12))
            ]
            return {form: {"points": points}}
        return {form: self.flag()}

    def vehicle(self, depth=0):
        if depth < 3 and self.rng.random() < 0.5:
            nested = lambda: [self.vehicle(depth + 1) for _ in range(self.rng.choice([0, 1, 2, 2, 3]))]  # noqa: E731
            return self.some(**{"and": nested, "or": nested, "not": lambda: self.vehicle(depth + 1)})
        return self.some(
            vehicleId=self.ids, fleetId=self.ids, vehicleModelId=self.ids,
            **{name: lambda name=name: self.enum(STATUS[name], timed=name != "status") for name in STATUS},
            **dict.fromkeys(("createdAt", "modifiedAt", "attachedAt", "lastContactAt"), self.time),
            masterData=lambda: self.some(
                **dict.fromkeys(("vin", "licensePlate", "brand", "model", "customName", "yearOfProduction", "remark"), self.text),
                **{name: lambda name=name: self.enum(DATA_ENUMS[name]) for name in DATA_ENUMS},
            ),
            tags=self.words, customField=lambda: {"key": self.rng.choice(KEYS)} | self.text(),
            telematicsUnit=lambda: {"isNull": self.flag()} if self.rng.random() < 0.2 else self.unit(),
            capabilities=lambda: self.some(commands=self.words, vehicleState=self.words),
            sharing=lambda: self.some(isNull=self.flag, owner=self.ids, partner=self.ids, startsAt=self.time, endsAt=self.time),
            state=self.state, position=self.place,
        )  # fmt: skip

    def units(self, depth=0):
        if depth < 2 and self.rng.random() < 0.5:
            nested = lambda: [self.units(depth + 1) for _ in range(self.rng.choice([0, 1, 2]))]  # noqa: E731
            return self.some(
                **{"and": nested, "or": nested, "not": lambda: self.units(depth + 1), "vehicle": self.vehicle}
            )
        return self.unit()

    def order(self):
        def key():
            source = self.rng.choice(["field", "stateProperty", "stateTimestamp", "customField", "distanceFrom"])
            value = {
                "field": [*FIELDS],
                "stateProperty": PROPERTIES,
                "stateTimestamp": PROPERTIES,
                "customField": KEYS,
            }.get(source)
            direction = self.rng.choice([{}, {"direction": "ASC"}, {"direction": "DESC"}])
            return {source: self.rng.choice(value) if value else self.point()} | direction

        return [key() for _ in range(self.rng.choice([0, 1, 1, 2, 3]))]
