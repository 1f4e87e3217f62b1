"""Which connection is closed for a new one, and for which address it counts."""

import asyncio

import pytest
import structlog
from pydantic import ValidationError

from gateway.server.connection_limits import (
    FILES_FREE_MIN,
    IDLE,
    SURPLUS_MAX,
    UNASKED,
    UNREAD,
    ClosedConnections,
    ConnectionLimits,
    group_of,
)
from gateway.settings import HttpSettings


class Connection:
    """A connection in a state, since a given time."""

    def __init__(self, address, idleness=None) -> None:
        self.address = address
        self.state = idleness
        self.is_closed = False

    def idleness(self):
        return self.state

    def evict(self):
        self.is_closed = True


def limited(number: int, **settings) -> ConnectionLimits:
    return ConnectionLimits(HttpSettings(connections_max=number, **settings), ClosedConnections())


def opened(limits: ConnectionLimits, *connections: Connection) -> list[bool]:
    return [limits.open(one, 3) for one in connections]


async def test_connections_without_a_request_are_closed_first():
    """Then kept-alive ones, then those that do not read, each the longest idle first; active ones never."""
    limits = limited(7, address_connections_max=7)
    there = [
        Connection("a", (UNREAD, 1)),
        Connection("b", (IDLE, 3)),
        Connection("c", (UNASKED, 5)),
        Connection("d", (IDLE, 2)),
        Connection("e"),
        Connection("f", (UNASKED, 4)),
        Connection("g", (UNREAD, 0)),
    ]
    assert all(opened(limits, *there))
    closed = []
    for number in range(6):
        assert limits.open(Connection(f"new{number}"), 3)
        closed += [one.address for one in there if one.is_closed and one.address not in closed]
    assert closed == ["f", "c", "d", "b", "g", "a"]
    assert not limits.open(Connection("z"), 3)
    assert not there[4].is_closed


async def test_a_connection_that_became_active_stays():
    """The order of closing is computed before; the state is checked again at closing."""
    limits = limited(40, address_connections_max=40)
    there = [Connection(str(number), (IDLE, number)) for number in range(40)]
    opened(limits, *there)
    assert limits.open(Connection("x"), 3)
    there[1].state = None
    assert limits.open(Connection("y"), 3)
    assert [one.address for one in there if one.is_closed] == ["0", "2"]


async def test_an_address_with_many_connections_loses_its_own_first():
    """Even though others are idle for longer; a trusted proxy does not count as one address."""
    limits = limited(40)
    few, many = [[Connection(name, (IDLE, since)) for since in range(20)] for name in ("", "many")]
    for number, one in enumerate(few):
        one.address = f"few{number}" if number else None
    opened(limits, *few, *many)
    opened(limits, *(Connection(f"new{number}", (IDLE, 99)) for number in range(10)))
    assert not any(one.is_closed for one in few)
    assert sum(one.is_closed for one in many) == 10


async def test_an_address_with_many_unread_responses_loses_its_own_first():
    """An unread response keeps a connection no longer than an active, reading client's."""
    limits = limited(40)
    few = [Connection(f"few{number}", (IDLE, number)) for number in range(20)]
    many = [Connection("many", (UNREAD, 50 + number)) for number in range(20)]
    opened(limits, *few, *many)
    opened(limits, *(Connection(f"new{number}", (IDLE, 99)) for number in range(10)))
    assert not any(one.is_closed for one in few)
    assert [one.is_closed for one in many] == [True] * 10 + [False] * 10


async def test_callers_whose_request_is_on_its_way_have_a_share():
    """A flood of new connections without requests does not close the one that arrived a moment ago."""
    limits = limited(80, address_connections_max=80)
    opened(limits, *(Connection(f"idle{number}", (IDLE, number)) for number in range(80)))
    flood = [Connection(f"flood{number}", (UNASKED, 100 + number)) for number in range(50)]
    opened(limits, *flood)
    left = sum(not one.is_closed for one in flood)
    assert 10 <= left <= 16
    assert not any(one.is_closed for one in flood[-left:])


