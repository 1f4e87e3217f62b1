"""How much the long tests try: little by default, all with `--hypothesis-profile thorough`, as in CI.

`--hypothesis-profile exhaustive` tries as many as take hours.
"""

from __future__ import annotations

from typing import TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")


def effort(ordinary: T, thorough: T, exhaustive: T | None = None) -> T:
    """The number of rounds, examples or seconds, or the list of cases, for the chosen profile."""
    profile = settings.get_current_profile_name()
    if profile.startswith("exhaustive"):
        return thorough if exhaustive is None else exhaustive
    return thorough if profile.startswith("thorough") else ordinary


# For tests, and single cases of them, that take long and whose fault others would show as well.
thorough_only = pytest.mark.skipif(effort(True, False), reason="only with `--hypothesis-profile thorough`")
