"""How many connections are open, and which of them is closed for the sake of a new one.

An idle connection costs its owner nothing, so a limit alone would let one client keep all others out. Where there is no
room for a new connection, one is closed that has no request under way:

1. one that has not sent a whole request: it was opened and nothing followed, or its request arrives bit by bit,
2. one of an address with many connections that is kept alive between two requests, or whose caller does not read,
3. one of any address that is kept alive between two requests,
4. one whose caller does not read the answer;

of each kind the one that has been so for longest. A share of the connections is left to the first kind: a new caller
needs a round trip until its request is there.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from gateway.settings import HttpSettings, Network, networks_of
from gateway.telemetry import get_logger

UNASKED, IDLE, UNREAD = range(3)
# The share of the connections that those may have which have not sent a request yet, before idle ones are closed.
UNASKED_SHARE = 1 / 8
# The share of the connections beyond which those of one address are closed before those of others, and the share that
# one address may have at most where no setting says otherwise.
HEAVY_SHARE, ADDRESS_SHARE = 1 / 8, 4 / 5
# Connections beyond the limit that are open for a moment: to be told so, or to ask for health.
SURPLUS_MAX = 64
# Which connections go first is worked out for so many of them at a time: a share, because it takes a look at all.
FORESEEN_SHARE = 1 / 16
# Below this share of the connections nothing has to be known of who goes next.
ENOUGH_ROOM = 7 / 8
# File descriptors that have to be free: with fewer left, a new connection takes another's place.
FILES_FREE_MIN = 32


class Connection(Protocol):
    """An open connection; `address` is whose it is, or None where that is a trusted proxy's own."""

    address: str | None

    def idleness(self) -> tuple[int, float] | None:
        """The kind of its idleness and since when it is so; None while a request is under way."""

    def evict(self) -> None:
        """Closes it."""


