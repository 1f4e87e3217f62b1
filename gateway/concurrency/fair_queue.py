"""A queue that serves its tenants round-robin, so that one with many items delays only itself."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def _never(_: object) -> bool:
    return False


class FairQueue(Generic[T]):
    """A first-in, first-out queue for each tenant. Items that `is_done` reports as done are skipped."""

    def __init__(self, is_done: Callable[[T], bool] = _never) -> None:
        # The tenant that is served next comes first.
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()
        self._is_done = is_done

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._queues

    def __iter__(self) -> Iterator[T]:
        """All items, tenant by tenant."""
        for queue in self._queues.values():
            yield from queue

    def waiting(self, tenant: str) -> int:
        """The number of a tenant's items."""
        return len(self._queues.get(tenant, ()))

    def push(self, tenant: str, item: T, *, first: bool = False) -> None:
        """Adds an item as its tenant's last, or as the `first` of all to put back one that was popped."""
        queue = self._queues.setdefault(tenant, deque())
        if first:
            queue.appendleft(item)
            self._queues.move_to_end(tenant, last=False)
        else:
            queue.append(item)

    def peek(self) -> T | None:
        """The item that `pop` would return."""
        while self._queues:
            tenant, queue = next(iter(self._queues.items()))
            while queue:
                if not self._is_done(queue[0]):
                    return queue[0]
                queue.popleft()
            del self._queues[tenant]
        return None

    def pop(self, is_allowed: Callable[[str], bool] | None = None) -> tuple[str, T] | None:
        """Removes the next item, or that of the next allowed tenant; the tenant is served again after all others.

        An item of an allowed tenant is returned even if it is done.
        """
        if is_allowed is None:
            return None if self.peek() is None else self._served(next(iter(self._queues)))
        allowed = next((tenant for tenant in self._queues if is_allowed(tenant)), None)
        return None if allowed is None else self._served(allowed)

    def _served(self, tenant: str) -> tuple[str, T]:
        queue = self._queues[tenant]
        item = queue.popleft()
        if queue:
            self._queues.move_to_end(tenant)
        else:
            del self._queues[tenant]
        return tenant, item

    def remove(self, tenant: str, item: T) -> bool:
        """Removes an item that no longer waits; returns whether it was queued."""
        queue = self._queues.get(tenant)
        if queue is None or item not in queue:
            return False
        queue.remove(item)
        if not queue:
            del self._queues[tenant]
        return True

    def expire(self, is_late: Callable[[T], bool]) -> list[T]:
        """Removes and returns late items. All items may wait equally long, so the oldest of a tenant are late first."""
        late: list[T] = []
        for tenant, queue in list(self._queues.items()):
            while queue and (self._is_done(queue[0]) or is_late(queue[0])):
                late.append(queue.popleft())
            if not queue:
                del self._queues[tenant]
        return [item for item in late if not self._is_done(item)]

    def heads(self) -> Iterator[T]:
        """The first item of each tenant."""
        return (queue[0] for queue in self._queues.values())
