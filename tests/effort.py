"""How much the long random tests try: little by default, a lot with `--hypothesis-profile thorough`, as CI runs them."""

from __future__ import annotations

from hypothesis import settings


def effort(ordinary: int, thorough: int) -> int:
    """The number of rounds, examples or seconds that the chosen profile asks for."""
    return thorough if settings.get_current_profile_name().startswith("thorough") else ordinary
