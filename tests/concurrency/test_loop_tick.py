"""Batches of one event-loop iteration."""

from __future__ import annotations

import asyncio

from gateway.concurrency.loop_tick import TickBatch


async def test_items_of_an_iteration_are_flushed_together_at_its_end():
    """Items are flushed in order; items added later form the next batch."""
    flushed = []
    batch, loop = TickBatch(flushed.append), asyncio.get_running_loop()
    batch.add(1, loop)
    batch.add(2, loop)
    assert flushed == []
    await asyncio.sleep(0)
    assert flushed == [[1, 2]]
    batch.add(3, loop)
    batch.flush_now()
    assert flushed == [[1, 2], [3]]
    await asyncio.sleep(0)
    assert flushed == [[1, 2], [3]]