async def test_connections_are_closed_when_descriptors_run_short():
    """Whatever uses the descriptors: the number of a new connection's shows it."""
    limits = ConnectionLimits(HttpSettings(), ClosedConnections(), files_max=100)
    there = Connection("a", (IDLE, 1))
    assert limits.open(there, 60)
    assert not there.is_closed
    assert limits.open(Connection("b"), 70)
    assert there.is_closed


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ([b"203.0.113.9"], "203.0.113.9"),
        ([b"203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ([b"spoofed, 198.51.100.1", b"203.0.113.9:4711 ,10.0.0.7"], "203.0.113.9"),
        ([b"[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        ([b"2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ([b"::ffff:203.0.113.9"], "203.0.113.9"),
        ([b"10.0.0.7, 10.0.0.8"], None),
        ([b"203.0.113.9, unknown"], None),
        ([b""], None),
        ([b"\xff\xfe"], None),
    ],
)
def test_the_client_is_the_last_untrusted_address(said, client):
    """Addresses before it are the client's own claim; an invalid address counts for no client."""
    assert limited(9, trusted_proxies="10.0.0.0/8").client_behind(said) == client


def test_an_ipv6_network_is_one_address():
    """A customer has a /64; an IPv4-mapped IPv6 address is the IPv4 address."""
    assert group_of("2001:db8::1") == group_of("2001:db8::ffff") != group_of("2001:db8:0:1::1")
    assert group_of("::ffff:192.0.2.1") == group_of("192.0.2.1") == "192.0.2.1"
    assert group_of("fe80::1%eth0") == group_of("fe80::2%eth0")


def test_a_proxy_that_is_no_address_fails_at_start():
    """A host name would never match."""
    with pytest.raises(ValidationError):
        HttpSettings(trusted_proxies="10.0.0.1, proxy.example.com")


@pytest.mark.parametrize(
    ("settings", "of_process", "in_total", "of_address"),
    [
        ({"connections_max": 20}, None, 20, 16),
        ({"connections_max": 20}, 10, 10, 8),
        ({"connections_max": 20}, 30, 20, 16),
        ({"connections_max": 20, "address_connections_max": 5}, None, 20, 5),
        ({"connections_max": 20, "address_connections_max": 50}, None, 20, 20),
        ({"connections_max": 1}, None, 1, 1),
    ],
)
async def test_the_limits_of_a_process_and_of_an_address(settings, of_process, in_total, of_address):
    """The smaller limit counts; an address has four fifths of all by default, and at least one."""

    def most(address) -> int:
        limits = ConnectionLimits(HttpSettings(**settings), ClosedConnections(), of_process)
        return sum(opened(limits, *(Connection(address) for _ in range(40))))

    assert (most(None), most("a")) == (in_total, of_address)


async def test_an_address_at_its_limit_loses_one_of_its_own():
    """If one of them is idle; else the new one is rejected, although there is room for others."""
    limits = limited(20, address_connections_max=2)
    other, idle, active = Connection("b", (IDLE, 0)), Connection("a", (IDLE, 1)), Connection("a")
    assert all(opened(limits, other, idle, active, Connection("a")))
    assert (idle.is_closed, other.is_closed) == (True, False)
    assert opened(limits, Connection("a"), Connection("b")) == [False, True]


async def test_rejected_connections_are_open_for_a_moment():
    """A bounded number of them; the oldest is closed for the next one."""
    limits = limited(1)
    admitted = Connection("a")
    rejected = [Connection("b") for _ in range(SURPLUS_MAX + 1)]
    assert opened(limits, admitted, *rejected) == [True] + [False] * len(rejected)
    assert len(limits) == 1 + SURPLUS_MAX
    assert [one.is_closed for one in rejected] == [True] + [False] * SURPLUS_MAX
    for one in (*rejected, admitted):
        limits.lost(one)
    assert len(limits) == 0
    assert opened(limits, Connection("a")) == [True]


async def test_a_lost_connection_makes_room():
    """For its address, too; it is never closed for another one."""
    limits = limited(4, address_connections_max=2)
    gone, there = Connection("a", (IDLE, 1)), Connection("a", (IDLE, 2))
    opened(limits, gone, there)
    limits.lost(gone)
    limits.lost(gone)
    assert opened(limits, Connection("a")) == [True]
    assert not there.is_closed
    assert opened(limits, Connection("a")) == [True]
    assert there.is_closed
    assert not gone.is_closed


async def test_descriptors_are_short_from_a_number_on():
    """Exactly so many are left then; without a limit of files they never are."""
    for file, files_max, is_closed in (
        (99 - FILES_FREE_MIN, 100, False),
        (100 - FILES_FREE_MIN, 100, True),
        (10**6, None, False),
    ):
        limits = ConnectionLimits(HttpSettings(), ClosedConnections(), files_max=files_max)
        there = Connection("a", (IDLE, 1))
        limits.open(there, 3)
        assert limits.open(Connection("b"), file)
        assert there.is_closed is is_closed


async def test_a_proxy_s_connection_is_moved_to_its_client():
    """Unless the client has too many, or the connection is not admitted; then it counts as before."""
    limits = limited(20, address_connections_max=2)
    shared, other = Connection(None), Connection(None)
    opened(limits, shared, other, Connection("a"), Connection("b"), Connection("b"))
    assert limits.move(shared, None)
    assert limits.move(shared, "a")
    assert limits.move(shared, "a")
    assert not limits.move(other, "a")
    assert not limits.move(Connection(None), "c")
    assert (shared.address, other.address) == ("a", None)
    assert not limits.move(shared, "b")
    assert limits.move(shared, "c")
    assert limits.move(other, "a")
    assert limits.move(shared, None)
    assert shared.address is None
    assert opened(limits, Connection("c"), Connection("c")) == [True, True]


def test_a_host_counts_as_its_address_unless_it_is_a_trusted_proxy():
    """Without trusted proxies every host counts; a unix socket is trusted by name."""
    limits, trusting = limited(9), limited(9, trusted_proxies="10.0.0.0/8, unix")
    hosts = (None, "10.0.0.7", "192.0.2.1")
    assert [limits.address_of(host) for host in hosts] == [None, "10.0.0.7", "192.0.2.1"]
    assert [trusting.address_of(host) for host in hosts] == [None, None, "192.0.2.1"]
    assert (limits.trusts_unix, trusting.trusts_unix) == (False, True)


async def test_closed_connections_are_counted_and_logged_together():
    """By reason, once a second."""
    closed, loop, timers = ClosedConnections(), asyncio.get_running_loop(), []
    limits = ConnectionLimits(HttpSettings(connections_max=1), closed)
    loop.call_later = lambda seconds, callback: timers.append((seconds, callback))
    opened(limits, Connection("a", (IDLE, 1)), Connection("a", (IDLE, 1)), Connection("b"), Connection("c"))
    closed.count("other", 3)
    assert closed.total == {"to make room": 2, "no room": 1, "other": 3}
    assert [seconds for seconds, _ in timers] == [1]
    with structlog.testing.capture_logs() as logged:
        timers.pop()[1]()
    assert {entry["reason"]: entry["number"] for entry in logged} == closed.total
    closed.count("other", 4)
    with structlog.testing.capture_logs() as logged:
        timers.pop()[1]()
    assert [entry["number"] for entry in logged] == [4]