class ClosedConnections:
    """Counts the connections that were closed for others; the log tells of them once a second."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()

    def count(self, reason: str, number: int = 1) -> None:
        """Counts connections that were closed for this reason."""
        if not self._untold:
            asyncio.get_running_loop().call_later(1, self._tell)
        self.total[reason] += number
        self._untold[reason] += number

    def _tell(self) -> None:
        untold, self._untold = self._untold, Counter()
        for reason, number in untold.items():
            get_logger("gateway.web").warning("connections closed", reason=reason, number=number)


class ConnectionLimits:
    """The open connections of a process, bounded for all and for each address."""

    def __init__(
        self,
        settings: HttpSettings,
        closed: ClosedConnections,
        connections_max: int | None = None,
        files_max: int | None = None,
    ) -> None:
        self._max = min(settings.connections_max, connections_max or settings.connections_max)
        of_address = settings.address_connections_max or int(self._max * ADDRESS_SHARE)
        self._address_max = max(1, min(of_address, self._max))
        self._heavy = self._max * HEAVY_SHARE
        self._files_max = files_max
        self._trusted = networks_of(settings.trusted_proxies)
        self._closed = closed
        self._open: dict[Connection, None] = {}
        self._of_address: dict[str, dict[Connection, None]] = {}
        self._surplus: dict[Connection, None] = {}
        # Those that go next, the very next one last: of all (None), and of an address.
        self._next: dict[str | None, list[tuple[tuple[int, float], Connection]]] = {}

    def address_of(self, host: str | None) -> str | None:
        """Whose connection it is that comes from a host: None for a trusted proxy."""
        if host is None or (self._trusted and is_in(host, self._trusted)):
            return None
        return group_of(host)

    def client_behind(self, forwarded: Iterable[bytes]) -> str | None:
        """Whose request it is that came through trusted proxies, by the values of X-Forwarded-For; None if untold.

        Each proxy adds whom it was asked by, so the last one that is no trusted proxy itself is the client. Whatever
        stands before that was said by the client.
        """
        for entry in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            host = host_of(entry)
            if host is None:
                return None
            if not is_in(host, self._trusted):
                return group_of(host)
        return None

    def open(self, connection: Connection, file: int) -> bool:
        """Takes a new connection in, in place of another if need be; False if all have a request under way.

        `file` is its file descriptor: the system gives the lowest that is free.
        """
        files_are_short = self._files_max is not None and file >= self._files_max - FILES_FREE_MIN
        if not self._has_room_for(connection.address):
            return self._takes_surplus(connection)
        if (len(self._open) >= self._max or files_are_short) and not self._make_room(None, self._open, self._max):
            return self._takes_surplus(connection)
        self._open[connection] = None
        if connection.address is not None:
            self._of_address.setdefault(connection.address, {})[connection] = None
        return True

    def move(self, connection: Connection, address: str | None) -> bool:
        """Has a proxy's connection count as this client's; False if the client has too many already."""
        if address == connection.address:
            return True
        if connection not in self._open or not self._has_room_for(address):
            return False
        self._leave_address(connection)
        connection.address = address
        if address is not None:
            self._of_address.setdefault(address, {})[connection] = None
        return True

    def lost(self, connection: Connection) -> None:
        """A connection is closed."""
        self._surplus.pop(connection, None)
        if connection in self._open:
            del self._open[connection]
            self._leave_address(connection)
        if None in self._next and len(self._open) < self._max * ENOUGH_ROOM:
            del self._next[None]  # it holds closed connections

    def _leave_address(self, connection: Connection) -> None:
        if connection.address is not None:
            others = self._of_address[connection.address]
            del others[connection]
            if not others:
                del self._of_address[connection.address]
            if connection.address in self._next and len(others) < self._address_max * ENOUGH_ROOM:
                del self._next[connection.address]

    def _takes_surplus(self, connection: Connection) -> bool:
        self._closed.count("no room")
        self._surplus[connection] = None
        if len(self._surplus) > SURPLUS_MAX:
            longest = next(iter(self._surplus))
            del self._surplus[longest]
            longest.evict()
        return False

    def _has_room_for(self, address: str | None) -> bool:
        """Whether an address may have one more connection; one of its own gives way if need be."""
        own = self._of_address.get(address) if address is not None else None
        return own is None or len(own) < self._address_max or self._make_room(address, own, self._address_max)

    def _make_room(self, whose: str | None, among: dict[Connection, None], maximum: int) -> bool:
        for looked in (False, True):
            if looked:
                self._next[whose] = self._first_to_go(among, maximum)
            following = self._next.get(whose, [])
            while following:
                idleness, connection = following.pop()
                if connection in among and connection.idleness() == idleness:
                    self.lost(connection)
                    self._closed.count("to make room")
                    connection.evict()
                    return True
        return False

    def _first_to_go(self, among: dict[Connection, None], maximum: int) -> list[tuple[tuple[int, float], Connection]]:
        kinds: tuple[list[tuple[bool, float, Connection]], ...] = ([], [], [])
        for connection in among:
            idleness = connection.idleness()
            if idleness is not None:
                kind, since = idleness
                kinds[kind].append((not self._is_heavy(connection.address), since, connection))
        unasked, idle, unread = (sorted(kind, key=lambda one: one[:2]) for kind in kinds)
        beyond = max(0, len(unasked) - int(maximum * UNASKED_SHARE))
        heavy_idle, heavy_unread = (sum(not is_light for is_light, *_ in kind) for kind in (idle, unread))
        parts = (
            (UNASKED, unasked[:beyond]),
            (IDLE, idle[:heavy_idle]),
            (UNREAD, unread[:heavy_unread]),
            (IDLE, idle[heavy_idle:]),
            (UNASKED, unasked[beyond:]),
            (UNREAD, unread[heavy_unread:]),
        )
        order = [((kind, since), connection) for kind, part in parts for _, since, connection in part]
        return order[: max(1, int(len(among) * FORESEEN_SHARE))][::-1]

    def _is_heavy(self, address: str | None) -> bool:
        return address is not None and len(self._of_address[address]) > self._heavy


def host_of(entry: str) -> str | None:
    """The address in one entry of X-Forwarded-For, which may have a port; None if it is none."""
    host = entry.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return None if _parsed(host) is None else host


@lru_cache(4096)
def is_in(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address is in one of the networks."""
    address = _parsed(host)
    return address is not None and any(address in network for network in networks)


@lru_cache(4096)
def group_of(host: str) -> str:
    """What counts as one address: of IPv6 a network of 64 bits, which is what one customer has at least."""
    address = _parsed(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host if address is None else str(address)


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
