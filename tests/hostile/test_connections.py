"""Idle and slow connections keep no other client out."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import uvloop

from gateway.server.config import ServerConfig
from gateway.server.processes import Server
from gateway.settings import Settings
from gateway.simulator import Fault
from tests.gateways import serving
from tests.hostile.attacked import INVALID_TOKEN_CPU_MAX, MEMORY_MAX, AttackedGateway, request

LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
ASK = request(b'{"query": "{ vehicles(first: 1) { nodes { vehicleId } } }"}', "alice", Connection="keep-alive")
HALF = b"POST /graphql HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
ATTACKER, OTHER, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.9"
MAX, ADDRESS_MAX = 24, 16


def attack(tmp_path_factory: pytest.TempPathFactory, stack: ExitStack, **settings) -> AttackedGateway:
    one = AttackedGateway(
        tmp_path_factory.mktemp("attacked"), lambda app: stack.enter_context(serving(app)), **settings
    )
    stack.callback(one.stop)
    return one


@pytest.fixture(scope="module")
def small_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedGateway]:
    """A gateway with a limit of few connections."""
    with ExitStack() as stack:
        yield attack(
            tmp_path_factory,
            stack,
            files_max=(128, 20_000),
            http_connections_max=str(MAX),
            http_address_connections_max=str(ADDRESS_MAX),
            http_trusted_proxies=f"{PROXY}, 10.0.0.0/8",
            cache_enabled="false",
        )


@contextmanager
def connected(gateway: AttackedGateway, number: int, host: str, *said: bytes) -> Iterator[list[socket.socket]]:
    """Connections from one address, on each of which the same bytes were sent."""
    with ExitStack() as stack:
        connections = []
        for _ in range(number):
            one = socket.create_connection(gateway.address, timeout=10, source_address=(host, 0))
            connections.append(stack.enter_context(one))
            for part in said:
                one.sendall(part)
        yield connections


def status_of(connection: socket.socket, said: bytes = LIVE) -> int | None:
    """The status of the next response on a connection; None where it is closed."""
    try:
        connection.sendall(said)
        answer = b""
        while not (length := LENGTH.search(answer)) or len(answer.partition(b"\r\n\r\n")[2]) < int(length[1]):
            more = connection.recv(65536)
            if not more:
                return None
            answer += more
    except ConnectionError:
        return None
    return int(answer.split()[1])


def are_open(connections: list[socket.socket]) -> list[bool]:
    """Which of the connections the gateway has not closed, a moment from now."""
    time.sleep(0.1)
    states = []
    for one in connections:
        one.setblocking(False)
        try:
            while one.recv(65536):
                pass
            states.append(False)
        except BlockingIOError:
            states.append(True)
        except ConnectionError:
            states.append(False)
        one.settimeout(10)
    return states


def test_thousands_of_idle_connections_keep_no_client_out(attacked):
    """With more open connections than the limit, health checks and other clients get responses at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 6000), hard))
    try:
        with attacked.measured() as harm, connected(attacked, 5300, ATTACKER), connected(attacked, 1, OTHER) as (one,):
            assert status_of(one, ASK) == 200
            assert status_of(one) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert harm.failed == 0
    assert harm.cpu <= INVALID_TOKEN_CPU_MAX
    assert harm.memory <= MEMORY_MAX


@pytest.mark.parametrize(
    "said", [(), (b"GET /heal",), (LIVE[:-2],), (HALF + b"\r\n", b"{"), (LIVE, b"\r\n"), (LIVE, HALF)],
    ids=["nothing", "line", "head", "body", "empty-line", "second"],
)  # fmt: skip
def test_connections_without_a_request_are_closed_first(small_gateway, said):
    """Connections without a complete request are closed first, slow ones too; a kept-alive one stays."""
    with connected(small_gateway, 1, OTHER) as (kept_alive,):
        assert status_of(kept_alive, ASK) == 200
        with connected(small_gateway, 3 * MAX, ATTACKER, *said) as flood:
            for one in flood[-ADDRESS_MAX:]:
                if said:
                    with suppress(ConnectionError):  # it is closed already
                        one.sendall(b"\r\n" if said[-1] == b"\r\n" else b"X")
            assert status_of(kept_alive) == 200
            assert sum(are_open(flood)) <= ADDRESS_MAX
            with connected(small_gateway, 1, OTHER) as (new,):
                assert status_of(new, ASK) == 200


