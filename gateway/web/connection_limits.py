"""Connections that are closed for the sake of others."""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.telemetry import get_logger


class ClosedConnections:
    """Counts the connections that were closed for others; the log tells of them once a second."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()

    def count(self, reason: str, number: int = 1) -> None:
        """Counts connections that were closed for this reason."""
        if not self._untold:
            asyncio.get_running_loop().call_later(1, self._tell)
        self.total[reason] += number
        self._untold[reason] += number

    def _tell(self) -> None:
        untold, self._untold = self._untold, Counter()
        for reason, number in untold.items():
            get_logger("gateway.web").warning("connections closed", reason=reason, number=number)
