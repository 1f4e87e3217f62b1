"""The root mutation type, with inputs and payloads by Relay's convention. How they are made is in `writes.py`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import strawberry
from strawberry import UNSET
from strawberry.federation.schema_directives import Cost

from gateway.schema.context import Info
from gateway.schema.queries import load
from gateway.schema.scalars import DateTime
from gateway.schema.types import GLOBAL_ID, Vehicle
from gateway.schema.upstream_calls import WRITE_CALLS
from gateway.schema.writes import Payload, vehicle_of

KEY = (
    "Key of this write, at most 256 characters, such as a UUID. For a day, the same key with the same input returns "
    "the outcome of the first write, and never sends another."
)
MUTATION_ID = "Returned in the payload as it is."
VEHICLE_ID = "Id of the vehicle in the fleet API; instead of `id`."
ID = "Global id of the vehicle; instead of `vehicleId`."
UNCHANGED = "Absent is unchanged, null clears it."


INPUT = strawberry.argument(description="Input of the mutation.")


def _id() -> Any:
    return strawberry.field(default=UNSET, description=ID)


def _vehicle_id() -> Any:
    return strawberry.field(default=UNSET, description=VEHICLE_ID)


def _mutation_id() -> Any:
    return strawberry.field(default=UNSET, description=MUTATION_ID)


def _unless_absent(description: str) -> Any:
    return strawberry.field(default=UNSET, description=description)


@strawberry.enum(description="What is known of a write.")
class WriteOutcome(Enum):
    EXECUTED = strawberry.enum_value("EXECUTED", description="It was carried out.")
    REJECTED = strawberry.enum_value("REJECTED", description="It was not carried out; `userErrors` says why.")
    UNKNOWN = strawberry.enum_value(
        "UNKNOWN", description="It may have been carried out, or may be yet. It is not sent again with this key."
    )


@strawberry.enum(description="Why a write was not carried out, or is not known to be.")
class UserErrorCode(Enum):
    INVALID = strawberry.enum_value("INVALID", description="A value is invalid.")
    NOT_FOUND = strawberry.enum_value("NOT_FOUND", description="There is no such vehicle.")
    REFERENCE_NOT_FOUND = strawberry.enum_value(
        "REFERENCE_NOT_FOUND", description="Something that the input names, such as a vehicle model, does not exist."
    )
    ALREADY_EXISTS = strawberry.enum_value(
        "ALREADY_EXISTS", description="Another vehicle has this identifier, such as the VIN."
    )
    CONFLICT = strawberry.enum_value(
        "CONFLICT", description="The vehicle is not at `ifVersion`. The payload has it as it is now."
    )
    RESOURCE_CONFLICT = strawberry.enum_value(
        "RESOURCE_CONFLICT", description="It conflicts with another resource, or with the state of this one."
    )
    COMMAND_NOT_SUPPORTED = strawberry.enum_value(
        "COMMAND_NOT_SUPPORTED", description="The vehicle does not have the capability."
    )
    COMMAND_IN_PROGRESS = strawberry.enum_value(
        "COMMAND_IN_PROGRESS", description="The vehicle is processing another command. Try again later with a new key."
    )
    STATE_CONFLICT = strawberry.enum_value(
        "STATE_CONFLICT",
        description="The state of the vehicle does not allow the command, for instance while it moves.",
    )
    SETUP_INCOMPLETE = strawberry.enum_value(
        "SETUP_INCOMPLETE", description="The setup of the vehicle has not succeeded, or not yet; see `setupStatus`."
    )
    SHARED_WITH_PARTNER = strawberry.enum_value(
        "SHARED_WITH_PARTNER", description="The vehicle is shared with a partner; see `sharing`."
    )
    EXPIRED = strawberry.enum_value("EXPIRED", description="`expiresAt` had passed before it was sent.")
    OUTCOME_UNKNOWN = strawberry.enum_value(
        "OUTCOME_UNKNOWN", description="It may have been carried out, or may be yet. Read the vehicle."
    )
    REJECTED = strawberry.enum_value("REJECTED", description="The fleet API rejected it for another reason.")


@strawberry.type(description="Reason for which a write was not carried out, or is not known to be.")
class UserError:
    code: UserErrorCode = strawberry.field(description="For programs.")
    message: str = strawberry.field(description="For people.")
    field: list[str] | None = strawberry.field(description="Path of the input field, if it is about one.")


@strawberry.input(description=f"Descriptive data of a vehicle. {UNCHANGED}")
class MasterDataInput:
    vin: str | None = _unless_absent("Vehicle identification number, unique in the fleet.")
    license_plate: str | None = _unless_absent("License plate, up to 30 characters.")
    brand: str | None = _unless_absent("Brand, such as `Audi`.")
    model: str | None = _unless_absent("Model, such as `A3`.")
    custom_name: str | None = _unless_absent("Name that the fleet operator gives the vehicle.")
    fuel_type: str | None = _unless_absent("Fuel type, such as `PETROL`.")
    year_of_production: str | None = _unless_absent("Year of production.")
    transmission: str | None = _unless_absent("Transmission, such as `AUTOMATIC`.")
    vehicle_type: str | None = _unless_absent("Vehicle type, such as `CAR`.")
    remark: str | None = _unless_absent("Remark.")


@strawberry.input(description="Custom field of a vehicle.")
class CustomFieldInput:
    key: str = strawberry.field(description="Name of the field.")
    value: str | None = strawberry.field(description="Value; null removes the field.")


@strawberry.input(description="Changes of a vehicle; exactly one of `id` and `vehicleId` is needed.")
class UpdateVehicleInput:
    id: strawberry.ID | None = _id()
    vehicle_id: strawberry.ID | None = _vehicle_id()
    if_version: str | None = _unless_absent(
        "`version` of the vehicle that the change is based on. Without it, later changes by others are overwritten."
    )
    master_data: MasterDataInput | None = _unless_absent(f"Descriptive data. {UNCHANGED}")
    custom_fields: list[CustomFieldInput] | None = _unless_absent(
        f"Custom fields to set; others are unchanged. {UNCHANGED}"
    )
    tags: list[str] | None = _unless_absent(f"All tags. {UNCHANGED}")
    operation_status: str | None = _unless_absent("Operational status, `OPERATING` or `GARAGE`.")
    rental_status: str | None = _unless_absent("Rental status, `IN_RENTAL` or `NOT_IN_RENTAL`.")
    idempotency_key: str = strawberry.field(description=KEY)
    client_mutation_id: str | None = _mutation_id()


@strawberry.input(one_of=True, description="Credentials for a telematics unit.")
class TelematicsCredentialsInput:
    credentials_id: str | None = _unless_absent("Id of stored credentials in the fleet API (a ULID).")
    password: str | None = _unless_absent("Password of the unit.")


@strawberry.input(description="Vehicle to add, with its telematics unit.")
class AddVehicleInput:
    telematics_brand: str = strawberry.field(description="Telematics brand, such as `CLOUDBOXX`.")
    telematics_unit_id: str = strawberry.field(description="Id of the unit in the fleet API, such as the QNR.")
    vehicle_model_id: str = strawberry.field(description="`modelId` of one of `availableVehicleModels`.")
    credentials: TelematicsCredentialsInput | None = _unless_absent("Credentials, if the brand needs them.")
    master_data: MasterDataInput | None = _unless_absent("Descriptive data.")
    custom_fields: list[CustomFieldInput] | None = _unless_absent("Custom fields.")
    tags: list[str] | None = _unless_absent("Tags.")
    operation_status: str | None = _unless_absent("Operational status, `OPERATING` (default) or `GARAGE`.")
    idempotency_key: str = strawberry.field(description=KEY)
    client_mutation_id: str | None = _mutation_id()


@strawberry.input(description="Vehicle to archive; exactly one of `id` and `vehicleId` is needed.")
class ArchiveVehicleInput:
    id: strawberry.ID | None = _id()
    vehicle_id: strawberry.ID | None = _vehicle_id()
    idempotency_key: str = strawberry.field(description=KEY)
    client_mutation_id: str | None = _mutation_id()


@strawberry.input(description="Vehicle to share; exactly one of `id` and `vehicleId` is needed.")
class ShareVehicleInput:
    id: strawberry.ID | None = _id()
    vehicle_id: strawberry.ID | None = _vehicle_id()
    partner_fleet_id: str = strawberry.field(description="`fleetId` of one of `sharingPartners`.")
    starts_at: DateTime | None = _unless_absent("Time when the sharing starts; now if it is absent.")
    ends_at: DateTime | None = _unless_absent("Time when the sharing ends; without it, it has no end.")
    idempotency_key: str = strawberry.field(description=KEY)
    client_mutation_id: str | None = _mutation_id()


@strawberry.input(description="Command to send; exactly one of `id` and `vehicleId` is needed.")
class SendVehicleCommandInput:
    id: strawberry.ID | None = _id()
    vehicle_id: strawberry.ID | None = _vehicle_id()
    command: str = strawberry.field(description="One of `capabilities.commands`, such as `UNLOCK_CENTRAL_LOCK`.")
    expires_at: DateTime | None = _unless_absent("Time after which the command is not sent any more.")
    idempotency_key: str = strawberry.field(description=KEY)
    client_mutation_id: str | None = _mutation_id()


def _vehicle(root: strawberry.Parent[Any], info: Info) -> Any:
    payload: Payload = root
    return vehicle_of(payload, info.context)


def _outcome() -> Any:
    return strawberry.field(description="What is known of the write.")


def _user_errors() -> Any:
    return strawberry.field(description="Why it was not carried out, or is not known to be; empty if it was.")


def _returned_id() -> Any:
    return strawberry.field(description="As in the input.")


def _changed() -> Any:
    return strawberry.field(
        resolver=_vehicle, description="Vehicle after the write, or as it is now; null if there is none."
    )


@strawberry.type(description="Outcome of `updateVehicle`.")
class UpdateVehiclePayload:
    outcome: WriteOutcome = _outcome()
    vehicle: Vehicle | None = _changed()
    user_errors: list[UserError] = _user_errors()
    client_mutation_id: str | None = _returned_id()


@strawberry.type(description="Outcome of `addVehicle`.")
class AddVehiclePayload:
    outcome: WriteOutcome = _outcome()
    vehicle: Vehicle | None = _changed()
    user_errors: list[UserError] = _user_errors()
    client_mutation_id: str | None = _returned_id()


@strawberry.type(description="Outcome of `archiveVehicle`.")
class ArchiveVehiclePayload:
    outcome: WriteOutcome = _outcome()
    archived_vehicle_id: strawberry.ID | None = strawberry.field(
        description=f"{GLOBAL_ID} Null unless the vehicle was archived."
    )
    vehicle_id: str | None = strawberry.field(description="Id of the vehicle in the fleet API.")
    user_errors: list[UserError] = _user_errors()
    client_mutation_id: str | None = _returned_id()


@strawberry.type(description="Outcome of `shareVehicle`.")
class ShareVehiclePayload:
    outcome: WriteOutcome = _outcome()
    vehicle: Vehicle | None = _changed()
    user_errors: list[UserError] = _user_errors()
    client_mutation_id: str | None = _returned_id()


@strawberry.type(description="Outcome of `sendVehicleCommand`.")
class SendVehicleCommandPayload:
    outcome: WriteOutcome = _outcome()
    vehicle: Vehicle | None = _changed()
    user_errors: list[UserError] = _user_errors()
    client_mutation_id: str | None = _returned_id()


def _resolve_update(info: Info, input: Annotated[UpdateVehicleInput, INPUT]) -> Any:
    return load("updateVehicle", info, input=input)


def _resolve_add(info: Info, input: Annotated[AddVehicleInput, INPUT]) -> Any:
    return load("addVehicle", info, input=input)


def _resolve_archive(info: Info, input: Annotated[ArchiveVehicleInput, INPUT]) -> Any:
    return load("archiveVehicle", info, input=input)


def _resolve_share(info: Info, input: Annotated[ShareVehicleInput, INPUT]) -> Any:
    return load("shareVehicle", info, input=input)


def _resolve_command(info: Info, input: Annotated[SendVehicleCommandInput, INPUT]) -> Any:
    return load("sendVehicleCommand", info, input=input)


A_WRITE = [Cost(weight=WRITE_CALLS)]


@strawberry.type(description="Root mutation type. Each mutation needs an idempotency key.")
class Mutation:
    update_vehicle: UpdateVehiclePayload | None = strawberry.field(
        resolver=_resolve_update, description="Changes the data of a vehicle.", directives=A_WRITE
    )
    add_vehicle: AddVehiclePayload | None = strawberry.field(
        resolver=_resolve_add,
        description="Adds a vehicle with its telematics unit to the fleet. Its setup takes a while; see `setupStatus`.",
        directives=A_WRITE,
    )
    archive_vehicle: ArchiveVehiclePayload | None = strawberry.field(
        resolver=_resolve_archive, description="Removes a vehicle from the fleet.", directives=A_WRITE
    )
    share_vehicle: ShareVehiclePayload | None = strawberry.field(
        resolver=_resolve_share,
        description="Shares a vehicle with the fleet of a partner, which alone can send commands meanwhile.",
        directives=A_WRITE,
    )
    send_vehicle_command: SendVehicleCommandPayload | None = strawberry.field(
        resolver=_resolve_command,
        description="Sends a command to a vehicle, and waits until it was carried out.",
        directives=A_WRITE,
    )
