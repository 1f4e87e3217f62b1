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
    wires = [FakeTransport(size) for size in sizes]
    for wire in wires:
        unread.hold(wire, principal, asyncio.get_running_loop())
    return wires


async def test_a_principal_beyond_its_bound_loses_its_slowest():
    """A client that has read is faster than one that has not, however long ago they began; other principals' stay."""
    unread, closed = bounded()
    others = unread_response(unread, "b", 90 * KIB)
    reading, deaf = unread_response(unread, "a", 90 * KIB, 90 * KIB)
    reading.size = 1
    (new,) = unread_response(unread, "a", 90 * KIB)
    assert [wire.is_closed for wire in (*others, reading, deaf, new)] == [False, False, True, False]
    assert unread.bytes == 270 * KIB
    assert closed.total == {"too much unread": 1}


async def test_the_process_beyond_its_bound_loses_the_slowest_of_all():
    """Many principals, such as invented ones, are bounded together."""
    unread, _ = bounded()
    wires = [wire for number in range(100) for wire in unread_response(unread, str(number), 10 * KIB)]
    assert unread.bytes <= 400 * KIB
    assert sum(not wire.is_closed for wire in wires) == unread.bytes // (10 * KIB) >= 30
    assert not any(wire.is_closed for wire in wires[-30:])


async def test_a_response_counts_whole_until_it_is_sent():
    """Read parts of it are still in memory; then all of it is freed."""
    unread, _ = bounded()
    (wire,) = unread_response(unread, "a", 100 * KIB)
    wire.size = 1
    unread.hold(wire, "a", asyncio.get_running_loop())
    assert unread.bytes == 100 * KIB
    unread.sent(wire)
    unread.sent(wire)
    assert unread.bytes == 0


async def test_a_single_response_may_exceed_the_bound():
    """Else it could never be sent."""
    unread, _ = bounded()
    (wire,) = unread_response(unread, "a", 500 * KIB)
    assert not wire.is_closed


async def test_a_body_behind_its_head_counts():
    """It is in memory, and its client has read nothing of it."""
    unread, _ = bounded(slow_reader_timeout=0.05, slow_reader_rate_min=10 * KIB)
    wire = FakeTransport(1 * KIB)
    unread.hold(wire, "a", asyncio.get_running_loop(), to_come=99 * KIB)
    assert unread.bytes == 100 * KIB
    await asyncio.sleep(0.15)
    assert wire.is_closed


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
