"""What is read (`Read`), what comes back (`Reply`) and the one-method protocol of everything in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from gateway.identity import Caller

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """One GET on behalf of one caller; `model` is what its 200 decodes to."""

    caller: Caller
    path: str
    model: type[T]
    parameters: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=())


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
