"""Responses that clients have not read: limited in bytes, per principal and per process, and in time.

Bytes that the operating system does not accept are buffered. A response is in memory, and counts, as a whole until its
last byte is sent. Above a limit, the connections that are closest to being too slow are closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from gateway.server.connection_limits import ClosedConnections
from gateway.settings import HttpSettings

# The minimum share of connections that is closed, because finding the slowest ones scans all of them.
CLOSED_SHARE = 1 / 16


class Unread:
    """The unread bytes of a connection."""

    __slots__ = ("principal", "since", "size", "to_come", "transport")

    def __init__(self, transport: asyncio.Transport, principal: str, since: float) -> None:
        self.transport = transport
        self.principal = principal
        self.since = since
        self.size = 0
        self.to_come = 0

    @property
    def remaining(self) -> int:
        """Bytes that have not been sent."""
        return self.transport.get_write_buffer_size() + self.to_come


class UnreadResponses:
    """The unread responses of a process; responses that are sent at once never get here."""

    def __init__(self, settings: HttpSettings, closed: ClosedConnections) -> None:
        self._bytes_max = settings.unsent_bytes_max
        self._principal_bytes_max = settings.principal_unsent_bytes_max
        self._grace = settings.slow_reader_timeout
        self._rate = settings.slow_reader_rate_min
        self._closed = closed
        self._unread: dict[asyncio.Transport, Unread] = {}
        self._of: dict[str, dict[Unread, None]] = {}
        self._bytes_of: dict[str, int] = {}
        self.bytes = 0

    def hold(
        self, transport: asyncio.Transport, principal: str, loop: asyncio.AbstractEventLoop, to_come: int = 0
    ) -> None:
        """Counts a connection's unread bytes, and closes the slowest connections above a limit.

        `to_come` are bytes that are ready but not written.
        """
        unread = self._unread.get(transport)
        if unread is None:
            if not self._unread:
                self._schedule_check(loop)
            unread = self._unread[transport] = Unread(transport, principal, loop.time())
            self._of.setdefault(principal, {})[unread] = None
        unread.to_come = to_come
        more = unread.remaining - unread.size
        if more > 0:
            unread.size += more
            self.bytes += more
            own = self._bytes_of[unread.principal] = self._bytes_of.get(unread.principal, 0) + more
            if own > self._principal_bytes_max:
                self._close_slowest(self._of[unread.principal], own - self._principal_bytes_max)
            if self.bytes > self._bytes_max:
                self._close_slowest(self._unread.values(), self.bytes - self._bytes_max)

    def sent(self, transport: asyncio.Transport) -> None:
        """Removes a connection whose responses were all sent, or which is closed."""
        unread = self._unread.pop(transport, None)
        if unread is None:
            return
        self.bytes -= unread.size
        others = self._of[unread.principal]
        del others[unread]
        self._bytes_of[unread.principal] -= unread.size
        if not others:
            del self._of[unread.principal], self._bytes_of[unread.principal]

    def since(self, transport: asyncio.Transport) -> float:
        """The time since which a connection has had unread bytes, by the event loop's clock."""
        unread = self._unread.get(transport)
        return unread.since if unread is not None else 0.0

    def _too_slow_at(self, unread: Unread) -> float:
        """The time at which a client that reads nothing more becomes too slow."""
        return unread.since + self._grace + (unread.size - unread.remaining) / self._rate

    def _close_slowest(self, among: Collection[Unread], size: int) -> None:
        """Closes those that become too slow first, until so many bytes are freed; never the only one."""
        number, minimum = 0, int(len(among) * CLOSED_SHARE)
        for unread in sorted(among, key=self._too_slow_at)[:-1]:
            size -= unread.size
            number += 1
            self._abort(unread)
            if size <= 0 and number >= minimum:
                break
        if number:
            self._closed.count("too much unread", number)

    def _abort(self, unread: Unread) -> None:
        self.sent(unread.transport)
        unread.transport.abort()

    def _schedule_check(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(min(1.0, self._grace / 4), self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes the connections whose clients read too slowly."""
        now = loop.time()
        slow = [unread for unread in self._unread.values() if self._too_slow_at(unread) < now]
        for unread in slow:
            self._abort(unread)
        if slow:
            self._closed.count("read too slowly", len(slow))
        if self._unread:
            self._schedule_check(loop)
