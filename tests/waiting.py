"""Waits for what happens in another thread or process."""

from __future__ import annotations

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
