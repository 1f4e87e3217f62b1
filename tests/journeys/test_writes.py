"""Mutations over HTTP: gates, versions, idempotency, commands and what is read afterwards."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from gateway.simulator import Behaviours
from tests.gateways import TOKENS
from tests.waiting import eventually

UPDATE = """
mutation($input: UpdateVehicleInput!) {
  updateVehicle(input: $input) {
    outcome clientMutationId userErrors { code message field }
    vehicle { id vehicleId version tags masterData { licensePlate remark } customFields { key value } }
  }
}
"""
COMMAND = """
mutation($input: SendVehicleCommandInput!) {
  sendVehicleCommand(input: $input) {
    outcome userErrors { code field } vehicle { vehicleId latestState { centralLock { value timestamp } } }
  }
}
"""
VEHICLE = "query($id: ID!) { vehicle(id: $id) { version tags masterData { licensePlate remark } } }"
VEHICLE_ID = "JQ7RP"
WRITES = ("POST", "PATCH", "PUT", "DELETE")


async def update(gateway, key="k1", by="alice", **given):
    answer = await gateway.ask(UPDATE, by, input={"vehicleId": VEHICLE_ID, "idempotencyKey": key, **given})
    assert "errors" not in answer, answer["errors"]
    return answer["data"]["updateVehicle"]


async def command(gateway, key="k1", by="alice", name="UNLOCK_CENTRAL_LOCK", vehicle_id=VEHICLE_ID, **given):
    given = {"vehicleId": vehicle_id, "command": name, "idempotencyKey": key, **given}
    answer = await gateway.ask(COMMAND, by, input=given)
    assert "errors" not in answer, answer["errors"]
    return answer["data"]["sendVehicleCommand"]


def codes(payload):
    return [error["code"] for error in payload["userErrors"]]


def executions(gateway):
    return gateway.simulator.executions.as_dict()["total"]


def sent(gateway):
    """The number of requests to the fleet API that could write."""
    return sum(gateway.simulator.requests.by_method[method] for method in WRITES)


async def test_the_documented_mutations_work(start):
    """As they are in the documentation, with literals."""
    gateway = await start(writes="all")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    version = (await gateway.data(VEHICLE, id=VEHICLE_ID))["vehicle"]["version"]
    data = await gateway.data(
        """mutation { updateVehicle(input: { vehicleId: "JQ7RP", ifVersion: %s, idempotencyKey: "k1",
            clientMutationId: "1", masterData: { licensePlate: "SI-IN 2026", remark: null }, tags: ["clean"] }) {
          vehicle { vehicleId version masterData { licensePlate } } userErrors { code message field } clientMutationId
        } }"""
        % json.dumps(version)
    )
    assert data["updateVehicle"] == {
        "vehicle": {
            "vehicleId": "JQ7RP",
            "version": data["updateVehicle"]["vehicle"]["version"],
            "masterData": {"licensePlate": "SI-IN 2026"},
        },
        "userErrors": [],
        "clientMutationId": "1",
    }
    assert data["updateVehicle"]["vehicle"]["version"] not in (None, version)
    data = await gateway.data(
        """mutation { sendVehicleCommand(input: { vehicleId: "JQ7RP", command: "UNLOCK_CENTRAL_LOCK",
            idempotencyKey: "k2", expiresAt: "%s" }) {
          outcome vehicle { latestState { centralLock { value timestamp } } } userErrors { code message field } } }"""
        % tomorrow
    )
    assert data["sendVehicleCommand"]["outcome"] == "EXECUTED"
    assert data["sendVehicleCommand"]["vehicle"]["latestState"]["centralLock"]["value"] == "UNLOCKED"
    assert executions(gateway) == 2


@pytest.mark.parametrize(
    ("writes", "allowed"),
    [("off", []), ("vehicles", ["update"]), ("commands", ["command"]), ("all", ["update", "command"])],
)
async def test_the_setting_turns_mutations_on(start, writes, allowed):
    """Any other is a coded error that names the setting, and the fleet API gets no request at all."""
    gateway = await start(writes=writes)
    for name, query, given in (
        ("update", UPDATE, {"tags": ["a"]}),
        ("command", COMMAND, {"command": "UNLOCK_CENTRAL_LOCK"}),
    ):
        before = gateway.simulator.requests.total
        answer = await gateway.ask(query, input={"vehicleId": VEHICLE_ID, "idempotencyKey": name, **given})
        if name in allowed:
            assert "errors" not in answer
        else:
            (error,) = answer["errors"]
            assert error["extensions"] == {"code": "WRITES_DISABLED", "retryable": False}
            assert "GATEWAY_WRITES=" in error["message"]
            assert gateway.simulator.requests.total == before


async def test_mutations_need_a_post(start):
    """A GET is rejected, whether or not its document was sent before."""
    gateway = await start(writes="all")
    parameters = {
        "query": UPDATE,
        "variables": json.dumps({"input": {"vehicleId": VEHICLE_ID, "idempotencyKey": "k", "tags": ["a"]}}),
    }
    headers = {"Authorization": f"Bearer {TOKENS['alice']}"}
    assert (await gateway.http.get("/graphql", params=parameters, headers=headers)).status_code == 405
    await update(gateway, tags=["b"])
    response = await gateway.http.get("/graphql", params=parameters, headers=headers)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert executions(gateway) == 1


async def test_absent_is_unchanged_and_null_clears(start):
    """Members of inputs, too."""
    gateway = await start(writes="all")
    before = await update(
        gateway, "a", masterData={"remark": "new", "licensePlate": "A 1"}, tags=["x"],
        customFields=[{"key": "one", "value": "1"}, {"key": "two", "value": "2"}],
    )  # fmt: skip
    assert before["vehicle"]["masterData"] == {"licensePlate": "A 1", "remark": "new"}
    after = await update(gateway, "b", masterData={"remark": None}, customFields=[{"key": "one", "value": None}])
    assert after["vehicle"]["masterData"] == {"licensePlate": "A 1", "remark": None}
    assert after["vehicle"]["tags"] == ["x"]
    assert {"key": "one", "value": "1"} not in after["vehicle"]["customFields"]
    assert {"key": "two", "value": "2"} in after["vehicle"]["customFields"]
    assert (await update(gateway, "c", tags=None))["vehicle"]["tags"] == []


async def test_a_change_of_another_version_is_rejected(start):
    """With the vehicle as it is now, so that the client can merge the changes and try again."""
    gateway = await start(writes="all", cache__enabled=True)
    version = (await gateway.data(VEHICLE, id=VEHICLE_ID))["vehicle"]["version"]
    first = await update(gateway, "a", ifVersion=version, tags=["first"])
    second = await update(gateway, "b", by="bob", ifVersion=version, tags=["second"])
    assert (second["outcome"], codes(second)) == ("REJECTED", ["CONFLICT"])
    assert second["vehicle"] == first["vehicle"]
    third = await update(gateway, "c", by="bob", ifVersion=second["vehicle"]["version"], tags=["second"])
    assert (third["outcome"], third["vehicle"]["tags"]) == ("EXECUTED", ["second"])


async def test_both_forms_of_an_id_are_accepted(start):
    """Exactly one of them is needed."""
    gateway = await start(writes="all")
    vehicle = (await update(gateway, "a", tags=["1"]))["vehicle"]
    given = {"idempotencyKey": "b", "id": vehicle["id"], "tags": ["2"]}
    assert (await gateway.data(UPDATE, input=given))["updateVehicle"]["vehicle"]["tags"] == ["2"]
    for ids in ({}, {"id": vehicle["id"], "vehicleId": VEHICLE_ID}):
        answer = await gateway.ask(UPDATE, input={"idempotencyKey": "c", "tags": ["3"], **ids})
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    unit = "VGVsZW1hdGljc1VuaXQ6SU5WRVJTL0NMT1VEQk9YWC8x"
    answer = await gateway.ask(UPDATE, input={"idempotencyKey": "d", "tags": ["3"], "id": unit})
    assert answer["errors"][0]["extensions"] == {"code": "BAD_USER_INPUT", "retryable": False, "argument": "id"}
    assert executions(gateway) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"idempotencyKey": ""},
        {"idempotencyKey": "k" * 257},
        {"ifVersion": "a\nb"},
        {"ifVersion": ""},
        {"vehicleId": "../x"},
        {"tags": ["\ud800"]},
        {"customFields": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]},
    ],
)
async def test_bad_input_is_not_sent(start, given):
    """It is a coded error."""
    gateway = await start(writes="all")
    given = {"vehicleId": VEHICLE_ID, "idempotencyKey": "k", "tags": ["a"], **given}
    body = json.dumps({"query": UPDATE, "variables": {"input": given}})
    headers = {"Authorization": f"Bearer {TOKENS['alice']}", "Content-Type": "application/json"}
    answer = (await gateway.http.post("/graphql", content=body, headers=headers)).json()
    assert answer["errors"][0]["extensions"]["code"] in ("BAD_USER_INPUT", "BAD_REQUEST")
    assert gateway.simulator.requests.total == 0


async def test_a_key_is_used_once(start):
    """The same input gets the first outcome, another input an error; other principals have keys of their own."""
    gateway = await start(writes="all")
    first = await command(gateway)
    assert await command(gateway, clientMutationId="another") == first
    given = {"vehicleId": VEHICLE_ID, "command": "LOCK_CENTRAL_LOCK", "idempotencyKey": "k1"}
    answer = await gateway.ask(COMMAND, input=given)
    assert answer["errors"][0]["extensions"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert executions(gateway) == 1
    await command(gateway, by="bob")
    assert executions(gateway) == 2


async def test_a_key_that_is_in_use_waits_for_the_outcome(start):
    """All requests with it get the outcome of the first one."""
    gateway = await start(writes="all", behaviours=Behaviours(rate_limit_requests=0, command_seconds=0.3))
    outcomes = await asyncio.gather(*(command(gateway) for _ in range(5)))
    assert {outcome["outcome"] for outcome in outcomes} == {"EXECUTED"}
    assert executions(gateway) == 1


async def test_a_rejection_by_the_vehicle_is_known_before_it_is_sent(start):
    """By its capabilities and its setup status, as they are now."""
    gateway = await start(writes="all", cache__enabled=True)
    assert codes(await command(gateway, "a", name="OPEN_SUNROOF")) == ["COMMAND_NOT_SUPPORTED"]
    assert codes(await command(gateway, "b", vehicle_id="Z90BD")) == ["SETUP_INCOMPLETE"]
    assert codes(await command(gateway, "c", vehicle_id="nope")) == ["NOT_FOUND"]
    past = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert codes(await command(gateway, "d", expiresAt=past)) == ["EXPIRED"]
    assert sent(gateway) == 0


async def test_what_is_not_known_is_unknown(start):
    """After a lost connection or a failure of the fleet API; the key is not free to run again."""
    gateway = await start(writes="all", retry__attempts=3)
    for number, fault in enumerate(("drop", "status", "malformed_json")):
        gateway.fault(fault, method="POST", executed=True, times=1)
        key = f"k{number}"
        payload = await command(gateway, key)
        assert (payload["outcome"], codes(payload)) == ("UNKNOWN", ["OUTCOME_UNKNOWN"]), fault
        assert sent(gateway) == number + 1
        assert (await command(gateway, key))["outcome"] == "UNKNOWN"
        assert sent(gateway) == number + 1


async def test_a_command_may_take_longer_than_an_operation(start):
    """It has a time-out of its own, after which its outcome is unknown."""
    behaviours = Behaviours(rate_limit_requests=0, command_seconds=0.6)
    gateway = await start(
        writes="all", behaviours=behaviours, limits__deadline=0.3, upstream__read_timeout=0.2,
        upstream__total_timeout=0.3, upstream__command_timeout=5,
    )  # fmt: skip
    assert (await command(gateway))["outcome"] == "EXECUTED"
    behaviours.command_seconds = 0.2
    gateway = await start(writes="all", behaviours=behaviours, upstream__command_timeout=0.1)
    assert (await command(gateway))["outcome"] == "UNKNOWN"
    assert sent(gateway) == 1


async def test_an_operation_that_ends_early_leaves_its_write_running(start):
    """Its outcome is recorded; the same key returns it."""
    gateway = await start(writes="all", behaviours=Behaviours(rate_limit_requests=0, command_seconds=0.5))
    variables = {"input": {"vehicleId": VEHICLE_ID, "command": "UNLOCK_CENTRAL_LOCK", "idempotencyKey": "k1"}}
    answer = (await gateway.post(COMMAND, variables, **{"X-Gateway-Timeout": "0.2"})).json()
    assert answer["data"]["sendVehicleCommand"]["outcome"] == "UNKNOWN"
    assert (await command(gateway))["outcome"] == "EXECUTED"
    assert executions(gateway) == sent(gateway) == 1


async def test_a_client_that_leaves_does_not_end_its_write(start):
    """What was sent goes on to its end."""
    gateway = await start(writes="all", behaviours=Behaviours(rate_limit_requests=0, command_seconds=0.4))
    leaving = asyncio.create_task(command(gateway))
    await eventually(lambda: sent(gateway) > 0)
    leaving.cancel()
    await asyncio.wait((leaving,))
    assert (await command(gateway))["outcome"] == "EXECUTED"
    assert executions(gateway) == sent(gateway) == 1


async def test_a_write_that_was_not_permitted_leaves_its_key_free(start):
    """The error is that of the fleet API; with the permission the same key runs."""
    gateway = await start(writes="all")
    gateway.fault("status", method="PATCH", status=403, type="/problems/missing-permissions", times=1)
    given = {"vehicleId": VEHICLE_ID, "idempotencyKey": "k1", "tags": ["a"]}
    answer = await gateway.ask(UPDATE, input=given)
    assert answer["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    assert (await update(gateway, tags=["a"]))["outcome"] == "EXECUTED"


async def test_root_fields_run_one_after_the_other(start):
    """As the specification says, also for one vehicle."""
    gateway = await start(writes="all", behaviours=Behaviours(rate_limit_requests=0, command_seconds=0.1))
    fields = [
        f'c{number}: sendVehicleCommand(input: {{vehicleId: "JQ7RP", command: "{name}", idempotencyKey: "k{number}"}})'
        "{ outcome vehicle { latestState { centralLock { value } } } }"
        for number, name in enumerate(("UNLOCK_CENTRAL_LOCK", "LOCK_CENTRAL_LOCK", "UNLOCK_CENTRAL_LOCK"))
    ]
    data = await gateway.data("mutation { " + " ".join(fields) + " }")
    assert [each["outcome"] for each in data.values()] == ["EXECUTED"] * 3
    locks = [each["vehicle"]["latestState"]["centralLock"]["value"] for each in data.values()]
    assert locks == ["UNLOCKED", "LOCKED", "UNLOCKED"]


READS = {
    "vehicle": 'query { vehicle(id: "JQ7RP") { tags } }',
    "vehicles": "query { vehicles(first: 5) { nodes { vehicleId tags } } }",
    "nodes": 'query { nodes(ids: ["VmVoaWNsZTpKUTdSUA=="]) { ... on Vehicle { tags } } }',
    "_entities": 'query { _entities(representations: [{__typename: "Vehicle", vehicleId: "JQ7RP"}]) {'
    " ... on Vehicle { tags } } }",
}


@pytest.mark.parametrize("responses", [False, True])
async def test_what_was_read_before_a_write_is_stale(start, responses):
    """For all kinds of reads, also of other principals, whatever the outcome is; also if it was sent over HTTP before."""
    gateway = await start(writes="all", cache__enabled=True, cache__responses=responses)
    for number, fault in enumerate((None, "drop")):
        for by in ("alice", "bob"):
            for query in READS.values():
                await gateway.data(query, by)
                await gateway.data(query, by)
        if fault:
            gateway.fault(fault, method="PATCH", executed=True, times=1)
        tag = f"tag-{number}"
        await update(gateway, f"k{number}", tags=[tag])
        for by in ("alice", "bob"):
            for name, query in READS.items():
                assert tag in json.dumps(await gateway.data(query, by)), (name, by, fault)


async def test_a_read_that_began_before_a_write_is_not_shared_after_it(start):
    """Neither in progress nor from the cache."""
    gateway = await start(writes="all", cache__enabled=True)
    gateway.fault("latency", method="GET", executed=True, seconds=0.5, times=1)
    early = asyncio.create_task(gateway.data(READS["vehicle"]))
    await eventually(lambda: gateway.simulator.requests.total > 0)
    await update(gateway, tags=["new"])
    assert (await gateway.data(READS["vehicle"]))["vehicle"]["tags"] == ["new"]
    assert (await early)["vehicle"]["tags"] != ["new"]
    assert (await gateway.data(READS["vehicle"]))["vehicle"]["tags"] == ["new"]


async def test_versions_of_lists_are_those_of_what_was_read(start):
    """If a vehicle has changed since its list was read, it has no version, so that no change is overwritten unseen."""
    gateway = await start(writes="all", cache__enabled=True)
    query = "query { vehicles(first: 3) { nodes { vehicleId tags version } } }"
    nodes = (await gateway.data(query))["vehicles"]["nodes"]
    assert all(node["version"] for node in nodes)
    fleet = next(iter(gateway.simulator.fleets.values()))
    fleet.change(VEHICLE_ID, {"tags": ["changed elsewhere"]})
    gateway.app.graphql.runtime.client._cache._store._cache._cache.drop(
        next(key for key in gateway.app.graphql.runtime.client._cache._store._cache._cache if key.endswith(VEHICLE_ID))
    )
    nodes = (await gateway.data(query))["vehicles"]["nodes"]
    assert [node["version"] for node in nodes if node["vehicleId"] == VEHICLE_ID] == [None]


async def test_vehicles_are_added_followed_and_archived(start):
    """With one of the available models; while its setup runs, commands are rejected."""
    gateway = await start(writes="vehicles", behaviours=Behaviours(rate_limit_requests=0, setup_seconds=0.3))
    data = await gateway.data(
        '{ availableVehicleModels(telematicsBrand: "CLOUDBOXX") { modelId capabilities { commands } } }'
    )
    model = data["availableVehicleModels"][0]["modelId"]
    add = """mutation($input: AddVehicleInput!) { addVehicle(input: $input) {
      outcome userErrors { code } vehicle { vehicleId setupStatus { value } tags } } }"""
    given = {"telematicsBrand": "CLOUDBOXX", "telematicsUnitId": "ABCDEF0123456789", "vehicleModelId": model,
             "tags": ["new"], "idempotencyKey": "k1"}  # fmt: skip
    added = (await gateway.data(add, input=given))["addVehicle"]
    assert (added["outcome"], added["vehicle"]["tags"]) == ("EXECUTED", ["new"])
    assert added["vehicle"]["setupStatus"]["value"] == "IN_PROGRESS"
    assert (await gateway.data(add, input=given))["addVehicle"]["vehicle"]["vehicleId"] == added["vehicle"]["vehicleId"]
    other = (await gateway.data(add, input={**given, "vehicleModelId": "nope", "idempotencyKey": "k2"}))["addVehicle"]
    assert (other["outcome"], codes(other), other["vehicle"]) == ("REJECTED", ["REFERENCE_NOT_FOUND"], None)
    archive = """mutation($id: ID!) { archiveVehicle(input: {vehicleId: $id, idempotencyKey: "k3"}) {
      outcome archivedVehicleId vehicleId userErrors { code } } }"""
    archived = (await gateway.data(archive, id=added["vehicle"]["vehicleId"]))["archiveVehicle"]
    assert archived["outcome"] == "EXECUTED"
    assert archived["archivedVehicleId"] is not None
    assert (await gateway.data(VEHICLE, id=added["vehicle"]["vehicleId"]))["vehicle"] is None


async def test_credentials_have_one_form(start):
    """An id or a password."""
    gateway = await start(writes="all")
    add = "mutation($input: AddVehicleInput!) { addVehicle(input: $input) { outcome } }"
    given = {"telematicsBrand": "NIU", "telematicsUnitId": "1", "vehicleModelId": "m", "idempotencyKey": "k1",
             "credentials": {"credentialsId": "a", "password": "b"}}  # fmt: skip
    answer = await gateway.ask(add, input=given)
    assert answer["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert gateway.simulator.requests.total == 0


async def test_vehicles_are_shared_with_partners(start):
    """With one of the sharing partners; the payload has the sharing."""
    gateway = await start(writes="all")
    partners = (await gateway.data("{ sharingPartners { fleetId name } }"))["sharingPartners"]
    share = """mutation($input: ShareVehicleInput!) { shareVehicle(input: $input) {
      outcome userErrors { code } vehicle { sharing { owner { fleetId } partner { fleetId } startsAt endsAt } } } }"""
    given = {"vehicleId": VEHICLE_ID, "partnerFleetId": partners[0]["fleetId"], "idempotencyKey": "k1",
             "endsAt": "2999-01-01T00:00:00Z"}  # fmt: skip
    shared = (await gateway.data(share, input=given))["shareVehicle"]
    assert shared["outcome"] == "EXECUTED"
    assert shared["vehicle"]["sharing"]["partner"]["fleetId"] == partners[0]["fleetId"]
    assert codes(await command(gateway, "k2")) == ["SHARED_WITH_PARTNER"]


async def test_responses_to_mutations_are_not_stored(start):
    """Neither here nor by the client."""
    gateway = await start(writes="all", cache__enabled=True, cache__responses=True)
    given = {"vehicleId": VEHICLE_ID, "tags": ["a"]}
    for number in range(3):
        response = await gateway.post(UPDATE, {"input": {**given, "idempotencyKey": f"k{number}"}})
        assert response.headers["cache-control"] == "no-store"
    assert executions(gateway) == 3


async def test_writes_are_limited(start):
    """Above the limit they are rejected, and nothing is sent; the key stays free."""
    gateway = await start(
        writes="all", behaviours=Behaviours(rate_limit_requests=0, command_seconds=0.5), limits__principal_writes=1
    )
    first = asyncio.create_task(command(gateway, "k1"))
    await eventually(lambda: sent(gateway) > 0)
    given = {"vehicleId": "K3WX8", "command": "DRAW_ATTENTION", "idempotencyKey": "k2"}
    answer = await gateway.ask(COMMAND, input=given)
    assert answer["errors"][0]["extensions"]["code"] == "OVERLOADED"
    assert (await first)["outcome"] == "EXECUTED"
    assert sent(gateway) == 1


async def test_an_expired_token_does_not_hide_an_outcome(start):
    """If the token expires after the write, the response still has the outcome."""
    gateway = await start(writes="all", behaviours=Behaviours(rate_limit_requests=0, write_answers="empty"))
    gateway.fault("status", method="GET", status=401, type="/problems/invalid-credentials", times=1)
    response = await gateway.post(UPDATE, {"input": {"vehicleId": VEHICLE_ID, "tags": ["a"], "idempotencyKey": "k"}})
    assert response.status_code == 294
    payload = response.json()["data"]["updateVehicle"]
    assert (payload["outcome"], payload["vehicle"]) == ("EXECUTED", None)


async def test_costs_count_writes(start):
    """Each mutation counts as three upstream calls: the write, and a read before and after it."""
    gateway = await start(writes="all", limits__upstream_calls=5)
    fields = " ".join(
        f'c{n}: archiveVehicle(input: {{vehicleId: "JQ7RP", idempotencyKey: "{n}"}}) {{ outcome }}' for n in range(2)
    )
    answer = await gateway.ask("mutation { " + fields + " }")
    assert answer["errors"][0]["extensions"]["limit"] == "upstreamCalls"
    assert gateway.simulator.requests.total == 0
