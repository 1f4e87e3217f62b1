"""Page de-duplication: a response body that equals the last one of its key shares its decoded page and fragments.

It saves no call, and nothing can be stale, because whole bodies are compared.
"""

from __future__ import annotations

import weakref

from gateway.concurrency.lru import LRU
from gateway.upstream.models import Vehicle
from gateway.upstream.pages import DecodedPages, VehiclePage


class PageDeduplicator:
    """The last page of each key while anything references it; the latest ones are held here, in `bytes_max` bytes."""

    def __init__(self, bytes_max: int, decoded: DecodedPages | None = None) -> None:
        # Each page with the bytes that it took at its last response.
        self._latest: LRU[str, tuple[VehiclePage, int]] = LRU(bytes_max=bytes_max, size_of=lambda _, entry: entry[1])
        self._decoded = decoded
        # Pages in the cache need not be held here, too.
        self._pages: weakref.WeakValueDictionary[str, VehiclePage] = weakref.WeakValueDictionary()

    def page_of(self, key: str, body: bytes, mask: type[Vehicle] | None) -> VehiclePage:
        """The page of a response body, the same one if that is unchanged; raises as `VehiclePage.of_body`."""
        page = self._pages.get(key)
        if page is None or not page.is_of(body):
            page = VehiclePage.of_body(body, mask, self._decoded) if page is None else page.followed_by(body, mask)
            page.mark_stored()
            self._pages[key] = page
        self._latest.put(key, (page, page.bytes_taken))
        return page
