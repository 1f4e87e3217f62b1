"""A seeded fleet of any size. Vehicles are created on first access; the first three are the documented examples.

All data is valid under the contract: any member but an id may be null or missing, and members and enum values may be
new.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from gateway.simulator.behaviours import Behaviours

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
ID_SPACE = 32**5
VEHICLES_MAX = 2**20  # in a fleet, so that the ids of 32 fleets are distinct
GAP = 2**64  # between neighbouring keys, for later insertions
EPOCH = datetime(2024, 5, 14, 8, 0, tzinfo=UTC)
CACHED_MAX = 50_000  # encoded vehicles

MODELS = [
    # brand, model, form, fuel, unit brand, unit manufacturer, unit model
    ("Audi", "A3", "CAR", "PETROL", "CLOUDBOXX", "INVERS", "CloudBoxx 4G"),
    ("Volkswagen", "ID.3", "CAR", "ELECTRIC", "CLOUDBOXX", "INVERS", "CloudBoxx 1020"),
    ("Škoda", "Octavia", "CAR", "DIESEL", "CLOUDBOXX", "INVERS", "CloudBoxx 3G"),
    ("Mercedes-Benz", "Sprinter", "VAN", "DIESEL", "MERCEDES_BENZ", "MERCEDES_BENZ", "Connectivity Services"),
    ("Tesla", "Model 3", "CAR", "ELECTRIC", "TESLA", "TESLA", "Fleet API"),
    ("Renault", "Zoé", "CAR", "ELECTRIC", "CLOUDBOXX", "INVERS", "CloudBoxx 4G"),
    ("NIU", "N1", "MOPED", "ELECTRIC", "NIU", "NIU", "NIU"),
    ("Segway", "eMoped B110S", "MOPED", "ELECTRIC", "SEGWAY", "SEGWAY", "IoT 3rd gen"),
    ("Segway", "Ninebot Max", "KICK_SCOOTER", "ELECTRIC", "SEGWAY", "SEGWAY", "IoT 3rd gen"),
    ("MAN", "TGE", "TRUCK", "DIESEL", "CLOUDBOXX", "INVERS", "CloudBoxx 4G"),
    ("INVERS", "Devkit 4G", "DEV_KIT", "ELECTRIC", "CLOUDBOXX", "INVERS", "CloudBoxx 4G"),
]
CITY_CODES = ["SI", "B", "M", "HH", "K", "DO", "MÜ", "LÖ"]
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
INDICATORS = ["ON", "OFF", "OFF", "OFF", "SENSOR_FAILURE"]
PARTNER = {"fleet_id": "PARTN", "name": "Fleet PARTN"}  # a fleet that is not simulated
TWO_WHEELERS = ("MOPED", "KICK_SCOOTER")
Random = random.Random


def _number(low: float, high: float, digits: int | None = None) -> Callable[[Random], Any]:
    return lambda rng: rng.randint(int(low), int(high)) if digits is None else round(rng.uniform(low, high), digits)


def _one_of(*values: Any) -> Callable[[Random], Any]:
    return lambda rng: rng.choice(values)


def _position(rng: Random) -> dict[str, float]:
    return {"lat": round(rng.uniform(47.3, 54.9), 6), "lon": round(rng.uniform(6.0, 14.9), 6)}


EVERYWHERE: dict[str, Callable[[Random], Any]] = {
    "cellular_signal_quality": _number(0, 5),
    "driving_enabled": _one_of(True, False),
    "mileage_in_kilometers": _one_of(41873, 6120.4, 120034, 15.25),
    "position": _position,
    "remaining_range_in_kilometers": _number(5, 600),
    "state_of_charge_or_fuel_level_in_percent": _number(0, 100),
}
CARS: dict[str, Callable[[Random], Any]] = {
    "abs_status": _one_of("ENABLED", "DISABLED"),
    "adblue_level_in_percent": _number(0, 100, 1),
    "adblue_level_low_indicator": _one_of(*INDICATORS),
    "altitude_in_meters": _number(-3, 2500),
    "brake_fluid_due_date": _one_of("2025-03-01", "2026-11-15"),
    "brake_fluid_level_low_indicator": _one_of(*INDICATORS),
    "brake_lining_wear_indicator": _one_of(*INDICATORS),
    "brake_warning_indicator": _one_of(*INDICATORS),
    "central_lock": _one_of("LOCKED", "UNLOCKED"),
    "ignition": _one_of("ON", "OFF"),
}
BIKES: dict[str, Callable[[Random], Any]] = {
    "center_stand_position": _one_of("UP", "DOWN"),
    "top_case_lock": _one_of("LOCKED", "UNLOCKED"),
    "top_case_lid": _one_of("OPEN", "CLOSED"),
}
EXTENDED: dict[str, Callable[[Random], Any]] = {
    "doors_status": _one_of("OPEN", "CLOSED"),
    "windows_status": _one_of("OPEN", "CLOSED"),
    "vehicle_key_status": _one_of("INSERTED", "REMOVED"),
    "parking_brake_engaged": _one_of(True, False),
    "headlights_status": _one_of("ON", "OFF"),
    "charging_adapter_status": _one_of("CONNECTED", "DISCONNECTED"),
    "charging_status": _one_of("CHARGING", "NOT_CHARGING"),
    "onboard_voltage_in_volts": _number(11, 14.6, 2),
    "telematics_unit_supply_voltage_in_volts": _number(11, 14.6, 2),
}
COMMANDS = {
    True: ["ENABLE_DRIVING", "DISABLE_DRIVING", "UNLOCK_TOP_CASE", "LOCK_TOP_CASE", "DRAW_ATTENTION",
           "UNLOCK_BATTERY_COMPARTMENT"],
    False: ["REQUEST_VEHICLE_STATE", "ENABLE_DRIVING", "DISABLE_DRIVING", "UNLOCK_CENTRAL_LOCK", "LOCK_CENTRAL_LOCK",
            "UNLOCK_AND_ENABLE_DRIVING", "LOCK_AND_DISABLE_DRIVING"],
}  # fmt: skip
OPTIONAL = [
    "status",
    "last_contact_at",
    "attached_at",
    "master_data",
    "custom_fields",
    "tags",
    "life_status",
    "operation_status",
    "rental_status",
    "setup_status",
    "capabilities",
    "telematics_unit",
    "fleet_id",
    "created_at",
    "modified_at",
]


@dataclass(frozen=True, slots=True)
class _Sharing:
    """With whom a vehicle is shared, when, in seconds since the epoch, and its position in the partner's list."""

    partner: Fleet | None
    starts_at: float
    ends_at: float | None
    at: int | None


