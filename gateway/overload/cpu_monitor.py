"""Measures this thread's CPU utilisation and reports it to everything that adapts to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.telemetry.metrics import CPU, LOOP_LAG, Metrics

INTERVAL = 0.1
# The low-water mark as a share of the threshold; below it the CPU has idle time. Between the two the CPU is as utilised
# as it should be under full load, so limits recover slowly.
LOW_WATER = 0.85
SCHEDSTAT = "/proc/thread-self/schedstat"


async def monitor(metrics: Metrics, *adapt: Callable[[float], None]) -> None:
    """Calls each function ten times a second with the utilisation since the last call, from 0 to 1."""
    utilization = 0.0
    metrics.samplers.append(lambda: [(CPU, (), utilization)])
    while True:
        used, began = _cpu_seconds(), time.perf_counter()
        await asyncio.sleep(INTERVAL)
        elapsed = time.perf_counter() - began
        utilization = (_cpu_seconds() - used) / elapsed
        metrics.observe(LOOP_LAG, (), max(0.0, elapsed - INTERVAL))
        for report in adapt:
            report(utilization)


def _cpu_seconds() -> float:
    """The CPU time that this thread has used, plus the time it has waited for a CPU if the system reports that.

    A shared or throttled CPU is saturated below a utilisation of 100 %.
    """
    try:
        with open(SCHEDSTAT, "rb") as file:  # noqa: PTH123 - ten times a second
            used, waited, _ = map(int, file.read().split())
    except (OSError, ValueError):
        return time.process_time()
    return (used + waited) / 1e9
