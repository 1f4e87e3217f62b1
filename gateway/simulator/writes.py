"""The endpoints that write: changes of vehicles and commands."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.simulator import commands
from gateway.simulator.changes import MERGES, changed_member, changed_members, members_of
from gateway.simulator.fleet import Fleet, encoded, present
from gateway.simulator.problems import ProblemRaised
from gateway.simulator.state import SimulatorState, vehicle_of

JSON = "application/json"


async def change(request: Request) -> Response:
    """PATCH or PUT /vehicles/{id}: changes the members in the body."""
    await request.body()  # from here on without a pause, so that each change is made to the version that it checks
    simulator, fleet, vehicle_id = _to_change(request)
    body = await _body_of(request)
    if simulator.behaviours.body_wrapper:
        body = members_of(body, ["vehicle"], "body").get("vehicle")
    now = present()
    members = changed_members(fleet.vehicle(vehicle_id), body, simulator.behaviours, now)
    return _changed(request, fleet, vehicle_id, members | {"modified_at": now}, body)


async def change_member(request: Request) -> Response:
    """PATCH or PUT /vehicles/{id}/{member}: changes one member, if it is a sub-resource."""
    await request.body()
    simulator, fleet, vehicle_id = _to_change(request)
    name = request.path_params["member"].replace("-", "_")
    if name not in MERGES or name not in simulator.behaviours.sub_resources:
        raise ProblemRaised("/problems/resource-not-found")
    body = await _body_of(request)
    now = present()
    members = changed_member(fleet.vehicle(vehicle_id), name, body, simulator.behaviours, now)
    return _changed(request, fleet, vehicle_id, members | {"modified_at": now}, {name: body})


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


def _to_change(request: Request) -> tuple[SimulatorState, Fleet, str]:
    """The vehicle whose management data the caller may change."""
    simulator: SimulatorState = request.state.simulator
    fleet = simulator.admit(request, "vehicles")
    vehicle_id = vehicle_of(request, fleet)
    if request.method in ("PATCH", "PUT") and request.method != simulator.behaviours.edit_method:
        raise ProblemRaised("/problems/method-not-allowed")
    if fleet.role(vehicle_id, time.time()) == "partner":
        raise ProblemRaised("/problems/forbidden-resource", "A partner can't change the vehicle.")
    _check_version(request, simulator, fleet, vehicle_id)
    return simulator, fleet, vehicle_id


def _check_version(request: Request, simulator: SimulatorState, fleet: Fleet, vehicle_id: str) -> None:
    wanted = request.headers.get("If-Match")
    if wanted is None or wanted.strip() == "*" or not simulator.behaviours.etags:
        return
    if simulator.etag_of(fleet, vehicle_id) not in [tag.strip() for tag in wanted.split(",")]:
        raise ProblemRaised("/problems/resource-modified")


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
    vin = (members.get("master_data") or {}).get("vin")
    if vin is not None and fleet.vin_is_taken(vin, vehicle_id):
        raise ProblemRaised("/problems/unique-identifier-already-exists", "Another vehicle has this VIN.")
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
