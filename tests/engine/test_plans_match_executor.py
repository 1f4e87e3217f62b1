"""Projections return the same as the generic executor, for thousands of documents over unusual data."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from graphql import parse, validate

from gateway.engine.documents import Document
from gateway.engine.fallbacks import BUG
from gateway.errors import UpstreamForbidden, UpstreamUnavailable
from gateway.schema.build import build_schema
from gateway.schema.error_masking import presented
from gateway.schema.execution import Execution
from gateway.schema.global_ids import UnitKey, unit_global_id, vehicle_global_id
from gateway.schema.pagination import Limits
from gateway.simulator import Behaviours, FleetPlan, Simulator
from gateway.upstream.field_masks import decode_masked
from gateway.upstream.models import StateProperty, Vehicle, decoded
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope
from tests.contexts import context_of
from tests.effort import effort
from tests.engine.documents_at_random import Documents

# Each document runs over several fleets.
CHUNKS, DOCUMENTS, FLEETS = effort(1, 2, 10), effort(80, 200), 5
PAGE = 4
SCHEMA = build_schema()
PROJECTED, GENERIC = Execution(SCHEMA), Execution(SCHEMA, projection=False)
UNUSUAL = [None, "", "x", "2024-13-45", "2024-05-14T08:41:12Z", 7, -1, 2**40, 1.5, True, [], {}, ["a", 1], {"lat": 1}]
ERRORS = (UpstreamUnavailable, UpstreamForbidden)


FILTERED = [
    '(where: {masterData: {brand: {startsWith: "s"}}}, first: 3)',
    "(where: {not: {operationStatus: {in: [GARAGE]}}}, last: 4, orderBy: [{field: LICENSE_PLATE, direction: DESC}])",
    '(where: {state: {property: "driving_enabled", is: true}})',
    "(where: {position: {circle: {lat: 91, lon: 0, radiusInMeters: 1}}})",
    "(orderBy: [{distanceFrom: {lat: 50.9, lon: 8.0}}], first: $n)",
]


class UnusualClient:
    """A fleet whose vehicles lack members, have unusual ones, or fail, equally on every read.

    A vehicle whose read by id fails is in no list: a list would answer what the read can't, if it happens to come first.
    """

    def __init__(self, vehicles: list[dict[str, Any]], failing: frozenset[str], rng: random.Random) -> None:
        self._vehicles = vehicles
        self._failing = failing
        self._failing_states = failing | {vehicle["id"] for vehicle in vehicles if rng.random() < 0.05}
        self._error = rng.choice(ERRORS)
        self._page_fails = rng.random() < 0.03

    async def vehicles(
        self, scope: RequestScope, *, cursor: str | None = None, search: str | None = None, mask: Any = None,
        bypass_cache: bool = False, revalidate: bool = False,
    ) -> VehiclePage:  # fmt: skip
        start = int(cursor or 0)
        if self._page_fails and start:
            raise self._error
        there = [vehicle for vehicle in self._vehicles if vehicle["id"] not in self._failing]
        items = [vehicle for vehicle in there if not search or search in vehicle["id"]]
        cursors = {"first": "0", "last": str(max(0, len(items) - 1) // PAGE * PAGE)}
        cursors |= {"next": str(start + PAGE)} if start + PAGE < len(items) else {}
        cursors |= {"prev": str(start - PAGE)} if start else {}
        return VehiclePage.of_body(
            msgspec.json.encode({"items": items[start : start + PAGE], "cursors": cursors}), mask
        )

    async def vehicles_by_id(self, scope: RequestScope, ids: list[str], mask: Any = None) -> dict[str, Any]:
        known = {vehicle["id"]: msgspec.json.encode(vehicle) for vehicle in self._vehicles}
        return {i: self._error() if i in self._failing else self._vehicle(known.get(i), mask) for i in ids}

    def _vehicle(self, body: bytes | None, mask: Any) -> Vehicle | None:
        if body is None:
            return None
        return decoded(body, Vehicle) if mask is None else decode_masked(body, mask)

    async def versioned(self, scope: RequestScope, ids: list[str]) -> list[Any]:
        found = await self.vehicles_by_id(scope, ids)
        for vehicle_id, vehicle in found.items():
            if isinstance(vehicle, Vehicle):
                vehicle.version = None if vehicle_id in self._failing_states else f'"{vehicle_id}"'
        return [found[vehicle_id] for vehicle_id in ids]

    async def latest_states(self, scope: RequestScope, ids: list[str]) -> list[Any]:
        return [self._error() if i in self._failing_states else {"ignition": StateProperty("ON")} for i in ids]


def unusual(value: Any, rng: random.Random, *, rate: float = 0.04) -> Any:
    """The value with some members dropped or replaced."""
    if rng.random() < rate:
        return rng.choice(UNUSUAL)
    if isinstance(value, dict):
        return {name: unusual(member, rng, rate=rate) for name, member in value.items() if rng.random() > rate}
    if isinstance(value, list):
        return [unusual(item, rng, rate=rate) for item in value]
    return value


def fleet(rng: random.Random, sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    drawn = [rng.choice(sources) for _ in range(rng.randrange(0, 11))]
    rate = rng.choice((0, 0, 0.01, 0.05, 0.2))
    return [
        {**{name: unusual(member, rng, rate=rate) for name, member in vehicle.items()}, "id": f"V{index:04}"}
        for index, vehicle in enumerate(drawn)
    ]


def arguments_of(rng: random.Random) -> dict[str, list[str]]:
    ids = [f"V{rng.randrange(12):04}" for _ in range(3)]
    unit = UnitKey("INVERS", "CLOUDBOXX", "38429DA427AB7C25")
    global_ids = [*map(vehicle_global_id, ids), unit_global_id(*unit), "nonsense"]
    quoted = ", ".join(f'"{i}"' for i in rng.choices(global_ids, k=3))
    paging = ["", "(first: 3)", "(first: 4)", "(first: 9)", "(last: 3)", "(first: 0)", "(first: $n)", "(first: -1)"]
    representations = ", ".join(
        rng.choice(
            (
                f'{{__typename: "Vehicle", vehicleId: "{i}"}}',
                f'{{__typename: "Vehicle", id: "{vehicle_global_id(i)}"}}',
                '{__typename: "Nope"}',
            )
        )
        for i in ids
    )
    return {
        "node": [f'(id: "{i}")' for i in global_ids],
        "nodes": [f"(ids: [{quoted}])", "(ids: $ids)"],
        "vehicle": [f'(id: "{i}")' for i in ids] + ["(id: $id)"],
        "vehicles": [*paging, '(search: "V000")', '(after: "broken")', '(first: 2, after: "")', *FILTERED],
        "telematicsUnits": [*paging, '(where: {brand: {in: ["NIU", "TESLA"]}}, first: 2)'],
        "telematicsUnit": ['(manufacturer: "INVERS", brand: "CLOUDBOXX", id: "38429DA427AB7C25")'],
        "_entities": [f"(representations: [{representations}])"],
    }  # fmt: skip


async def execute(execution: Execution, document: Document, variables: dict[str, Any], client: UnusualClient) -> Any:
    context = context_of(client, Limits(page_default=5, page_max=50))
    result = await execution.of(document, None, variables, context, execution.prepared(document, None, variables))
    masked = [presented(error, "id") for error in result.errors or ()]
    assert not [error for error in masked if (error.extensions or {})["code"] == "INTERNAL"]
    errors = sorted(
        (repr(e.path), e.message, repr(e.locations), repr(sorted((e.extensions or {}).items()))) for e in masked
    )
    return msgspec.json.decode(msgspec.json.encode(result.data)), errors


@pytest.fixture(scope="module")
def sources():
    """Vehicles of the simulator, with all kinds of special cases."""
    behaviours = Behaviours(extended_state=True)
    fleet = Simulator([FleetPlan("T7K2M", 40)], behaviours).fleets["T7K2M"]
    shown = [fleet.shown(vehicle_id, behaviours) for vehicle_id in fleet.ids]
    return [{**vehicle, "latest_state": fleet.state(vehicle["id"], behaviours)} for vehicle in shown]


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_a_plan_returns_the_same_as_the_generic_executor(chunk, sources):
    """Data and errors are equal for any selection and any upstream data, and no plan has a bug."""
    rng = random.Random(chunk)
    failed = 0
    for number in range(DOCUMENTS):
        text = Documents(SCHEMA.core, rng, arguments_of(rng)).draw()
        document = Document(text, "", parse(text))
        if number % 20 == 0:
            assert not validate(SCHEMA.core, document.ast)  # slow, and checks only the generator
        for _ in range(FLEETS):
            vehicles = fleet(rng, sources)
            ids = [vehicle["id"] for vehicle in vehicles] or ["V0000"]
            client = UnusualClient(vehicles, frozenset(i for i in ids if rng.random() < 0.05), rng)
            variables = {
                "n": rng.choice((None, 1, 4, 5)), "ids": [vehicle_global_id(i) for i in ids[:3]], "id": rng.choice(ids),
                **({"on": rng.random() < 0.5} if rng.random() < 0.5 else {}),
            }  # fmt: skip
            projected = await execute(PROJECTED, document, variables, client)
            assert projected == await execute(GENERIC, document, variables, client), text
            failed += bool(projected[1])
    assert 0.05 < failed / (DOCUMENTS * FLEETS) < 0.95  # results with and without errors were compared
    assert not [fallback for fallback in PROJECTED.fallbacks.counts if fallback.kind == BUG]
