"""The statuses and media types of GraphQL over HTTP, September 2026: every case, whatever the client accepts."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from typing import Any, NamedTuple

import pytest

from tests.gateways import TOKENS

JSON, RESPONSE = "application/json", "application/graphql-response+json"
ALICE = {"Authorization": f"Bearer {TOKENS['alice']}"}
GOOD = "{ __typename }"
ONE_OF_TWO = '{ good: vehicle(id: "JQ7RP") { vehicleId } bad: vehicles(first: -1) { nodes { id } } }'
NULL_DATA = '{ node(id: "x") { id } }'
# Accept fields, and the media type of a success.
ACCEPTS = {
    RESPONSE: RESPONSE,
    JSON: JSON,
    f"{RESPONSE}, {JSON};q=0.9": RESPONSE,
    "*/*": JSON,
    None: JSON,
}


class Case(NamedTuple):
    """A request, its status and code, and the statuses of the draft for both media types."""

    name: str
    request: dict[str, Any]
    status: int
    code: str | None
    draft: tuple[int, int] | None = None  # with graphql-response+json, with json; None if as in the release


def post(body: Any, **headers: str) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {"method": "POST", "content": content, "headers": {"Content-Type": JSON, **ALICE, **headers}}


def query(text: str, **more: Any) -> dict[str, Any]:
    return post({"query": text, **more})


def get(headers: dict[str, str] | None = None, **parameters: str) -> dict[str, Any]:
    return {"method": "GET", "params": parameters, "headers": {**ALICE, **(headers or {})}}


def without_token(request: dict[str, Any]) -> dict[str, Any]:
    return {**request, "headers": {k: v for k, v in request["headers"].items() if k != "Authorization"}}


CASES = (
    Case("data", query(GOOD), 200, None),
    Case("data by GET", get(query=GOOD), 200, None),
    Case("data and errors", query(ONE_OF_TWO), 294, "PAGE_SIZE_INVALID", (200, 200)),
    Case("data and errors by GET", get(query=ONE_OF_TWO), 294, "PAGE_SIZE_INVALID", (200, 200)),
    Case("an argument of another type of id", query(NULL_DATA), 294, "GLOBAL_ID_INVALID", (200, 200)),
    Case("a field that the fleet API denies", {**query("{ vehicles { nodes { id } } }"), "headers": {"Content-Type": JSON, "Authorization": "Bearer token-of-no-scope"}}, 294, "FORBIDDEN", (200, 200)),
    # 400: syntax.
    Case("no JSON", post(b"NONSENSE"), 400, "BAD_REQUEST"),
    Case("half of JSON", post(b'{"query":'), 400, "BAD_REQUEST"),
    Case("wrong parameters in half of JSON", post(b'{"query": 5, "x"'), 400, "BAD_REQUEST"),
    Case("an empty body", post(b""), 400, "BAD_REQUEST"),
    Case("no UTF-8", post(b'{"query": "\xff"}'), 400, "BAD_REQUEST"),
    Case("variables that are no JSON", get(query=GOOD, variables="{"), 400, "BAD_REQUEST"),
    Case("a document with a syntax error", query("{"), 400, "GRAPHQL_PARSE_FAILED", (400, 200)),
    Case("the same by GET", get(query="{"), 400, "GRAPHQL_PARSE_FAILED", (400, 200)),
    Case("an invalid header", post({"query": GOOD}, **{"X-Gateway-Timeout": "soon"}), 400, "BAD_REQUEST"),
    Case("no gzip", post(b"{}", **{"Content-Encoding": "gzip"}), 400, "BAD_REQUEST"),
    # 422: all that is well-formed by syntax alone.
    Case("another JSON value", post(5), 422, "BAD_REQUEST", (400, 400)),
    Case("a batch", post([{"query": GOOD}]), 422, "BAD_REQUEST", (400, 400)),
    Case("a parameter of a wrong type", post({"query": 5}), 422, "BAD_REQUEST", (400, 400)),
    Case("variables of a wrong type", query(GOOD, variables=[7]), 422, "BAD_REQUEST", (400, 400)),
    Case("variables of a wrong type by GET", get(query=GOOD, variables="[7]"), 422, "BAD_REQUEST", (400, 400)),
    Case("a misspelt parameter", post({"qeury": GOOD}), 422, "BAD_REQUEST", (400, 400)),
    Case("no parameters", get(), 422, "BAD_REQUEST", (400, 400)),
    Case("an unknown field", query("{ nope }"), 422, "GRAPHQL_VALIDATION_FAILED", (400, 200)),
    Case("no such operation", query("query A { __typename }", operationName="B"), 422, "OPERATION_RESOLUTION_FAILURE", (400, 200)),
    Case("several operations", query("query A { __typename } query B { __typename }"), 422, "OPERATION_RESOLUTION_FAILURE", (400, 200)),
    Case("a missing variable", query("query($id: ID!) { vehicle(id: $id) { id } }"), 422, "GRAPHQL_VALIDATION_FAILED", (400, 200)),
    Case("a variable of a wrong type", query("query($n: Int) { vehicles(first: $n) { nodes { id } } }", variables={"n": "x"}), 422, "GRAPHQL_VALIDATION_FAILED", (400, 200)),
    Case("a document beyond a limit", query("{ vehicles { nodes { id " + "tags " * 500 + "} } }"), 422, "LIMIT_EXCEEDED", (400, 200)),
    Case("an operation beyond a limit", query("{ " + " ".join(f"a{n}: vehicles(first: 500) {{ nodes {{ id }} }}" for n in range(45)) + " }"), 422, "LIMIT_EXCEEDED", (400, 200)),
    Case("an unknown hash", post({"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}}), 422, "PERSISTED_QUERY_NOT_FOUND", (400, 200)),
    Case("a wrong hash", query(GOOD, extensions={"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}), 422, "PERSISTED_QUERY_MISMATCH", (400, 400)),
    # The other statuses.
    Case("no token", without_token(query(GOOD)), 401, "UNAUTHENTICATED"),
    Case("a token that the fleet API rejects", {**query("{ vehicles { nodes { id } } }"), "headers": {"Content-Type": JSON, "Authorization": "Bearer nobody"}}, 401, "UNAUTHENTICATED"),
    Case("another method", {"method": "PUT", "headers": ALICE}, 405, "METHOD_NOT_ALLOWED"),
    Case("a body beyond the limit", post({"query": GOOD, "x": "y" * 5000}), 413, "BODY_TOO_LARGE"),
    Case("a gzip body beyond the limit", post(gzip.compress(b"{" + b" " * 5000), **{"Content-Encoding": "gzip"}), 413, "BODY_TOO_LARGE"),
    Case("a long target", get(query=GOOD + " " * 5000), 414, "URI_TOO_LONG"),
    Case("large headers", get({"X-Large": "x" * 5000}, query=GOOD), 431, "HEADERS_TOO_LARGE"),
    Case("another type of body", {**post({"query": GOOD}), "headers": {**ALICE, "Content-Type": "text/plain"}}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    Case("no type of body", {**post({"query": GOOD}), "headers": ALICE}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    Case("another coding", post(b"x", **{"Content-Encoding": "br"}), 415, "UNSUPPORTED_MEDIA_TYPE"),
)  # fmt: skip


LIMITS = {"http__body_bytes_max": 4096, "http__header_bytes_max": 4096, "limits__document_bytes": 2048}


@pytest.fixture
async def gateway(start):
    """A gateway with small limits."""
    return await start(**LIMITS)


async def sent(gateway, case: Case, accept: str | None):
    request = gateway.http.build_request(url="/graphql", **case.request)
    del request.headers["Accept"]
    if accept is not None:
        request.headers["Accept"] = accept
    return await gateway.http.send(request)


def checked(response, case: Case) -> None:
    body = response.json()
    codes = [error["extensions"]["code"] for error in body.get("errors", ())]
    assert codes[:1] == ([case.code] if case.code else []), case.name
    # Never data with an error status, never an error status with data.
    assert ("data" in body) == (response.status_code < 300 and case.status < 300), case.name


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_every_case_has_its_status_whatever_the_client_accepts(gateway, accept):
    """A success has the type that the client prefers, an error that of GraphQL responses."""
    for case in CASES:
        response = await sent(gateway, case, accept)
        assert response.status_code == case.status, (case.name, response.text)
        media_type = ACCEPTS[accept] if case.status < 300 else RESPONSE
        assert response.headers["Content-Type"] == f"{media_type}; charset=utf-8", case.name
        checked(response, case)


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_the_draft_has_its_statuses_for_one_more_release(start, accept):
    """With the setting, as before; the type is that which the client prefers, also of errors."""
    gateway = await start(http__statuses="draft", **LIMITS)
    for case in CASES:
        response = await sent(gateway, case, accept)
        status = case.status if case.draft is None else case.draft[ACCEPTS[accept] == JSON]
        assert response.status_code == status, (case.name, response.text)
        if case.status not in (414, 431):  # before the header is known
            assert response.headers["Content-Type"] == f"{ACCEPTS[accept]}; charset=utf-8", case.name
        checked(response, case)


@pytest.mark.parametrize(
    "accept", ["text/html", "application/xml", f"{JSON};q=0", f"{RESPONSE};q=0, {JSON};q=0, */*;q=0"]
)
async def test_a_client_that_accepts_neither_type_gets_406(gateway, accept):
    """Before the operation is executed; the error has the form of all errors."""
    response = await sent(gateway, CASES[0], accept)
    assert response.status_code == 406
    assert response.headers["Content-Type"] == f"{RESPONSE}; charset=utf-8"
    assert response.json()["errors"][0]["extensions"]["code"] == "NOT_ACCEPTABLE"


async def test_headers_that_statuses_need(gateway):
    """RFC 9110: `Allow` with 405, `WWW-Authenticate` with 401, what is accepted with 415."""
    found = {case.name: await sent(gateway, case, RESPONSE) for case in CASES if case.status in (401, 405, 415)}
    assert found["another method"].headers["Allow"] == "GET, POST"
    assert all(response.headers["WWW-Authenticate"] for response in found.values() if response.status_code == 401)
    assert found["another type of body"].headers["Accept-Post"] == JSON
    assert found["another coding"].headers["Accept-Encoding"] == "gzip"


async def test_errors_outside_graphql_have_the_same_form(gateway):
    """Other paths, hosts and requests that are no HTTP."""
    responses = [
        (await gateway.http.get("/nowhere", headers={"Accept": JSON}), 404),
        (await gateway.http.post("/health/live"), 405),
        (await gateway.http.get("/graphql", headers={"Host": "a b"}), 400),
    ]
    for response, status in responses:
        assert (response.status_code, response.headers["Content-Type"]) == (status, f"{RESPONSE}; charset=utf-8")
    with socket.create_connection((gateway.http.base_url.host, gateway.http.base_url.port)) as connection:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, b"NONSENSE\r\n\r\n")
        assert b"content-type: application/graphql-response+json; charset=utf-8\r\n" in await loop.sock_recv(
            connection, 65536
        )


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("identity", bytes),
        ("identity, gzip", gzip.compress),
        ("", bytes),
        ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
    ],
)
async def test_a_compressed_request_is_read(gateway, coding, encode):
    """As federation routers may send it."""
    body = encode(json.dumps({"query": GOOD}).encode())
    response = await gateway.http.request(**{"url": "/graphql", **post(body, **{"Content-Encoding": coding})})
    assert (response.status_code, response.json()) == (200, {"data": {"__typename": "Query"}})


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip, br", "nonsense", "*"])
async def test_another_coding_is_415_and_names_what_is_read(gateway, coding):
    """RFC 9110, 15.5.16: the response says which coding would have been read."""
    body = gzip.compress(json.dumps({"query": GOOD}).encode())
    response = await gateway.http.request(**{"url": "/graphql", **post(body, **{"Content-Encoding": coding})})
    assert (response.status_code, response.headers["Accept-Encoding"]) == (415, "gzip")


async def test_lists_in_several_lines_are_one_list(gateway):
    """RFC 9110, 5.3: of two Accept lines both count, and so of two Accept-Encoding lines."""
    headers = [*ALICE.items(), ("Content-Type", JSON), ("Accept", "text/html"), ("Accept", RESPONSE)]
    response = await gateway.http.post("/graphql", content=json.dumps({"query": GOOD}), headers=headers)
    assert response.headers["Content-Type"].startswith(RESPONSE)
    headers[-1] = ("Accept", f"{RESPONSE};q=0.5")
    response = await gateway.http.post(
        "/graphql", content=json.dumps({"query": GOOD}), headers=[*headers, ("Accept", JSON)]
    )
    assert response.headers["Content-Type"].startswith(JSON)
