"""Many vehicles by id: one read each, or a walk over the pages that hold them, whichever is fewer upstream calls."""

from __future__ import annotations

from dataclasses import dataclass

# Without a hint of the fleet's size a walk is a gamble; below this many ids it is not worth a try.
EXPLORE_FROM = 50
# Pages a walk may read without a find, as a share of the reads it would save.
EXPLORE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """How far a walk has come: pages read, and how many of the ids it set out for it has found."""

    pages: int = 0
    found: int = 0


def should_scan(missing: int, page_size: int, fleet_size: int | None, walked: ScanProgress = ScanProgress()) -> bool:
    """Whether to read the next page of a walk rather than each missing id on its own.

    `missing` ids are still to be found, `fleet_size` is the number of vehicles where it is known.
    """
    if missing <= 1:
        return False
    if fleet_size is not None:
        pages_left = -(-fleet_size // page_size) - walked.pages
        return 0 < pages_left < missing
    if walked.found:
        # The ids found so far tell how densely they lie, and so how long the rest will take.
        return missing * walked.pages / walked.found < missing
    return missing >= EXPLORE_FROM and walked.pages < missing * EXPLORE_SHARE
