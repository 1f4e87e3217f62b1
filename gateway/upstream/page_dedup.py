"""Pages that came again as they were: what was made of them counts for what came, for it is the same to the last byte.

No call is saved by this, and nothing can be out of date: it is the answer itself that is compared.
"""

from __future__ import annotations

import weakref

from gateway.concurrency.lru import LRU
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import DecodedPages, VehiclePage


class PageDeduplicator:
    """The last page of each read, by its key, as long as somebody holds it: itself the latest, in `bytes_max` bytes."""

    def __init__(self, bytes_max: int, decoded: DecodedPages | None = None) -> None:
        # With each the bytes that it took when it was read last.
        self._latest: LRU[str, tuple[VehiclePage, int]] = LRU(bytes_max=bytes_max, size_of=lambda _, held: held[1])
        self._decoded = decoded
        # What the cache holds need not be held here, too.
        self._held: weakref.WeakValueDictionary[str, VehiclePage] = weakref.WeakValueDictionary()

    def page_of(self, key: str, body: bytes, mask: type[Vehicle] | None) -> VehiclePage:
        """The page of an answer's body: the same one where that has not changed; raises as `VehiclePage.of_body`."""
        page = self._held.get(key)
        if page is None or page.body != body:
            page = VehiclePage.of_body(body, mask, self._decoded)
            page.stays()
            self._held[key] = page
        self._latest.put(key, (page, page.bytes_taken))
        return page
