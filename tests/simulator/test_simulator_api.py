"""The simulated API behaves as the vendor documents it."""

from __future__ import annotations

import base64
import uuid

import pytest

from gateway.simulator import Behaviours


async def test_a_token_is_issued_for_client_credentials(api):
    """Tokens need Basic credentials and a grant type in the query, and last 900 seconds; errors have OAuth's form."""
    basic = base64.b64encode(b"T7K2M#cl1:secret").decode()
    url = "/auth/oauth/token?grant_type=client_credentials"
    response = (await api.post(url, headers={"Authorization": f"Basic {basic}"})).json()
    assert (response["token_type"], response["expires_in"]) == ("bearer", 900)
    assert (
        await api.get("/vehicles", headers={"Authorization": f"Bearer {response['access_token']}"})
    ).status_code == 200
    wrong = await api.post(url, headers={"Authorization": f"Basic {base64.b64encode(b'T7K2M#cl1:wrong').decode()}"})
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("path", "token", "status", "kind"),
    [
        ("/vehicles", None, 401, "/problems/missing-credentials"),
        ("/vehicles", "unknown", 401, "/problems/invalid-credentials"),
        ("/vehicles", "expired", 401, "/problems/invalid-credentials"),
        ("/vehicles", "T7K2M#no-permission", 403, "/problems/missing-permissions"),
        ("/vehicles", "T7K2M#no-scope", 403, "/problems/forbidden-resource"),
        ("/vehicles/NONE1", "T7K2M#cl1", 404, "/problems/resource-not-found"),
        ("/vehicles?limit=0", "T7K2M#cl1", 400, "/problems/validation-error"),
        ("/vehicles?limit=1001", "T7K2M#cl1", 400, "/problems/validation-error"),
        ("/vehicles?limit=x", "T7K2M#cl1", 400, "/problems/validation-error"),
        ("/vehicles?cursor=x", "T7K2M#cl1", 400, "/problems/validation-error"),
        ("/vehicles?cursor=x&limit=5", "T7K2M#cl1", 400, "/problems/validation-error"),
    ],
)
async def test_problems_have_six_members_and_a_flow_id(api, path, token, status, kind):
    """Each rejection is the documented problem, with the flow id of the header."""
    if token and "#" in token:
        token = api.simulator.token_for(token)
    elif token == "expired":
        token = api.simulator.token_for("T7K2M#cl1", expires_in=-1)
    response = await api.get(path, headers={"Authorization": f"Bearer {token}" if token else ""})
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, kind)
    assert set(problem) == {"type", "type_documentation", "title", "status", "detail", "flow_id"}
    assert str(uuid.UUID(response.headers["X-INVERS-Flow-ID"])) == problem["flow_id"]


async def test_an_entity_tag_follows_management_data(api):
    """An edit changes the ETag, telemetry does not; a matching If-None-Match returns 304."""
    first = await api.get("/vehicles/JQ7RP")
    tag = first.headers["ETag"]
    await api.post("/__simulator/fleets/T7K2M/vehicles/JQ7RP/touch")
    assert (await api.get("/vehicles/JQ7RP", headers={"If-None-Match": tag})).status_code == 304
    await api.post("/__simulator/fleets/T7K2M/vehicles/JQ7RP/edit")
    assert (await api.get("/vehicles/JQ7RP", headers={"If-None-Match": tag})).status_code == 200


@pytest.mark.parametrize("form", ["reset", "retry_after"])
async def test_the_rate_limit_is_reported_in_both_forms(api, form):
    """Every response has rate limit headers; a 429 has the reset time or only Retry-After."""
    api.simulator.behaviours = Behaviours(rate_limit_requests=2, rate_limit_form=form)
    assert (await api.get("/vehicles")).headers["X-Rate-Limit-Remaining"] == "1"
    await api.get("/vehicles")
    limited = await api.get("/vehicles")
    assert limited.status_code == 429
    assert ("Retry-After" in limited.headers, "X-Rate-Limit-Reset" in limited.headers) == (
        form != "reset",
        form == "reset",
    )
    assert (await api.get("/vehicles", headers={"Authorization": "Bearer fixed"})).status_code == 200


async def test_requests_are_counted_by_path_and_client(api):
    """The counts are read and reset over HTTP; control requests are not counted."""
    await api.get("/vehicles?limit=5")
    await api.get("/vehicles/JQ7RP")
    await api.get("/vehicles/JQ7RP/latest-state", headers={"Authorization": "Bearer fixed"})
    counts = (await api.get("/__simulator/requests")).json()
    assert counts["by_path"] == {"/vehicles": 1, "/vehicles/{id}": 1, "/vehicles/{id}/latest-state": 1}
    assert counts["by_client"] == {"T7K2M#cl1": 2, "EXFL29#cl1": 1}
    assert counts["log"][0]["query"] == "limit=5"
    await api.delete("/__simulator/requests")
    assert (await api.get("/__simulator/requests")).json()["total"] == 0


async def test_the_simulator_is_controlled_over_http(api):
    """Behaviours, faults, tokens and fleets can be changed; invalid changes are rejected."""
    assert (await api.patch("/__simulator/behaviours", json={"default_limit": 7})).json()["default_limit"] == 7
    assert len((await api.get("/vehicles")).json()["items"]) == 7
    assert (await api.patch("/__simulator/behaviours", json={"nope": 1})).status_code == 400
    await api.put("/__simulator/faults", json=[{"kind": "outage", "times": 1}])
    assert [(await api.get("/vehicles")).status_code for _ in range(2)] == [503, 200]
    assert (await api.put("/__simulator/faults", json=[{"kind": "nope"}])).status_code == 400
    new = (await api.post("/__simulator/fleets/T7K2M/vehicles", json={"position": 0})).json()["id"]
    assert (await api.get("/vehicles")).json()["items"][0]["id"] == new
    assert (await api.delete(f"/__simulator/fleets/T7K2M/vehicles/{new}")).status_code == 204
    assert new not in (await api.get("/__simulator/fleets/T7K2M/ids")).json()
    token = (await api.post("/__simulator/tokens", json={"client_id": "EXFL29#cl1"})).json()["access_token"]
    assert len((await api.get("/vehicles", headers={"Authorization": f"Bearer {token}"})).json()["items"]) == 7
    assert (await api.post("/__simulator/fleets/NONE/vehicles")).status_code == 404


async def test_a_client_reads_only_its_own_fleet(api):
    """Vehicles of other fleets do not exist, and other ids in the fleet header are forbidden."""
    other = api.simulator.fleets["EXFL29"].ids[0]
    assert (await api.get(f"/vehicles/{other}")).status_code == 404
    assert (await api.get("/vehicles", headers={"X-INVERS-Fleet-Id": "EXFL29"})).status_code == 403


async def test_search_ignores_case(api):
    """q searches brand, plate, VIN, id and name, ignoring case."""
    vehicle = api.simulator.fleets["T7K2M"].vehicle("JQ7RP")
    for text in (
        "audi a3"[:4],
        vehicle["master_data"]["license_plate"].lower(),
        vehicle["master_data"]["vin"][4:],
        "jq7rp",
        "12 station",
    ):
        found = (await api.get("/vehicles", params={"q": text})).json()["items"]
        assert "JQ7RP" in [item["id"] for item in found], text
    assert (await api.get("/vehicles", params={"q": "no such thing"})).json()["items"] == []
