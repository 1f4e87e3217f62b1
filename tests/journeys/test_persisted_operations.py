"""Known operations: automatic persisted queries, and trusted documents."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.engine.documents import Documents, digest_of
from gateway.schema.build import build_schema
from tests.gateways import TOKENS

QUERY = '{ vehicle(id: "JQ7RP") { vehicleId } }'
OTHER = "{ __typename }"
JQ7RP = {"data": {"vehicle": {"vehicleId": "JQ7RP"}}}


async def send(gateway, status: int = 200, by: str = "alice", **body):
    headers = {"Authorization": f"Bearer {TOKENS.get(by, by)}"}
    response = await gateway.http.post("/graphql", json=body, headers=headers)
    assert response.status_code == status
    return response.json()


def persisted(digest: str) -> dict:
    return {"persistedQuery": {"version": 1, "sha256Hash": digest}}


async def test_a_query_is_sent_once_and_then_named(gateway):
    """Apollo's protocol: unknown hash, hash with text, hash alone; by GET as well."""
    extensions = persisted(digest_of(QUERY))
    unknown = await send(gateway, 422, extensions=extensions)
    assert unknown["errors"][0]["message"] == "PersistedQueryNotFound"
    assert unknown["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
    assert await send(gateway, query=QUERY, extensions=extensions) == JQ7RP
    assert await send(gateway, extensions=extensions) == JQ7RP
    parameters = {"extensions": json.dumps(extensions)}
    assert (
        await gateway.http.get("/graphql", params=parameters, headers={"Authorization": "Bearer token-of-alice"})
    ).json() == JQ7RP


HASH = digest_of(QUERY)
IDS = (HASH, HASH.upper(), f"sha256:{HASH}", f"SHA256:{HASH.upper()}")
NAMED = [
    *({"extensions": persisted(name)} for name in IDS),
    *({convention: name} for convention in ("documentId", "doc_id") for name in IDS),
]


@pytest.mark.parametrize("registered", IDS)
async def test_all_spellings_of_a_hash_are_one_id(gateway, registered):
    """With or without `sha256:`, in capitals, as `sha256Hash` or as a document's id; by GET as well."""
    for named in NAMED:
        unknown = await send(gateway, 422, **named)
        assert unknown["errors"][0]["message"] == "PersistedQueryNotFound"
    assert await send(gateway, query=QUERY, extensions=persisted(registered)) == JQ7RP
    for named in NAMED:
        assert await send(gateway, **named) == JQ7RP
        parameters = {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}
        headers = {"Authorization": "Bearer token-of-alice"}
        assert (await gateway.http.get("/graphql", params=parameters, headers=headers)).json() == JQ7RP
        assert (await send(gateway, 422, by="bob", **named))["errors"][0]["message"] == "PersistedQueryNotFound"


@pytest.mark.parametrize("name", ["md5:" + HASH, HASH[1:], "sha256:", "sha256:" + HASH[1:], f" {HASH}", f"{HASH}0"])
async def test_what_is_no_hash_names_no_registered_query(gateway, name):
    """A document's id that is no SHA-256 belongs to trusted documents, and is ignored beside a document."""
    assert await send(gateway, query=QUERY, extensions=persisted(HASH)) == JQ7RP
    assert (await send(gateway, 422, documentId=name))["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
    assert await send(gateway, query=QUERY, documentId=name) == JQ7RP


async def test_a_wrong_hash_is_rejected(gateway):
    """No caller can register a query under another query's hash."""
    rejected = await send(gateway, 422, query=OTHER, extensions=persisted(digest_of(QUERY)))
    assert rejected["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_MISMATCH"
    assert "errors" in await send(gateway, 422, extensions=persisted(digest_of(QUERY)))


async def test_a_hash_does_not_reveal_the_queries_of_others(gateway):
    """It is known only for the principal that registered it, and not for a text that was merely sent."""
    named = {"extensions": persisted(digest_of(QUERY))}
    for _ in range(3):  # so that the document is cached, too
        assert await send(gateway, query=QUERY) == JQ7RP
    unknown = await send(gateway, 422, **named)
    assert unknown["errors"][0]["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
    assert await send(gateway, query=QUERY, **named) == await send(gateway, **named) == JQ7RP
    assert await send(gateway, 422, by="bob", **named) == unknown
    assert await send(gateway, by="bob", query=QUERY, **named) == await send(gateway, by="bob", **named) == JQ7RP


async def test_an_invalid_token_registers_nothing(gateway):
    """Neither a document nor its hash is cached for a token that the fleet API rejects."""
    named = {"extensions": persisted(digest_of(OTHER))}
    for _ in range(2):
        assert await send(gateway, by="invented", query=OTHER, **named) == {"data": {"__typename": "Query"}}
        unknown = await send(gateway, 422, by="invented", **named)
        assert unknown["errors"][0]["message"] == "PersistedQueryNotFound"


MANIFESTS = {
    "relay": {digest_of(QUERY): QUERY},
    "relay with a prefix": {f"sha256:{digest_of(QUERY)}": QUERY},
    "relay twice": {f"SHA256:{digest_of(QUERY).upper()}": QUERY, digest_of(QUERY): QUERY},
    "apollo": {
        "format": "apollo-persisted-query-manifest",
        "version": 1,
        "operations": [{"id": digest_of(QUERY), "name": "V", "type": "query", "body": QUERY}],
    },
    "apollo in capitals": {
        "format": "apollo-persisted-query-manifest",
        "version": 1,
        "operations": [{"id": digest_of(QUERY).upper(), "name": "V", "type": "query", "body": QUERY}],
    },
}


@pytest.mark.parametrize("form", MANIFESTS)
async def test_with_trusted_documents_only_they_run(start, tmp_path, form):
    """By id with any of the usual parameters, or by text; all else is rejected, introspection too."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(MANIFESTS[form]))
    gateway = await start(graphql__trusted_documents=str(file))
    for body in (*NAMED, {"query": QUERY}):
        assert await send(gateway, **body) == JQ7RP
    for body in (
        {"query": OTHER},
        {"documentId": "other"},
        {"query": QUERY + " "},
        {"query": "{ __schema { __typename } }"},
    ):
        answer = await send(gateway, 422, **body)
        assert answer["errors"][0]["extensions"]["code"] == "OPERATION_NOT_TRUSTED"
    assert gateway.simulator.requests.by_path == {"/vehicles/{id}": len(NAMED) + 1}


async def test_other_ids_of_trusted_documents_are_compared_exactly(start, tmp_path):
    """Only a SHA-256 has several spellings."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({"Vehicle": QUERY, "sha256:abc": OTHER}))
    gateway = await start(graphql__trusted_documents=str(file))
    assert await send(gateway, documentId="Vehicle") == JQ7RP
    assert await send(gateway, documentId="sha256:abc") == {"data": {"__typename": "Query"}}
    for name in ("vehicle", "sha256:Vehicle", "abc", "sha256:ABC"):
        assert "errors" in await send(gateway, 422, documentId=name)


@pytest.mark.parametrize(
    ("manifest", "code", "says"),
    [
        (MANIFESTS["relay"], 0, "Valid operations: 1"),
        ({"a": "{ nope }"}, 1, "a: Cannot query field 'nope'"),
        ({"0" * 64: QUERY}, 1, "does not match the document"),
        ({"sha256:" + "0" * 64: QUERY}, 1, "does not match the document"),
        (MANIFESTS["relay with a prefix"], 0, "Valid operations: 1"),
        ({digest_of(QUERY): QUERY, f"sha256:{digest_of(QUERY)}": OTHER}, 2, "different documents with the id sha256:"),
        (
            {
                "format": "apollo-persisted-query-manifest",
                "operations": [{"id": "a", "body": QUERY}, {"id": "a", "body": OTHER}],
            },
            2,
            "different documents with the id a",
        ),
        ({"a": 5}, 2, "neither a Relay nor an Apollo manifest"),
        ("nonsense", 2, "neither"),
    ],
)
def test_a_manifest_is_checked_against_the_schema(tmp_path, manifest, code, says):
    """`gateway operations check` names invalid operations."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest))
    ended = CliRunner().invoke(app, ["operations", "check", str(file)])
    assert ended.exit_code == code
    assert says in " ".join(ended.output.replace("│", " ").split())


def test_documents_are_parsed_once_and_evicted():
    """Equal texts are one document; the least recently used are evicted with their plans, by memory."""
    documents = Documents(build_schema().core, 20_000)
    first = documents.read(OTHER)
    documents.remember(b"body", SimpleNamespace(document=first, size=3_000))
    for number in range(5):
        documents.read(f"query Q{number} {{ __typename }}")
        assert documents.read(OTHER) is first
    assert 1 < len(documents) < 5
    assert documents.bytes_used <= 20_000
    assert documents.meant_by(b"body").size == 3_000
    first.grow(9_000)  # by a plan, say
    assert documents.sent(OTHER) is first
    first.grow(20_000)
    assert documents.sent(OTHER) is documents.known(first.digest) is documents.meant_by(b"body") is None
    assert (len(documents), documents.bytes_used) == (0, 0)
    documents.keep(first)
    assert len(documents) == 0  # too large by now
    documents.read("{ __typename " + "#" * 20_000 + "\n}")
    assert len(documents) == 0


def test_invalid_documents_are_not_cached():
    """Neither a document with a syntax error nor one that does not fit the schema."""
    documents = Documents(build_schema().core)
    for text in ("{ vehicles", "{ nope }"):
        assert documents.read(text).errors
    assert (len(documents), documents.bytes_used) == (0, 0)


async def test_the_explorer_loads_only_its_own_files(gateway):
    """Page and files come from this server, scripts only from its files, and the page has no token of its own."""
    page = await gateway.http.get("/graphql", headers={"Accept": "text/html"})
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "<script>" not in page.text
    assert "://" not in page.text
    assert "&quot;token&quot;:null" in page.text
    for name in ("plain.js", "plain.css", "credentials.js", "login", "errors"):
        file = await gateway.http.get(f"/explorer/{name}")
        assert (file.status_code, file.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert (await gateway.http.get("/explorer/..%2Fexplorer.py")).status_code == 404
    assert (await gateway.http.get("/explorer/page")).status_code == 404
