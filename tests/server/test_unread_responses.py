"""Whose connection is closed when too much is unread, or for too long."""

import asyncio

from gateway.server.connection_limits import ClosedConnections
from gateway.server.unread_responses import UnreadResponses
from gateway.settings import HttpSettings

KIB = 1024


class Wire:
    """A connection with bytes that its caller has not read."""

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


def held(unread: UnreadResponses, principal: str, *sizes: int) -> list[Wire]:
    wires = [Wire(size) for size in sizes]
    for wire in wires:
        unread.hold(wire, principal, asyncio.get_running_loop())
    return wires


async def test_a_principal_beyond_its_bound_loses_its_slowest():
    """Who has read is faster than who has not, however long they have been at it; others are left alone."""
    unread, closed = bounded()
    others = held(unread, "b", 90 * KIB)
    reading, deaf = held(unread, "a", 90 * KIB, 90 * KIB)
    reading.size = 1
    (new,) = held(unread, "a", 90 * KIB)
    assert [wire.is_closed for wire in (*others, reading, deaf, new)] == [False, False, True, False]
    assert unread.bytes == 270 * KIB
    assert closed.total == {"too much unread": 1}


async def test_the_process_beyond_its_bound_loses_the_slowest_of_all():
    """Many principals, invented ones say, are bounded together."""
    unread, _ = bounded()
    wires = [wire for number in range(100) for wire in held(unread, str(number), 10 * KIB)]
    assert unread.bytes <= 400 * KIB
    assert sum(not wire.is_closed for wire in wires) == unread.bytes // (10 * KIB) >= 30
    assert not any(wire.is_closed for wire in wires[-30:])


async def test_an_answer_counts_whole_until_it_has_gone():
    """What was read of it is in memory still; then all of it is free."""
    unread, _ = bounded()
    (wire,) = held(unread, "a", 100 * KIB)
    wire.size = 1
    unread.hold(wire, "a", asyncio.get_running_loop())
    assert unread.bytes == 100 * KIB
    unread.sent(wire)
    unread.sent(wire)
    assert unread.bytes == 0


async def test_an_answer_that_is_alone_may_be_larger_than_the_bound():
    """Else it could never be given."""
    unread, _ = bounded()
    (wire,) = held(unread, "a", 500 * KIB)
    assert not wire.is_closed


async def test_a_body_behind_its_head_counts():
    """It is in memory, and its caller has read nothing of it."""
    unread, _ = bounded(slow_reader_timeout=0.05, slow_reader_rate_min=10 * KIB)
    wire = Wire(1 * KIB)
    unread.hold(wire, "a", asyncio.get_running_loop(), to_come=99 * KIB)
    assert unread.bytes == 100 * KIB
    await asyncio.sleep(0.15)
    assert wire.is_closed


async def test_who_reads_below_the_least_rate_is_closed():
    """A byte now and then gains nothing; the rate does."""
    unread, closed = bounded(slow_reader_timeout=0.05, slow_reader_rate_min=100 * KIB)
    trickling, fair = held(unread, "a", 100 * KIB, 100 * KIB)
    for _ in range(15):
        await asyncio.sleep(0.02)
        trickling.size -= 1
        fair.size -= 6 * KIB
    assert (trickling.is_closed, fair.is_closed) == (True, False)
    assert closed.total["read too slowly"] == 1
    unread.sent(fair)
