"""What is read (`Read`), what comes back (`Reply`) and the one-method protocol of everything in between."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from gateway.identity import Caller

T = TypeVar("T")


class Resource(Enum):
    """What kind of thing a read is after; freshness is set for each."""

    VEHICLES = "vehicles"
    VEHICLE = "vehicle"
    LATEST_STATE = "latest_state"


@dataclass(slots=True)
class Tally:
    """What one request has cost so far, and how old its oldest part is."""

    upstream_calls: int = 0
    cache_hits: int = 0
    coalesced: int = 0
    oldest: float | None = None
    fresh_until: float | None = None
    stale: bool = False

    def used(self, stored_at: float, fresh_until: float, *, stale: bool) -> None:
        """Notes a part of the answer: since when it is known and until when it is fresh, in epoch seconds."""
        self.oldest = stored_at if self.oldest is None else min(self.oldest, stored_at)
        self.fresh_until = fresh_until if self.fresh_until is None else min(self.fresh_until, fresh_until)
        self.stale = self.stale or stale


@dataclass(frozen=True, slots=True)
class Errand:
    """On whose behalf one request reads, what that has cost, and the trace it is part of (W3C `traceparent`)."""

    caller: Caller
    tally: Tally
    traceparent: str | None = None


class Read(Generic[T]):
    """One GET for one caller.

    `model` is what its 200 decodes to, `parts` which other reads that answers too, `known` an older answer.
    """

    __slots__ = ("_key", "errand", "known", "model", "parameters", "parts", "path", "resource")

    def __init__(
        self,
        errand: Errand,
        resource: Resource,
        path: str,
        model: type[T],
        parameters: tuple[tuple[str, str], ...] = (),
        *,
        parts: Callable[[T], Iterable[tuple[Read[Any], Any]]] | None = None,
        known: Reply[T] | None = None,
    ) -> None:
        self.errand = errand
        self.resource = resource
        self.path = path
        self.model = model
        self.parameters = parameters
        self.parts = parts
        self.known = known
        self._key: str | None = None

    @property
    def caller(self) -> Caller:
        return self.errand.caller

    @property
    def tally(self) -> Tally:
        return self.errand.tally

    @property
    def key(self) -> str:
        """The caller's principal first, then the canonical read: equal keys get equal answers."""
        if self._key is None:
            canonical = "\0".join((self.path, *(text for pair in sorted(self.parameters) for text in pair)))
            digest = hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
            self._key = f"{self.caller.principal}:{digest}"
        return self._key

    def having(self, known: Reply[T]) -> Read[T]:
        """The same read by one who has an older answer, and needs another only if that has changed."""
        return Read(self.errand, self.resource, self.path, self.model, self.parameters, parts=self.parts, known=known)


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """A decoded answer; `value` is None where the upstream says 404. `size` is the body's length in bytes."""

    value: T | None
    size: int = 0
    etag: str | None = None
    flow_id: str | None = None


class Fetcher(Protocol):
    """Takes a read to its reply, or raises one of our errors; fetchers stack without knowing each other."""

    async def fetch(self, read: Read[T]) -> Reply[T]: ...


Clock = Callable[[], float]
now: Clock = time.time
