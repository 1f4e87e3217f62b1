"""The stack of fetchers between the client and the network, outermost first: the whole resilience story."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.settings import Settings
from gateway.upstream.client import FleetClient
from gateway.upstream.transport import HttpTransport, Wire


@asynccontextmanager
async def connect(settings: Settings, wire: Wire | None = None) -> AsyncIterator[FleetClient]:
    """A client over the configured stack; leaving it waits for the calls under way and closes all connections."""
    transport = HttpTransport(settings.upstream, wire)
    try:
        yield FleetClient(transport, settings.upstream)
    finally:
        await transport.close()
