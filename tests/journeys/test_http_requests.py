"""Checks of every request: token, size, form; and health."""

from __future__ import annotations

import json

import pytest

QUERY = '{"query":"{ vehicle(id: \\"JQ7RP\\") { vehicleId } }"}'
JSON = {"Content-Type": "application/json"}


async def test_without_a_token_there_is_a_challenge_and_no_upstream_call(gateway):
    """401 with WWW-Authenticate, and no upstream call."""
    response = await gateway.http.post("/graphql", content=QUERY, headers=JSON)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="fleet"'
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert gateway.simulator.requests.total == 0


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer a b", "Bearer é", "Bearer a,b", "token"])
async def test_only_bearer_tokens_are_accepted(gateway, header):
    """Other schemes and malformed tokens are 401 invalid_token."""
    response = await gateway.http.post("/graphql", content=QUERY, headers={**JSON, "Authorization": header.encode()})
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert gateway.simulator.requests.total == 0


async def test_two_authorization_headers_are_rejected(gateway):
    """Which of two tokens is meant is ambiguous."""
    headers = [
        ("Content-Type", "application/json"),
        ("Authorization", "Bearer token-of-alice"),
        ("Authorization", "Bearer token-of-eve"),
    ]
    assert (await gateway.http.post("/graphql", content=QUERY, headers=headers)).status_code == 401


async def test_the_token_is_forwarded_unchanged(gateway):
    """Each caller reads its own fleet."""
    query = "{ vehicles(first: 1) { nodes { fleetId } } }"
    assert (await gateway.data(query, by="alice"))["vehicles"]["nodes"][0]["fleetId"] == "T7K2M"
    assert (await gateway.data(query, by="eve"))["vehicles"]["nodes"][0]["fleetId"] == "EXFL29"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *((body, 400) for body in ("", "{", "\xff", "[" * 5000, '{"query": 5', "[5", "nul")),
        *(
            (body, 422)
            for body in ("5", "null", "[5]", '"x"', '{"query": 5}', '{"query": "{a}", "variables": 5}', "{}")
        ),
    ],
)
async def test_an_invalid_body_is_rejected(gateway, body, status):
    """For any invalid body the response is a 4xx with a code."""
    response = await gateway.http.post(
        "/graphql", content=body.encode("latin-1"), headers={**JSON, "Authorization": "Bearer token-of-alice"}
    )
    assert response.status_code == status
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


async def test_a_body_beyond_the_limit_is_rejected(start):
    """413, with Content-Length or without."""
    gateway = await start(http__body_bytes_max=2048)
    headers = {**JSON, "Authorization": "Bearer token-of-alice"}
    body = json.dumps({"query": "{ __typename }", "padding": "x" * 3000}).encode()

    async def unannounced():
        for at in range(0, len(body), 512):
            yield body[at : at + 512]

    for content in (body, unannounced()):
        response = await gateway.http.post("/graphql", content=content, headers=headers)
        assert response.status_code == 413
        assert response.json()["errors"][0]["extensions"]["code"] == "BODY_TOO_LARGE"


async def test_other_methods_and_paths_have_codes(gateway):
    """404 and 405 have codes, too."""
    for path in ("/nowhere", "/explorer/nowhere"):
        response = await gateway.http.get(path)
        assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (404, "NOT_FOUND")
    response = await gateway.http.request("DELETE", "/graphql", headers={"Authorization": "Bearer token-of-alice"})
    assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (405, "METHOD_NOT_ALLOWED")


async def test_a_browser_gets_graphiql_without_a_token(gateway, start):
    """The page is open and can be switched off; a query still needs a token."""
    browser = {"Accept": "text/html,application/xhtml+xml"}
    page = await gateway.http.get("/graphql", headers=browser)
    assert page.status_code == 200
    assert "graphiql" in page.text.lower()
    for parameters in ("query={__typename}", "operationName=", "%71uery=1", "a=1&" * 300):
        assert (await gateway.http.get(f"/graphql?{parameters}", headers=browser)).status_code == 401
    assert (await gateway.http.get("/graphql?from=mail", headers=browser)).status_code == 200
    assert (await (await start(http__graphiql=False)).http.get("/graphql", headers=browser)).status_code == 404


async def test_a_query_may_come_by_get(gateway):
    """A GET with a query has the same response as a POST."""
    response = await gateway.http.get(
        "/graphql", params={"query": "{ __typename }"}, headers={"Authorization": "Bearer token-of-alice"}
    )
    assert response.json() == {"data": {"__typename": "Query"}}


async def test_a_parameter_of_a_get_is_given_once(gateway):
    """422 for a repeated one; other parameters are ignored, and a browser is not shown the page instead."""
    headers = {"Authorization": "Bearer token-of-alice"}
    for accept in ("application/json", "text/html,*/*;q=0.8"):
        twice = await gateway.http.get("/graphql?query={a}&query={__typename}", headers={**headers, "Accept": accept})
        assert twice.status_code == 422
        assert twice.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
    other = await gateway.http.get("/graphql?utm=1&query={__typename}&utm=2", headers=headers)
    assert other.json() == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize(
    ("given", "accepted"), [("abc-1.2_3", True), ("x" * 65, False), ("a b", False), ("<script>", False), ("", False)]
)
async def test_every_response_has_a_request_id(gateway, given, accepted):
    """A valid id of the caller's is used, any other replaced."""
    response = await gateway.http.get("/health/live", headers={"X-Request-Id": given})
    assert (response.headers["X-Request-Id"] == given) is accepted
    assert len(response.headers["X-Request-Id"]) >= 9


async def test_health_endpoints(gateway):
    """Live, and ready once started, with the numbers of running and waiting operations."""
    assert (await gateway.http.get("/health/live")).json() == {"status": "live"}
    assert (await gateway.http.get("/health/ready")).json() == {
        "status": "ready", "operations": 0, "queued": 0, "reads": 0, "upstream": "up",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("nonsense", False),
    ],
)
async def test_only_token_and_trace_headers_are_forwarded(gateway, monkeypatch, given, sent):
    """A valid traceparent goes to the fleet API with the token; cookies and all else do not."""
    seen = []
    original = gateway.simulator.caller_of
    monkeypatch.setattr(
        gateway.simulator, "caller_of", lambda request: (seen.append(request.headers), original(request))[1]
    )
    headers = {
        "traceparent": given,
        "Cookie": "session=secret",
        "X-Forwarded-For": "10.0.0.1",
        "X-INVERS-Fleet-Id": "EXFL29",
    }
    answer = await gateway.post('{ vehicle(id: "JQ7RP") { vehicleId } }', None, "alice", **headers)
    assert answer.json() == {"data": {"vehicle": {"vehicleId": "JQ7RP"}}}
    assert (seen[0].get("traceparent") == given) is sent
    assert not {"cookie", "x-forwarded-for", "x-invers-fleet-id"} & set(seen[0])
