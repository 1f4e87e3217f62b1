"""Plans reads of many vehicles by id: one call each, or a scan of the pages, whichever takes fewer upstream calls."""

from __future__ import annotations

from dataclasses import dataclass

# If the fleet's size is unknown, a scan starts only for at least this many ids.
EXPLORE_FROM = 50
# Pages that a scan may read without a match, as a share of the calls that it would save.
EXPLORE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """The progress of a scan: pages read, and ids found."""

    pages: int = 0
    found: int = 0


def should_scan(missing: int, page_size: int, fleet_size: int | None, progress: ScanProgress = ScanProgress()) -> bool:
    """Whether to read the next page of a scan rather than each of the `missing` ids.

    `fleet_size` is the number of vehicles if it is known.
    """
    if missing <= 1:
        return False
    if fleet_size is not None:
        pages_left = -(-fleet_size // page_size) - progress.pages
        return 0 < pages_left < missing
    if progress.found:
        # The ids found per page so far predict how many more pages the scan takes.
        return missing * progress.pages / progress.found < missing
    return missing >= EXPLORE_FROM and progress.pages < missing * EXPLORE_SHARE
