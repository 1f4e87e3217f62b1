"""Which connection is closed when too many bytes are unread, or for too long."""

import asyncio

from gateway.server.connection_limits import ClosedConnections
from gateway.server.unread_responses import UnreadResponses
from gateway.settings import HttpSettings

KIB = 1024


class FakeTransport:
    """A connection with bytes that its client has not read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_closed = False

    def get_write_buffer_size(self):
        return self.size

    def abort(self):
        self.is_closed = True


def bounded(**settings) -> tuple[UnreadResponses, ClosedConnections]:
    bounds = {"unsent_bytes_max": 400 * KIB, "principal_unsent_bytes_max": 200 * KIB, **settings}
    closed = ClosedConnections()
    return UnreadResponses(HttpSettings(**bounds), closed), closed


def unread_response(unread: UnreadResponses, principal: str, *sizes: int) -> list[FakeTransport]:
    transports = [FakeTransport(size) for size in sizes]
    for transport in transports:
        unread.hold(transport, principal, asyncio.get_running_loop())
    return transports


async def test_a_principal_beyond_its_bound_loses_its_slowest():
    """A client that has read is faster than one that has not, however long ago they began; other principals' stay."""
    unread, closed = bounded()
    others = unread_response(unread, "b", 90 * KIB)
    reading, deaf = unread_response(unread, "a", 90 * KIB, 90 * KIB)
    reading.size = 1
    (new,) = unread_response(unread, "a", 90 * KIB)
    assert [transport.is_closed for transport in (*others, reading, deaf, new)] == [False, False, True, False]
    assert unread.bytes == 270 * KIB
    assert closed.total == {"too much unread": 1}


async def test_the_process_beyond_its_bound_loses_the_slowest_of_all():
    """Many principals, such as invented ones, are bounded together."""
    unread, _ = bounded()
    transports = [transport for number in range(100) for transport in unread_response(unread, str(number), 10 * KIB)]
    assert unread.bytes <= 400 * KIB
    assert sum(not transport.is_closed for transport in transports) == unread.bytes // (10 * KIB) >= 30
    assert not any(transport.is_closed for transport in transports[-30:])


async def test_a_response_counts_whole_until_it_is_sent():
    """Read parts of it are still in memory; then all of it is freed."""
    unread, _ = bounded()
    (transport,) = unread_response(unread, "a", 100 * KIB)
    transport.size = 1
    unread.hold(transport, "a", asyncio.get_running_loop())
    assert unread.bytes == 100 * KIB
    unread.sent(transport)
    unread.sent(transport)
    assert unread.bytes == 0


async def test_a_single_response_may_exceed_the_bound():
    """Else it could never be sent."""
    unread, _ = bounded()
    (transport,) = unread_response(unread, "a", 500 * KIB)
    assert not transport.is_closed


async def test_a_body_behind_its_head_counts():
    """It is in memory, and its client has read nothing of it."""
    unread, _ = bounded(slow_reader_timeout=0.05, slow_reader_rate_min=10 * KIB)
    transport = FakeTransport(1 * KIB)
    unread.hold(transport, "a", asyncio.get_running_loop(), to_come=99 * KIB)
    assert unread.bytes == 100 * KIB
    await asyncio.sleep(0.15)
    assert transport.is_closed


async def test_a_reader_below_the_minimum_rate_is_disconnected():
    """A byte now and then is not enough; the rate counts."""
    unread, closed = bounded(slow_reader_timeout=0.05, slow_reader_rate_min=100 * KIB)
    trickling, fair = unread_response(unread, "a", 100 * KIB, 100 * KIB)
    for _ in range(15):
        await asyncio.sleep(0.02)
        trickling.size -= 1
        fair.size -= 6 * KIB
    assert (trickling.is_closed, fair.is_closed) == (True, False)
    assert closed.total["read too slowly"] == 1
    unread.sent(fair)
