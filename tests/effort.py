"""How many examples the long random tests try: few by default, many with `--hypothesis-profile thorough`, as in CI."""

from __future__ import annotations

from hypothesis import settings


def effort(ordinary: int, thorough: int) -> int:
    """The number of rounds, examples or seconds for the chosen profile."""
    return thorough if settings.get_current_profile_name().startswith("thorough") else ordinary
