"""Retries: which failures, how long between, how many in all, and never past the deadline."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    RateLimited,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.identity import Caller
from gateway.settings import RetrySettings
from gateway.upstream.fetching import Errand, Patience, Reply, Tally
from gateway.upstream.retrying import Budget, Retrying, pause_before
from tests.upstream.fakes import vehicle_read

QUICK = RetrySettings(pause=0.001, pause_max=0.002)


class Failing:
    """Raises the failures it was given, one a call, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def fetch(self, read):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return Reply("answer")


@pytest.mark.parametrize("failure", [UpstreamUnavailable, UpstreamTimeout, RateLimited])
async def test_what_may_pass_is_tried_again(failure):
    """A network fault, a 5xx, a time-out or a 429 costs another call, not the answer."""
    fleet = Failing(failure(), failure())
    assert (await Retrying(fleet, QUICK).fetch(vehicle_read())).value == "answer"
    assert fleet.calls == 3


@pytest.mark.parametrize(
    "failure", [UpstreamUnauthenticated, UpstreamForbidden, UpstreamRejected, UpstreamInvalidResponse]
)
async def test_what_will_not_pass_is_not_tried_again(failure):
    """A refusal, or an answer that can't be read, is told at once."""
    fleet = Failing(failure())
    with pytest.raises(failure):
        await Retrying(fleet, QUICK).fetch(vehicle_read())
    assert fleet.calls == 1


async def test_the_last_failure_is_told():
    """After the last attempt its own failure is raised, not the library's."""
    fleet = Failing(UpstreamTimeout(), UpstreamUnavailable(), RateLimited(retry_after=0))
    with pytest.raises(RateLimited):
        await Retrying(fleet, QUICK).fetch(vehicle_read())


async def test_the_upstreams_wait_is_kept():
    """After a 429 nothing is sent before the time that it named."""
    fleet = Failing(RateLimited(retry_after=0.05))
    began = time.monotonic()
    await Retrying(fleet, QUICK).fetch(vehicle_read())
    assert time.monotonic() - began >= 0.05


async def test_nothing_is_tried_past_the_deadline():
    """A wait that would end after the deadline is not begun: the failure is told at once."""
    fleet = Failing(RateLimited(retry_after=60))
    hurried = Errand(Caller("alice"), Tally(), patience=Patience.of(5))
    began = time.monotonic()
    with pytest.raises(RateLimited) as failed:
        await Retrying(fleet, QUICK).fetch(vehicle_read(by=hurried))
    assert failed.value.extensions()["retryAfter"] == 60
    assert time.monotonic() - began < 4
    assert fleet.calls == 1


async def test_retries_are_a_tenth_of_the_traffic_at_most():
    """In an outage a thousand reads at once cost the reserve and a tenth more, not three thousand."""

    class Out:
        calls = 0

        async def fetch(self, read):
            self.calls += 1
            raise UpstreamUnavailable

    fleet = Out()
    retrying = Retrying(fleet, QUICK)
    await asyncio.gather(*(retrying.fetch(vehicle_read(str(n))) for n in range(1000)), return_exceptions=True)
    assert 1000 < fleet.calls <= 1000 + 100 + 10


@given(st.lists(st.booleans(), max_size=500), st.floats(0.0, 1.0), st.integers(1, 20))
def test_a_budget_never_gives_more_than_its_share_and_reserve(retried, share, reserve):
    """Whatever the order of reads and retries, retries stay within the reserve and the share of reads."""
    budget = Budget(share, reserve)
    reads = retries = 0
    for wants_retry in retried:
        budget.save()
        reads += 1
        if wants_retry:
            retries += budget.spend()
    assert retries <= reserve + share * reads + 1e-6


@given(st.integers(2, 30), st.floats(0.5, 1.0))
def test_pauses_grow_up_to_their_bound(attempt, dice):
    """Backoff doubles, is cut by the dice, and never exceeds its bound."""
    settings = RetrySettings(pause=0.1, pause_max=2.0)
    pause = pause_before(attempt, UpstreamUnavailable(), settings, lambda: dice)
    assert 0.05 <= pause <= 2.0
