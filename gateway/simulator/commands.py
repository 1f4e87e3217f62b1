"""Commands: which vehicles reject them, and what they change in the state of the vehicle."""

from __future__ import annotations

from typing import Any

from gateway.simulator.behaviours import Behaviours
from gateway.simulator.problems import ProblemRaised

# The state values that a command changes; those of the last line are documented by analogy only.
EFFECTS: dict[str, dict[str, Any]] = {
    "REQUEST_VEHICLE_STATE": {},
    "ENABLE_DRIVING": {"driving_enabled": True},
    "DISABLE_DRIVING": {"driving_enabled": False},
    "UNLOCK_CENTRAL_LOCK": {"central_lock": "UNLOCKED"},
    "LOCK_CENTRAL_LOCK": {"central_lock": "LOCKED"},
    "UNLOCK_AND_ENABLE_DRIVING": {"central_lock": "UNLOCKED", "driving_enabled": True},
    "LOCK_AND_DISABLE_DRIVING": {"central_lock": "LOCKED", "driving_enabled": False},
    "UNLOCK_TOP_CASE": {"top_case_lock": "UNLOCKED"},
    "LOCK_TOP_CASE": {"top_case_lock": "LOCKED"},
    "DRAW_ATTENTION": {},
    "UNLOCK_BATTERY_COMPARTMENT": {},
    "LOCK_BATTERY_COMPARTMENT": {}, "UNLOCK_SEAT": {}, "UNLOCK_HELMET_BOX": {}, "LOCK_HELMET_BOX": {},
    "START_CHARGING": {"charging_status": "CHARGING"}, "STOP_CHARGING": {"charging_status": "NOT_CHARGING"},
}  # fmt: skip


def capability_of(path_name: str, vehicle: dict[str, Any]) -> str:
    """The capability of a command by its name in the path. Raises a problem if there is no such command."""
    capability = path_name.replace("-", "_").upper()
    if path_name != path_name.lower() or "_" in path_name or capability not in EFFECTS.keys() | _supported(vehicle):
        raise ProblemRaised("/problems/resource-not-found", "There is no such command.")
    return capability


def check(
    vehicle: dict[str, Any], capability: str, *, shared: bool, running: str | None, behaviours: Behaviours
) -> None:
    """Raises the problem for which a vehicle rejects a command.

    `shared` is whether it is now shared by the caller with a partner, `running` is the command that is being executed.
    """
    if shared:
        raise ProblemRaised("/problems/vehicle/shared-with-partner")
    if _value(vehicle, "setup_status") not in (None, "SUCCEEDED"):
        raise ProblemRaised("/problems/vehicle/conflicting-setup-status")
    if capability not in _supported(vehicle):
        raise ProblemRaised("/problems/vehicle/command-not-supported", f"{capability} is not supported.")
    if running is not None:
        raise ProblemRaised("/problems/vehicle/conflicting-command", f"{running} is being executed.")
    if behaviours.offline_vehicles == "not_reachable" and _value(vehicle, "life_status") == "OFFLINE":
        raise ProblemRaised("/problems/vehicle/not-reachable")
    stops = capability.startswith("LOCK") or capability == "DISABLE_DRIVING"
    moves = behaviours.ignition_on == "moving" and _value(vehicle.get("latest_state") or {}, "ignition") == "ON"
    if stops and moves:
        raise ProblemRaised("/problems/vehicle/conflicting-state", "The vehicle is moving.")


def effects(capability: str, vehicle: dict[str, Any]) -> dict[str, Any]:
    """The state values after a command; REQUEST_VEHICLE_STATE only captures the present ones anew."""
    if capability == "REQUEST_VEHICLE_STATE":
        state = vehicle.get("latest_state") or {}
        return {name: captured.get("value") for name, captured in state.items() if isinstance(captured, dict)}
    return EFFECTS.get(capability, {})


def _supported(vehicle: dict[str, Any]) -> set[str]:
    return set((vehicle.get("capabilities") or {}).get("commands") or ())


def _value(members: dict[str, Any], name: str) -> Any:
    return (members.get(name) or {}).get("value")