class Fleet:
    """The vehicles of one fleet in order, with their ids and page keys."""

    def __init__(self, fleet_id: str, size: int = 1000, seed: int = 1, number: int = 0) -> None:
        if not 0 <= size <= VEHICLES_MAX:
            raise ValueError(f"a fleet has at most {VEHICLES_MAX} vehicles")
        self.fleet_id = fleet_id
        self._seed = seed
        self._number = number
        self._created = size
        self.ids: list[str] = [self._id_of(index) for index in range(size)]
        self.keys: list[int] = [(index + 1) * GAP for index in range(size)]
        self._creation_index = {vehicle_id: index for index, vehicle_id in enumerate(self.ids)}
        # The owners of vehicles that other fleets share with this one, and the partners that it shares its own with.
        self.owners: dict[str, Fleet] = {}
        self._partners: dict[str, Fleet] = {}
        self._sharings: dict[str, _Sharing] = {}
        # When the setup of a vehicle is finished, and the members that it then changes.
        self._setups: dict[str, tuple[float, dict[str, Any]]] = {}
        self.archived: dict[str, dict[str, Any]] = {}
        self._made: dict[str, dict[str, Any]] = {}
        self._changed: dict[str, dict[str, Any]] = {}
        self._revisions: Counter[str] = Counter()
        self._texts: dict[str, dict[str, bytes]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, vehicle_id: str) -> bool:
        return vehicle_id in self._creation_index or vehicle_id in self.owners

    def vehicle(self, vehicle_id: str) -> dict[str, Any]:
        """A vehicle, independent of behaviours. Callers must not change it."""
        if vehicle_id in self.owners:
            return self.owners[vehicle_id].vehicle(vehicle_id)
        made = self._changed.get(vehicle_id) or self._made.get(vehicle_id)
        if made is None:
            if len(self._made) > CACHED_MAX:
                self._made.clear()
            made = self._made[vehicle_id] = self._make(vehicle_id, self._creation_index[vehicle_id])
        return made

    def text(self, vehicle_id: str, behaviours: Behaviours) -> bytes:
        """A vehicle as JSON."""
        if vehicle_id in self.owners:
            return self.owners[vehicle_id].text(vehicle_id, behaviours)
        form = f"{behaviours.latest_state_in_list}{behaviours.extended_state}{behaviours.early_names}"
        text = self._texts.get(vehicle_id, {}).get(form)
        if text is None:
            if len(self._texts) > CACHED_MAX:
                self._texts.clear()
            text = encoded(self.shown(vehicle_id, behaviours))
            self._texts.setdefault(vehicle_id, {})[form] = text
        return text

    def shown(self, vehicle_id: str, behaviours: Behaviours) -> dict[str, Any]:
        """A vehicle as the behaviours show it."""
        vehicle = dict(self.vehicle(vehicle_id))
        if behaviours.early_names and isinstance(vehicle.get("master_data"), dict):
            data = dict(vehicle["master_data"])
            data["gear_box"] = "MANUAL_SHIFT" if data.pop("transmission", None) == "MANUAL" else "AUTOMATIC"
            vehicle["master_data"] = data
        if behaviours.latest_state_in_list == "missing":
            vehicle.pop("latest_state", None)
        else:
            vehicle["latest_state"] = (
                {} if behaviours.latest_state_in_list == "empty" else self.state(vehicle_id, behaviours)
            )
        return vehicle

    def state(self, vehicle_id: str, behaviours: Behaviours) -> dict[str, Any]:
        """A vehicle's latest state."""
        state = dict(self.vehicle(vehicle_id)["latest_state"])
        if behaviours.early_names and (level := state.pop("state_of_charge_or_fuel_level_in_percent", None)):
            state["fuel_level_in_percent"] = level
        if behaviours.extended_state:
            rng = Random(f"{vehicle_id} extended")
            state |= {name: {"timestamp": _time(rng), "value": make(rng)} for name, make in EXTENDED.items()}
        return state

    def found(self, text: str, behaviours: Behaviours) -> tuple[Sequence[str], Sequence[int]]:
        """The ids and keys of the vehicles that a search finds; an empty search finds all."""
        if not text:
            return self.ids, self.keys
        sought = text.casefold()
        hits = [n for n, vehicle_id in enumerate(self.ids) if sought in self._searched(vehicle_id, behaviours)]
        return [self.ids[n] for n in hits], [self.keys[n] for n in hits]

    def vin_is_taken(self, vin: str, except_by: str | None = None) -> bool:
        """Whether another vehicle of the fleet has this VIN."""
        return any(
            ((self.vehicle(vehicle_id).get("master_data") or {}).get("vin")) == vin
            for vehicle_id in self._creation_index
            if vehicle_id != except_by
        )

    def insert(self, at: int | None = None) -> str:
        """Adds a vehicle at a position, by default at the end, and returns its id."""
        index, self._created = self._created, self._created + 1
        vehicle_id = self._id_of(index)
        self.insert_at(vehicle_id, at)
        self._creation_index[vehicle_id] = index
        return vehicle_id

    def add(self, members: dict[str, Any], model: int, setup_until: float, setup_result: str) -> str:
        """Adds a vehicle of one of the MODELS with the given members, and returns its id.

        Until its setup is finished it has no state; afterwards it has one unless the result is FAILED.
        """
        vehicle_id = self.insert()
        now = present()
        plain = _plain(vehicle_id, self.fleet_id, model, Random(f"{self._seed} {vehicle_id}"))
        times = dict.fromkeys(("created_at", "modified_at", "attached_at"), now)
        statuses = {
            name: {"value": value, "modified_at": now}
            for name, value in (
                ("life_status", "OFFLINE"),
                ("rental_status", "NOT_IN_RENTAL"),
                ("setup_status", "IN_PROGRESS"),
            )
        }
        unset: dict[str, Any] = {"last_contact_at": None, "latest_state": {}}
        self._replace(vehicle_id, plain | times | statuses | unset | members)
        finished: dict[str, Any] = {"setup_status": {"value": setup_result, "modified_at": _of_epoch(setup_until)}}
        if setup_result == "SUCCEEDED":
            online = {"value": "ONLINE", "modified_at": _of_epoch(setup_until)}
            contact = _of_epoch(setup_until)
            state = {name: each | {"timestamp": contact} for name, each in plain["latest_state"].items()}
            finished |= {"life_status": online, "last_contact_at": contact, "latest_state": state}
        self._setups[vehicle_id] = (setup_until, finished)
        return vehicle_id

    def has_unit(self, brand: str, unit_id: str) -> bool:
        """Whether a vehicle of the fleet has this telematics unit."""
        units = (self.vehicle(vehicle_id).get("telematics_unit") or {} for vehicle_id in self._creation_index)
        return any(unit.get("id") == unit_id and unit.get("brand") == brand for unit in units)

    def archive(self, vehicle_id: str) -> None:
        """Removes one of its vehicles from the fleet, but keeps it among the `archived` ones."""
        vehicle = self.vehicle(vehicle_id)
        self.delete(vehicle_id)
        self.archived[vehicle_id] = vehicle | {"status": "ARCHIVED_VEHICLE", "modified_at": present()}

    def insert_at(self, vehicle_id: str, at: int | None) -> None:
        """Lists an existing vehicle at a position, by default at the end."""
        at = len(self.ids) if at is None else max(0, min(at, len(self.ids)))
        preceding = self.keys[at - 1] if at else (self.keys[0] - 2 * GAP if self.keys else 0)
        following = self.keys[at] if at < len(self.keys) else preceding + 2 * GAP
        if following - preceding < 2:
            raise ValueError("no room for another vehicle at this position")
        self.ids.insert(at, vehicle_id)
        self.keys.insert(at, (preceding + following) // 2)

    def delete(self, vehicle_id: str) -> None:
        """Removes a vehicle from the fleet; one that is shared with it is only no longer shared."""
        if vehicle_id in self.owners:
            self.owners[vehicle_id].end_sharing(vehicle_id)
            return
        if vehicle_id in self._sharings:
            self.end_sharing(vehicle_id)
        self._setups.pop(vehicle_id, None)
        self.unlist(vehicle_id)
        del self._creation_index[vehicle_id]
        self._forget(vehicle_id)

    def unlist(self, vehicle_id: str) -> None:
        """Removes a vehicle from the list only."""
        at = self.ids.index(vehicle_id)
        del self.ids[at], self.keys[at]

    def share(
        self,
        vehicle_id: str,
        partner: Fleet | None,
        at: int | None = None,
        *,
        starts_at: float | None = None,
        ends_at: float | None = None,
    ) -> None:
        """Shares one of its vehicles with another fleet, or with one that is not simulated.

        While the period lasts, by default from now on, the other fleet's list has the vehicle at a position, by default
        at the end. Raises ValueError if the vehicle is not its own, or is shared already.
        """
        if vehicle_id not in self._creation_index or self.vehicle(vehicle_id).get("sharing") or partner is self:
            raise ValueError("only a fleet's own vehicles can be shared, with one other fleet")
        now = time.time()
        starts_at = now if starts_at is None else starts_at
        party = PARTNER if partner is None else partner.party()
        period = {"starts_at": _of_epoch(starts_at), "ends_at": None if ends_at is None else _of_epoch(ends_at)}
        self.change(vehicle_id, {"sharing": {"owner": self.party(), "partner": party, **period}})
        self._sharings[vehicle_id] = _Sharing(partner, starts_at, ends_at, at)
        self.advance(now)

    def end_sharing(self, vehicle_id: str) -> None:
        """Ends the sharing of a vehicle: the partner's list no longer has it."""
        self._sharings.pop(vehicle_id, None)
        partner = self._partners.pop(vehicle_id, None)
        if partner is not None:
            partner.unlist(vehicle_id)
            del partner.owners[vehicle_id]
        self.change(vehicle_id, {"sharing": None})

    def advance(self, now: float) -> None:
        """Finishes setups and begins and ends sharings that are due."""
        for vehicle_id, (due, members) in list(self._setups.items()):
            if due <= now:
                del self._setups[vehicle_id]
                self.change(vehicle_id, members)
        for vehicle_id, sharing in list(self._sharings.items()):
            if sharing.ends_at is not None and sharing.ends_at <= now:
                self.end_sharing(vehicle_id)
            elif sharing.partner is not None and vehicle_id not in self._partners and sharing.starts_at <= now:
                self._partners[vehicle_id] = sharing.partner
                sharing.partner.insert_at(vehicle_id, sharing.at)
                sharing.partner.owners[vehicle_id] = self

    def role(self, vehicle_id: str, now: float) -> Literal["owner", "partner"] | None:
        """The fleet's part in the present sharing of a vehicle, if there is one."""
        sharing = self.vehicle(vehicle_id).get("sharing")
        if not sharing or moment_of(sharing["starts_at"]) > now:
            return None
        if sharing["ends_at"] is not None and moment_of(sharing["ends_at"]) <= now:
            return None
        return "partner" if sharing["partner"]["fleet_id"] == self.fleet_id else "owner"

    def party(self) -> dict[str, str]:
        """The fleet as a party of a sharing."""
        return {"fleet_id": self.fleet_id, "name": f"Fleet {self.fleet_id}"}

    def touch(self, vehicle_id: str) -> None:
        """Changes a state value, but no management data, so the ETag stays the same."""
        mileage = self.vehicle(vehicle_id)["latest_state"].get("mileage_in_kilometers") or {}
        self.report(vehicle_id, {"mileage_in_kilometers": (mileage.get("value") or 0) + 1})

    def report(self, vehicle_id: str, values: dict[str, Any]) -> None:
        """Changes state values, as captured now; the ETag stays the same."""
        if vehicle_id in self.owners:
            self.owners[vehicle_id].report(vehicle_id, values)
            return
        moment = present()
        captured = {name: {"timestamp": moment, "value": value} for name, value in values.items()}
        vehicle = self.vehicle(vehicle_id)
        self._replace(vehicle_id, vehicle | {"latest_state": (vehicle.get("latest_state") or {}) | captured})

    def edit(self, vehicle_id: str, **master_data: Any) -> None:
        """Changes master data, as `change` does."""
        data = self.vehicle(vehicle_id).get("master_data") or {}
        self.change(vehicle_id, {"master_data": data | (master_data or {"remark": "edited"})})

    def change(self, vehicle_id: str, members: dict[str, Any]) -> None:
        """Changes members of a vehicle, modified_at and the ETag."""
        if vehicle_id in self.owners:
            self.owners[vehicle_id].change(vehicle_id, members)
            return
        self._revisions[vehicle_id] += 1
        self._replace(vehicle_id, self.vehicle(vehicle_id) | {"modified_at": present()} | members)

    def etag(self, vehicle_id: str) -> str:
        """A strong entity tag of the management data; each change makes a new one."""
        if vehicle_id in self.owners:
            return self.owners[vehicle_id].etag(vehicle_id)
        text = f"{vehicle_id} {self._revisions[vehicle_id]} {self.vehicle(vehicle_id).get('modified_at')}"
        return f'"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"'

    def _replace(self, vehicle_id: str, vehicle: dict[str, Any]) -> None:
        self._changed[vehicle_id] = vehicle
        self._texts.pop(vehicle_id, None)

    def _forget(self, vehicle_id: str) -> None:
        for known in (self._made, self._changed, self._texts):
            known.pop(vehicle_id, None)

    def _searched(self, vehicle_id: str, behaviours: Behaviours) -> str:
        vehicle = self.vehicle(vehicle_id)
        data = vehicle.get("master_data") or {}
        unit = (vehicle.get("telematics_unit") or {}).get("id") if behaviours.q_searches_units else None
        words = [
            vehicle_id,
            unit,
            *(data.get(name) for name in ("brand", "model", "license_plate", "vin", "custom_name")),
        ]
        return "\n".join(word for word in words if word).casefold()

    def _id_of(self, index: int) -> str:
        if self._number == 0 and index < len(examples()):
            return str(examples()[index]["id"])
        if index % 97 == 96:  # as in one documented example: ids are opaque
            return hashlib.blake2b(f"{self._number} {index}".encode(), digest_size=6).hexdigest()
        rest, text = (self._number * VEHICLES_MAX + index) * 11_184_811 % ID_SPACE, ""
        for _ in range(5):
            rest, letter = divmod(rest, 32)
            text += ALPHABET[letter]
        return text if text not in EXAMPLE_IDS else text + "2"

    def _make(self, vehicle_id: str, index: int) -> dict[str, Any]:
        if self._number == 0 and index < len(examples()):
            vehicle = json.loads(json.dumps(examples()[index]))
            vehicle["fleet_id"] = vehicle["telematics_unit"]["fleet_id"] = self.fleet_id
            return vehicle  # type: ignore[no-any-return]
        rng = Random(f"{self._seed} {index}")
        return _special_case(_plain(vehicle_id, self.fleet_id, index, rng), index, rng)


EXAMPLE_IDS = frozenset(("JQ7RP", "K3WX8", "Z90BD"))


@cache
def examples() -> list[dict[str, Any]]:
    """The three vehicles of the documented example page."""
    return json.loads((files(__package__) / "example.json").read_text())  # type: ignore[no-any-return]


def encoded(value: Any) -> bytes:
    """The value as JSON in the form of the API."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def present() -> str:
    """The present time as a timestamp with milliseconds."""
    return _timestamp(datetime.now(UTC), fraction=True)


def moment_of(timestamp: str) -> float:
    """The seconds since the epoch of a timestamp. Raises ValueError."""
    return datetime.fromisoformat(timestamp).timestamp()


def _of_epoch(seconds: float) -> str:
    return _timestamp(datetime.fromtimestamp(seconds, UTC), fraction=True)


def _timestamp(moment: datetime, *, fraction: bool = False) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{moment.microsecond // 1000:03d}Z" if fraction else "Z")


def _time(rng: Random, *, fraction: bool = False) -> str:
    return _timestamp(
        EPOCH - timedelta(seconds=rng.randint(0, 10**7), milliseconds=rng.randint(0, 999)), fraction=fraction
    )


def _plain(vehicle_id: str, fleet_id: str, index: int, rng: Random) -> dict[str, Any]:
    """A vehicle with all members."""
    brand, model, form, fuel, unit_brand, maker, unit_model = MODELS[index % len(MODELS)]
    two_wheeler = form in TWO_WHEELERS
    fraction = index % 5 == 0
    state = {
        name: {"timestamp": _time(rng, fraction=fraction), "value": make(rng)}
        for name, make in (EVERYWHERE | (BIKES if two_wheeler else CARS)).items()
        if name in ("position", "mileage_in_kilometers") or rng.random() < 0.85
    }
    created = _time(rng)
    return {
        "id": vehicle_id,
        "status": "CONNECTED_VEHICLE",
        "fleet_id": fleet_id,
        "last_contact_at": _time(rng, fraction=fraction),
        "created_at": created,
        "modified_at": _time(rng),
        "attached_at": _time(rng),
        "master_data": {
            "vin": "".join(rng.choices(ALPHABET, k=17)),
            "license_plate": f"{rng.choice(CITY_CODES)}-{''.join(rng.choices(LETTERS, k=2))} {rng.randint(1, 9999)}",
            "brand": brand,
            "model": model,
            "custom_name": f"{brand} {index} Station {index % 40}",
            "fuel_type": fuel,
            "year_of_production": str(2015 + index % 10),
            "transmission": "AUTOMATIC" if two_wheeler or index % 3 else "MANUAL",
            "vehicle_type": form,
            "remark": None if index % 4 else "check tyres",
        },
        "custom_fields": {"seats": str(1 + index % 7), "color": rng.choice(["black", "weiß", "grün"])},
        "tags": rng.sample(["station_a", "station_b", "winter_tyres", "in_maintenance", "demo_night"], k=index % 3),
        "life_status": {"value": "ONLINE" if index % 6 else "OFFLINE", "modified_at": _time(rng)},
        "operation_status": {"value": "OPERATING" if index % 9 else "GARAGE", "modified_at": _time(rng)},
        "rental_status": {"value": "IN_RENTAL" if index % 4 == 1 else "NOT_IN_RENTAL", "modified_at": _time(rng)},
        "setup_status": {
            "value": ("IN_PROGRESS", "FAILED")[index % 2] if index % 50 < 2 else "SUCCEEDED",
            "modified_at": created,
        },
        "capabilities": {"commands": COMMANDS[two_wheeler], "vehicle_state": sorted(name.upper() for name in state)},
        "telematics_unit": {
            # Some neighbours of different manufacturers share a unit id, which is unique only per manufacturer.
            "id": hashlib.blake2b(
                f"{fleet_id} {index // 2 if index % 22 in (6, 7) else index * 7919 + 1}".encode(), digest_size=8
            )
            .hexdigest()
            .upper(),
            "brand": unit_brand,
            "model": unit_model,
            "manufacturer": maker,
            "fleet_id": fleet_id,
            "created_at": created,
            "modified_at": _time(rng),
            "type": "RETROFIT" if unit_brand == "CLOUDBOXX" else "OEM",
        },
        "latest_state": state,
        "vehicle_model_id": "".join(rng.choices(ALPHABET, k=26)),
    }


def _special_case(vehicle: dict[str, Any], index: int, rng: Random) -> dict[str, Any]:  # noqa: C901, PLR0912, PLR0915 - a list of special cases
    """The vehicle with one of the special cases that the contract allows, by its index."""
    data, state = vehicle["master_data"], vehicle["latest_state"]
    kind = index % 48
    if kind < len(OPTIONAL):
        member = OPTIONAL[kind]
        if index // 48 % 2:
            del vehicle[member]
        else:
            vehicle[member] = None
    elif kind == 16:
        data["gear_box"] = "MANUAL_SHIFT"
        del data["transmission"]
    elif kind == 17:
        data["gear_box"] = "AUTOMATIC"
    elif kind == 18:
        vehicle["latest_state"] = {}
    elif kind == 19:
        vehicle["new_member"] = {"nested": [1, {"deep": True}]}
        data["new_member"] = vehicle["telematics_unit"]["new_member"] = vehicle["capabilities"]["new_member"] = "new"
    elif kind in (20, 21):
        vehicle["status"] = "VEHICLE_ON_THE_MOON"
        data |= {"fuel_type": "URANIUM", "transmission": "TELEPATHY", "vehicle_type": "SUBMARINE"}
        vehicle["telematics_unit"] |= {"brand": "ACME", "type": "BORROWED"}
        for name in ("life_status", "operation_status", "rental_status", "setup_status"):
            vehicle[name] = {"value": "SOMETHING_NEW", "modified_at": _time(rng)}
        for name in (
            "central_lock",
            "ignition",
            "abs_status",
            "brake_warning_indicator",
            "center_stand_position",
            "top_case_lid",
        ):
            state[name] = {"timestamp": _time(rng), "value": "SOMETHING_NEW"}
    elif kind == 22:
        state["fuel_level_in_percent"] = state.pop(
            "state_of_charge_or_fuel_level_in_percent", {"timestamp": _time(rng), "value": 50}
        )
    elif kind == 23:
        vehicle["custom_fields"] = {"seats": 4, "towbar": True, "payload": 1.5, "note": None, "name": "Ünïcödé 🚗"}
    elif kind == 24:
        values = ["text", 7, 1.25, False, {"a": [1, None]}, [1, 2], None]
        state |= {f"new_property_{n}": {"timestamp": _time(rng), "value": value} for n, value in enumerate(values)}
    elif kind == 25:
        for found in state.values():
            found["value"] = None
    elif kind == 26:
        for name in list(data)[1::2]:
            del data[name]
        vehicle["telematics_unit"] = {"id": vehicle["telematics_unit"]["id"]}
        vehicle["capabilities"] = {}
        vehicle["life_status"] = {"value": "ONLINE"}
    elif kind == 27:
        vehicle["master_data"] = dict.fromkeys(data)
        vehicle["capabilities"] = {"commands": None, "vehicle_state": None}
        vehicle["operation_status"] = {"value": None, "modified_at": None}
        vehicle["telematics_unit"] |= {"brand": None, "model": None, "manufacturer": None, "type": None}
    elif kind == 29:
        own, other = vehicle["fleet_id"], "PARTN"
        owner, partner = (own, other) if index // 48 % 2 else (other, own)
        vehicle["fleet_id"] = owner
        vehicle["sharing"] = {
            "owner": {"fleet_id": owner, "name": f"Fleet {owner}"},
            "partner": {"fleet_id": partner, "name": f"Fleet {partner}"},
            "starts_at": "2024-05-01T00:00:00Z",
            "ends_at": None if index // 96 % 2 else "2034-05-01T00:00:00Z",
        }
    elif kind == 28:
        state["mileage_in_kilometers"] = {"value": 12}
        data["license_plate"] = "X" * 30
    return vehicle
