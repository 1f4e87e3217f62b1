"""Compressed responses over real sockets."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
from importlib import import_module

import pytest

from gateway.simulator import Fault
from gateway.web.compression import ZSTD
from tests.gateways import TOKENS
from tests.journeys.test_http_caching import ALICE, DEPENDS, KIND, received, request, varies
from tests.journeys.test_queries import ALL_OF_A_VEHICLE
from tests.programs import require
from tests.served_gateway import KeepAliveConnection
from tests.waiting import waits_until

PAGE = json.dumps({"query": "{ vehicles(first: 50) { edges { cursor node { id vehicleId status } } } }"}).encode()
LARGE = json.dumps({"query": f"{{ vehicles(first: 250) {{ nodes {{ {ALL_OF_A_VEHICLE} }} }} }}"}).encode()
SMALL = b'{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}'
MANY_ERRORS = json.dumps({"query": f"{{ {' '.join(f'unknown{number}' for number in range(20))} }}"}).encode()
PARTIAL = b'{"query": "{ vehicles(first: 50) { nodes { id vehicleId } } vehicle(id: \\"ZZZZZ\\") { vehicleId } }"}'
zstd = import_module(ZSTD)
BOTH = {"compression": "zstd,gzip"}
DECODED = {"zstd": zstd.decompress, "gzip": gzip.decompress, None: bytes}
PAST_LIMIT = b'{"query": "{ a }' + b" " * 2**20 + b'"}'


def answer_to(one, first: str, *fields: str, body: bytes = b"") -> tuple[int, dict[str, list[str]], bytes, str | None]:
    """Status, header fields, decoded body and coding of a response, whose length is checked."""
    status, found, sent = received(one.say(request(first, *fields, body=body)))
    assert found["content-length"] == [str(len(sent))]
    (coding,) = found.get("content-encoding", [None])
    return status, found, DECODED[coding](sent), coding


def posted(one, body: bytes, *fields: str):
    return answer_to(one, "POST /graphql", ALICE, KIND, *fields, body=body)


@pytest.mark.parametrize("cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("statuses", ["september2026", "draft"])
def test_a_response_is_the_same_in_every_coding(server, cache, statuses):
    """With data, with errors or with both; repeated, in any order of codings, with the statuses of either specification."""
    one = server(cache={"enabled": cache}, http={**BOTH, "statuses": statuses})
    for body in (PAGE, MANY_ERRORS):
        expected = posted(one, body)
        assert len(expected[2]) > 1024
        for accept, coding in [
            ("gzip", "gzip"), ("zstd", "zstd"), ("gzip, deflate, br, zstd", "zstd"), ("br", None), ("gzip;q=0", None),
            ("*", "zstd"), ("", None), ("gzip", "gzip"), ("zstd", "zstd"), ("identity", None), ("x-gzip", "gzip"),
            ("deflate", None), ("zstd;q=0.1, gzip;q=0.2", "gzip"), ('nonsense, ;;q=,"', None),
        ]:  # fmt: skip
            status, fields, found, used = posted(one, body, f"Accept-Encoding: {accept}")
            assert (status, json.loads(found), used) == (expected[0], json.loads(expected[2]), coding), accept
            assert varies(fields) == sorted(DEPENDS)
            assert fields["content-type"] == expected[1]["content-type"]
    one.stop()


def test_a_repeated_field_is_one_list(server):
    """As RFC 9110 requires."""
    one = server(http=BOTH)
    assert posted(one, PAGE, "Accept-Encoding: gzip;q=0.5", "Accept-Encoding: zstd;q=0.1")[3] == "gzip"


def test_statuses_stay(server):
    """Data with errors is 294, and compressed as well."""
    one = server(retry={"attempts": 1}, cache={"enabled": False})
    one.simulator.faults.rules = [Fault("status", path="/vehicles/ZZZZZ$", status=500)]
    plain, compressed = posted(one, PARTIAL), posted(one, PARTIAL, "Accept-Encoding: gzip")
    assert (plain[0], compressed[0], plain[3], compressed[3]) == (294, 294, None, "gzip")
    assert json.loads(compressed[2])["data"] == json.loads(plain[2])["data"]


def test_small_responses_are_not_compressed(server):
    """Below the setting; nor is the response to a request that is too LARGE, which needs no GraphQL."""
    one, all_sizes = server(), server(http={"compression_bytes_min": 1})
    for body in (SMALL, PAST_LIMIT):
        assert posted(one, body, "Accept-Encoding: gzip")[3] is None
        assert posted(all_sizes, body, "Accept-Encoding: gzip")[3] == "gzip"
        assert posted(one, body, "Accept-Encoding: gzip, identity;q=0")[3] == "gzip"


@pytest.mark.parametrize(("codings", "found"), [("", None), ("gzip", "gzip"), ("gzip, zstd", "gzip"), ("ZSTD", "zstd")])
def test_the_codings_are_a_setting(server, codings, found):
    """The server's order decides if the client accepts several alike; without codings nothing is compressed."""
    one = server(http={"compression": codings})
    for _ in range(3):
        assert posted(one, PAGE, "Accept-Encoding: zstd, gzip")[3] == found


