"""Who may use Redis: users and passwords with any characters, over TLS, with client certificates."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
import structlog
from redis import Redis

from gateway.upstream.redis_store import SILENCE
from gateway.upstream.write_records import Record, RedisRecords
from tests.programs import require
from tests.redis_server import RedisServer
from tests.upstream.certificates import Certificate, certificate
from tests.upstream.test_announcements import Process, change
from tests.upstream.test_redis_restrictions import processes, read  # noqa: F401 - a fixture

USERS = [("gateway", "p@ss/word: 1%"), ("a:b@c/d#é", "?&=+ %40%2F\"'\\[]ü€"), ("x", "%25")]
# Those of docs/operating.md.
RULES = "~gateway:* resetchannels &gateway:* -@all +@read +@write +eval +publish +subscribe +ping -@dangerous"
BY = ["principal-1", "principal-2"]


class TLSRedis(RedisServer):
    """A Redis that requires a client certificate, and one user's password."""

    def __init__(self, folder, server: Certificate, client: Certificate, user: str, password: str) -> None:
        super().__init__(folder)
        hashed = f"#{hashlib.sha256(password.encode()).hexdigest()}"
        files = ["--tls-cert-file", server.file, "--tls-key-file", server.key, "--tls-ca-cert-file", client.file]
        self._options = (
            *("--port", "0", "--tls-port", str(self.port), *map(str, files), "--tls-auth-clients", "yes"),
            *("--user", "default", "off", "--user", user, "on", hashed, *RULES.split()),
        )


@pytest.fixture
def certificates(tmp_path) -> tuple[Certificate, Certificate]:
    """Those of the server and of a client."""
    require("openssl", "openssl")
    return certificate(tmp_path, "localhost"), certificate(tmp_path, "client")


@pytest.fixture
def secured(tmp_path, certificates) -> Iterator[Callable[[str, str], RedisServer]]:
    servers = []

    def started(user: str, password: str) -> RedisServer:
        servers.append(TLSRedis(tmp_path, *certificates, user, password))
        servers[-1].start()
        return servers[-1]

    yield started
    for server in servers:
        server.close()


@pytest.mark.parametrize(("user", "password"), USERS)
async def test_users_and_passwords_may_have_any_characters(processes, secured, certificates, user, password):  # noqa: F811
    """Percent-encoded in the URL, over TLS with a private authority and a client certificate: reads are shared."""
    server, client = certificates
    port = secured(user, password).port
    files = f"ssl_ca_certs={server.file}&ssl_certfile={client.file}&ssl_keyfile={client.key}"
    encoded = f"{quote(user, safe='')}:{quote(password, safe='')}"
    with structlog.testing.capture_logs() as logs:
        fleet, one, two = await processes(f"rediss://{encoded}@localhost:{port}/0?{files}")
        for by in BY:
            assert await read(one, by) == await read(two, by)
    assert [entry for entry in logs if entry["event"] == "redis unavailable"] == []
    assert fleet.simulator.requests.total == len(BY)


@pytest.mark.parametrize("wrong", ["password", "authority", "certificate"])
async def test_without_access_each_process_reads_for_itself(processes, secured, certificates, wrong):  # noqa: F811
    """A wrong password, an unknown authority or no client certificate: the log says so, and responses are right."""
    server, client = certificates
    port = secured("gateway", "right").port
    files = "" if wrong == "authority" else f"&ssl_ca_certs={server.file}"
    files += "" if wrong == "certificate" else f"&ssl_certfile={client.file}&ssl_keyfile={client.key}"
    password = "wrong" if wrong == "password" else "right"
    with structlog.testing.capture_logs() as logs:
        fleet, one, two = await processes(f"rediss://gateway:{password}@localhost:{port}/0?{files[1:]}")
        assert await read(one, BY[0]) == await read(two, BY[0])
    assert "redis unavailable" in [entry["event"] for entry in logs]
    assert fleet.simulator.requests.total == 2


async def test_the_documented_rules_are_enough_for_writes(redis):
    """Those of docs/operating.md: announcements, records, and checks of the connection."""
    with Redis(port=redis.port) as client:
        client.execute_command("ACL", "SETUSER", "gateway", "reset", "on", ">secret", *RULES.split())
    async with Process(f"redis://gateway:secret@127.0.0.1:{redis.port}/0") as one:
        await one.announcer.opened(change())
        await one.announcer.completed(change())
        await asyncio.sleep(2 * SILENCE)
        assert one.announcer._is_listening
        assert one.changes.latest > 0
        assert await RedisRecords(one.store).begin("n", Record("digest", "owner", 0.0)) is None
