"""Calls are paced so that a client's rate limit is never used up by our doing; what would have to wait past its
deadline is refused at once.

The fleet API tells, with every answer, how many calls a client has left and until when. The last share of them is
spread over the rest of the window. Until something is told nothing is held back.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gateway.errors import RateLimited, UpstreamError
from gateway.settings import PacingSettings
from gateway.upstream.fetching import Clock, Fetcher, Rate, Read, Reply

T = TypeVar("T")
# Seconds that are no wait.
AT_ONCE = 1e-9
SPAN_MAX = 3600.0
# Seconds ahead at which a window can't end, nor a refusal: neither is taken for longer than an hour, and clocks differ.
AHEAD_MAX = SPAN_MAX + 60.0


@dataclass(slots=True)
class Window:
    """What is known of one client's limit; times in epoch seconds. `next` is when the next call may be made."""

    limit: int = 0
    remaining: int = 0
    reset: float = 0.0
    next: float = 0.0
    span: float = 0.0
    """Seconds of a window, as far as was seen."""

    def take(self, at: float, patience: float, settings: PacingSettings) -> float:
        """Seconds until a call that is asked for now may be made; it is counted if it fits the patience (seconds)."""
        if max(self.reset, self.next) - at > AHEAD_MAX:  # the clock was set back
            self.reset = self.next = 0.0
        if at >= self.reset:
            self.remaining = self.limit
        else:
            self.span = max(self.span, min(self.reset - at, SPAN_MAX))
        start = max(at, self.next)
        # Those who wait for a window of which nothing is known yet are spread over it: else all would come at once.
        apart = self.span / max(1, self.limit - settings.reserve)
        step = apart if start > at else 0.0
        if at < self.reset:
            usable = self.remaining - settings.reserve
            if usable <= 0:
                start, step = max(start, self.reset), apart
            elif self.remaining <= settings.share * self.limit:
                step = max(0.0, self.reset - start) / usable
            else:
                step = 0.0
        if start - at < patience:
            self.remaining = max(0, self.remaining - 1)
            self.next = start + step if step else self.next
        return start - at

    def learn(self, told: Rate) -> None:
        """An answer told the limit. In one window the count only falls: answers overtake each other."""
        limit, remaining, reset = told
        if reset < self.reset:
            return
        if reset == self.reset and self.limit:
            remaining = min(remaining, self.remaining)
        self.limit, self.remaining, self.reset = limit, remaining, reset

    def block(self, until: float) -> None:
        """The fleet API refused a call and said until when."""
        self.next = max(self.next, until)


class Paces(Protocol):
    """The windows of all clients."""

    def knows(self, client: str) -> bool:
        """Whether anything may be known of a client, so that it has to be asked for."""

    async def take(self, client: str, at: float, patience: float) -> float: ...

    async def learn(self, client: str, told: Rate) -> None: ...

    async def block(self, client: str, until: float) -> None: ...


class LocalPaces:
    """The windows in this process; the client heard of least recently is forgotten first."""

    def __init__(self, settings: PacingSettings) -> None:
        self._settings = settings
        self._windows: OrderedDict[str, Window] = OrderedDict()

    def knows(self, client: str) -> bool:
        return client in self._windows

    def takes_at_once(self, client: str, at: float) -> bool:
        """Counts a call, if it may be made now."""
        window = self._windows.get(client)
        return window is None or window.take(at, AT_ONCE, self._settings) <= 0

    def learn_at_once(self, client: str, told: Rate) -> None:
        """The same as `learn`."""
        self._of(client).learn(told)

    async def take(self, client: str, at: float, patience: float) -> float:
        window = self._windows.get(client)
        return 0.0 if window is None else window.take(at, patience, self._settings)

    async def learn(self, client: str, told: Rate) -> None:
        self.learn_at_once(client, told)

    async def block(self, client: str, until: float) -> None:
        self._of(client).block(until)

    def _of(self, client: str) -> Window:
        window = self._windows.setdefault(client, Window())
        self._windows.move_to_end(client)
        if len(self._windows) > self._settings.clients_max:
            self._windows.popitem(last=False)
        return window


class Pacing:
    """Makes each call when its client's turn has come."""

    def __init__(self, following: Fetcher, paces: Paces, clock: Clock) -> None:
        self._following = following
        self._paces = paces
        self._clock = clock

    async def fetch(self, read: Read[T]) -> Reply[T]:
        client = read.errand.caller.client
        if read.given is None and self._paces.knows(client):
            patience = read.patience.left
            wait = await self._paces.take(client, self._clock(), patience)
            if wait >= patience:
                raise RateLimited(retry_after=math.ceil(wait))
            if wait > 0:
                await asyncio.sleep(wait)
        try:
            reply = await self._following.fetch(read)
        except UpstreamError as failure:
            if isinstance(failure, RateLimited) and failure.retry_after is not None:
                await self._paces.block(client, self._clock() + failure.retry_after)
            if failure.rate is not None:
                await self._paces.learn(client, Rate(*failure.rate))
            raise
        if reply.rate is not None:
            await self._paces.learn(client, reply.rate)
        return reply
