"""How many examples the long random tests try: few by default, many with `--hypothesis-profile thorough`, as in CI."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")


def effort(ordinary: T, thorough: T) -> T:
    """The number of rounds, examples or seconds, or the list of cases, for the chosen profile."""
    return thorough if settings.get_current_profile_name().startswith("thorough") else ordinary
