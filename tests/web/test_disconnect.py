"""A client disconnect cancels the waits of its operation, however the server signals it."""

import asyncio

import pytest

from gateway.asgi import ON_DISCONNECT
from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.web.disconnect import CancelOnDisconnect, ClientDisconnected


async def never_receive():
    return await asyncio.get_running_loop().create_future()


class Server:
    """Signals a disconnect by the extension, or by a message as any ASGI server does."""

    def __init__(self, *, extends: bool) -> None:
        self.scope = {"type": "http", "extensions": {ON_DISCONNECT: []}} if extends else {"type": "http"}
        self._messages = asyncio.Queue()

    async def receive(self):
        return await self._messages.get()

    async def disconnect(self):
        for callback in self.scope.get("extensions", {}).get(ON_DISCONNECT, ()):
            callback()
        self._messages.put_nowait({"type": "http.request", "body": b""})
        self._messages.put_nowait({"type": "http.disconnect"})
        await asyncio.sleep(0.01)


@pytest.fixture(params=[True, False], ids=["extension", "message"])
def server(request):
    return Server(extends=request.param)


async def test_a_disconnect_cancels_the_waits(server):
    """A wait ends as ClientDisconnected, and nothing more is begun."""
    deadline = Deadline()

    async def work():
        with CancelOnDisconnect(server.scope, server.receive, deadline):
            await deadline.wait(asyncio.get_running_loop().create_future())

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert not working.done()
    await server.disconnect()
    with pytest.raises(ClientDisconnected):
        await working
    with pytest.raises(DeadlineExceeded):
        deadline.check()


async def test_work_that_ignores_the_disconnect_completes(server):
    """Its result is returned as usual, and the disconnect is recorded."""
    deadline = Deadline()
    with CancelOnDisconnect(server.scope, server.receive, deadline) as there:
        await server.disconnect()
    assert there.is_disconnected


async def test_a_failure_before_a_disconnect_is_raised(server):
    """Only a failure after the disconnect counts as the disconnect."""
    with (
        pytest.raises(ValueError, match="wrong"),
        CancelOnDisconnect(server.scope, server.receive, Deadline()) as there,
    ):
        raise ValueError("wrong")
    assert not there.is_disconnected


async def test_a_cancelled_operation_stays_cancelled_after_a_disconnect(server):
    """A server's shutdown is not taken for a disconnect."""

    async def work():
        with CancelOnDisconnect(server.scope, server.receive, Deadline()):
            await never_receive()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    await server.disconnect()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_the_listener_ends_with_the_work():
    """No task is left."""
    server = Server(extends=False)
    before = asyncio.all_tasks()
    with CancelOnDisconnect(server.scope, server.receive, Deadline()):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
