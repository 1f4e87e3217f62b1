"""How much of its processor this thread uses, told to those who adapt to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WATCHED_EVERY = 0.1
# Up to this share of what counts as busy a processor has time left. Between the two it is as it should be under a load
# that it is the bound of: what is given back then is given back slowly.
SPARE = 0.85
SCHEDULING = "/proc/thread-self/schedstat"


async def watch(*adapt: Callable[[float], None]) -> None:
    """Tells each of these ten times a second, for as long as it runs, what share of the time since was used."""
    while True:
        used, began = _processor_seconds(), time.perf_counter()
        await asyncio.sleep(WATCHED_EVERY)
        busy = (_processor_seconds() - used) / (time.perf_counter() - began)
        for one in adapt:
            one(busy)


def _processor_seconds() -> float:
    """What this thread has used of a processor and, where the system tells, waited for one.

    On a processor that is shared, or rationed, one that is fully used gives less than its whole time.
    """
    try:
        with open(SCHEDULING, "rb") as told:  # noqa: PTH123 - ten times a second
            used, waited, _ = map(int, told.read().split())
    except (OSError, ValueError):
        return time.process_time()
    return (used + waited) / 1e9
