"""A batched response is neither lost nor overtaken, whatever happens to its connection first."""

import asyncio

import pytest
from uvicorn.server import ServerState

from gateway.asgi import WHOLE_RESPONSE
from gateway.server.config import ServerConfig
from gateway.server.protocol import BoundedProtocol
from gateway.settings import Settings

REQUEST = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope, receive, send):
    """Responds with the path: paths of two digits in the iteration's batch, the rest like any application."""
    body = scope["path"].encode()
    length = f"content-length: {len(body)}\r\n".encode()
    if len(body) > 2 and scope["extensions"][WHOLE_RESPONSE]["send"](scope, length, (body,), together=True):
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class FakeTransport(asyncio.Transport):
    """The transport of a connection: what was written, in order, until it was closed."""

    def __init__(self) -> None:
        super().__init__({"socket": None})
        self.written = b""
        self.writes = 0
        self._closing = False

    def can_write_eof(self):
        return False

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
    """Makes connections of one server, each a protocol and its transport."""
    config = ServerConfig(app, Settings(log={"level": "error"}), lifespan="off")
    config.load()
    state, made = ServerState(), []

    def connect():
        protocol, transport = BoundedProtocol(config, state, {}, asyncio.get_running_loop()), FakeTransport()
        protocol.connection_made(transport)
        made.append(protocol)
        return protocol, transport

    yield connect
    for protocol in made:
        protocol.transport.close()
        protocol.connection_lost(None)


async def pending(protocol, transport, number=10):
    """A request whose response is ready, and not yet sent."""
    protocol.data_received(REQUEST % number)
    for _ in range(5):
        if protocol._deferred is not None:
            break
        await asyncio.sleep(0)
    assert protocol._deferred is not None
    assert not transport.written


async def test_responses_of_one_iteration_are_sent_at_its_end(connected):
    """Each connection gets its response, in one piece."""
    connections = [connected() for _ in range(3)]
    for protocol, _ in connections:
        protocol.data_received(REQUEST % 10)
    await asyncio.sleep(0.01)
    assert [(transport.said, transport.writes) for _, transport in connections] == [([b"/10"], 1)] * 3


async def test_pipelined_requests_get_responses_in_order(connected):
    """Batched responses are not overtaken by others."""
    protocol, transport = connected()
    protocol.data_received(b"".join(REQUEST % number for number in (10, 1, 11, 12, 2)))
    await asyncio.sleep(0.01)
    assert transport.said == [b"/10", b"/1", b"/11", b"/12", b"/2"]


async def test_an_error_of_the_next_request_comes_after_the_response(connected):
    """The response is sent before a rejection closes the connection."""
    protocol, transport = connected()
    await pending(protocol, transport)
    protocol.data_received(b"this is not HTTP\r\n\r\n")
    assert transport.said == [b"/10", b"400"]


@pytest.mark.parametrize("end", ["eof_received", "shutdown"])
async def test_a_response_is_sent_before_its_connection_ends(connected, end):
    """A half-closed client still gets it, and so does a client of a stopping server."""
    protocol, transport = connected()
    await pending(protocol, transport)
    getattr(protocol, end)()
    assert transport.said == [b"/10"]


async def test_nothing_is_sent_after_a_disconnect(connected):
    """A closed connection is not written to."""
    protocol, transport = connected()
    await pending(protocol, transport)
    transport.close()
    protocol.connection_lost(None)
    await asyncio.sleep(0.01)
    assert not transport.written
