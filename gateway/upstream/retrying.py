"""Reads that failed for a reason that may pass are made again: after a pause, within a budget and a deadline."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from gateway.errors import RateLimited, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import RetrySettings
from gateway.upstream.fetching import Fetcher, Read, Reply

T = TypeVar("T")
PASSING = (UpstreamUnavailable, UpstreamTimeout, RateLimited)


class Budget:
    """Each read saves up a share of a retry, each retry spends one: in the long run retries are that share at most.

    `reserve` is what may be saved, and what there is at the start, so that a quiet gateway retries too.
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
        """Whether a retry may be made; if so it is paid for."""
        if self._saved < 1:
            return False
        self._saved -= 1
        self.is_full = False
        return True


def pause_before(attempt: int, failure: UpstreamError, settings: RetrySettings, dice: Callable[[], float]) -> float:
    """Seconds to wait before attempt number `attempt` (from 2), by the upstream's word or by jittered backoff."""
    backoff = min(settings.pause_max, settings.pause * 2 ** (attempt - 2))
    jitter: float = backoff * dice()
    return jitter if failure.retry_after is None else failure.retry_after + min(jitter, settings.pause)


class Retrying:
    """Makes requests again on network faults, 5xx and 429, where making one twice changes nothing."""

    def __init__(
        self, following: Fetcher, settings: RetrySettings, dice: Callable[[], float] = lambda: random.uniform(0.5, 1.0)
    ) -> None:
        self._following = following
        self._settings = settings
        self.budget = Budget(settings.share, settings.reserve)
        self._dice = dice

    async def fetch(self, read: Read[T]) -> Reply[T]:
        if not read.endpoint.idempotent:
            return await self._following.fetch(read)
        self.budget.save()
        try:
            return await self._following.fetch(read)
        except PASSING as failure:
            first = failure
        # Most reads never come here: tenacity costs as much as a whole call. It is told of the first attempt.
        attempts = chain([first], repeat(None))

        async def attempt() -> Reply[T]:
            failed = next(attempts)
            if failed is not None:
                raise failed
            return await self._following.fetch(read)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PASSING),
            wait=self._pause,
            stop=partial(self._gives_up, read),
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _pause(self, state: RetryCallState) -> float:
        assert state.outcome is not None
        failure = state.outcome.exception()
        assert isinstance(failure, PASSING)
        return pause_before(state.attempt_number + 1, failure, self._settings, self._dice)

    def _gives_up(self, read: Read[Any], state: RetryCallState) -> bool:
        tried_enough = state.attempt_number >= self._settings.attempts
        return tried_enough or state.upcoming_sleep >= read.patience.left or not self.budget.spend()
