"""The map in a browser: filters, totals, points, paging and failures, on a wide screen and on a phone."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings import Settings
from gateway.simulator import Behaviours, Client, FleetPlan, Simulator
from tests.clients.test_real_clients import node, packages
from tests.effort import thorough_only
from tests.programs import require

__all__ = ["packages"]  # pytest finds the fixture here, too

TOKEN = "client-token"
# The property, and its name in early versions of the fleet API.
CHARGE, EARLY_CHARGE = "state_of_charge_or_fuel_level_in_percent", "fuel_level_in_percent"
# Each way to open the page: the demo has a token, other gateways ask for one.
WIDE = {"demo_token": TOKEN, "screen": (1400, 900), "scheme": "light"}
PHONE = {"demo_token": None, "screen": (390, 844), "scheme": "dark"}


@pytest.fixture(scope="module")
def fleet() -> Simulator:
    """A fleet of 1,000 vehicles, with missing and odd values."""
    plan = FleetPlan(vehicles=1000, clients=(Client("T7K2M#one", token=TOKEN),))
    return Simulator([plan], Behaviours(rate_limit_requests=0))


@pytest.mark.parametrize("way", [pytest.param(WIDE, marks=thorough_only), PHONE], ids=["wide", "phone"])
def test_the_map_answers_in_a_browser_without_a_network(serve, fleet, way, monkeypatch):
    """What it shows is what the fleet has; no error, no report of the policy, no other host, no leaked token."""
    monkeypatch.setenv("CHROMIUM", require("chromium", "chromium"))
    settings = Settings(upstream={"url": serve(fleet.app)}, log={"level": "error"})
    url = serve(create_app(settings, demo_token=way["demo_token"]))
    token = "" if way["demo_token"] else TOKEN
    pictures = os.environ.get("MAP_PICTURES", "")
    seen = node("map.mjs", url, token, *map(str, way["screen"]), way["scheme"], pictures)

    assert (seen["console"], seen["violations"], seen["foreign"]) == ([], [], [])
    assert (seen["overflow"], seen["unnamed"]) == (0, [])
    assert TOKEN not in seen["storage"] + seen["address"]
    if token:
        assert seen["invitation"] == "Enter a token to see its vehicles."
        assert seen["rejection"] == "The token is missing or no longer valid."

    everything = vehicles_of(fleet)
    assert_shows(seen["all"], everything)
    in_order = sorted((plate.casefold(), vehicle["id"]) for vehicle in everything if (plate := plate_of(vehicle)))
    assert [plate.casefold() for plate in seen["all"]["plates"] + seen["second"]] == [p for p, _ in in_order[:50]]
    assert seen["back"] == seen["all"]["plates"]

    audis = [each for each in everything if brand_of(each) == "Audi" and (charge_of(each) or 0) >= 30]
    assert_shows(seen["filtered"], audis)
    assert seen["last"].endswith(f"{len(audis)} of {len(audis)}")

    found = seen["inView"]
    assert 0 < sum(found["dots"].values()) == number_in(found["summary"]) < len(audis)
    assert set(found["plates"]) <= {plate_of(each) or each["id"] for each in audis}
    assert seen["chosen"] in seen["vehicle"]
    assert "Position" in seen["vehicle"]
    assert_shows(seen["cleared"], everything)

    assert seen["failure"].startswith("Only 300 vehicles (3 pages) could be read, so there is no answer")
    assert seen["remains"] == 0
    assert not seen["problem"]
    assert_shows(seen["garage"], [each for each in everything if kind_of(each) == "garage"])


def assert_shows(shown: dict[str, Any], vehicles: list[dict[str, Any]]) -> None:
    """The totals are those of these vehicles, and as many are in the list and, where a position is known, on the map."""
    kinds = ("free", "rented", "garage", "unknown")
    expected = {kind: sum(kind_of(each) == kind for each in vehicles) for kind in kinds}
    expected["offline"] = sum(value_of(each, "life_status") == "OFFLINE" for each in vehicles)
    assert shown["totals"] == expected
    assert number_in(shown["summary"]) == len(vehicles)
    assert shown["range"].endswith(f"of {len(vehicles):,}")
    placed = [each for each in vehicles if has_position(each)]
    assert shown["dots"] == {kind: sum(kind_of(each) == kind for each in placed) for kind in kinds}


def vehicles_of(simulator: Simulator) -> list[dict[str, Any]]:
    fleet = simulator.fleets["T7K2M"]
    return [fleet.vehicle(vehicle_id) for vehicle_id in fleet.ids]


def number_in(summary: str) -> int:
    return int(summary.split(maxsplit=1)[0].replace(",", ""))


def value_of(vehicle: dict[str, Any], member: str) -> Any:
    return (vehicle.get(member) or {}).get("value")


def kind_of(vehicle: dict[str, Any]) -> str:
    if value_of(vehicle, "operation_status") == "GARAGE":
        return "garage"
    return {"IN_RENTAL": "rented", "NOT_IN_RENTAL": "free"}.get(value_of(vehicle, "rental_status"), "unknown")


def plate_of(vehicle: dict[str, Any]) -> str | None:
    return (vehicle.get("master_data") or {}).get("license_plate")


def brand_of(vehicle: dict[str, Any]) -> str | None:
    return (vehicle.get("master_data") or {}).get("brand")


def charge_of(vehicle: dict[str, Any]) -> float | None:
    state = vehicle.get("latest_state") or {}
    return (state.get(CHARGE) or state.get(EARLY_CHARGE) or {}).get("value")


def has_position(vehicle: dict[str, Any]) -> bool:
    return bool(((vehicle.get("latest_state") or {}).get("position") or {}).get("value"))
