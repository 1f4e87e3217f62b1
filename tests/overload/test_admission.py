"""Admission: bounds in total and per principal, slots in turn between principals, and no waiter is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.deadline import Deadline
from gateway.errors import Overloaded
from gateway.identity import Caller
from gateway.overload.admission import ACTIVE_SECONDS, TRUSTED_MAX, UNTRUSTED, Admission, Slot
from gateway.overload.cpu_monitor import monitor
from gateway.settings import LimitSettings
from gateway.telemetry.metrics import QUEUED, RUNNING, SLOTS, Metrics

SMALL = LimitSettings(concurrency=4, queue=6, principal_concurrency=2, principal_queue=4)


async def waiting_for(admission: Admission, principal: str, seconds: float = 5) -> asyncio.Task[None]:
    task = asyncio.create_task(admission.acquire(principal, Deadline.after(seconds)))
    await asyncio.sleep(0)
    return task


async def test_unread_responses_occupy_only_slots_of_their_principal():
    """An operation with an unread response still counts for its principal, and no longer in total."""
    admission = Admission(SMALL)
    slots = [Slot(admission, principal) for principal in ("a", "a", "b", "b")]
    for principal in ("a", "a", "b", "b"):
        assert admission.try_acquire(principal)
    assert not admission.try_acquire("c")
    for slot in slots:
        slot.mark_unsent()
    assert admission.running == 4
    assert not admission.try_acquire("a")
    assert admission.try_acquire("c")
    waiting = await waiting_for(admission, "a")
    assert not waiting.done()
    slots[0].release()
    await waiting
    admission.release("a")
    admission.release("c")
    for slot in slots[1:]:
        slot.release()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_operations_beyond_the_bounds_are_rejected_at_once():
    """One principal runs two and queues four; its seventh is rejected, and another principal's runs."""
    admission = Admission(SMALL)
    tasks = [await waiting_for(admission, "flood") for _ in range(6)]
    assert (admission.running, admission.waiting) == (2, 4)
    assert admission.is_full("flood")
    with pytest.raises(Overloaded):
        await admission.acquire("flood", Deadline.after(5))
    await admission.acquire("quiet", Deadline.after(5))
    assert admission.running == 3
    for task in tasks:
        task.cancel()


async def test_slots_are_given_in_turn_between_principals():
    """When slots are freed, a principal with one waiting operation is not behind all of a flood's."""
    admission = Admission(LimitSettings(concurrency=1, queue=10, principal_concurrency=1, principal_queue=5))
    await admission.acquire("first", Deadline.after(5))
    order = []

    async def run(name: str) -> None:
        await admission.acquire(name, Deadline.after(5))
        order.append(name)
        admission.release(name)

    tasks = [asyncio.create_task(run(name)) for name in ["flood"] * 4 + ["quiet"]]
    await asyncio.sleep(0)
    admission.release("first")
    await asyncio.gather(*tasks)
    assert order.index("quiet") <= 1
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_full_queue_accepts_principals_below_their_share():
    """A principal below its share may wait although others fill the queue; no waiting operation is rejected for it."""
    admission = Admission(LimitSettings(concurrency=1, queue=4, principal_concurrency=1, principal_queue=4))
    await admission.acquire("first", Deadline.after(5))
    flood = [await waiting_for(admission, "flood") for _ in range(4)]
    quiet = [await waiting_for(admission, "quiet")]
    assert admission.waiting == 5
    for who in ("flood", "quiet"):
        with pytest.raises(Overloaded):
            await admission.acquire(who, Deadline.after(5))
    assert not any(task.done() for task in [*flood, *quiet])
    for task in [*flood, *quiet]:
        task.cancel()


async def test_an_operation_that_waits_past_its_deadline_is_rejected():
    """It gets no slot in time, and leaves the queue."""
    admission = Admission(LimitSettings(concurrency=1))
    await admission.acquire("a", Deadline.after(5))
    with pytest.raises(Overloaded):
        await admission.acquire("a", Deadline.after(0.01))
    assert admission.waiting == 0
    admission.release("a")
    assert admission.running == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["enter", "leave", "cancel"])), max_size=60))
