"""Commands in the simulated API: what they change, who rejects them, and faults before and after they are executed."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.waiting import eventually

UNLOCK = "/vehicles/JQ7RP/commands/unlock-central-lock"
LOCK = "/vehicles/JQ7RP/commands/lock-central-lock"
OTHER = {"Authorization": "Bearer fixed"}


async def executions(api):
    return (await api.get("/__simulator/executions")).json()["by_vehicle_and_kind"]


def vehicle_with(fleet, test):
    """The id of the first vehicle that passes a test."""
    return next(vehicle_id for vehicle_id in fleet.ids if test(fleet.vehicle(vehicle_id)))


async def test_a_command_changes_the_state_and_returns_it(api):
    """The response is the bare state; the ETag stays the same."""
    before = await api.get("/vehicles/JQ7RP")
    response = await api.post(LOCK)
    state = response.json()
    assert (response.status_code, state["central_lock"]["value"]) == (200, "LOCKED")
    assert state["central_lock"]["timestamp"] > before.json()["latest_state"]["central_lock"]["timestamp"]
    assert (await api.get("/vehicles/JQ7RP/latest-state")).json() == state
    after = await api.get("/vehicles/JQ7RP")
    assert after.json() == before.json() | {"latest_state": state}
    assert after.headers["ETag"] == before.headers["ETag"]
    assert (await api.post(UNLOCK)).json()["central_lock"]["value"] == "UNLOCKED"
    assert await executions(api) == {"JQ7RP LOCK_CENTRAL_LOCK": 1, "JQ7RP UNLOCK_CENTRAL_LOCK": 1}


async def test_request_vehicle_state_captures_all_values_anew(api):
    """The values are the same, their times are new."""
    before = (await api.get("/vehicles/JQ7RP/latest-state")).json()
    after = (await api.post("/vehicles/JQ7RP/commands/request-vehicle-state")).json()
    assert {name: each["value"] for name, each in after.items()} == {
        name: each["value"] for name, each in before.items()
    }
    assert len({each["timestamp"] for each in after.values()}) == 1


@pytest.mark.parametrize(("form", "names"), [("changed", {"central_lock", "driving_enabled"}), ("empty", set())])
async def test_the_returned_state_is_a_behaviour(api, behave, form, names):
    """All properties, only the changed ones, or none."""
    await behave(command_state=form)
    assert set((await api.post("/vehicles/JQ7RP/commands/unlock-and-enable-driving")).json()) == names


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/vehicles/JQ7RP/commands/fly", 404, "/problems/resource-not-found"),
        ("/vehicles/JQ7RP/commands/UNLOCK_CENTRAL_LOCK", 404, "/problems/resource-not-found"),
        ("/vehicles/NONE1/commands/unlock-central-lock", 404, "/problems/resource-not-found"),
        ("/vehicles/JQ7RP/commands/unlock-top-case", 409, "/problems/vehicle/command-not-supported"),
        ("/vehicles/Z90BD/commands/unlock-central-lock", 409, "/problems/vehicle/conflicting-setup-status"),
        ("/vehicles/K3WX8/commands/unlock-top-case", 504, "/problems/vehicle/not-reachable"),
    ],
)
async def test_a_rejected_command_is_not_executed(api, path, status, kind):
    """Unknown, not supported, setup not finished, offline: each is its problem."""
    response = await api.post(path)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert await executions(api) == {}


async def test_a_body_must_be_empty(api):
    """An empty object is accepted."""
    assert (await api.post(UNLOCK, json={"force": True})).status_code == 400
    assert (await api.post(UNLOCK, json={})).status_code == 200


async def test_an_offline_vehicle_can_be_reachable(api, behave):
    """By the behaviour."""
    await behave(offline_vehicles="reachable")
    assert (await api.post("/vehicles/K3WX8/commands/unlock-top-case")).status_code == 200


@pytest.mark.parametrize("token", ["read-only", "no-commands"])
async def test_a_command_needs_its_own_right(api, token):
    """Neither the right to read nor that to change vehicles is enough."""
    own = api.simulator.fleets["EXFL29"].ids[3]
    response = await api.post(f"/vehicles/{own}/commands/enable-driving", headers={"Authorization": f"Bearer {token}"})
    kind = "missing-permissions" if token == "read-only" else "forbidden-resource"
    assert (response.status_code, response.json()["type"]) == (403, f"/problems/{kind}")


async def test_a_shared_vehicle_takes_commands_from_the_partner_only(api):
    """The owner gets a conflict until the sharing ends."""
    await api.post("/__simulator/fleets/T7K2M/vehicles/JQ7RP/sharing", json={"partner": "EXFL29"})
    rejected = await api.post(UNLOCK)
    assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/vehicle/shared-with-partner")
    assert (await api.post(LOCK, headers=OTHER)).json()["central_lock"]["value"] == "LOCKED"
    assert (await api.get("/vehicles/JQ7RP/latest-state")).json()["central_lock"]["value"] == "LOCKED"
    await api.delete("/__simulator/fleets/EXFL29/vehicles/JQ7RP")
    assert (await api.post(UNLOCK)).status_code == 200
    assert (await api.post(UNLOCK, headers=OTHER)).status_code == 404


async def test_a_moving_vehicle_rejects_locking(api, behave):
    """If the ignition means that it moves."""
    await behave(ignition_on="moving")
    rejected = await api.post(LOCK)
    assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/vehicle/conflicting-state")
    assert (await api.post(UNLOCK)).status_code == 200


async def test_one_command_at_a_time_is_executed(api, behave):
    """Another one meanwhile is a conflict; afterwards it is executed. Other vehicles are independent."""
    await behave(command_seconds=0.3, offline_vehicles="reachable")
    first = asyncio.create_task(api.post(UNLOCK))
    await eventually(lambda: "JQ7RP" in api.simulator.running)
    rejected = await api.post(LOCK)
    assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/vehicle/conflicting-command")
    assert await executions(api) == {}
    assert (await api.post("/vehicles/K3WX8/commands/unlock-top-case")).status_code == 200
    assert (await first).status_code == 200
    assert (await api.post(LOCK)).status_code == 200


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "drop"}, None),
        ({"kind": "silence", "seconds": 0.05}, None),
        ({"kind": "status", "status": 500, "type": "/problems/internal-server-error"}, 500),
        ({"kind": "telematics_unit_error"}, 500),
        ({"kind": "outage"}, 503),
        ({"kind": "rate_limit", "form": "retry_after"}, 429),
        ({"kind": "latency", "seconds": 0.05}, 200),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("write", ["command", "change"])
async def test_a_fault_comes_before_or_after_the_execution(api, write, fault, status, executed):
    """Lost, failed and late responses to writes that are executed, and to ones that are not."""
    method = "POST" if write == "command" else "PATCH"
    await api.put("/__simulator/faults", json=[fault | {"method": method, "times": 1, "executed": executed}])
    assert (await api.get("/vehicles/JQ7RP")).status_code == 200  # another method

    async def attempt() -> int | None:
        try:
            answer = await (api.post(LOCK) if write == "command" else api.patch("/vehicles/JQ7RP", json={"tags": []}))
        except (httpx.TransportError, ConnectionResetError):
            return None
        return answer.status_code

    assert await attempt() == status
    assert sum((await executions(api)).values()) == (executed or fault["kind"] == "latency")
    assert await attempt() == 200


async def test_a_response_can_fail_after_the_execution(api):
    """The kinds that change responses do so after the write."""
    await api.put("/__simulator/faults", json=[{"kind": "malformed_json", "times": 1}])
    assert (await api.post(LOCK)).status_code == 200
    assert await executions(api) == {"JQ7RP LOCK_CENTRAL_LOCK": 1}


@pytest.mark.parametrize("wait", ["long", "late"])
async def test_a_command_is_executed_after_its_caller_left(serve, api, wait):
    """Over a real socket: the client's time-out ends the wait, not the command, nor one that begins later."""
    simulator = api.simulator
    if wait == "late":
        await api.put("/__simulator/faults", json=[{"kind": "latency", "seconds": 0.3}])
    else:
        simulator.behaviours.command_seconds = 0.3
    async with httpx.AsyncClient(base_url=serve(simulator.app), headers=api.headers) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(UNLOCK, timeout=0.1)
        assert simulator.executions.by_kind.total() == 0
        await eventually(lambda: simulator.executions.by_kind.total() > 0)
    assert simulator.executions.by_vehicle_and_kind == {"JQ7RP UNLOCK_CENTRAL_LOCK": 1}
