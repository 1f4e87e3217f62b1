"""Pages that came again as they were: what was made of them counts for what came, for it is the same to the last byte.

No call is saved by this, and nothing can be out of date: it is the answer itself that is compared.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

from gateway.upstream.models import Vehicle
from gateway.upstream.pages import VehiclePage


class UnchangedPages:
    """The last page of each read, by its key, as long as somebody holds it: itself the latest, in `bytes_max` bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        # With each what it took when it was read last.
        self._lately: OrderedDict[str, tuple[VehiclePage, int]] = OrderedDict()
        # What the cache holds need not be held here, too.
        self._held: weakref.WeakValueDictionary[str, VehiclePage] = weakref.WeakValueDictionary()

    def page_of(self, key: str, body: bytes, view: type[Vehicle] | None) -> VehiclePage:
        """The page of an answer's body: the same one where that has not changed; raises as `VehiclePage.of_body`."""
        page = self._held.get(key)
        if page is None or page.body != body:
            page = VehiclePage.of_body(body, view)
            page.stays()
            self._held[key] = page
        if self._bytes_max:
            self._keep(key, page)
        return page

    def _keep(self, key: str, page: VehiclePage) -> None:
        """Keeps it as the most recently read, if there is room for it at all."""
        _, before = self._lately.pop(key, (None, 0))
        size = page.bytes_taken
        self._bytes -= before
        if size > self._bytes_max:
            return
        self._lately[key] = page, size
        self._bytes += size
        while self._bytes > self._bytes_max:
            _, (_, given_up) = self._lately.popitem(last=False)
            self._bytes -= given_up