async def test_no_slot_is_lost_or_given_twice(steps):  # noqa: C901 - one story
    """After any history of entering, leaving and cancelling, bounds hold, and at the end all slots are free."""
    admission = Admission(SMALL)
    inside: list[str] = []
    waiting: list[tuple[str, asyncio.Task[None]]] = []

    async def settle() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        for name, task in list(waiting):
            if task.done():
                waiting.remove((name, task))
                if not task.cancelled() and task.exception() is None:
                    inside.append(name)

    for name, step in steps:
        if step == "enter":
            waiting.append((name, asyncio.create_task(admission.acquire(name, Deadline.after(60)))))
        elif step == "leave" and name in inside:
            inside.remove(name)
            admission.release(name)
        elif step == "cancel" and (mine := [task for who, task in waiting if who == name]):
            mine[0].cancel()
        await settle()
        assert admission.running == len(inside) <= SMALL.concurrency
        assert max(map(inside.count, "abc")) <= SMALL.principal_concurrency
        assert admission.waiting == len(waiting) <= 2 * SMALL.queue
    while inside or waiting:
        for name in list(inside):
            inside.remove(name)
            admission.release(name)
        await settle()
    assert (admission.running, admission.waiting) == (0, 0)
    assert not admission.is_full("a")


async def test_slots_follow_cpu_utilisation():
    """At high utilisation slots go down to one; at low utilisation they come back, and waiting operations start."""
    admission = Admission(LimitSettings(concurrency=4, principal_concurrency=4))
    for principal in "baaa":
        await admission.acquire(principal, Deadline.after(5))
    for _ in range(10):
        admission.adapt(1.0)
    waiting = [await waiting_for(admission, "a") for _ in range(2)]
    for principal in "baaa":
        admission.release(principal)
    assert (admission.running, admission.waiting) == (1, 1)
    admission.adapt(0.1)
    assert (admission.running, admission.waiting) == (2, 0)
    await asyncio.gather(*waiting)


@pytest.mark.parametrize(("utilisation", "least", "most"), [(0.85, 16, 17), (0.5, 45, 64)])
async def test_slots_come_back_quickly_at_low_utilisation(utilisation, least, most):
    """One by one near the threshold; most of them at once where operations wait for something else than the CPU."""
    limits = LimitSettings(concurrency=64, principal_concurrency=64, cpu_threshold=0.9)
    admission = Admission(limits)
    for principal in "ba":
        await admission.acquire(principal, Deadline.after(5))
    for _ in range(10):
        admission.adapt(1.0)
    for _ in range(15):
        admission.adapt(utilisation)
    entered = 2
    while admission.try_acquire("ba"[entered % 2]):
        entered += 1
    assert least <= entered <= most


async def test_a_single_principal_is_not_limited():
    """At any utilisation: without another principal there is none to protect."""
    admission = Admission(LimitSettings(concurrency=4, principal_concurrency=4))
    for _ in range(10):
        admission.adapt(1.0)
    assert [admission.try_acquire("a") for _ in range(5)] == [True] * 4 + [False]
    admission.release("a")
    assert not admission.try_acquire("b")
    assert not admission.try_acquire("a")


async def test_a_cancelled_operation_leaves_the_queue():
    """Its queue entry is free at once."""
    admission = Admission(SMALL)
    for _ in range(2):
        assert admission.try_acquire("a")
    deadline = Deadline.after(5)
    waiting = asyncio.create_task(admission.acquire("a", deadline))
    await asyncio.sleep(0)
    deadline.cancel()
    with pytest.raises(Overloaded):
        await waiting
    assert (admission.running, admission.waiting) == (2, 0)


async def test_a_rejected_principal_is_rejected_until_a_quarter_of_the_queue_is_free():
    """One free slot does not admit a flood; a quarter of the queue does."""
    admission = Admission(LimitSettings(concurrency=1, queue=8, principal_concurrency=1, principal_queue=8))
    await admission.acquire("flood", Deadline.after(5))
    waiting = [await waiting_for(admission, "flood") for _ in range(8)]
    shut = []
    for _ in range(4):
        shut.append(admission.is_shedding("flood"))
        admission.release("flood")
        await asyncio.sleep(0)
    assert shut == [True, True, False, False]
    for task in waiting:
        task.cancel()


