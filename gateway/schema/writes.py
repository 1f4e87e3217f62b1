"""Mutations: turns their inputs into writes, checks commands, and turns the outcomes into payloads."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from strawberry import UNSET

from gateway.errors import InputInvalid, WritesDisabled
from gateway.schema.context import Context
from gateway.schema.global_ids import UnitKey, parse_global_id, vehicle_global_id
from gateway.schema.scalars import epoch_of
from gateway.upstream import models
from gateway.upstream.endpoints import is_possible
from gateway.upstream.write_records import WriteError
from gateway.upstream.writes import EXECUTED, Write, Writer, Written, rejection

KEY_LENGTH_MAX = 256
COMMAND = re.compile(r"[A-Z0-9_]{1,100}")
SUCCEEDED = "SUCCEEDED"
# The kinds of mutations that each value of the setting turns on.
VEHICLES, COMMANDS = "vehicles", "commands"
ON = {"off": (), "vehicles": (VEHICLES,), "commands": (COMMANDS,), "all": (VEHICLES, COMMANDS)}
# The members of the fleet API that have other names than the fields of inputs.
CUSTOM_FIELDS, MASTER_DATA = "custom_fields", "master_data"


@dataclass(frozen=True, slots=True)
class Payload:
    """The payload of a mutation; without a `vehicle`, that with `vehicle_id` is read when it is selected."""

    outcome: str
    user_errors: Sequence[WriteError]
    client_mutation_id: str | None
    vehicle_id: str | None = None
    vehicle: models.Vehicle | None = None

    @property
    def archived_vehicle_id(self) -> str | None:
        """The global id of the vehicle, if it was archived."""
        return vehicle_global_id(self.vehicle_id) if self.vehicle_id and self.outcome == EXECUTED else None


async def vehicle_of(payload: Payload, context: Context) -> models.Vehicle | None:
    """The vehicle of a payload: as the fleet API returned it, or as it is now."""
    if payload.vehicle is not None or payload.vehicle_id is None:
        return payload.vehicle
    return await context.loaders.current_vehicle(payload.vehicle_id)


async def update_vehicle(context: Context, given: Any) -> Payload:
    """Changes the members of a vehicle that are given."""
    _check_on(context, VEHICLES)
    vehicle_id, body = _vehicle_id_of(given), _body_of(given)
    if not body:
        raise InputInvalid("Input has nothing to change.", "input")
    version = given.if_version if given.if_version is not UNSET else None
    if version is not None and not (version.isascii() and version.isprintable() and 0 < len(version) <= KEY_LENGTH_MAX):
        raise InputInvalid("`ifVersion` is not a version of a vehicle.", "ifVersion")
    writer = _writer_of(context)
    return await _made(
        context,
        given,
        partial(
            Write,
            kind="update_vehicle",
            endpoint=writer.endpoints.update_vehicle,
            vehicle_id=vehicle_id,
            body=body,
            given=(vehicle_id, version, body),
            if_match=version,
        ),
    )


async def add_vehicle(context: Context, given: Any) -> Payload:
    """Adds a vehicle to the fleet, with its telematics unit."""
    _check_on(context, VEHICLES)
    credentials = {} if not given.credentials else _members_of(given.credentials)
    body = {
        "telematics_brand": given.telematics_brand,
        "telematics_unit_id": given.telematics_unit_id,
        "vehicle_model_id": given.vehicle_model_id,
        **credentials,
        **{name: value for name, value in _body_of(given).items() if value is not None},
    }
    endpoint = _writer_of(context).endpoints.add_vehicle
    return await _made(context, given, partial(Write, kind="add_vehicle", endpoint=endpoint, body=body, given=body))


async def archive_vehicle(context: Context, given: Any) -> Payload:
    """Removes a vehicle from the fleet; the fleet API archives it."""
    _check_on(context, VEHICLES)
    vehicle_id, endpoint = _vehicle_id_of(given), _writer_of(context).endpoints.archive_vehicle
    return await _made(
        context,
        given,
        partial(Write, kind="archive_vehicle", endpoint=endpoint, vehicle_id=vehicle_id, given=vehicle_id),
    )


async def share_vehicle(context: Context, given: Any) -> Payload:
    """Shares a vehicle with a partner."""
    _check_on(context, VEHICLES)
    vehicle_id, endpoint = _vehicle_id_of(given), _writer_of(context).endpoints.share_vehicle
    starts_at, ends_at = given.starts_at or None, given.ends_at or None
    if starts_at and ends_at and epoch_of(ends_at) <= epoch_of(starts_at):
        raise InputInvalid("`endsAt` must be later than `startsAt`.", "endsAt")
    body: dict[str, Any] = {"partner": {"fleet_id": given.partner_fleet_id}}
    body |= {name: time for name, time in (("starts_at", starts_at), ("ends_at", ends_at)) if time}
    return await _made(
        context,
        given,
        partial(
            Write,
            kind="share_vehicle",
            endpoint=endpoint,
            vehicle_id=vehicle_id,
            body=body,
            given=(vehicle_id, body),
        ),
    )


async def send_vehicle_command(context: Context, given: Any) -> Payload:
    """Sends a command to a vehicle, which has to be able to carry it out."""
    _check_on(context, COMMANDS)
    vehicle_id, command = _vehicle_id_of(given), given.command
    if not COMMAND.fullmatch(command):
        raise InputInvalid("`command` must be a command such as UNLOCK_CENTRAL_LOCK.", "command")
    expires_at = given.expires_at or None
    return await _made(
        context,
        given,
        partial(
            Write,
            kind="command",
            endpoint=_writer_of(context).endpoints.command(command),
            vehicle_id=vehicle_id,
            given=(vehicle_id, command, expires_at),
            expires_at=epoch_of(expires_at) if expires_at else None,
            check=partial(_checked_command, context, vehicle_id, command),
        ),
    )


# By the names of the mutation's fields.
MUTATIONS: Mapping[str, Callable[[Context, Any], Awaitable[Payload]]] = {
    "updateVehicle": update_vehicle,
    "addVehicle": add_vehicle,
    "archiveVehicle": archive_vehicle,
    "shareVehicle": share_vehicle,
    "sendVehicleCommand": send_vehicle_command,
}


async def _made(context: Context, given: Any, write: Callable[..., Write]) -> Payload:
    """Makes a write, and the payload of its outcome."""
    key = given.idempotency_key
    if not key.strip() or len(key) > KEY_LENGTH_MAX:
        raise InputInvalid(f"`idempotencyKey` must have 1 to {KEY_LENGTH_MAX} characters.", "idempotencyKey")
    prepared = write(key=key)
    try:
        msgspec.json.encode((key, prepared.given))
    except UnicodeEncodeError as invalid:
        raise InputInvalid("Input contains characters that are not valid in Unicode.", "input") from invalid
    # What was read before in this operation may be outdated.
    context.loaders.forget()
    try:
        written = await _writer_of(context).write(context.scope, prepared, context.request_id)
    finally:
        context.loaders.forget()
    result = written.result
    mutation_id = given.client_mutation_id if given.client_mutation_id is not UNSET else None
    return Payload(result.outcome, result.errors, mutation_id, result.vehicle_id, _vehicle_in(written))


def _vehicle_in(written: Written) -> models.Vehicle | None:
    """The vehicle that a write returned, or that was read before it, with the state that the write returned."""
    answer = None if written.response is None else written.response.value
    if isinstance(answer, models.Vehicle):
        return answer if answer.created_at is not None else None  # it may be only a reference
    if isinstance(answer, dict) and written.vehicle is not None:
        before = written.vehicle.latest_state
        state = {**before, **answer} if isinstance(before, dict) else answer
        return msgspec.structs.replace(written.vehicle, latest_state=state) if answer else None
    return written.vehicle if written.response is None else None


async def _checked_command(
    context: Context, vehicle_id: str, command: str
) -> tuple[Sequence[WriteError], models.Vehicle | None]:
    """Why a vehicle can't carry out a command, by what it is now, and the vehicle."""
    vehicle = await context.loaders.current_vehicle(vehicle_id)
    if vehicle is None:
        return [rejection("NOT_FOUND", "There is no such vehicle.", "vehicleId")], None
    commands = None if vehicle.capabilities is None else vehicle.capabilities.commands
    setup = None if vehicle.setup_status is None else vehicle.setup_status.value
    if _is_shared_by(context.scope.caller.fleet, vehicle.sharing):
        return [rejection("SHARED_WITH_PARTNER", "The vehicle is shared with a partner.", "vehicleId")], vehicle
    if setup is not None and setup != SUCCEEDED:
        return [rejection("SETUP_INCOMPLETE", "The setup of the vehicle is not complete.", "vehicleId")], vehicle
    if commands is not None and command not in commands:
        return [rejection("COMMAND_NOT_SUPPORTED", "The vehicle does not support the command.", "command")], vehicle
    return [], vehicle


