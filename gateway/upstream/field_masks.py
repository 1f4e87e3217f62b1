"""Views: the upstream's structs with only the members that somebody needs, so that only those are decoded.

A view has the names, the types and the computed members of its model, and its checks for what it has. What a page holds
beside them is passed over by the decoder without making an object of it. One that was read by its id keeps the answer's
`body`, for whoever needs more of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any, Optional, Union

import msgspec
from msgspec import UnsetType, field

from gateway.errors import Problem, UpstreamInvalidResponse
from gateway.upstream.models import (
    Capabilities,
    MasterData,
    StateProperty,
    Status,
    TelematicsUnit,
    UnitForm,
    Vehicle,
    VehicleForm,
    decoded,
)

# What is needed of an object: its members, and of each all (None) or what is needed of it in turn.
Needs = Mapping[str, "Needs | None"]
Frozen = tuple[tuple[str, Any], ...]

PARTS: Mapping[str, type] = {
    "master_data": MasterData,
    "capabilities": Capabilities,
    "telematics_unit": TelematicsUnit,
    **dict.fromkeys(("life_status", "operation_status", "rental_status", "setup_status"), Status),
}
# The members that computed ones are computed from; one that is missing fails at start.
COMPUTED_FROM: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    Vehicle: {"status_raw": ("status",)},
    MasterData: {
        "fuel_type_raw": ("fuel_type",),
        "vehicle_type_raw": ("vehicle_type",),
        # The year is looked at with these; alone it needs nobody: a number is a text in the end.
        **dict.fromkeys(
            ("transmission", "transmission_raw"),
            ("transmission", "transmission_raw", "gear_box", "year_of_production"),
        ),
    },
    TelematicsUnit: {"type_raw": ("type",)},
    Status: {"raw_value": ("value",)},
}
ALWAYS: Mapping[type, tuple[str, ...]] = {
    Vehicle: ("vehicle_id", "fleet_id"),
    TelematicsUnit: ("unit_id", "vehicle_id"),
}
# Views that are remembered; callers' selections make them, so there is no end to them.
VIEWS_MAX = 1024
FORMS: Mapping[type, tuple[type, ...]] = {Vehicle: (VehicleForm,), TelematicsUnit: (UnitForm,)}


def check_computed(computed_from: Mapping[type, Mapping[str, tuple[str, ...]]]) -> None:
    """Raises TypeError for a computed member that has no entry, and so would be missing in views.

    Computed members are properties, and members with a `$` in place of a name of the upstream's.
    """
    for model in (Vehicle, *PARTS.values()):
        computed = {name for name, member in vars(model).items() if isinstance(member, property)}
        computed |= {known.name for known in msgspec.structs.fields(model) if known.encode_name.startswith("$")}
        missing = computed - computed_from.get(model, {}).keys() - {*ALWAYS.get(model, ())}
        if missing:
            raise TypeError(f"{model.__name__} has computed members without an entry: {', '.join(sorted(missing))}.")


check_computed(COMPUTED_FROM)


def vehicle_mask(needs: Needs) -> type[Vehicle]:
    """The view of vehicles that has what is needed, and ids in any case."""
    return _mask(Vehicle, frozen(needs))  # type: ignore[no-any-return]


def frozen(needs: Needs | None) -> Frozen | None:
    """Needs as a key."""
    return None if needs is None else tuple(sorted((name, frozen(inner)) for name, inner in needs.items()))


@lru_cache(VIEWS_MAX)
def _mask(model: type, needs: Frozen) -> Any:
    computed_from = COMPUTED_FROM.get(model, {})
    inner = dict(needs)
    wanted = {*ALWAYS.get(model, ()), *(part for name in inner for part in computed_from.get(name, (name,)))}
    # A unit without an id is left out, which only the whole vehicle can do: the view refuses it.
    strict = {"unit_id"} if model is TelematicsUnit and "vehicle_id" not in inner else set()
    members = [_member(known, inner, strict) for known in msgspec.structs.fields(model) if known.name in wanted]
    namespace: dict[str, Any] = {
        name: getattr(model, name) for name in inner if isinstance(getattr(model, name, None), property)
    }
    if _is_worked_on(model, inner):
        namespace["__post_init__"] = vars(model)["__post_init__"]
    if model is Vehicle:
        members.append(("body", bytes, field(default=b"", name="$body")))
    return msgspec.defstruct(
        f"{model.__name__}View", members, namespace=namespace, bases=FORMS.get(model, ()), gc=False
    )


def decode_masked(body: bytes, mask: type[Vehicle]) -> Vehicle:
    """A vehicle in a view, or whole where it does not fit that; raises msgspec's errors where it is none."""
    try:
        vehicle: Any = _decoder(mask).decode(body)
    except msgspec.ValidationError:
        return decoded(body, Vehicle)  # type: ignore[no-any-return]
    vehicle.body = body
    return vehicle  # type: ignore[no-any-return]


def decode_full(vehicle: Any) -> Vehicle:
    """A vehicle with all that the answer said of it; raises UpstreamInvalidResponse where that can't be read."""
    if type(vehicle) is Vehicle:
        return vehicle
    try:
        return decoded(vehicle.body, Vehicle)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as unreadable:
        raise UpstreamInvalidResponse(Problem(200)) from unreadable


@lru_cache(VIEWS_MAX)
def _decoder(mask: type[Vehicle]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(mask)


def _is_worked_on(model: type, needs: Mapping[str, Frozen | None]) -> bool:
    """Whether `__post_init__` has something to do."""
    if model is MasterData:
        return "transmission" in needs or "transmission_raw" in needs
    unit = needs.get("telematics_unit")
    return model is Vehicle and "telematics_unit" in needs and (unit is None or "vehicle_id" in dict(unit))


def _member(
    known: msgspec.structs.FieldInfo, needs: Mapping[str, Frozen | None], strict: AbstractSet[str]
) -> tuple[str, Any, Any]:
    kind, within = known.type, needs.get(known.name)
    if known.name in strict:
        return known.name, str, field(name=known.encode_name)
    if within is not None and known.name in PARTS:
        kind = Optional[_mask(PARTS[known.name], within)]  # noqa: UP045 - made at run time
    elif within is not None and known.name == "latest_state":
        kind = Union[_state(within), UnsetType, None]  # noqa: UP007 - as above
    default = field(name=known.encode_name) if known.required else field(default=known.default, name=known.encode_name)
    return known.name, kind, default


@lru_cache(VIEWS_MAX)
def _state(needs: Frozen) -> type:
    members = [(name, Optional[StateProperty], None) for name, _ in needs]  # noqa: UP045 - as above
    return msgspec.defstruct("StateView", members, namespace={"get": _get}, gc=False)


def _get(state: Any, name: str) -> StateProperty | None:
    found: StateProperty | None = getattr(state, name)
    return found
