"""Limits the number of connections, and selects which one is closed for a new one.

An idle connection costs a client nothing, so with a limit alone one client could lock out all others. If there is no
room for a new connection, one without a running request is closed, in this order:

1. one that has not sent a complete request so far,
2. one of an address with many connections that is idle between two requests, or whose response is not being read,
3. one of any address that is idle between two requests,
4. one whose response is not being read;

among equals the one that has been idle longest. A share of the connections is reserved for the first kind, because a
new client needs a round trip until its request arrives.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from gateway.settings import UNIX, HttpSettings, Network, listed, networks_of
from gateway.telemetry.logs import get_logger

UNASKED, IDLE, UNREAD = range(3)
# The share of connections without a request so far, up to which idle connections are closed first.
UNASKED_SHARE = 1 / 8
# The share of connections above which those of one address are closed before those of others, and the default maximum
# of one address.
HEAVY_SHARE, ADDRESS_SHARE = 1 / 8, 4 / 5
# Connections above the limit that are open for a moment, for an error or a health check.
SURPLUS_MAX = 64
# The share of connections that is selected in advance, because each selection scans all of them.
SELECTED_SHARE = 1 / 16
# Below this share of the maximum the selection is dropped.
ENOUGH_ROOM = 7 / 8
# With fewer free file descriptors, a new connection replaces another one.
FILES_FREE_MIN = 32


class Connection(Protocol):
    """An open connection; `address` is the client's, or None for a trusted proxy and over a unix socket."""

    address: str | None

    def idleness(self) -> tuple[int, float] | None:
        """The kind of idleness and when it began; None while a request is running."""

    def evict(self) -> None:
        """Closes the connection."""


class ClosedConnections:
    """Counts the connections that were closed because of a limit, and logs the numbers once a second."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._unlogged: Counter[str] = Counter()

    def count(self, reason: str, number: int = 1) -> None:
        """Counts connections that were closed for this reason."""
        if not self._unlogged:
            asyncio.get_running_loop().call_later(1, self._log)
        self.total[reason] += number
        self._unlogged[reason] += number

    def _log(self) -> None:
        unlogged, self._unlogged = self._unlogged, Counter()
        for reason, number in unlogged.items():
            get_logger("gateway.web").warning("connections closed", reason=reason, number=number)


class ConnectionLimits:
    """The open connections of a process, limited in total and per address."""

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
        self.trusts_unix = UNIX in listed(settings.trusted_proxies)
        self._closed = closed
        self._open: dict[Connection, None] = {}
        self._of_address: dict[str, dict[Connection, None]] = {}
        self._surplus: dict[Connection, None] = {}
        # The connections to close next, in reverse order: of all (None), and of an address.
        self._next: dict[str | None, list[tuple[tuple[int, float], Connection]]] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._surplus)

    def address_of(self, host: str | None) -> str | None:
        """The address as which a host counts; None for a trusted proxy."""
        if host is None or (self._trusted and is_in(host, self._trusted)):
            return None
        return group_of(host)

    def client_behind(self, forwarded: Iterable[bytes]) -> str | None:
        """The address of the client behind trusted proxies, by the values of X-Forwarded-For; None if it is unknown.

        Each proxy appends the address of its client, so the last address that is not a trusted proxy is the client's.
        Entries before that one were sent by the client.
        """
        for entry in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            host = host_of(entry)
            if host is None:
                return None
            if not is_in(host, self._trusted):
                return group_of(host)
        return None

    def open(self, connection: Connection, file: int) -> bool:
        """Admits a new connection, closing another one if necessary; False if all have running requests.

        `file` is its file descriptor, which is the lowest free number.
        """
        files_are_short = self._files_max is not None and file >= self._files_max - FILES_FREE_MIN
        if not self._has_room_for(connection.address):
            return self._add_surplus(connection)
        if (len(self._open) >= self._max or files_are_short) and not self._make_room(None, self._open, self._max):
            return self._add_surplus(connection)
        self._open[connection] = None
        if connection.address is not None:
            self._of_address.setdefault(connection.address, {})[connection] = None
        return True

    def move(self, connection: Connection, address: str | None) -> bool:
        """Counts a proxy's connection as this client's; False if the client has too many already."""
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
        """Removes a closed connection."""
        self._surplus.pop(connection, None)
        if connection in self._open:
            del self._open[connection]
            self._leave_address(connection)
        if None in self._next and len(self._open) < self._max * ENOUGH_ROOM:
            del self._next[None]  # it refers to closed connections

    def _leave_address(self, connection: Connection) -> None:
        if connection.address is not None:
            others = self._of_address[connection.address]
            del others[connection]
            if not others:
                del self._of_address[connection.address]
            if connection.address in self._next and len(others) < self._address_max * ENOUGH_ROOM:
                del self._next[connection.address]

    def _add_surplus(self, connection: Connection) -> bool:
        self._closed.count("no room")
        self._surplus[connection] = None
        if len(self._surplus) > SURPLUS_MAX:
            oldest = next(iter(self._surplus))
            del self._surplus[oldest]
            oldest.evict()
        return False

    def _has_room_for(self, address: str | None) -> bool:
        """Whether an address may have one more connection, after closing one of its own if necessary."""
        own = self._of_address.get(address) if address is not None else None
        return own is None or len(own) < self._address_max or self._make_room(address, own, self._address_max)

    def _make_room(self, address: str | None, among: dict[Connection, None], maximum: int) -> bool:
        for reselect in (False, True):
            if reselect:
                self._next[address] = self._select(among, maximum)
            selected = self._next.get(address, [])
            while selected:
                idleness, connection = selected.pop()
                if connection in among and connection.idleness() == idleness:
                    self.lost(connection)
                    self._closed.count("to make room")
                    connection.evict()
                    return True
        return False

    def _select(self, among: dict[Connection, None], maximum: int) -> list[tuple[tuple[int, float], Connection]]:
        kinds: tuple[list[tuple[bool, float, Connection]], ...] = ([], [], [])
        for connection in among:
            idleness = connection.idleness()
            if idleness is not None:
                kind, since = idleness
                kinds[kind].append((not self._is_heavy(connection.address), since, connection))
        unasked, idle, unread = (sorted(kind, key=lambda entry: entry[:2]) for kind in kinds)
        excess = max(0, len(unasked) - int(maximum * UNASKED_SHARE))
        heavy_idle, heavy_unread = (sum(not is_light for is_light, *_ in kind) for kind in (idle, unread))
        parts = (
            (UNASKED, unasked[:excess]),
            (IDLE, idle[:heavy_idle]),
            (UNREAD, unread[:heavy_unread]),
            (IDLE, idle[heavy_idle:]),
            (UNASKED, unasked[excess:]),
            (UNREAD, unread[heavy_unread:]),
        )
        order = [((kind, since), connection) for kind, part in parts for _, since, connection in part]
        return order[: max(1, int(len(among) * SELECTED_SHARE))][::-1]

    def _is_heavy(self, address: str | None) -> bool:
        return address is not None and len(self._of_address[address]) > self._heavy


def host_of(entry: str) -> str | None:
    """The address in an entry of X-Forwarded-For, which may have a port; None if it is invalid."""
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
    """The address as which a host counts: for IPv6 its /64 network, the minimum that one customer has."""
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
