"""The configuration of the server: uvicorn with limits."""

from __future__ import annotations

from typing import Any

import uvicorn

from gateway.server.limits import ServerLimits
from gateway.server.protocol import BoundedProtocol
from gateway.settings import Settings


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration with our protocol. The gateway logs requests itself, with their ids."""

    def __init__(
        self,
        application: Any,
        settings: Settings,
        *,
        connections_max: int | None = None,
        files_max: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            application,
            http=BoundedProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # responses do not depend on a client's address or scheme
            timeout_keep_alive=settings.http.keep_alive,
            timeout_graceful_shutdown=settings.http.shutdown_timeout,
            **{"host": settings.host, "port": settings.port, **more},
        )
        self.shutdown_delay = settings.http.shutdown_delay
        self.limits = ServerLimits(settings, connections_max, files_max)