def test_an_address_has_its_share(small_gateway):
    """An address with requests on all its connections closes its own, the longest idle first, and not another's."""
    with connected(small_gateway, 4, OTHER) as others:
        assert [status_of(one) for one in others] == [200] * 4
        with connected(small_gateway, ADDRESS_MAX, ATTACKER) as first:
            assert [status_of(one) for one in first] == [200] * ADDRESS_MAX
            with connected(small_gateway, 3, ATTACKER) as more:
                assert [status_of(one) for one in more] == [200] * 3
                assert are_open(first) == [False] * 3 + [True] * (ADDRESS_MAX - 3)
                assert all(are_open([*others, *more]))


def test_many_addresses_share_all_connections(small_gateway):
    """Where several addresses reach the limit, the connection that was idle for longest is closed."""
    with connected(small_gateway, 12, ATTACKER) as first, connected(small_gateway, 12, OTHER) as second:
        assert [status_of(one) for one in [*first, *second]] == [200] * MAX
        with connected(small_gateway, 2, "127.0.0.3") as third:
            assert [status_of(one) for one in third] == [200] * 2
            assert are_open(first) == [False] * 2 + [True] * 10
            assert all(are_open(second))


def test_a_trusted_proxy_has_no_share_but_its_clients_have(small_gateway):
    """Its idle connections count for no address; while one carries a request it counts as that client's."""
    through = HALF + b"X-Forwarded-For: 203.0.113.1, %b, 10.1.2.3\r\n\r\n{"
    with connected(small_gateway, ADDRESS_MAX + 4, PROXY) as connections:
        assert {status_of(one, LIVE) for one in connections} == {200}
        assert all(are_open(connections))
        for one in connections:
            one.sendall(through % b"198.51.100.7")
        assert are_open(connections) == [False] * 4 + [True] * ADDRESS_MAX
        with connected(small_gateway, 1, PROXY) as (other,):
            assert status_of(other, ASK.replace(b"Host", b"X-Forwarded-For: 198.51.100.8\r\nHost", 1)) == 200
        with connected(small_gateway, 1, ATTACKER) as (direct,):
            said = LIVE.replace(b"Host", b"X-Forwarded-For: 10.0.0.1\r\nHost", 1)
            assert status_of(direct, said) == 200


def test_health_responds_while_all_connections_have_a_request(small_gateway):
    """No connection can be closed then: others are rejected, and health checks get a response."""
    small_gateway.simulator.faults.rules = [Fault("latency", seconds=2)]
    try:
        with connected(small_gateway, 12, ATTACKER, ASK), connected(small_gateway, 12, OTHER, ASK):
            time.sleep(0.3)
            with connected(small_gateway, 3, OTHER) as (health, rejected, silent):
                assert status_of(health) == 200
                assert status_of(rejected, ASK) == 503
                assert [one.recv(1) for one in (health, rejected)] == [b"", b""]
            with connected(small_gateway, 200, ATTACKER), connected(small_gateway, 1, OTHER) as (health,):
                assert status_of(health) == 200
            assert silent.fileno() == -1
        assert "connections closed" in small_gateway.gateway.output
    finally:
        small_gateway.simulator.faults.rules = []


def test_a_low_limit_of_open_files_is_logged(tmp_path_factory):
    """Connections stay within the limit of open files; health checks and operations still work at it."""
    with ExitStack() as stack:
        poor = attack(tmp_path_factory, stack, files_max=(64, 500))
        warning = r"limited to 84 instead .* allows 500 open files .* \(256 for the fleet API, 0 for Redis,"
        poor.gateway.wait_for_output(warning)
        with poor.measured() as harm, connected(poor, 700, ATTACKER), connected(poor, 1, OTHER) as (one,):
            assert status_of(one, ASK) == 200
            assert status_of(one) == 200
            assert poor.gateway.open_files() < 300
        assert harm.failed == 0
        assert harm.cpu <= INVALID_TOKEN_CPU_MAX


def test_a_gateway_raises_its_limit_of_files(small_gateway):
    """The soft limit is raised within the hard limit as far as needed, and nothing is logged."""
    assert MAX + 256 < resource.prlimit(small_gateway.pid, resource.RLIMIT_NOFILE)[0] < 1000
    assert "the system allows" not in small_gateway.gateway.output


def test_many_connections_are_accepted_per_iteration():
    """A client behind many others waits for a fraction of that many event-loop iterations."""

    async def iterations() -> int:
        listens = asyncio.Event()
        server = Server(ServerConfig(None, Settings(port=0), lifespan="off"), lambda url: listens.set())
        serving_it = asyncio.create_task(server.serve())
        await listens.wait()
        address = server.servers[0].sockets[0].getsockname()
        connections = [socket.create_connection(address) for _ in range(160)]
        number = 0
        while len(server.server_state.connections) < len(connections):
            await asyncio.sleep(0)
            number += 1
        for one in connections:
            one.close()
        server.should_exit = True
        await serving_it
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        return number

    assert uvloop.run(iterations()) < 40