async def test_waiting_for_a_shared_cpu_counts_as_utilisation(monkeypatch, tmp_path):
    """Time spent waiting for a CPU takes slots away as time spent using it does."""
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("0 0 0\n")
    monkeypatch.setattr("gateway.overload.cpu_monitor.SCHEDSTAT", str(schedstat))
    monkeypatch.setattr("gateway.overload.cpu_monitor.INTERVAL", 0.02)
    admission = Admission(LimitSettings(concurrency=4, principal_concurrency=4))
    for principal in "baaa":
        await admission.acquire(principal, Deadline.after(5))
    watching = asyncio.create_task(monitor(Metrics(), admission.adapt))
    for second in range(1, 101):
        await asyncio.sleep(0.001)
        schedstat.write_text(f"0 {second * 10**9} 0\n")
    for _ in range(3):
        admission.release("a")
    assert not admission.try_acquire("a")
    watching.cancel()


async def test_a_rejected_principal_is_recognised_by_its_credentials():
    """Once remembered, a flood is rejected by its credentials alone; no other caller is mistaken for it."""
    admission = Admission(LimitSettings(concurrency=1, principal_queue=1))
    await admission.acquire("flood", Deadline.after(5))
    waiting = await waiting_for(admission, "flood")
    caller = Caller("one", principal="flood")
    admission.remember_credentials(b"Bearer one", caller)
    assert admission.queue_of_credentials(b"Bearer one") == UNTRUSTED + "flood"
    admission.trust(caller)
    assert admission.queue_of_credentials(b"Bearer one") == "flood"
    assert admission.is_shedding("flood")
    assert admission.queue_of_credentials(b"Bearer two") is None
    admission.release("flood")
    await waiting
    assert not admission.is_shedding("flood")


async def test_untrusted_callers_leave_slots_to_trusted_ones():
    """Untrusted callers, as however many principals, have three of four slots and one turn in each round."""
    admission = Admission(LimitSettings(concurrency=4, queue=6, principal_concurrency=2, principal_queue=4))
    untrusted = [admission.queue_of(Caller(f"made up {number}")) for number in range(9)]
    tasks = [await waiting_for(admission, line) for line in untrusted]
    assert (admission.running, admission.waiting) == (3, 6)
    assert admission.is_full(admission.queue_of(Caller("one more")))
    await admission.acquire("known", Deadline.after(5))
    second = await waiting_for(admission, "known")
    assert (admission.running, admission.waiting) == (4, 7)
    admission.release(untrusted[0])
    await asyncio.sleep(0)
    admission.release(untrusted[1])
    await second
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_trusted_callers():
    """Trusted are callers that the fleet API has accepted, the latest of whom are remembered, and verified ones."""
    admission = Admission(SMALL)
    one, verified = Caller("one"), Caller("two", expires_at=1.0)
    assert admission.queue_of(one) == UNTRUSTED + one.principal
    assert admission.queue_of(None) == UNTRUSTED
    assert admission.queue_of(verified) == verified.principal
    admission.trust(one)
    assert admission.queue_of(one) == one.principal
    for number in range(TRUSTED_MAX):
        admission.trust(Caller(f"next {number}"))
    assert admission.queue_of(one) == UNTRUSTED + one.principal
    assert admission.queue_of(Caller(f"next {number}")).startswith(UNTRUSTED) is False


def test_a_caller_that_becomes_trusted_stays_one_principal():
    """A single caller's first requests and its later ones do not count as two principals."""
    admission = Admission(SMALL)
    one = Caller("one")
    admission.observe(admission.queue_of(one))
    admission.trust(one)
    admission.observe(admission.queue_of(one))
    assert not admission.is_multi_tenant
    admission.observe(UNTRUSTED)
    assert admission.is_multi_tenant


def numbers_of(admission: Admission) -> tuple[float, float, float]:
    """The running and the queued operations, and the slots, as sampled for metrics."""
    samples = {metric: value for metric, _, value in admission.samples()}
    return samples[RUNNING], samples[QUEUED], samples[SLOTS]


async def test_the_slots_at_each_utilisation():
    """Above the threshold 0.7 of what runs, at and below it one more, below the low-water mark a quarter more."""
    admission = Admission(LimitSettings(concurrency=100, principal_concurrency=100, cpu_threshold=0.8))
    assert admission.try_acquire("other")
    for _ in range(39):
        assert admission.try_acquire("one")
    slots = []
    for utilisation in (0.81, 0.8, 0.8 * 0.85, 0.67, *[0.1] * 9, 1.0):
        admission.adapt(utilisation)
        slots.append(numbers_of(admission)[2])
    assert slots[:4] == [28, 29, 30, 37.5]
    assert slots[4] == 37.5 * 1.25
    assert slots[-2:] == [100, 28]
    assert numbers_of(admission)[:2] == (40, 0)


