"""The decisions about retries: which failures, after what delay, how many, and within what budget."""

from __future__ import annotations

import random
from collections.abc import Callable

from gateway.errors import RateLimited, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import RetrySettings

# What may pass; only requests to idempotent endpoints are repeated.
RETRYABLE = (UpstreamUnavailable, UpstreamTimeout, RateLimited)


class Budget:
    """Each read saves a share of a retry and each retry spends one, so in the long run retries are at most that share.

    `reserve` is the most that can be saved. It is there at the start, so that a quiet gateway retries too.
    """

    def __init__(self, share: float, reserve: float) -> None:
        self._share = share
        self._reserve = reserve
        self._saved = reserve
        self.is_full = True

    def save(self) -> None:
        """A read began."""
        self._saved = min(self._reserve, self._saved + self._share)
        self.is_full = self._saved >= self._reserve

    def spend(self) -> bool:
        """Pays for a retry, if there is enough for one."""
        if self._saved < 1:
            return False
        self._saved -= 1
        self.is_full = False
        return True


class RetryPolicy:
    """Decides about each failed attempt of a read."""

    def __init__(self, settings: RetrySettings, jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)) -> None:
        self._settings = settings
        self._jitter = jitter
        self.budget = Budget(settings.budget_ratio, settings.budget_burst)

    def delay(self, failed: int, failure: Exception, remaining: float) -> float | None:
        """Seconds before the next attempt, or None if there is none.

        `failed` attempts have been made so far, the last with this `failure`; the read has `remaining` seconds.
        """
        if failed >= self._settings.attempts or not isinstance(failure, RETRYABLE):
            return None
        delay = self.backoff(failed, failure)
        return delay if delay < remaining and self.budget.spend() else None

    def backoff(self, failed: int, failure: UpstreamError) -> float:
        """Seconds to wait after so many failed attempts: what the fleet API asks for, or exponential backoff."""
        settings = self._settings
        jittered: float = min(settings.backoff_max, settings.backoff * 2 ** (failed - 1)) * self._jitter()
        return jittered if failure.retry_after is None else failure.retry_after + min(jittered, settings.backoff)