def test_gzip_is_the_default(server):
    """Some clients claim to accept zstd and can't decode it."""
    one = server()
    assert posted(one, PAGE, "Accept-Encoding: gzip, deflate, br, zstd")[3] == "gzip"
    assert posted(one, PAGE, "Accept-Encoding: zstd")[3] is None


def test_the_explorer_is_compressed(server):
    """The page and its files, for GET and HEAD alike; caches keep the codings of the files apart."""
    one = server(http=BOTH)
    for path in ("/graphql", "/explorer/plain.js"):
        _, _, plain, _ = answer_to(one, f"GET {path}", "Accept: text/html")
        for accept in ("gzip", "zstd", "gzip"):
            fields = ("Accept: text/html", f"Accept-Encoding: {accept}")
            status, got, body, coding = answer_to(one, f"GET {path}", *fields)
            assert (status, without_nonce(body), coding) == (200, without_nonce(plain), accept)
            if path != "/graphql":
                assert got["vary"] == ["Accept-Encoding"]
                status, head, none = received(one.say(request(f"HEAD {path}", *fields)))
                assert (status, none) == (200, b"")
                assert {**head, "x-request-id": 0, "date": 0} == {**got, "x-request-id": 0, "date": 0}


def without_nonce(page: bytes) -> bytes:
    """GraphiQL's page without what differs each time."""
    return re.sub(rb'nonce="[^"]+"', b"", page)


def test_curl_decodes_what_it_requests(server):
    """`curl --compressed` accepts what its libraries decode."""
    one = server(http=BOTH)
    head = ["-H", ALICE, "-H", KIND, "--data-binary", PAGE.decode(), f"{one.url}/graphql"]
    curl = [require("curl", "curl"), "-sS", "--noproxy", "*", "-w", "\n%{size_download}"]
    plain, compressed = (
        subprocess.run([*curl, *options, *head], capture_output=True, check=True).stdout.rsplit(b"\n", 1)
        for options in ([], ["--compressed"])
    )
    assert compressed[0] == plain[0]
    assert int(compressed[1]) < int(plain[1]) / 2


def test_a_connection_stays_in_order(server):
    """Pipelined requests with different codings get their own responses, in order; so do those after a large one."""
    one = server(http=BOTH)
    accepts = [None, "zstd", "gzip", None, "gzip"] * 2
    bodies = [LARGE, LARGE, LARGE, PAGE, PAGE] * 2
    expected = {body: json.loads(posted(one, body)[2]) for body in (LARGE, PAGE)}
    assert len(posted(one, LARGE)[2]) > 2**19
    connection = KeepAliveConnection(one)
    connection.connection.sendall(
        b"".join(
            request("POST /graphql", ALICE, KIND, *(() if accept is None else (f"Accept-Encoding: {accept}",)), body=body).replace(b"Connection: close\r\n", b"")
            for accept, body in zip(accepts, bodies, strict=True)
        )
    )  # fmt: skip
    for accept, body in zip(accepts, bodies, strict=True):
        assert connection.file.readline().split()[1] == b"200"
        fields = dict(line.lower().strip().split(b": ", 1) for line in iter(connection.file.readline, b"\r\n"))
        sent = connection.file.read(int(fields[b"content-length"]))
        coding = fields.get(b"content-encoding", b"").decode() or None
        assert coding == accept
        assert json.loads(DECODED[coding](sent)) == expected[body]
    connection.close()


def test_a_client_that_leaves_holds_nothing(server):
    """Its slot is free, whenever it left, and others get their responses."""
    one = server(cache={"enabled": False})
    for _ in range(20):
        with socket.create_connection(one.address, timeout=10) as leaving:
            leaving.sendall(request("POST /graphql", ALICE, KIND, "Accept-Encoding: gzip", body=LARGE))
    assert waits_until(lambda: one.load()["operations"] == 0)
    assert posted(one, LARGE, "Accept-Encoding: gzip")[::3] == (200, "gzip")


def test_principals_get_their_own_bodies(server):
    """The same request of another principal, in the same coding, has that principal's data."""
    one = server()
    eve = f"Authorization: Bearer {TOKENS['eve']}"
    for _ in range(3):
        alices = posted(one, PAGE, "Accept-Encoding: gzip")[2]
        eves = answer_to(one, "POST /graphql", eve, KIND, "Accept-Encoding: gzip", body=PAGE)[2]
        ids = [
            {edge["node"]["id"] for edge in json.loads(body)["data"]["vehicles"]["edges"]} for body in (alices, eves)
        ]
        assert len(ids[0]) == len(ids[1]) == 50
        assert not ids[0] & ids[1]
