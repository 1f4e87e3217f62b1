"""A Redis that supports only some commands: every read is right, none waits for a lease, and the log names the command.

Redis is real, with restricted users, as a Cluster and as a replica; a proxy stands for those with a protocol of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
import structlog
from redis import Redis

from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from gateway.upstream.client import FleetClient
from gateway.upstream.requests import RequestScope, RequestStats
from gateway.upstream.stack import build_client
from tests.redis_server import RedisServer
from tests.upstream.fakes import scope
from tests.upstream.tcp_server import TCPServer

# Far above the time-out of the reads: a read that waits for a lease fails.
LEASE, TIMEOUT = 60, 10
BY = [f"principal-{number}" for number in range(4)]


class Proxy(TCPServer):
    """A proxy for a server, which refuses some commands.

    It `rejects` them with an error, `closes` the connection, or does that after the command was executed, so that it
    `loses` the response.
    """

    def __init__(self, port: int, commands: tuple[bytes, ...], mode: str) -> None:
        super().__init__()
        self._port, self._commands, self._mode = port, commands, mode

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._pass_on(from_server, writer))
        try:
            while True:
                name, command = await self._command(reader)
                if name not in self._commands:
                    to_server.write(command)
                elif self._mode == "rejects":
                    writer.write(b"-ERR unknown command\r\n")
                else:
                    if self._mode == "loses":
                        back.cancel()
                        await asyncio.wait((back,))
                        to_server.write(command)
                        await from_server.read(1)
                    return
        finally:
            back.cancel()
            to_server.close()

    async def _command(self, reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        """A command's name, and the whole command as it was sent."""
        command, arguments = await reader.readuntil(), []
        for _ in range(int(command[1:])):
            length = await reader.readuntil()
            arguments.append(await reader.readexactly(int(length[1:]) + 2))
            command += length + arguments[-1]
        return arguments[0].strip().upper(), command

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)


class Fleet:
    """The fleet API; while `gate` is clear, it does not respond."""

    def __init__(self) -> None:
        self.simulator = Simulator(
            [FleetPlan("T7K2M", 20, clients=(Client("T7K2M#one", token="one"),))], Behaviours(rate_limit_requests=100)
        )
        for principal in BY:
            self.simulator.accept(principal, "T7K2M#one")
        self.gate = asyncio.Event()
        self.gate.set()

    async def app(self, scope, receive, send) -> None:
        await self.gate.wait()
        await self.simulator.app(scope, receive, send)


@pytest.fixture
async def processes() -> AsyncIterator[Callable]:
    """Starts two stacks on a Redis URL, as two processes have them; returns their clients and the fleet API."""
    async with AsyncExitStack() as stack:

        async def started(url: str) -> tuple[Fleet, FleetClient, FleetClient]:
            fleet = Fleet()
            settings = Settings(
                upstream={"url": "http://fleet.test"},
                redis={"url": url, "timeout": 2.0, "cooldown": 0.2},
                coalescing={"lease": LEASE},
            )
            clients = [
                await stack.enter_async_context(build_client(settings, httpx.ASGITransport(fleet.app)))
                for _ in range(2)
            ]
            return fleet, *clients

        yield started


async def read(client: FleetClient, by: str) -> list[str]:
    """The ids on the first page."""
    async with asyncio.timeout(TIMEOUT):
        page = await client.vehicles(RequestScope(scope(by).caller, RequestStats()))
    return [item.vehicle_id for item in page.items]


async def reads_are_right(fleet: Fleet, one: FleetClient, two: FleetClient, server: RedisServer) -> None:
    """Reads in turn and at the same time, for several principals; none leaves a lease."""
    expected = await read(one, BY[0])
    assert len(expected) > 1
    for by in BY[:2]:
        for client in (one, two):
            assert await read(client, by) == expected
    fleet.gate.clear()
    reads = [asyncio.create_task(read(client, by)) for by in BY[2:] for client in (one, two)]
    await asyncio.sleep(0.1)
    fleet.gate.set()
    assert await asyncio.gather(*reads) == [expected] * len(reads)
    await asyncio.sleep(0.01)
    with Redis(port=server.port) as client:
        assert list(client.scan_iter("*lease:*")) == []


@contextlib.contextmanager
def refused(*commands: str, kind: str | None = None) -> Iterator[None]:
    """The log names these commands as failed within the block, or how one of them failed; otherwise none.

    After the cooldown, another command may be the first to be refused.
    """
    with structlog.testing.capture_logs() as logs:
        yield
    failed = [entry for entry in logs if entry["event"] == "redis unavailable"]
    if kind is not None:
        assert kind in {entry["kind"] for entry in failed}
    elif commands:
        assert {entry["command"] for entry in failed} >= set(commands)
    else:
        assert failed == []