def _is_shared_by(fleet: str | None, sharing: models.Sharing | None) -> bool:
    """Whether a fleet shares a vehicle of its own at the moment. If the caller's fleet is unknown, that is, too."""
    if fleet is None or sharing is None or sharing.owner is None or sharing.owner.fleet_id != fleet:
        return False
    now = time.time()
    try:
        starts, ends = (text and epoch_of(text) for text in (sharing.starts_at, sharing.ends_at))
    except ValueError:
        return False  # the fleet API knows
    return (starts is None or float(starts) <= now) and (ends is None or now < float(ends))


def _check_on(context: Context, kind: str) -> None:
    if kind not in ON[context.writes]:
        raise WritesDisabled(kind, "all")


def _writer_of(context: Context) -> Writer:
    assert context.writer is not None, "the client only reads"
    return context.writer


def _vehicle_id_of(given: Any) -> str:
    """The vehicle's id in the fleet API, of which exactly one form has to be given."""
    global_id, vehicle_id = given.id or None, given.vehicle_id or None
    if (global_id is None) == (vehicle_id is None):
        raise InputInvalid("Input needs exactly one of `id` and `vehicleId`.", "vehicleId")
    if global_id is not None:
        key = parse_global_id(global_id)
        if isinstance(key, UnitKey):
            raise InputInvalid("`id` belongs to a telematics unit, not to a vehicle.", "id")
        vehicle_id = key
    if not is_possible(str(vehicle_id)):
        raise InputInvalid("`vehicleId` can't be an id of a vehicle.", "vehicleId")
    return str(vehicle_id)


def _body_of(given: Any) -> dict[str, Any]:
    """The members of a vehicle that an input gives, as the fleet API names them: absent ones are left out."""
    members = {
        name: value
        for name in (MASTER_DATA, CUSTOM_FIELDS, "tags", "operation_status", "rental_status")
        if (value := getattr(given, name, UNSET)) is not UNSET
    }
    if members.get(MASTER_DATA) is not None:
        members[MASTER_DATA] = _members_of(members[MASTER_DATA])
    if members.get(CUSTOM_FIELDS) is not None:
        fields = {each.key: each.value for each in members[CUSTOM_FIELDS]}
        if len(fields) < len(members[CUSTOM_FIELDS]):
            raise InputInvalid("`customFields` has a key twice.", "customFields")
        members[CUSTOM_FIELDS] = fields
    return members


def _members_of(given: Any) -> dict[str, Any]:
    """The given members of an input object."""
    values = {each.name: getattr(given, each.name) for each in dataclasses.fields(given)}
    return {name: value for name, value in values.items() if value is not UNSET}
