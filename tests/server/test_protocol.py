"""An answer that waits for the end of its turn is neither lost nor overtaken, whatever happens to its connection first."""

import asyncio

import pytest
from uvicorn.server import ServerState

from gateway.asgi import WHOLE_RESPONSE
from gateway.server.config import ServerConfig
from gateway.server.protocol import BoundedProtocol
from gateway.settings import Settings

REQUEST = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope, receive, send):
    """Answers with the path: paths of two digits together with the turn's others, the rest as any application does."""
    body = scope["path"].encode()
    length = f"content-length: {len(body)}\r\n".encode()
    if len(body) > 2 and scope["extensions"][WHOLE_RESPONSE]["send"](scope, length, (body,), together=True):
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Wire(asyncio.Transport):
    """A connection's other end: what was written, in order, until it was closed."""

    def __init__(self) -> None:
        super().__init__({"socket": None})
        self.written = b""
        self.writes = 0
        self._closing = False

    def write(self, data):
        assert not self._closing
        self.written += data
        self.writes += 1

    def writelines(self, parts):
        self.write(b"".join(parts))

    def is_closing(self):
        return self._closing

    def close(self):
        self._closing = True

    def pause_reading(self): ...

    def resume_reading(self): ...

    def set_write_buffer_limits(self, high=None, low=None): ...

    def get_write_buffer_size(self):
        return 0

    @property
    def said(self) -> list[bytes]:
        """The bodies of the 200s, and the statuses of others."""
        answers = self.written.split(b"HTTP/1.1 ")[1:]
        return [one.split(b"\r\n\r\n", 1)[1] if one.startswith(b"200") else one[:3] for one in answers]


@pytest.fixture
async def connected():
    """Makes connections of one server, each a protocol and its wire."""
    config = ServerConfig(app, Settings(log={"level": "error"}), lifespan="off")
    config.load()
    state, made = ServerState(), []

    def connect():
        protocol, wire = BoundedProtocol(config, state, {}, asyncio.get_running_loop()), Wire()
        protocol.connection_made(wire)
        made.append(protocol)
        return protocol, wire

    yield connect
    for protocol in made:
        protocol.transport.close()
        protocol.connection_lost(None)


async def asked(protocol, wire, number=10):
    """One request whose answer is ready, and has not left."""
    protocol.data_received(REQUEST % number)
    for _ in range(5):
        if protocol._deferred is not None:
            break
        await asyncio.sleep(0)
    assert protocol._deferred is not None
    assert not wire.written


async def test_answers_of_one_turn_leave_at_its_end(connected):
    """Each connection has its answer, in one piece."""
    connections = [connected() for _ in range(3)]
    for protocol, _ in connections:
        protocol.data_received(REQUEST % 10)
    await asyncio.sleep(0.01)
    assert [(wire.said, wire.writes) for _, wire in connections] == [([b"/10"], 1)] * 3


async def test_requests_that_came_together_are_answered_in_order(connected):
    """Answers that wait are not overtaken by those that do not."""
    protocol, wire = connected()
    protocol.data_received(b"".join(REQUEST % number for number in (10, 1, 11, 12, 2)))
    await asyncio.sleep(0.01)
    assert wire.said == [b"/10", b"/1", b"/11", b"/12", b"/2"]


async def test_what_is_wrong_with_the_next_request_is_told_after_the_answer(connected):
    """The answer leaves before a refusal closes the connection."""
    protocol, wire = connected()
    await asked(protocol, wire)
    protocol.data_received(b"this is not HTTP\r\n\r\n")
    assert wire.said == [b"/10", b"400"]


@pytest.mark.parametrize("end", ["eof_received", "shutdown"])
async def test_an_answer_leaves_before_its_connection_ends(connected, end):
    """The caller who sends no more still reads; a server that stops has answered."""
    protocol, wire = connected()
    await asked(protocol, wire)
    getattr(protocol, end)()
    assert wire.said == [b"/10"]


async def test_nothing_is_sent_to_who_left_meanwhile(connected):
    """A closed connection is written to no more."""
    protocol, wire = connected()
    await asked(protocol, wire)
    wire.close()
    protocol.connection_lost(None)
    await asyncio.sleep(0.01)
    assert not wire.written
