"""Retries: which failures, with what delay, how many in total, and never past the deadline."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.deadline import Deadline
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
from gateway.upstream.requests import RequestScope, RequestStats, UpstreamResponse
from gateway.upstream.retry import Budget, RetryPolicy
from tests.upstream.fakes import calls_over, vehicle_read

QUICK = {"backoff": 0.001, "backoff_max": 0.002}


class Failing:
    """Raises the given failures, one per call, then responds."""

    sends_inline = False

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def fetch(self, request):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return UpstreamResponse("response")


@pytest.mark.parametrize("failure", [UpstreamUnavailable, UpstreamTimeout, RateLimited])
async def test_temporary_failures_are_retried(failure):
    """A network fault, a 5xx, a time-out or a 429 takes another call."""
    fleet = Failing(failure(), failure())
    assert (await calls_over(fleet, retry=QUICK).fetch(vehicle_read())).value == "response"
    assert fleet.calls == 3


@pytest.mark.parametrize(
    "failure", [UpstreamUnauthenticated, UpstreamForbidden, UpstreamRejected, UpstreamInvalidResponse]
)
async def test_permanent_failures_are_not_retried(failure):
    """A rejection or an invalid response fails at once."""
    fleet = Failing(failure())
    with pytest.raises(failure):
        await calls_over(fleet, retry=QUICK).fetch(vehicle_read())
    assert fleet.calls == 1


async def test_the_last_failure_is_raised():
    """After the last attempt its own failure is raised, not the library's."""
    fleet = Failing(UpstreamTimeout(), UpstreamUnavailable(), RateLimited(retry_after=0))
    with pytest.raises(RateLimited):
        await calls_over(fleet, retry=QUICK).fetch(vehicle_read())


async def test_the_upstreams_wait_is_respected():
    """After a 429 no call is sent before the stated time."""
    fleet = Failing(RateLimited(retry_after=0.05))
    began = time.monotonic()
    await calls_over(fleet, retry=QUICK).fetch(vehicle_read())
    assert time.monotonic() - began >= 0.05


async def test_no_retry_is_made_past_the_deadline():
    """If the wait would end after the deadline, the call fails at once."""
    fleet = Failing(RateLimited(retry_after=60))
    hurried = RequestScope(Caller("alice"), RequestStats(), deadline=Deadline.after(5))
    began = time.monotonic()
    with pytest.raises(RateLimited) as failed:
        await calls_over(fleet, retry=QUICK).fetch(vehicle_read(by=hurried))
    assert failed.value.extensions()["retryAfter"] == 60
    assert time.monotonic() - began < 4
    assert fleet.calls == 1


async def test_retries_are_a_tenth_of_the_traffic_at_most():
    """In an outage a thousand concurrent reads cause the burst and a tenth more, not three thousand."""

    class Out:
        sends_inline = False
        calls = 0

        async def fetch(self, request):
            self.calls += 1
            raise UpstreamUnavailable

    fleet = Out()
    calls = calls_over(fleet, retry=QUICK)
    await asyncio.gather(*(calls.fetch(vehicle_read(str(n))) for n in range(1000)), return_exceptions=True)
    assert 1000 < fleet.calls <= 1000 + 100 + 10


@given(st.lists(st.booleans(), max_size=500), st.floats(0.0, 1.0), st.integers(1, 20))
def test_a_budget_never_exceeds_its_ratio_and_burst(retried, share, reserve):
    """In any order of reads and retries."""
    budget = Budget(share, reserve)
    requests = retries = 0
    for wants_retry in retried:
        budget.save()
        requests += 1
        if wants_retry:
            retries += budget.spend()
    assert retries <= reserve + share * requests + 1e-6


@given(st.integers(2, 30), st.floats(0.5, 1.0))
def test_backoff_grows_up_to_its_bound(attempt, dice):
    """It doubles, has jitter, and never exceeds its bound."""
    settings = RetrySettings(backoff=0.1, backoff_max=2.0)
    pause = RetryPolicy(settings, lambda: dice).backoff(attempt - 1, UpstreamUnavailable())
    assert 0.05 <= pause <= 2.0


POLICY = {"attempts": 3, "backoff": 0.1, "backoff_max": 0.5, "budget_ratio": 0.1, "budget_burst": 2}


def policy(**settings: float) -> RetryPolicy:
    """A policy without jitter."""
    return RetryPolicy(RetrySettings(**{**POLICY, **settings}), lambda: 1.0)


def test_backoff_doubles_up_to_its_bound():
    """After one failed attempt it is the configured backoff."""
    assert [policy().backoff(failed, UpstreamTimeout()) for failed in (1, 2, 3, 4, 9)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_the_upstreams_wait_gets_bounded_jitter():
    """Calls that were rejected until one time are not retried all at once, nor before it."""
    rejected = RateLimited(retry_after=3)
    assert [policy().backoff(failed, rejected) for failed in (1, 4)] == [pytest.approx(3.1)] * 2
    assert RetryPolicy(RetrySettings(**POLICY), lambda: 0.5).backoff(1, rejected) == 3.05


def test_jitter_is_random_by_default():
    """Between half and all of a backoff."""
    delays = {RetryPolicy(RetrySettings(**POLICY)).backoff(1, UpstreamTimeout()) for _ in range(20)}
    assert len(delays) > 1
    assert all(0.05 <= delay <= 0.1 for delay in delays)


@pytest.mark.parametrize(("failed", "remaining", "delay"), [(1, 9, 0.1), (2, 9, 0.2), (3, 9, None), (1, 0.1, None)])
def test_a_retry_needs_an_attempt_and_time(failed, remaining, delay):
    """There is none after the last attempt, or if its delay would end after the deadline."""
    assert policy().delay(failed, UpstreamTimeout(), remaining) == delay


def test_a_retry_needs_a_temporary_failure():
    """Others have none, and take nothing of the budget."""
    one = policy(budget_burst=1)
    assert one.delay(1, UpstreamForbidden(), 9) is None
    assert one.delay(1, UpstreamTimeout(), 0.05) is None
    assert one.delay(3, UpstreamTimeout(), 9) is None
    assert one.delay(1, UpstreamTimeout(), 9) == 0.1
    assert one.delay(1, UpstreamTimeout(), 9) is None


def test_a_budget_is_full_until_a_retry_takes_a_token():
    """And again once it is refilled."""
    budget = Budget(0.5, 2)
    assert budget.is_full
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    assert not budget.is_full
    for full in (False, False, False, True, True):
        budget.save()
        assert budget.is_full is full
    assert [budget.spend() for _ in range(3)] == [True, True, False]
