"""The decisions about retries: which failures, after what delay, how many, and within what budget."""

from __future__ import annotations

import random
from collections.abc import Callable

from gateway.errors import RateLimited, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import RetrySettings

# Failures that may be temporary; only requests to idempotent endpoints are retried.
RETRYABLE = (UpstreamUnavailable, UpstreamTimeout, RateLimited)


class Budget:
    """A token bucket: each call adds `ratio` tokens and each retry takes one, which bounds retries per call.

    `burst` is the capacity. The bucket starts full, so that an idle gateway retries too.
    """

    def __init__(self, ratio: float, burst: float) -> None:
        self._ratio = ratio
        self._burst = burst
        self._tokens = burst
        self.is_full = True

    def save(self) -> None:
        """Adds the tokens of a call."""
        self._tokens = min(self._burst, self._tokens + self._ratio)
        self.is_full = self._tokens >= self._burst

    def spend(self) -> bool:
        """Takes the token of a retry, if there is one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self.is_full = False
        return True


class RetryPolicy:
    """Decides whether and when a failed call is retried."""

    def __init__(self, settings: RetrySettings, jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)) -> None:
        self._settings = settings
        self._jitter = jitter
        self.budget = Budget(settings.budget_ratio, settings.budget_burst)

    def delay(self, failed: int, failure: Exception, remaining: float) -> float | None:
        """Seconds before the next attempt, or None if there is none.

        `failed` attempts have been made so far, the last with this `failure`; the call has `remaining` seconds.
        """
        if failed >= self._settings.attempts or not isinstance(failure, RETRYABLE):
            return None
        delay = self.backoff(failed, failure)
        return delay if delay < remaining and self.budget.spend() else None

    def backoff(self, failed: int, failure: UpstreamError) -> float:
        """Seconds to wait after `failed` attempts: exponential backoff, or what the fleet API requests plus jitter."""
        settings = self._settings
        jittered: float = min(settings.backoff_max, settings.backoff * 2 ** (failed - 1)) * self._jitter()
        return jittered if failure.retry_after is None else failure.retry_after + min(jittered, settings.backoff)
