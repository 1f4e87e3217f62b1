"""The least cost of the benchmarks' responses: bare Starlette under the gateway's own server settings.

`ready` sends static bytes, `/ready/{bytes}`: the floor of cached responses. `passed` makes the necessary upstream calls
with the gateway's own transport and passes the bytes on, `/page` and `/vehicles/{count}`: the floor of uncached ones.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.load import SERVED, pin
from benchmarks.made_fleet import vehicle_id
from gateway.server.config import ServerConfig
from gateway.settings import Settings
from gateway.upstream.http.http1 import Http1

JSON = "application/json"


def ready() -> Starlette:
    """Sends this many bytes of JSON, made once."""

    @lru_cache(64)
    def text(size: int) -> bytes:
        return b'"' + b"x" * (size - 2) + b'"'

    async def send(request: Request) -> Response:
        return Response(text(int(request.path_params["size"])), media_type=JSON)

    return Starlette(routes=[Route("/ready/{size}", send, methods=["POST"])])


def passed(settings: Settings, vehicles: int) -> Starlette:
    """Reads a page, or vehicles in parallel, and passes the bytes on."""
    transport = Http1(settings.upstream)
    prepared = transport.prepared({"Accept": JSON, "Authorization": "Bearer token"})
    page = transport.request("GET", "/vehicles?limit=100", prepared)
    number = count()

    @lru_cache(vehicles)
    def vehicle(index: int) -> bytes:
        return transport.request("GET", f"/vehicles/{vehicle_id(index)}", prepared)

    async def read(head: bytes) -> bytes:
        status, _, body = await transport.fetch_raw(head)
        assert status == 200
        return body

    async def send_page(request: Request) -> Response:
        return Response(await read(page), media_type=JSON)

    async def send_vehicles(request: Request) -> Response:
        wanted = [vehicle(next(number) * 97 % vehicles + 1) for _ in range(request.path_params["count"])]
        return Response(b"[" + b",".join(await asyncio.gather(*map(read, wanted))) + b"]", media_type=JSON)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await transport.aclose()

    routes = [
        Route("/page", send_page, methods=["POST"]),
        Route("/vehicles/{count:int}", send_vehicles, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class FloorProcess:
    """A floor as a process of its own, on the measured CPU."""

    def __init__(self, which: str, fleet_url: str, vehicles: int) -> None:
        command = [sys.executable, __file__, which, "--fleet", fleet_url, "--vehicles", str(vehicles)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        pin(self.process.pid, SERVED)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()


@contextlib.contextmanager
def floor(which: str, fleet_url: str, vehicles: int) -> Iterator[FloorProcess]:
    """A floor that runs as long as the block."""
    process = FloorProcess(which, fleet_url, vehicles)
    try:
        yield process
    finally:
        process.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["ready", "passed"])
    parser.add_argument("--fleet", required=True)
    parser.add_argument("--vehicles", type=int, required=True)
    chosen = parser.parse_args()
    settings = Settings(upstream={"url": chosen.fleet})
    app = ready() if chosen.which == "ready" else passed(settings, chosen.vehicles)
    server = uvicorn.Server(ServerConfig(app, settings))
    socket = ServerConfig(app, settings, port=0).bind_socket()
    print(f"http://127.0.0.1:{socket.getsockname()[1]}", flush=True)
    server.run(sockets=[socket])


if __name__ == "__main__":
    main()