@pytest.fixture
def limited(redis) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a user with ACL rules."""
    with Redis(port=redis.port) as client:

        def user(rules: str) -> str:
            client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "&*", *rules.split())
            return f"redis://limited:secret@127.0.0.1:{redis.port}/0"

        yield user
        client.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize(
    ("rules", "commands"),
    [
        ("+@all -eval", {"EVAL"}),
        ("+@all -@scripting -multi -exec -subscribe", {"EVAL"}),
        ("+mget +set", {"EVAL", "DEL"}),
        ("+mget +set +eval +get", {"DEL"}),
    ],
)
async def test_processes_share_reads_without_other_commands(processes, limited, redis, rules, commands):
    """MGET and SET suffice: the other process makes no call."""
    fleet, one, two = await processes(limited(rules))
    with refused(*commands):
        await reads_are_right(fleet, one, two, redis)
    assert fleet.simulator.requests.total == len(BY)


@pytest.mark.parametrize(
    ("rules", "commands"),
    [
        ("+@all -mget", {"MGET"}),
        ("+@all -set", {"SET"}),
        ("+@read", {"SET", "EVAL"}),
        ("+@write", {"MGET", "EVAL"}),
        ("+eval +get +set", {"MGET"}),
        ("-@all", {"MGET", "EVAL"}),
        ("-@all +set", {"MGET", "EVAL"}),
        ("+@all resetkeys ~gateway:4:*:lease:*", {"MGET", "EVAL"}),
        ("+@all resetkeys %R~* %W~*:lease:*", {"SET", "EVAL"}),
    ],
)
async def test_each_process_reads_without_mget_or_set(processes, limited, redis, rules, commands):
    """Without one of them each process calls for itself, and waits for no other."""
    fleet, one, two = await processes(limited(rules))
    with refused(*commands):
        await reads_are_right(fleet, one, two, redis)


@pytest.mark.parametrize(("rules", "keys"), [("+eval +get +set", 1), ("+eval +set", 0), ("+eval +get", 0)])
async def test_every_rate_limit_expires(processes, limited, redis, rules, keys):
    """A user without one of the commands leaves no key behind that would stay for ever."""
    _, one, _ = await processes(limited(f"+mget {rules}"))
    await read(one, BY[0])
    with Redis(port=redis.port) as client:
        expiries = [client.pttl(key) for key in client.scan_iter("*:rate:*")]
    assert len(expiries) == keys
    assert all(0 < expiry <= 3_600_000 for expiry in expiries)


@pytest.fixture
def server(tmp_path) -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis with options."""
    servers = []

    def started(*options: str) -> RedisServer:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(RedisServer(folder, *options))
        servers[-1].start()
        return servers[-1]

    yield started
    for each in servers:
        each.close()


async def test_a_cluster_node_with_all_slots_is_shared(processes, server):
    """Commands with several keys stay within the slot of a principal."""
    node = server("--cluster-enabled", "yes")
    with Redis(port=node.port) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    fleet, one, two = await processes(node.url)
    with refused():
        await reads_are_right(fleet, one, two, node)
    assert fleet.simulator.requests.total == len(BY)


async def test_slots_of_another_cluster_node_are_not_waited_for(processes, server):
    """The principals of this node's slots are shared, the others read for themselves."""
    nodes = [server("--cluster-enabled", "yes") for _ in range(2)]
    with Redis(port=nodes[0].port) as client, Redis(port=nodes[1].port) as other:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        other.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
        await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    fleet, one, two = await processes(nodes[0].url)
    with refused(kind="MovedError"):
        await reads_are_right(fleet, one, two, nodes[0])


async def test_slots_without_a_node_are_not_waited_for(processes, server):
    """A Cluster that is down for some slots is right for all principals."""
    node = server("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    with Redis(port=node.port) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    fleet, one, two = await processes(node.url)
    with refused(kind="ClusterDownError"):
        await reads_are_right(fleet, one, two, node)


async def test_a_replica_is_not_waited_for(processes, server, redis):
    """A read-only replica grants no lease."""
    replica = server("--replicaof", "127.0.0.1", str(redis.port))
    fleet, one, two = await processes(replica.url)
    with refused("SET", "EVAL"):
        await reads_are_right(fleet, one, two, replica)


async def test_a_full_redis_is_not_waited_for(processes, server):
    """Redis refuses to store entries when it is full."""
    full = server("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    fleet, one, two = await processes(full.url)
    with refused("SET", "EVAL"):
        await reads_are_right(fleet, one, two, full)


@pytest.mark.parametrize("mode", ["rejects", "closes", "loses"])
@pytest.mark.parametrize(
    ("commands", "calls"), [((b"EVAL",), 4), ((b"EVAL", b"DEL"), 4), ((b"EVAL", b"SET"), None), ((b"MGET",), None)]
)
async def test_a_proxy_without_some_commands_is_not_waited_for(processes, redis, commands, calls, mode):
    """Proxies answer unknown commands with an error, or close the connection; a response may also be lost."""
    async with Proxy(redis.port, commands, mode).listening() as url:
        fleet, one, two = await processes(url.replace("http://localhost", "redis://127.0.0.1"))
        with refused(*(command.decode() for command in commands)):
            await reads_are_right(fleet, one, two, redis)
        assert calls in (None, fleet.simulator.requests.total)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a Redis is as it should be."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.02)
