"""The whole program over HTTP: gateway and simulator, in one process or over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import create_app
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, Fault, FleetPlan, Simulator
from gateway.upstream.requests import Clock, now
from gateway.web.asgi_app import GatewayApp

TOKENS = {name: f"token-of-{name}" for name in ("alice", "bob", "eve", "no-permission", "no-scope")}
PLANS = (
    FleetPlan(
        "T7K2M",
        250,
        clients=(
            Client("T7K2M#alice", token=TOKENS["alice"]),
            Client("T7K2M#bob", token=TOKENS["bob"]),
            Client("T7K2M#no-permission", permissions=frozenset(), token=TOKENS["no-permission"]),
            Client("T7K2M#no-scope", scopes=frozenset(), token=TOKENS["no-scope"]),
        ),
    ),
    FleetPlan("EXFL29", 120, clients=(Client("EXFL29#eve", token=TOKENS["eve"]),)),
)


class Gateway:
    """A running gateway over a simulator, with the requests that clients make."""

    def __init__(self, http: httpx.AsyncClient, simulator: Simulator, app: GatewayApp) -> None:
        self.http = http
        self.app = app
        self.simulator = simulator

    async def post(
        self, query: str, variables: dict[str, Any] | None = None, by: str | None = "alice", **headers: str
    ) -> httpx.Response:
        if by is not None:
            headers["Authorization"] = f"Bearer {TOKENS.get(by, by)}"
        body = {"query": query, "variables": variables or {}}
        return await self.http.post("/graphql", json=body, headers=headers)

    async def ask(self, query: str, by: str = "alice", **variables: Any) -> dict[str, Any]:
        """Data and errors of a query."""
        return (await self.post(query, variables, by)).json()

    async def data(self, query: str, by: str = "alice", **variables: Any) -> dict[str, Any]:
        """The data of a query that has no errors."""
        answer = await self.ask(query, by, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def calls(self, query: str, by: str = "alice", **variables: Any) -> int:
        """How many upstream calls a query makes."""
        before = self.simulator.requests.total
        await self.data(query, by, **variables)
        return self.simulator.requests.total - before

    def fault(self, kind: str, **rule: Any) -> None:
        self.simulator.faults.rules.append(Fault(kind, **rule))


Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts gateways with `behaviours=…` and settings like `upstream__page_size=…` or `writes=…`; no cache or retries by default."""
    async with AsyncExitStack() as stack:

        async def started(
            *, behaviours: Behaviours | None = None, plans: tuple[FleetPlan, ...] = PLANS, simulator: Simulator | None = None,
            clock: Clock = now, **setting_infos: Any,
        ) -> Gateway:  # fmt: skip
            simulator = simulator or Simulator(plans, behaviours or Behaviours(rate_limit_requests=0))
            groups: dict[str, Any] = {
                "cache": {"enabled": False},
                "retry": {"attempts": 1},
            }
            for path, value in setting_infos.items():
                part, _, name = path.partition("__")
                if name:
                    groups.setdefault(part, {})[name] = value
                else:
                    groups[part] = value
            url, app = await stack.enter_async_context(joined(simulator, clock, **groups))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
            return Gateway(http, simulator, app)

        yield started


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    """A gateway without a cache over two fleets of 250 and 120 vehicles."""
    return await start()


@asynccontextmanager
async def joined(simulator: Simulator, clock: Clock = now, **groups: Any) -> AsyncIterator[tuple[str, GatewayApp]]:
    """Serves a gateway over a simulated fleet API; gives the gateway's URL and application."""
    fleet = uvicorn.Config(simulator.app, log_level="critical", access_log=False)
    async with served(fleet) as upstream:
        settings = Settings(**{**groups, "upstream": {"url": upstream, **groups.get("upstream", {})}})
        app = create_app(settings, clock=clock)
        async with served(ServerConfig(app, settings)) as url:
            yield url, app


@asynccontextmanager
async def served(config: uvicorn.Config) -> AsyncIterator[str]:
    """Serves an application over a real socket, on this event loop; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup([listening])
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            # As uvicorn does it, without its delay.
            ticking.cancel()
            for each in server.servers:
                each.close()
            for connection in list(server.server_state.connections):
                connection.shutdown()
            await server.lifespan.shutdown()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serves an ASGI application over a real socket, from a thread of its own; gives its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.force_exit = server.should_exit = True
    thread.join(10)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serves ASGI applications over real sockets; gives their URLs."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))
