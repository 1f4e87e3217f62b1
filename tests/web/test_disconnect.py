"""A caller who leaves ends the waits of their operation, whichever way the server tells it."""

import asyncio

import pytest

from gateway.asgi import ON_DISCONNECT
from gateway.concurrency.deadline import Deadline
from gateway.errors import DeadlineExceeded
from gateway.web.disconnect import CancelOnDisconnect, ClientDisconnected


async def nothing_comes():
    return await asyncio.get_running_loop().create_future()


class Server:
    """Tells that the caller left by the extension, or by a message as any ASGI server does."""

    def __init__(self, *, extends: bool) -> None:
        self.scope = {"type": "http", "extensions": {ON_DISCONNECT: []}} if extends else {"type": "http"}
        self._messages = asyncio.Queue()

    async def receive(self):
        return await self._messages.get()

    async def caller_leaves(self):
        for told in self.scope.get("extensions", {}).get(ON_DISCONNECT, ()):
            told()
        self._messages.put_nowait({"type": "http.request", "body": b""})
        self._messages.put_nowait({"type": "http.disconnect"})
        await asyncio.sleep(0.01)


@pytest.fixture(params=[True, False], ids=["extension", "message"])
def server(request):
    return Server(extends=request.param)


async def test_the_waits_of_a_caller_who_leaves_end(server):
    """What was waited for ends as ClientDisconnected, and nothing more is begun."""
    deadline = Deadline()

    async def work():
        with CancelOnDisconnect(server.scope, server.receive, deadline):
            await deadline.wait(asyncio.get_running_loop().create_future())

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert not working.done()
    await server.caller_leaves()
    with pytest.raises(ClientDisconnected):
        await working
    with pytest.raises(DeadlineExceeded):
        deadline.check()


async def test_what_was_done_before_they_left_is_not_undone(server):
    """Work that ends in spite of it ends as ever; that they left is known."""
    deadline = Deadline()
    with CancelOnDisconnect(server.scope, server.receive, deadline) as there:
        await server.caller_leaves()
    assert there.is_disconnected


async def test_a_failure_is_itself_while_the_caller_is_there(server):
    """Only what fails after they left is their leaving."""
    with (
        pytest.raises(ValueError, match="wrong"),
        CancelOnDisconnect(server.scope, server.receive, Deadline()) as there,
    ):
        raise ValueError("wrong")
    assert not there.is_disconnected


async def test_a_cancelled_operation_stays_cancelled_though_the_caller_left(server):
    """A server that stops is not taken for a caller who left."""

    async def work():
        with CancelOnDisconnect(server.scope, server.receive, Deadline()):
            await nothing_comes()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    await server.caller_leaves()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_nobody_listens_any_more_when_the_work_is_done():
    """The task that listened ends with the work."""
    server = Server(extends=False)
    before = asyncio.all_tasks()
    with CancelOnDisconnect(server.scope, server.receive, Deadline()):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
