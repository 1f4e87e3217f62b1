"""The endpoints that write: changes of vehicles, vehicles that come and go, sharing, and commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.simulator import commands
from gateway.simulator.changes import MERGES, changed_member, changed_members, invalid, members_of, new_vehicle
from gateway.simulator.fleet import MODELS, Fleet, encoded, moment_of, present
from gateway.simulator.models import models_of
from gateway.simulator.problems import ProblemRaised
from gateway.simulator.state import SimulatorState, vehicle_of

JSON = "application/json"
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


async def change(request: Request) -> Response:
    """PATCH or PUT /vehicles/{id}: changes the members in the body."""
    # The body has been read, so nothing waits between the check of a version and its change.
    simulator, fleet, vehicle_id = _to_change(request)
    body = await _body_of(request)
    if simulator.behaviours.body_wrapper:
        body = members_of(body, ["vehicle"], "body").get("vehicle")
    now = present()
    members = changed_members(fleet.vehicle(vehicle_id), body, simulator.behaviours, now)
    return _changed(request, fleet, vehicle_id, members | {"modified_at": now}, body)


async def change_member(request: Request) -> Response:
    """PATCH or PUT /vehicles/{id}/{member}: changes one member, if it is a sub-resource."""
    simulator, fleet, vehicle_id = _to_change(request)
    name = request.path_params["member"].replace("-", "_")
    if name not in MERGES or name not in simulator.behaviours.sub_resources:
        raise ProblemRaised("/problems/resource-not-found")
    body = await _body_of(request)
    now = present()
    members = changed_member(fleet.vehicle(vehicle_id), name, body, simulator.behaviours, now)
    return _changed(request, fleet, vehicle_id, members | {"modified_at": now}, {name: body})


async def add(request: Request) -> Response:
    """POST /vehicles: adds a vehicle, whose setup then takes some time."""
    simulator: SimulatorState = request.state.simulator
    behaviours = simulator.behaviours
    fleet = simulator.admit(request, behaviours.lifecycle_right)
    now = present()
    body = await _body_of(request)
    parts, members = new_vehicle(body, behaviours, now)
    brand, unit_id = parts["telematics_brand"], parts["telematics_unit_id"]
    known = {model["id"]: (number, model) for number, model in models_of(brand)}
    if parts["vehicle_model_id"] not in known:
        raise ProblemRaised("/problems/referenced-resource-not-found", "There is no such vehicle model.")
    number, model = known[parts["vehicle_model_id"]]
    _check_credentials(parts)
    _check_vin(fleet, members)
    if fleet.has_unit(brand, unit_id):
        raise ProblemRaised("/problems/conflicting-resource", "Another vehicle has this telematics unit.")
    _, _, _, _, _, maker, unit_model = MODELS[number]
    unit = {"id": unit_id, "brand": brand, "model": unit_model, "manufacturer": maker, "fleet_id": fleet.fleet_id,
            "created_at": now, "modified_at": now, "type": "RETROFIT" if brand == "CLOUDBOXX" else "OEM"}  # fmt: skip
    made = {"telematics_unit": unit, "capabilities": model["capabilities"], "vehicle_model_id": model["id"]}
    until = time.time() + behaviours.setup_seconds
    vehicle_id = fleet.add(members | made, number, until, behaviours.setup_result)
    simulator.executions.add(request, "ADD", vehicle_id, {n: v for n, v in body.items() if n != "password"})
    response = _answer(request, fleet, vehicle_id, 201)
    response.headers["Location"] = f"/vehicles/{vehicle_id}"
    return response


async def archive(request: Request) -> Response:
    """DELETE /vehicles/{id} or POST /vehicles/{id}/archive: removes a vehicle from the fleet."""
    simulator: SimulatorState = request.state.simulator
    if (request.method == "POST") != (simulator.behaviours.archive_path == "post"):
        raise ProblemRaised("/problems/method-not-allowed")
    _, fleet, vehicle_id = _to_change(request, simulator.behaviours.lifecycle_right)
    _check_version(request, simulator, fleet, vehicle_id)
    if fleet.vehicle(vehicle_id).get("sharing"):
        raise ProblemRaised("/problems/vehicle/shared-with-partner")
    fleet.archive(vehicle_id)
    simulator.executions.add(request, "ARCHIVE", vehicle_id)
    return Response(status_code=204)


async def share(request: Request) -> Response:
    """POST /vehicles/{id}/sharing: shares a vehicle for a time with one of the sharing partners."""
    simulator, fleet, vehicle_id = _to_change(request)
    body = await _body_of(request)
    form = simulator.behaviours.partner_form
    flat = ["partner_fleet_id"] if form != "nested" else []
    nested = ["partner"] if form != "flat" else []
    members_of(body, ["starts_at", "ends_at", *flat, *nested], "sharing")
    partner_id = body.get("partner_fleet_id")
    if "partner" in body:
        partner_id = members_of(body["partner"], ["fleet_id"], "partner").get("fleet_id")
    if not isinstance(partner_id, str):
        raise invalid("sharing.partner must be given.")
    starts_at, ends_at = _time_of(body, "starts_at"), _time_of(body, "ends_at")
    if ends_at is not None and ends_at <= max(starts_at or 0, time.time()):
        raise invalid("sharing.ends_at must be in the future and after sharing.starts_at.")
    partners = {party["fleet_id"]: partner for party, partner in simulator.partners_of(fleet)}
    if partner_id not in partners:
        raise ProblemRaised("/problems/referenced-resource-not-found", "There is no such partner.")
    _check_version(request, simulator, fleet, vehicle_id)
    try:
        fleet.share(vehicle_id, partners[partner_id], starts_at=starts_at, ends_at=ends_at)
    except ValueError as wrong:
        raise ProblemRaised("/problems/vehicle/shared-with-partner") from wrong
    simulator.executions.add(request, "SHARE", vehicle_id, body)
    return _answer(request, fleet, vehicle_id)


async def end_sharing(request: Request) -> Response:
    """DELETE /vehicles/{id}/sharing or POST /vehicles/{id}/sharing/end: ends a sharing before its time."""
    simulator, fleet, vehicle_id = _to_change(request)
    if request.method.lower() != simulator.behaviours.end_sharing_path:
        raise ProblemRaised("/problems/method-not-allowed")
    _check_version(request, simulator, fleet, vehicle_id)
    if not fleet.vehicle(vehicle_id).get("sharing"):
        raise ProblemRaised("/problems/conflicting-resource", "The vehicle is not shared.")
    fleet.end_sharing(vehicle_id)
    simulator.executions.add(request, "END_SHARING", vehicle_id)
    return _answer(request, fleet, vehicle_id)


async def command(request: Request) -> Response:
    """POST /vehicles/{id}/commands/{command}: executes a command, even if the caller leaves, and returns the state."""
    simulator: SimulatorState = request.state.simulator
    fleet, behaviours = simulator.admit(request, "vehicle-commands"), simulator.behaviours
    vehicle_id = vehicle_of(request, fleet)
    vehicle = fleet.vehicle(vehicle_id)
    capability = commands.capability_of(request.path_params["command"], vehicle)
    if await request.body():
        members_of(await _body_of(request), [], "body")
    running = simulator.running.get(vehicle_id)
    shared = fleet.role(vehicle_id, time.time()) == "owner"
    commands.check(vehicle, capability, shared=shared, running=running, behaviours=behaviours)
    simulator.running[vehicle_id] = capability
    try:
        await asyncio.sleep(behaviours.command_seconds)
        if vehicle_id not in fleet:
            raise ProblemRaised("/problems/resource-not-found")
        values = commands.effects(capability, fleet.vehicle(vehicle_id))
        fleet.report(vehicle_id, values)
        simulator.executions.add(request, capability, vehicle_id)
    finally:
        del simulator.running[vehicle_id]
    state = fleet.state(vehicle_id, behaviours) if behaviours.command_state != "empty" else {}
    if behaviours.command_state == "changed":
        state = {name: captured for name, captured in state.items() if name in values}
    return Response(encoded(state), media_type=JSON)


def _to_change(request: Request, right: str = "vehicles") -> tuple[SimulatorState, Fleet, str]:
    """The vehicle whose management data the caller may change."""
    simulator: SimulatorState = request.state.simulator
    fleet = simulator.admit(request, right)
    vehicle_id = vehicle_of(request, fleet)
    if request.method in ("PATCH", "PUT") and request.method != simulator.behaviours.edit_method:
        raise ProblemRaised("/problems/method-not-allowed")
    if fleet.role(vehicle_id, time.time()) == "partner":
        raise ProblemRaised("/problems/forbidden-resource", "A partner can't change the vehicle.")
    return simulator, fleet, vehicle_id


def _check_version(request: Request, simulator: SimulatorState, fleet: Fleet, vehicle_id: str) -> None:
    wanted = request.headers.get("If-Match")
    if wanted is None or wanted.strip() == "*" or not simulator.behaviours.etags:
        return
    if simulator.etag_of(fleet, vehicle_id) not in [tag.strip() for tag in wanted.split(",")]:
        raise ProblemRaised("/problems/resource-modified")


def _check_vin(fleet: Fleet, members: dict[str, Any], vehicle_id: str | None = None) -> None:
    vin = (members.get("master_data") or {}).get("vin")
    if vin is not None and fleet.vin_is_taken(vin, vehicle_id):
        raise ProblemRaised("/problems/unique-identifier-already-exists", "Another vehicle has this VIN.")


def _check_credentials(parts: dict[str, str]) -> None:
    """Units of vehicle makers need credentials, and their cloud must know the unit."""
    if parts["telematics_brand"] == "CLOUDBOXX":
        return
    if "credentials_id" not in parts and "password" not in parts:
        raise invalid("vehicle.credentials_id or vehicle.password must be given.")
    if not ULID.fullmatch(parts.get("credentials_id", "0" * 26)):
        raise ProblemRaised("/problems/referenced-resource-not-found", "There are no such credentials.")
    if parts["telematics_unit_id"].startswith("UNKNOWN"):
        raise ProblemRaised("/problems/referenced-resource-not-found", "The maker's cloud has no such telematics_unit.")


def _time_of(body: dict[str, Any], name: str) -> float | None:
    if body.get(name) is None:
        return None
    if isinstance(body[name], str) and body[name].endswith("Z"):
        with contextlib.suppress(ValueError):
            return moment_of(body[name])
    raise invalid(f"sharing.{name} must be a timestamp in UTC.")


async def _body_of(request: Request) -> Any:
    simulator: SimulatorState = request.state.simulator
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if simulator.behaviours.media_type_required and media_type not in (JSON, "application/merge-patch+json"):
        raise ProblemRaised("/problems/unsupported-media-type")
    try:
        return json.loads(await request.body())
    except ValueError as wrong:
        raise ProblemRaised("/problems/invalid-json", str(wrong)) from wrong


def _changed(request: Request, fleet: Fleet, vehicle_id: str, members: dict[str, Any], body: Any) -> Response:
    simulator: SimulatorState = request.state.simulator
    _check_version(request, simulator, fleet, vehicle_id)
    _check_vin(fleet, members, vehicle_id)
    fleet.change(vehicle_id, members)
    simulator.executions.add(request, "CHANGE", vehicle_id, body)
    return _answer(request, fleet, vehicle_id)


def _answer(request: Request, fleet: Fleet, vehicle_id: str, status: int = 200) -> Response:
    """The vehicle after a write, or nothing."""
    simulator: SimulatorState = request.state.simulator
    headers = {"ETag": simulator.etag_of(fleet, vehicle_id)} if simulator.behaviours.etags else {}
    if simulator.behaviours.write_answers == "empty":
        return Response(status_code=204 if status == 200 else status, headers=headers)
    return Response(fleet.text(vehicle_id, simulator.behaviours), status, headers, JSON)
