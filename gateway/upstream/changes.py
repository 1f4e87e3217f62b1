"""What writes have made stale: everything cached that could show what they changed, for every caller.

Completed writes are numbered. A read has the number of the latest write that was known when it began, and is stale for
each later write that concerns it. While a write is open, everything that it concerns is stale, because nobody knows
when the fleet API carries it out. So clocks play no role, and a read that began before a write ended can't hide it.

A write concerns what was read of its vehicle by any caller. It also concerns the pages of its fleets: the caller's, and
those of the vehicle's owner and partner. Callers whose fleet is unknown form one group, which every write concerns.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec import Struct

from gateway.concurrency.lru import LRU
from gateway.identity import Caller
from gateway.upstream.models import Vehicle, fleets_of
from gateway.upstream.requests import Layer, Steps, UpstreamCall, UpstreamRequest, digest_of

# Vehicles and fleets whose latest change is remembered. When one is forgotten, everything older is stale.
DIGESTS_MAX, GROUPS_MAX = 100_000, 10_000
# The seconds after which an open write of a process that has ended counts as completed, in addition to its time limit.
MARGIN = 30.0
SECONDS_TO_SEND_MAX = 600.0


def group_of(caller: Caller) -> str:
    """The callers that see the same vehicles as far as is known: those of a verified fleet, or all others."""
    return caller.fleet or ""


class Change(Struct):
    """A write that is open or, with a `number`, completed.

    `digests` are those of the requests that read its vehicle, and `groups` those whose pages it concerns. An open one
    counts as completed after some `seconds`.
    """

    write: str
    vehicle_id: str | None
    digests: tuple[str, ...]
    groups: tuple[str, ...]
    seconds: float = 0.0
    number: int | None = None


class Changes:
    """The changes that this process knows. `listeners` are called with each one: when it is opened, and completed.

    Whatever else is made from reads can be checked as entries of the cache are: by `is_stale`, with the `latest` number
    before the first of these reads.
    """

    def __init__(self) -> None:
        self.latest = 0  # the number of the latest completed write
        self.listeners: list[Callable[[Change], None]] = []
        # Reads with this number or a higher one are certainly not stale.
        self.certain: float = 0
        self._knows_others = True
        self._floor = 0  # everything that was read before this number is stale
        self._completed: tuple[LRU[str, int], LRU[str, int]] = LRU(DIGESTS_MAX), LRU(GROUPS_MAX)
        self._open: dict[str, tuple[Change, asyncio.TimerHandle]] = {}
        self._open_parts: tuple[Counter[str], Counter[str]] = Counter(), Counter()

    def is_stale(self, key: str, number: int, group: str) -> bool:
        """Whether a response is stale to a request with this key, of a group, if `number` was the latest before it."""
        if number >= self.certain:
            return False
        if not self._knows_others or number < self._floor:
            return True
        digest = key.partition(":")[2]
        # Only a path begins with a slash. Anything else may be the digest of a page.
        names = (digest,) if digest.startswith("/") else (digest, group)
        return any(
            name in open_ or number < (completed.get(name) or 0)
            for name, open_, completed in zip(names, self._open_parts, self._completed, strict=False)
        )

    def apply(self, change: Change) -> None:
        """Takes note of an open or a completed write, of this or another process."""
        self._close(change.write)
        if change.number is None:
            timer = asyncio.get_running_loop().call_later(change.seconds, self._expire, change)
            self._open[change.write] = change, timer
            for open_, parts in zip(self._open_parts, (change.digests, change.groups), strict=True):
                open_.update(parts)
        else:
            self.latest = max(self.latest, change.number)
            for completed, parts in zip(self._completed, (change.digests, change.groups), strict=True):
                for part in parts:
                    for _, forgotten in completed.put(part, max(change.number, completed.get(part) or 0)):
                        self._floor = max(self._floor, forgotten)
        self._set_certain()
        for listener in self.listeners:
            listener(change)

    def lose(self) -> None:
        """From now on the writes of other processes are unknown, so everything is stale until `resume`."""
        self._knows_others = False
        self._set_certain()

    def resume(self, number: int) -> None:
        """From now on the writes after the one with this number are known."""
        self._knows_others = True
        self.latest = self._floor = max(self.latest, number)
        self._set_certain()

    def close(self) -> None:
        """Cancels all timers."""
        for write in list(self._open):
            self._close(write)

    def _close(self, write: str) -> None:
        known = self._open.pop(write, None)
        if known is None:
            return
        change, timer = known
        timer.cancel()
        for open_, parts in zip(self._open_parts, (change.digests, change.groups), strict=True):
            open_.subtract(parts)
            for part in parts:
                if not open_[part]:
                    del open_[part]

    def _expire(self, change: Change) -> None:
        """Completes a write whose process has not reported its end; what was read meanwhile is stale."""
        self.apply(Change(change.write, change.vehicle_id, change.digests, change.groups, number=self.latest + 1))

    def _set_certain(self) -> None:
        self.certain = self.latest if self._knows_others and not self._open else math.inf


class Announcer(Protocol):
    """Tells all processes of the writes of this one, itself included."""

    async def opened(self, change: Change) -> None:
        """Announces a write that is about to be sent. Raises WritesUnavailable if that is impossible."""

    async def completed(self, change: Change) -> None:
        """Announces a write that has ended, and waits until the others know it, or for a moment. Never fails."""


class LocalAnnouncer:
    """The announcer of a gateway with one process."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def opened(self, change: Change) -> None:
        self._changes.apply(change)

    async def completed(self, change: Change) -> None:
        change.number = self._changes.latest + 1
        self._changes.apply(change)


class WriteAnnouncement:
    """The layer that announces each write before it is sent and after it has ended, whatever its outcome is."""

    def __init__(self, following: Layer, announcer: Announcer, seconds: float) -> None:
        self._following = following
        self._announcer = announcer
        self._seconds = seconds  # the time limit of a usual call

    def steps(self, call: UpstreamCall[Any]) -> Steps:
        """The steps of the call; those of a read are unchanged."""
        request = call.request
        if request.endpoint.idempotent:
            yield from self._following.steps(call)
            return
        change = _change_of(request, request.item_id, request.concerns)
        seconds_to_send = min(request.seconds_to_send, SECONDS_TO_SEND_MAX)
        change.seconds = seconds_to_send + max(request.endpoint.timeout, self._seconds) + self._seconds + MARGIN
        yield self._announcer.opened(change)
        vehicle: Any = None
        try:
            yield from self._following.steps(call)
            vehicle = call.response.value
        finally:
            vehicle_id, fleets = request.item_id, set(request.concerns)
            if isinstance(vehicle, Vehicle):
                vehicle_id, fleets = vehicle.vehicle_id, fleets | fleets_of(vehicle)
            completed = _change_of(request, vehicle_id, fleets)
            completed.write = change.write
            yield self._announcer.completed(completed)


def _change_of(request: UpstreamRequest[Any], vehicle_id: str | None, fleets: Iterable[str]) -> Change:
    ids = [] if vehicle_id is None else [vehicle_id]
    digests = {digest_of(path) for endpoint in request.endpoint.invalidates for path in endpoint.paths(ids)}
    groups = {group_of(request.caller), "", *fleets}
    return Change(secrets.token_hex(16), vehicle_id, tuple(sorted(digests)), tuple(sorted(groups)))
