"""Waits for what happens in another thread or process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def waits_until(holds: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether a condition holds within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return False


async def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until a condition holds, while the event loop goes on. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it can be the state of another thread
            await asyncio.sleep(0.01)
