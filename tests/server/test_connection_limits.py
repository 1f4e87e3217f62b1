"""Which connection is closed for a new one, and for which address it counts."""

import pytest
from pydantic import ValidationError

from gateway.server.connection_limits import IDLE, UNASKED, UNREAD, ClosedConnections, ConnectionLimits, group_of
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
