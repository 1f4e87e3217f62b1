"""Changes to the management data of a vehicle: which bodies are valid, and what they make of the vehicle."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from gateway.simulator.behaviours import Behaviours
from gateway.simulator.problems import ProblemRaised

PLATE_LENGTH_MAX = 30
TEXT_LENGTH_MAX = 255
MASTER_DATA = ("vin", "license_plate", "brand", "model", "custom_name", "fuel_type", "year_of_production",
               "transmission", "vehicle_type", "remark")  # fmt: skip
STATUSES = {"operation_status": ("OPERATING", "GARAGE"), "rental_status": ("IN_RENTAL", "NOT_IN_RENTAL")}


def invalid(detail: str) -> ProblemRaised:
    """The problem of an invalid request."""
    return ProblemRaised("/problems/validation-error", detail)


def members_of(body: Any, known: Collection[str], name: str = "vehicle") -> dict[str, Any]:
    """The members of an object. Raises a problem if it is none, or has a member that is not known."""
    if not isinstance(body, dict):
        raise invalid(f"{name} must be an object.")
    for member in body:
        if member not in known:
            raise invalid(f"{name}.{member} is not a known property.")
    return body


def changed_members(vehicle: dict[str, Any], body: Any, behaviours: Behaviours, now: str) -> dict[str, Any]:
    """The members that a change sets, by the rules of a JSON merge patch. Raises a problem if its body is invalid.

    A member that is absent is unchanged, null clears it. `now` is the time that a new status gets.
    """
    changed = {}
    for name, value in members_of(body, [name for name in MERGES if name not in behaviours.sub_resources]).items():
        changed[name] = MERGES[name](vehicle.get(name), value, behaviours, now)
    return changed


def new_vehicle(body: Any, behaviours: Behaviours, now: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What a new vehicle is made of, as texts by name, and its own members. Raises a problem if the body is invalid."""
    nested = behaviours.unit_form == "nested"
    required = ("vehicle_model_id",) if nested else ("telematics_brand", "telematics_unit_id", "vehicle_model_id")
    secrets = ("credentials_id", "password")
    optional = [name for name in MERGES if name != "rental_status"]
    members_of(body, (*required, *secrets, *optional, *(["telematics_unit"] if nested else ())))
    parts = {name: body.get(name) for name in required} | {name: body[name] for name in secrets if name in body}
    if nested:
        unit = members_of(body.get("telematics_unit"), ("brand", "id"), "telematics_unit")
        parts |= {"telematics_brand": unit.get("brand"), "telematics_unit_id": unit.get("id")}
    for name, text in parts.items():
        if not isinstance(text, str) or not 0 < len(text) <= TEXT_LENGTH_MAX:
            raise invalid(f"vehicle.{name} must be a string.")
    if all(name in parts for name in secrets):
        raise invalid("vehicle.credentials_id and vehicle.password exclude each other.")
    given = {"operation_status": "OPERATING", **body}
    members = {name: MERGES[name](None, given.get(name), behaviours, now) for name in optional}
    return parts, members


def changed_member(vehicle: dict[str, Any], name: str, body: Any, behaviours: Behaviours, now: str) -> dict[str, Any]:
    """The one member that a change of a sub-resource sets."""
    return {name: MERGES[name](vehicle.get(name), body, behaviours, now)}


def _master_data(before: Any, value: Any, behaviours: Behaviours, _now: str) -> dict[str, Any]:
    gear = "gear_box" if behaviours.early_names else "transmission"
    known = [name if name != "transmission" else gear for name in MASTER_DATA]
    data = dict(before or {})
    if value is None:
        return dict.fromkeys(data)
    for name, text in members_of(value, known).items():
        limit = PLATE_LENGTH_MAX if name == "license_plate" else TEXT_LENGTH_MAX
        if text is not None and not isinstance(text, str):
            raise invalid(f"vehicle.{name} must be a string.")
        if text is not None and len(text) > limit:
            raise invalid(f"vehicle.{name} must have at most {limit} characters.")
        if name == "gear_box":
            data["transmission"] = "MANUAL" if text == "MANUAL_SHIFT" else text
        else:
            data[name] = text
            if name == "transmission":
                data.pop("gear_box", None)
    return data


def _custom_fields(before: Any, value: Any, _behaviours: Behaviours, _now: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("vehicle.custom_fields must be an object.")
    for name, scalar in value.items():
        if isinstance(scalar, dict | list):
            raise invalid(f"vehicle.custom_fields.{name} must be a scalar.")
    return {
        name: scalar for name, scalar in ((before or {}) | value).items() if name not in value or scalar is not None
    }


def _tags(_before: Any, value: Any, _behaviours: Behaviours, _now: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise invalid("vehicle.tags must be a list of strings.")
    return list(dict.fromkeys(value))


def _status(name: str) -> Callable[[Any, Any, Behaviours, str], dict[str, Any]]:
    def merged(_before: Any, value: Any, behaviours: Behaviours, now: str) -> dict[str, Any]:
        form = behaviours.status_form
        if isinstance(value, dict) and form != "text":
            value = members_of(value, ["value"], f"vehicle.{name}").get("value")
        elif form == "object":
            raise invalid(f"vehicle.{name} must be an object.")
        if value not in STATUSES[name]:
            raise invalid(f"vehicle.{name} must be one of {', '.join(STATUSES[name])}.")
        return {"value": value, "modified_at": now}

    return merged


MERGES: dict[str, Callable[[Any, Any, Behaviours, str], Any]] = {
    "master_data": _master_data,
    "custom_fields": _custom_fields,
    "tags": _tags,
    **{name: _status(name) for name in STATUSES},
}
