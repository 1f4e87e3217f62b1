"""How much of its processor this thread uses, for what adapts to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

INTERVAL = 0.1
# Below this share of the threshold the processor has time to spare. Between the two it is as busy as it should be under
# a load that it is the bottleneck of; what was taken away is then given back slowly.
LOW_WATER = 0.85
SCHEDSTAT = "/proc/thread-self/schedstat"


async def monitor(*adapt: Callable[[float], None]) -> None:
    """Calls each function ten times a second with the utilisation since the last call, from 0 to 1."""
    while True:
        used, began = _cpu_seconds(), time.perf_counter()
        await asyncio.sleep(INTERVAL)
        utilization = (_cpu_seconds() - used) / (time.perf_counter() - began)
        for each in adapt:
            each(utilization)


def _cpu_seconds() -> float:
    """The processor time that this thread has used or, where the system says so, waited for.

    A processor that is shared, or rationed, gives less than its whole time when it is fully used.
    """
    try:
        with open(SCHEDSTAT, "rb") as file:  # noqa: PTH123 - ten times a second
            used, waited, _ = map(int, file.read().split())
    except (OSError, ValueError):
        return time.process_time()
    return (used + waited) / 1e9
