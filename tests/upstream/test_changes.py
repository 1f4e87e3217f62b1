"""Which cached responses a write makes stale."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import Caller
from gateway.telemetry.metrics import Metrics
from gateway.upstream.changes import Change, Changes, LocalAnnouncer, WriteAnnouncement, group_of
from gateway.upstream.coalescing import SingleFlight
from gateway.upstream.endpoints import FleetEndpoints
from gateway.upstream.models import Sharing as SharingOf
from gateway.upstream.models import SharingFleet, Vehicle
from gateway.upstream.requests import RequestScope, RequestStats, UpstreamRequest
from tests.upstream.fakes import ENDPOINTS, FakeFetcher, Sending, scope

A, B, PAGE = "p:/vehicles/A", "p:/vehicles/B", "p:0123456789abcdef"


def change(number=None, write="w", digests=("/vehicles/A",), groups=("",), seconds=60.0):
    return Change(write, "A", digests, groups, seconds, number)


async def test_a_completed_write_makes_older_reads_stale():
    """Those of its vehicle by any caller, and the pages of its groups; others, and later reads, are fresh."""
    changes = Changes()
    changes.apply(change(number=7, groups=("fleet",)))
    assert changes.is_stale(A, 6, "fleet")
    assert changes.is_stale(A, 6, "another")
    assert changes.is_stale(PAGE, 6, "fleet")
    assert not changes.is_stale(A, 7, "fleet")
    assert not changes.is_stale(PAGE, 7, "fleet")
    assert not changes.is_stale(PAGE, 6, "another")
    assert not changes.is_stale(B, 6, "fleet")


async def test_while_a_write_is_open_everything_that_it_concerns_is_stale():
    """Also reads that begin meanwhile, until it is completed and read again."""
    changes = Changes()
    changes.apply(change(number=3, write="earlier", digests=(), groups=()))
    changes.apply(change())
    assert changes.is_stale(A, 3, "")
    assert changes.is_stale(PAGE, 3, "")
    assert not changes.is_stale(B, 3, "")
    changes.apply(change(number=4))
    assert changes.is_stale(A, 3, "")
    assert not changes.is_stale(A, 4, "")
    changes.close()


async def test_an_open_write_that_is_never_completed_ends_by_itself():
    """Its process was killed; what was read meanwhile stays stale."""
    changes = Changes()
    changes.apply(change(seconds=0.01))
    await asyncio.sleep(0.05)
    assert changes.is_stale(A, 0, "")
    assert not changes.is_stale(A, changes.latest, "")


async def test_without_the_writes_of_others_everything_is_stale():
    """Until they are known again; what was read before stays stale if there was one meanwhile."""
    changes = Changes()
    changes.apply(change(number=5))
    changes.lose()
    assert changes.is_stale(B, 5, "")
    changes.resume(5)
    assert not changes.is_stale(B, 5, "")
    changes.lose()
    changes.resume(6)
    assert changes.is_stale(B, 5, "")
    assert not changes.is_stale(B, 6, "")


async def test_what_is_forgotten_is_stale(monkeypatch):
    """The number of remembered vehicles is bounded; older reads than a forgotten change are stale, whatever they are."""
    monkeypatch.setattr("gateway.upstream.changes.DIGESTS_MAX", 2)
    changes = Changes()
    for number, name in enumerate("ABC", start=1):
        changes.apply(change(number=number, write=name, digests=(f"/vehicles/{name}",), groups=()))
    assert changes.is_stale("p:/vehicles/Z", 0, "")
    assert not changes.is_stale("p:/vehicles/Z", 1, "")


async def test_listeners_hear_of_each_change():
    """When it is opened, and when it is completed."""
    changes, heard = Changes(), []
    changes.listeners.append(lambda each: heard.append((each.vehicle_id, each.number)))
    changes.apply(change())
    changes.apply(change(number=1))
    assert heard == [("A", None), ("A", 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30), st.integers(0, 3), st.integers(0, 30))
def test_no_stale_read_is_fresh(writes, vehicle, at):
    """For any order of opened and completed writes: a read is fresh only if no later write concerns it."""

    async def scenario():
        changes, number, last, open_writes = Changes(), 0, {}, set()
        read_at = 0
        for index, (target, completes) in enumerate(writes):
            if index == at:
                read_at = changes.latest
            name = f"/vehicles/{target}"
            if completes:
                number += 1
                last[target] = number
                open_writes.discard(target)
                changes.apply(change(number=number, write=str(target), digests=(name,), groups=()))
            else:
                open_writes.add(target)
                changes.apply(change(write=str(target), digests=(name,), groups=()))
        expected = vehicle in open_writes or last.get(vehicle, 0) > read_at
        assert changes.is_stale(f"p:/vehicles/{vehicle}", read_at, "") == expected
        changes.close()
        assert changes.certain in (changes.latest, math.inf)

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [None, RuntimeError("lost")])
async def test_each_write_is_announced_before_and_after(failure):
    """Whatever its outcome is; to the caller's fleet, and to those of the vehicle that it returns."""
    changes, heard = Changes(), []
    changes.listeners.append(heard.append)
    vehicle = Vehicle(
        vehicle_id="A", fleet_id="OWNER", sharing=SharingOf(SharingFleet("OWNER"), SharingFleet("PARTNER"))
    )
    fleet = FakeFetcher(lambda request: vehicle)
    fleet.failure = failure
    flights = SingleFlight(WriteAnnouncement(Sending(), LocalAnnouncer(changes), 15.0), fleet, Metrics(), changes)
    by = RequestScope(Caller("t", fleet="CALLER"), RequestStats())
    request = UpstreamRequest.of(by, ENDPOINTS.update_vehicle, item_id="A", body=b"{}")
    try:
        await flights.fetch(request)
    except RuntimeError:
        assert failure is not None
    opened, completed = heard
    assert (opened.number, completed.number, opened.write == completed.write) == (None, 1, True)
    assert opened.digests == completed.digests == ("/vehicles", "/vehicles/A", "/vehicles/A/latest-state")
    assert opened.groups == ("", "CALLER")
    assert completed.groups == opened.groups if failure else ("", "CALLER", "OWNER", "PARTNER")
    assert opened.seconds > 15


async def test_a_read_is_not_announced():
    """It takes the steps of the following layer only."""
    changes = Changes()
    flights = SingleFlight(
        WriteAnnouncement(Sending(), LocalAnnouncer(changes), 15.0), FakeFetcher(), Metrics(), changes
    )
    await flights.fetch(UpstreamRequest.of(scope(), ENDPOINTS.vehicle, item_id="A"))
    assert changes.latest == 0


def test_callers_without_a_known_fleet_are_one_group():
    """Nobody knows which of them see the same vehicles."""
    assert group_of(Caller("a")) == group_of(Caller("b")) == ""
    assert group_of(Caller("a", fleet="F")) == "F"


def test_commands_have_paths_in_kebab_case(pytestconfig):
    """And a time-out of their own."""
    from gateway.settings import CacheSettings, UpstreamSettings  # noqa: PLC0415

    endpoints = FleetEndpoints(UpstreamSettings(command_timeout=42), CacheSettings())
    endpoint = endpoints.command("UNLOCK_CENTRAL_LOCK")
    assert endpoint.paths(["A"]) == ["/vehicles/A/commands/unlock-central-lock"]
    assert (endpoint.timeout, endpoint.idempotent, endpoint.method) == (42, False, "POST")
