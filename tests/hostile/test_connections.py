"""Connections that are opened and left so, or drip: they keep nobody else out."""

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
from tests.hostile.attacked import INVENTED_BUSY_MAX, MEMORY_MAX, AttackedGateway, request

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
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedGateway]:
    """A gateway with room for few connections."""
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
    """So many connections from an address, on each of which the same was said."""
    with ExitStack() as stack:
        connections = []
        for _ in range(number):
            one = socket.create_connection(gateway.address, timeout=10, source_address=(host, 0))
            connections.append(stack.enter_context(one))
            for part in said:
                one.sendall(part)
        yield connections


def status_of(connection: socket.socket, said: bytes = LIVE) -> int | None:
    """The status of the next answer on a connection; None where it is closed."""
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


def test_thousands_of_idle_connections_keep_nobody_out(attacked):
    """With more connections open than there is room for, health is told and others are answered at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 6000), hard))
    try:
        with attacked.measured() as harm, connected(attacked, 5300, ATTACKER), connected(attacked, 1, OTHER) as (one,):
            assert status_of(one, ASK) == 200
            assert status_of(one) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert harm.failed == 0
    assert harm.busy <= INVENTED_BUSY_MAX
    assert harm.memory <= MEMORY_MAX


@pytest.mark.parametrize(
    "said", [(), (b"GET /heal",), (LIVE[:-2],), (HALF + b"\r\n", b"{"), (LIVE, b"\r\n"), (LIVE, HALF)],
    ids=["nothing", "line", "head", "body", "empty-line", "second"],
)  # fmt: skip
def test_what_does_not_ask_gives_way_to_what_has_asked(narrow, said):
    """Connections whose request does not arrive go first, also while they drip; one that is kept alive stays."""
    with connected(narrow, 1, OTHER) as (kept,):
        assert status_of(kept, ASK) == 200
        with connected(narrow, 3 * MAX, ATTACKER, *said) as flood:
            for one in flood[-ADDRESS_MAX:]:
                if said:
                    with suppress(ConnectionError):  # it has given way already
                        one.sendall(b"\r\n" if said[-1] == b"\r\n" else b"X")
            assert status_of(kept) == 200
            assert sum(are_open(flood)) <= ADDRESS_MAX
            with connected(narrow, 1, OTHER) as (new,):
                assert status_of(new, ASK) == 200


def test_an_address_has_its_share(narrow):
    """An address that asks on each of its connections closes its own, the longest idle first, and not another's."""
    with connected(narrow, 4, OTHER) as others:
        assert [status_of(one) for one in others] == [200] * 4
        with connected(narrow, ADDRESS_MAX, ATTACKER) as first:
            assert [status_of(one) for one in first] == [200] * ADDRESS_MAX
            with connected(narrow, 3, ATTACKER) as more:
                assert [status_of(one) for one in more] == [200] * 3
                assert are_open(first) == [False] * 3 + [True] * (ADDRESS_MAX - 3)
                assert all(are_open([*others, *more]))


def test_many_addresses_have_all_the_room_but_no_more(narrow):
    """Where several fill it, the longest idle goes, whoever's it is."""
    with connected(narrow, 12, ATTACKER) as first, connected(narrow, 12, OTHER) as second:
        assert [status_of(one) for one in [*first, *second]] == [200] * MAX
        with connected(narrow, 2, "127.0.0.3") as third:
            assert [status_of(one) for one in third] == [200] * 2
            assert are_open(first) == [False] * 2 + [True] * 10
            assert all(are_open(second))


def test_a_trusted_proxy_has_no_share_but_its_clients_have(narrow):
    """Its idle connections are nobody's; while they carry a client's request they count as that client's."""
    through = HALF + b"X-Forwarded-For: 203.0.113.1, %b, 10.1.2.3\r\n\r\n{"
    with connected(narrow, ADDRESS_MAX + 4, PROXY) as connections:
        assert {status_of(one, LIVE) for one in connections} == {200}
        assert all(are_open(connections))
        for one in connections:
            one.sendall(through % b"198.51.100.7")
        assert are_open(connections) == [False] * 4 + [True] * ADDRESS_MAX
        with connected(narrow, 1, PROXY) as (other,):
            assert status_of(other, ASK.replace(b"Host", b"X-Forwarded-For: 198.51.100.8\r\nHost", 1)) == 200
        with connected(narrow, 1, ATTACKER) as (direct,):
            said = LIVE.replace(b"Host", b"X-Forwarded-For: 10.0.0.1\r\nHost", 1)
            assert status_of(direct, said) == 200


def test_health_is_told_where_all_have_a_request_under_way(narrow):
    """No connection gives way then: others are refused, and health is told."""
    narrow.simulator.faults.rules = [Fault("latency", seconds=2)]
    try:
        with connected(narrow, 12, ATTACKER, ASK), connected(narrow, 12, OTHER, ASK):
            time.sleep(0.3)
            with connected(narrow, 3, OTHER) as (health, refused, silent):
                assert status_of(health) == 200
                assert status_of(refused, ASK) == 503
                assert [one.recv(1) for one in (health, refused)] == [b"", b""]
            with connected(narrow, 200, ATTACKER), connected(narrow, 1, OTHER) as (health,):
                assert status_of(health) == 200
            assert silent.fileno() == -1
        assert "connections closed" in narrow.gateway.output
    finally:
        narrow.simulator.faults.rules = []


def test_a_gateway_that_may_open_few_files_says_so_and_answers(tmp_path_factory):
    """Connections are kept within the limit of open files, and health and operations are answered at it."""
    with ExitStack() as stack:
        poor = attack(tmp_path_factory, stack, files_max=(64, 500))
        warning = r"limited to 84 instead .* allows 500 open files .* \(256 for the fleet API, 0 for Redis,"
        poor.gateway.wait_for_output(warning)
        with poor.measured() as harm, connected(poor, 700, ATTACKER), connected(poor, 1, OTHER) as (one,):
            assert status_of(one, ASK) == 200
            assert status_of(one) == 200
            assert poor.gateway.open_files() < 300
        assert harm.failed == 0
        assert harm.busy <= INVENTED_BUSY_MAX


def test_a_gateway_raises_its_limit_of_files(narrow):
    """What the hard limit allows is taken, as far as it is needed, and nothing is said."""
    assert MAX + 256 < resource.prlimit(narrow.pid, resource.RLIMIT_NOFILE)[0] < 1000
    assert "the system allows" not in narrow.gateway.output


def test_many_connections_are_accepted_in_a_turn():
    """Whoever connects behind many others waits for a fraction of as many turns of the event loop."""

    async def turns() -> int:
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

    assert uvloop.run(turns()) < 40