async def test_fewer_slots_are_fewer_for_each_principal():
    """Its share of the slots stays the same, and at least one."""
    admission = Admission(LimitSettings(concurrency=40, principal_concurrency=20, cpu_threshold=0.8))
    for name in "a" * 20 + "b" * 20:
        assert admission.try_acquire(name)
    admission.adapt(1.0)
    for name in "a" * 20 + "b" * 20:
        admission.release(name)
    assert numbers_of(admission) == (0, 0, 28)
    assert [admission.try_acquire("a") for _ in range(15)] == [True] * 14 + [False]
    assert admission.try_acquire("b")


def test_principals_count_as_active_for_a_while(monkeypatch):
    """So does the first one alone never; slots are limited only while there are several."""
    time = 100.0
    monkeypatch.setattr("gateway.overload.admission.time.monotonic", lambda: time)
    admission = Admission(SMALL)
    admission.adapt(1.0)
    for _ in range(2):
        admission.observe("a")
        assert not admission.is_multi_tenant
    assert numbers_of(admission)[2] == SMALL.concurrency
    admission.observe("b")
    assert admission.is_multi_tenant
    assert numbers_of(admission)[2] == 1
    time += ACTIVE_SECONDS - 0.1
    assert admission.is_multi_tenant
    time += 0.1
    assert not admission.is_multi_tenant


async def test_a_slot_that_is_given_to_a_cancelled_operation_is_free_again():
    """Even if it was given in the same event-loop iteration."""
    admission = Admission(LimitSettings(concurrency=1))
    await admission.acquire("a", Deadline.after(5))
    waiting = [await waiting_for(admission, name) for name in "bc"]
    admission.release("a")
    assert numbers_of(admission)[:2] == (1, 1)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await waiting[1]
    admission.release("c")
    assert numbers_of(admission)[:2] == (0, 0)


async def test_a_principal_that_may_wait_is_not_full():
    """It is if it may neither run nor wait, as when others fill the queue; then nothing of it is remembered."""
    admission = Admission(LimitSettings(concurrency=1, queue=1, principal_concurrency=1, principal_queue=1))
    assert not admission.is_full("a")
    await admission.acquire("a", Deadline.after(5))
    assert not admission.is_full("a")
    assert not admission.is_shedding("a")
    waiting = await waiting_for(admission, "a")
    for name in "ab":
        assert admission.is_full(name)
        assert admission.is_shedding(name)
    assert admission.shedding == {"a": 0}
    admission.release("a")
    await waiting
    assert admission.shedding == {}


async def test_trusted_callers_are_admitted_while_untrusted_ones_wait():
    """And untrusted ones when one of theirs has ended."""
    admission = Admission(LimitSettings(concurrency=4, queue=6, principal_concurrency=4, principal_queue=4))
    for _ in range(3):
        assert admission.try_acquire(UNTRUSTED + "x")
    assert admission.try_acquire("known")
    assert not admission.try_acquire(UNTRUSTED + "x")
    untrusted, known = await waiting_for(admission, UNTRUSTED + "y"), await waiting_for(admission, "known")
    admission.release("known")
    await known
    assert not untrusted.done()
    admission.release(UNTRUSTED + "x")
    await untrusted
    assert admission.running == 4


def test_accepted_and_verified_callers_are_trusted():
    """The others, and requests without a token, are not."""
    admission, one, verified = Admission(SMALL), Caller("one"), Caller("two", expires_at=1.0)
    assert [admission.is_untrusted(caller) for caller in (None, one, verified)] == [True, True, False]
    admission.trust(one)
    assert not admission.is_untrusted(one)
    admission.remember_credentials(b"Bearer two", verified)
    assert admission.queue_of_credentials(b"Bearer two") == verified.principal
    unknown = Caller("three")
    admission.remember_credentials(b"Bearer three", unknown)
    assert admission.queue_of_credentials(b"Bearer three") == UNTRUSTED + unknown.principal


async def test_an_unread_response_is_counted_once():
    """However often it is marked."""
    admission = Admission(SMALL)
    slots = [Slot(admission, "a") for _ in range(2)]
    for slot in slots:
        assert admission.try_acquire("a")
        for _ in range(2):
            slot.mark_unsent()
    assert (admission.running, admission.is_full("b")) == (2, False)
    slots[0].release()
    assert admission.try_acquire("a")
    assert not admission.try_acquire("a")
    slots[1].release()
    admission.release("a")
    assert admission.running == 0
