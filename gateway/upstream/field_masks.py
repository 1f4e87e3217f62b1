"""Field masks: the upstream's structs with only the members that an operation needs, so that only those are decoded.

A mask has the names, the types and the computed members of its model, and the model's checks of them. The decoder skips
all other members without creating objects. A masked vehicle that was read by its id has the response `body`, from which
it can be decoded in full.
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
    UNREADABLE,
    AnyUnit,
    AnyVehicle,
    Capabilities,
    MasterData,
    Sharing,
    SharingFleet,
    StateProperty,
    Status,
    TelematicsUnit,
    Vehicle,
    decoded,
)

# The needed members of an object, each with its own needed members, or None for all.
Needs = Mapping[str, "Needs | None"]
Frozen = tuple[tuple[str, Any], ...]

PARTS: Mapping[str, type] = {
    "master_data": MasterData,
    "capabilities": Capabilities,
    "telematics_unit": TelematicsUnit,
    "sharing": Sharing,
    **dict.fromkeys(("owner", "partner"), SharingFleet),
    **dict.fromkeys(("life_status", "operation_status", "rental_status", "setup_status"), Status),
}
# The members that computed ones are computed from; one that is missing fails at start.
COMPUTED_FROM: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    Vehicle: {"status_raw": ("status",), "other_members": ()},
    MasterData: {
        "fuel_type_raw": ("fuel_type",),
        "vehicle_type_raw": ("vehicle_type",),
        # The year needs normalising only along with these; by itself a number is rendered as text anyway.
        **dict.fromkeys(
            ("transmission", "transmission_raw"),
            ("transmission", "transmission_raw", "gear_box", "year_of_production"),
        ),
    },
    TelematicsUnit: {"type_raw": ("type",)},
    Status: {"raw_value": ("value",)},
}
ALWAYS: Mapping[type, tuple[str, ...]] = {
    Vehicle: ("vehicle_id", "version", "body", "rendered"),
    TelematicsUnit: ("unit_id", "vehicle_id"),
}
# Cached masks. Callers' selections determine them, so their number is unbounded.
MASKS_MAX = 1024
BASE_CLASSES: Mapping[type, tuple[type, ...]] = {Vehicle: (AnyVehicle,), TelematicsUnit: (AnyUnit,)}


def check_computed(computed_from: Mapping[type, Mapping[str, tuple[str, ...]]]) -> None:
    """Raises TypeError for a computed member without an entry, which masks would lack.

    Computed members are properties, and members whose encoded name starts with `$`.
    """
    for model in (Vehicle, *PARTS.values()):
        computed = {name for name, member in vars(model).items() if isinstance(member, property)}
        computed |= {member.name for member in msgspec.structs.fields(model) if member.encode_name.startswith("$")}
        missing = computed - computed_from.get(model, {}).keys() - {*ALWAYS.get(model, ())}
        if missing:
            raise TypeError(f"{model.__name__} has computed members without an entry: {', '.join(sorted(missing))}.")


check_computed(COMPUTED_FROM)


def vehicle_mask(needs: Needs) -> type[Vehicle]:
    """The mask of vehicles with the needed members, and ids in any case."""
    return _mask(Vehicle, frozen(needs))  # type: ignore[no-any-return]


def frozen(needs: Needs | None) -> Frozen | None:
    """Needs as a hashable key."""
    return None if needs is None else tuple(sorted((name, frozen(inner)) for name, inner in needs.items()))


@lru_cache(MASKS_MAX)
def _mask(model: type, needs: Frozen) -> Any:
    computed_from = COMPUTED_FROM.get(model, {})
    inner = dict(needs)
    wanted = {*ALWAYS.get(model, ()), *(part for name in inner for part in computed_from.get(name, (name,)))}
    # A unit without an id has to be left out. Only the full model can do that, so the mask rejects it.
    strict = {"unit_id"} if model is TelematicsUnit and "vehicle_id" not in inner else set()
    members = [_member(member, inner, strict) for member in msgspec.structs.fields(model) if member.name in wanted]
    namespace: dict[str, Any] = {
        name: getattr(model, name) for name in inner if isinstance(getattr(model, name, None), property)
    }
    if model is Vehicle:
        namespace["needs_version"] = "version" in inner
    if _needs_post_init(model, inner):
        namespace["__post_init__"] = vars(model)["__post_init__"]
    return msgspec.defstruct(
        f"Masked{model.__name__}", members, namespace=namespace, bases=BASE_CLASSES.get(model, ()), gc=False
    )


def decode_masked(body: bytes, mask: type[Vehicle]) -> Vehicle:
    """A vehicle decoded with a mask, or in full where it does not match; raises msgspec's errors."""
    try:
        vehicle: Any = _decoder(mask).decode(body)
    except UNREADABLE:
        return decoded(body, Vehicle)  # type: ignore[no-any-return]
    vehicle.body = body
    return vehicle  # type: ignore[no-any-return]


def decode_full(vehicle: Any) -> Vehicle:
    """A vehicle with all members of the response; raises UpstreamInvalidResponse where that can't be decoded."""
    if type(vehicle) is Vehicle:
        return vehicle
    try:
        full: Vehicle = decoded(vehicle.body, Vehicle)
        full.version = vehicle.version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as unreadable:
        raise UpstreamInvalidResponse(Problem(200)) from unreadable
    return full


@lru_cache(MASKS_MAX)
def _decoder(mask: type[Vehicle]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(mask)


def _needs_post_init(model: type, needs: Mapping[str, Frozen | None]) -> bool:
    """Whether `__post_init__` has an effect on the needed members."""
    if model is MasterData:
        return "transmission" in needs or "transmission_raw" in needs
    unit = needs.get("telematics_unit")
    return model is Vehicle and "telematics_unit" in needs and (unit is None or "vehicle_id" in dict(unit))


def _member(
    member: msgspec.structs.FieldInfo, needs: Mapping[str, Frozen | None], strict: AbstractSet[str]
) -> tuple[str, Any, Any]:
    kind, inner_needs = member.type, needs.get(member.name)
    if member.name in strict:
        return member.name, str, field(name=member.encode_name)
    if inner_needs is not None and member.name in PARTS:
        kind = Optional[_mask(PARTS[member.name], inner_needs)]  # noqa: UP045 - made at run time
    elif inner_needs is not None and member.name == "latest_state":
        kind = Union[_state(inner_needs), UnsetType, None]  # noqa: UP007 - as above
    default = (
        field(name=member.encode_name) if member.required else field(default=member.default, name=member.encode_name)
    )
    return member.name, kind, default


@lru_cache(MASKS_MAX)
def _state(needs: Frozen) -> type:
    members = [(name, Optional[StateProperty], None) for name, _ in needs]  # noqa: UP045 - as above
    return msgspec.defstruct("MaskedState", members, namespace={"get": _get}, gc=False)


def _get(state: Any, name: str) -> StateProperty | None:
    found: StateProperty | None = getattr(state, name)
    return found
