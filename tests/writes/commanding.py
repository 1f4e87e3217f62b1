"""Commands that are sent through a gateway, and whether their outcomes agree with what the simulator executed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from gateway.simulator import Client, FleetPlan, Simulator

TOKEN = "token-of-alice"
PLAN = FleetPlan("T7K2M", 3000, clients=(Client("T7K2M#alice", token=TOKEN),))
COMMANDS = ("UNLOCK_CENTRAL_LOCK", "ENABLE_DRIVING", "DISABLE_DRIVING", "UNLOCK_AND_ENABLE_DRIVING",
            "LOCK_AND_DISABLE_DRIVING", "LOCK_CENTRAL_LOCK")  # fmt: skip
EXPIRES_AT = "2099-01-01T00:00:00Z"
# What may be said of a command, and how often it may then have been executed. An error says that the request with it
# has sent nothing; NONE is no answer.
HONEST = {"EXECUTED": {1}, "REJECTED": {0}, "UNKNOWN": {0, 1}, "ERROR": {0, 1}, "NONE": {0, 1}}
# Errors with which nothing was sent: Redis or the fleet API was too slow, or the gateway itself, before it could be.
BEFORE_SENDING = {"WRITES_UNAVAILABLE", "UPSTREAM_TIMEOUT", "UPSTREAM_UNAVAILABLE", "DEADLINE_EXCEEDED", "OVERLOADED"}


@dataclass(frozen=True, slots=True)
class Try:
    """One command to one vehicle; its key is used for nothing else."""

    vehicle_id: str
    command: str

    @property
    def key(self) -> str:
        return f"{self.vehicle_id}-{self.command}"

    @property
    def body(self) -> dict[str, str]:
        """The request of the mutation."""
        members = {"vehicleId": self.vehicle_id, "command": self.command, "idempotencyKey": self.key}
        listed = ", ".join(
            f"{name}: {json.dumps(value)}" for name, value in (members | {"expiresAt": EXPIRES_AT}).items()
        )
        return {
            "query": f"mutation {{ sendVehicleCommand(input: {{ {listed} }}) "
            "{ outcome userErrors { code } vehicle { vehicleId } } }"
        }


def tries_of(simulator: Simulator) -> Iterator[Try]:
    """Commands that the vehicles accept; each vehicle has one before any has another."""
    fleet = simulator.fleets[PLAN.fleet_id]
    able = [vehicle_id for vehicle_id in fleet.ids if is_able(fleet.vehicle(vehicle_id))]
    return (Try(vehicle_id, command) for command in COMMANDS for vehicle_id in able)


def is_able(vehicle: dict[str, object]) -> bool:
    """Whether a vehicle accepts COMMANDS."""

    def value(name: str) -> object:
        member = vehicle.get(name)
        return member.get("value") if isinstance(member, dict) else None

    capabilities = vehicle.get("capabilities") or {}
    assert isinstance(capabilities, dict)
    return (
        set(COMMANDS) <= set(capabilities.get("commands") or ())
        and (value("setup_status"), value("life_status")) == ("SUCCEEDED", "ONLINE")
        and "sharing" not in vehicle
    )


@dataclass
class Answers:
    """The outcomes that were answered for each try, in their order."""

    simulator: Simulator
    by_try: dict[Try, list[str]] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)

    async def send(self, http: httpx.AsyncClient, attempt: Try, leave_after: float = 60) -> str | None:
        """Sends a command, again if it was sent before; returns the outcome, or None without an answer."""
        outcomes = self.by_try.setdefault(attempt, [])
        try:
            response = await http.post(
                "/graphql", json=attempt.body, timeout=leave_after, headers={"Authorization": f"Bearer {TOKEN}"}
            )
        except httpx.TransportError:
            outcomes.append("NONE")
            return None
        answer = response.json()
        payload = (answer.get("data") or {}).get("sendVehicleCommand")
        self.codes.update(error["extensions"]["code"] for error in answer.get("errors", ()))
        outcome = "ERROR" if payload is None else payload["outcome"]
        outcomes.append(outcome)
        return outcome

    def executions(self, attempt: Try) -> int:
        """How often the simulator has executed a command."""
        return self.simulator.executions.by_vehicle_and_kind[f"{attempt.vehicle_id} {attempt.command}"]

    def mostly(self, outcome: str) -> bool:
        """Whether most outcomes are this one; on a busy machine others may be early, and some sends fail before."""
        counted = Counter(each for outcomes in self.by_try.values() for each in outcomes)
        told = counted.total() - counted["ERROR"] - counted["NONE"]
        return counted[outcome] > told / 2

    def check(self) -> None:
        """No command was executed twice, and no answer says what is not so. None contradicts another."""
        assert self.codes.keys() <= BEFORE_SENDING, self.codes
        for attempt, outcomes in self.by_try.items():
            executed = self.executions(attempt)
            assert executed <= 1, (attempt, outcomes, executed)
            assert all(executed in HONEST[outcome] for outcome in outcomes), (attempt, outcomes, executed)
            assert executed == 0 or set(outcomes) != {"ERROR"}, (attempt, outcomes, executed)
            assert len({"EXECUTED", "REJECTED"}.intersection(outcomes)) <= 1, (attempt, outcomes, executed)
