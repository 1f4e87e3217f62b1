"""The plan for many ids, as a table."""

from __future__ import annotations

import pytest

from gateway.upstream.scan_planner import ScanProgress, should_scan


@pytest.mark.parametrize(
    ("missing", "page_size", "fleet_size", "pages_read", "scans"),
    [
        (1, 100, 100, ScanProgress(), False),  # one read either way: the one by id is smaller
        (2, 100, 100, ScanProgress(), True),  # one page holds the whole fleet
        (15, 100, None, ScanProgress(), False),  # few ids, fleet unknown: a gamble not worth it
        (15, 100, 10_000, ScanProgress(), False),  # 100 pages for 15 ids
        (15, 100, 1_000, ScanProgress(), True),  # 10 pages for 15 ids
        (10, 100, 1_000, ScanProgress(), False),  # 10 pages for 10 ids: no gain
        (400, 100, None, ScanProgress(), True),  # many ids: worth a first page
        (400, 100, 1_000, ScanProgress(), True),
        (400, 100, 100_000, ScanProgress(), False),
        (360, 100, None, ScanProgress(1, 40), True),  # 40 found on the first page: 9 more pages
        (399, 100, None, ScanProgress(1, 1), False),  # one found on a page: as good as one by one
        (400, 100, None, ScanProgress(39, 0), True),  # nothing found yet, a tenth not yet spent
        (400, 100, None, ScanProgress(40, 0), False),
        (3, 100, 1_000, ScanProgress(9, 397), True),  # one page left for 3 ids
        (3, 100, 1_000, ScanProgress(10, 397), False),  # the fleet was larger than thought: one by one
        (0, 100, 1_000, ScanProgress(3, 400), False),
        (1, 100, None, ScanProgress(1, 40), False),  # the last one, however well the scan goes
        (50, 100, None, ScanProgress(), True),  # as many as make a first page worth it
        (49, 100, None, ScanProgress(), False),
    ],
)
def test_a_scan_continues_while_it_saves_calls(missing, page_size, fleet_size, pages_read, scans):
    """Compared with a call for each missing id."""
    assert should_scan(missing, page_size, fleet_size, pages_read) is scans
