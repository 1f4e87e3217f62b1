"""Answers that are at hand, so many in a turn of the event loop: who floods the gateway with them delays itself alone.

They need no place and are never refused, for they cost no more than a refusal. But with a thousand of them in one turn
whoever else asks waits for all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque

# A few milliseconds' worth.
IN_A_TURN = 16


class Turns:
    """Turns of the event loop, shared between principals; a principal who asks for few goes at once."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._next_is_due = False

    def at_once(self, principal: str) -> bool:
        """Takes a part of this turn, if the principal may have one."""
        if principal in self._queues or self._taken[principal] >= IN_A_TURN:
            return False
        self._go_on()
        self._taken[principal] += 1
        return True

    async def wait(self, principal: str) -> None:
        """Waits for a turn that has a part for the principal."""
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(principal, deque()).append(turn)
        self._go_on()
        await turn

    def _go_on(self) -> None:
        if not self._next_is_due:
            self._next_is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._next_is_due = False
        self._taken.clear()
        left = IN_A_TURN
        while left and self._queues:
            principal, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if not turn.done():  # its caller is still there
                turn.set_result(None)
                self._taken[principal] += 1
                left -= 1
            if queue:
                self._queues[principal] = queue
        if self._taken or self._queues:
            self._go_on()
