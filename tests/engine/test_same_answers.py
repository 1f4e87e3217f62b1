"""The projection against the generic executor: thousands of documents over odd data, and never another answer."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from graphql import parse, validate

from gateway.engine.documents import Document
from gateway.engine.fallbacks import BUG
from gateway.errors import UpstreamForbidden, UpstreamUnavailable
from gateway.identity import Caller
from gateway.schema.build import build_schema
from gateway.schema.context import Context
from gateway.schema.error_masking import presented
from gateway.schema.execution import Execution
from gateway.schema.global_ids import UnitKey, unit_global_id, vehicle_global_id
from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.simulator import Behaviours, FleetPlan, Simulator
from gateway.upstream.field_masks import decode_masked
from gateway.upstream.models import StateProperty, Vehicle, decoded
from gateway.upstream.pages import VehiclePage
from gateway.upstream.requests import RequestScope, RequestStats
from tests.effort import effort
from tests.engine.documents_at_random import Documents

# Two thousand cases, or ten thousand: documents, each over several fleets.
CHUNKS, DOCUMENTS, FLEETS = effort(1, 10), 200, 5
PAGE = 4
SCHEMA = build_schema()
PROJECTED, GENERIC = Execution(SCHEMA), Execution(SCHEMA, projection=False)
ODD = [None, "", "x", "2024-13-45", "2024-05-14T08:41:12Z", 7, -1, 2**40, 1.5, True, [], {}, ["a", 1], {"lat": 1}]
ERRORS = (UpstreamUnavailable, UpstreamForbidden)


class OddClient:
    """A fleet whose vehicles lack members, have odd ones, or fail; the same on every read."""

    def __init__(self, vehicles: list[dict[str, Any]], failing: frozenset[str], dice: random.Random) -> None:
        self._vehicles = vehicles
        self._failing = failing
        self._error = dice.choice(ERRORS)
        self._page_fails = dice.random() < 0.03

    async def vehicles(
        self, scope: RequestScope, *, cursor: str | None = None, search: str | None = None, mask: Any = None,
        afresh: bool = False,
    ) -> VehiclePage:  # fmt: skip
        start = int(cursor or 0)
        if self._page_fails and start:
            raise self._error
        items = [vehicle for vehicle in self._vehicles if not search or search in vehicle["id"]]
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

    async def latest_states(self, scope: RequestScope, ids: list[str]) -> list[Any]:
        return [self._error() if i in self._failing else {"ignition": StateProperty("ON")} for i in ids]


def odd(value: Any, dice: random.Random, *, rate: float = 0.04) -> Any:
    """The value with members dropped, nulled and exchanged; a vehicle's own id stays."""
    if dice.random() < rate:
        return dice.choice(ODD)
    if isinstance(value, dict):
        return {name: odd(member, dice, rate=rate) for name, member in value.items() if dice.random() > rate}
    if isinstance(value, list):
        return [odd(item, dice, rate=rate) for item in value]
    return value


def fleet(dice: random.Random, sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    drawn = [dice.choice(sources) for _ in range(dice.randrange(0, 11))]
    rate = dice.choice((0, 0, 0.01, 0.05, 0.2))
    return [
        {**{name: odd(member, dice, rate=rate) for name, member in vehicle.items()}, "id": f"V{place:04}"}
        for place, vehicle in enumerate(drawn)
    ]


def arguments_of(dice: random.Random) -> dict[str, list[str]]:
    ids = [f"V{dice.randrange(12):04}" for _ in range(3)]
    unit = UnitKey("INVERS", "CLOUDBOXX", "38429DA427AB7C25")
    global_ids = [*map(vehicle_global_id, ids), unit_global_id(*unit), "nonsense"]
    quoted = ", ".join(f'"{i}"' for i in dice.choices(global_ids, k=3))
    paging = ["", "(first: 3)", "(first: 4)", "(first: 9)", "(last: 3)", "(first: 0)", "(first: $n)", "(first: -1)"]
    representations = ", ".join(
        dice.choice(
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
        "vehicles": [*paging, '(search: "V000")', '(after: "broken")', '(first: 2, after: "")'],
        "telematicsUnits": paging,
        "telematicsUnit": ['(manufacturer: "INVERS", brand: "CLOUDBOXX", id: "38429DA427AB7C25")'],
        "_entities": [f"(representations: [{representations}])"],
    }  # fmt: skip


async def answer(execution: Execution, document: Document, variables: dict[str, Any], client: OddClient) -> Any:
    scope = RequestScope(Caller("token"), RequestStats())
    context = Context(scope, Loaders(client, scope), Limits(page_default=5, page_max=50), "id")
    result = await execution.of(document, None, variables, context, execution.prepared(document, None, variables))
    told = [presented(error, "id") for error in result.errors or ()]
    assert not [error for error in told if (error.extensions or {})["code"] == "INTERNAL"]
    errors = sorted(
        (repr(e.path), e.message, repr(e.locations), repr(sorted((e.extensions or {}).items()))) for e in told
    )
    return msgspec.json.decode(msgspec.json.encode(result.data)), errors


@pytest.fixture(scope="module")
def sources():
    """Vehicles as the simulator's fleet API sends them, of every kind it has."""
    behaviours = Behaviours(extended_state=True)
    fleet = Simulator([FleetPlan("T7K2M", 40)], behaviours).fleets["T7K2M"]
    shown = [fleet.shown(vehicle_id, behaviours) for vehicle_id in fleet.ids]
    return [{**vehicle, "latest_state": fleet.state(vehicle["id"], behaviours)} for vehicle in shown]


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_a_plan_answers_as_the_generic_executor_does(chunk, sources):
    """Data and errors are equal, whatever is selected and whatever the fleet API sends, and no plan has a bug."""
    dice = random.Random(chunk)
    failed = 0
    for number in range(DOCUMENTS):
        text = Documents(SCHEMA.core, dice, arguments_of(dice)).draw()
        document = Document(text, "", parse(text))
        if number % 20 == 0:
            assert not validate(SCHEMA.core, document.ast)  # slow, and no more than a check of the drawing
        for _ in range(FLEETS):
            vehicles = fleet(dice, sources)
            ids = [vehicle["id"] for vehicle in vehicles] or ["V0000"]
            client = OddClient(vehicles, frozenset(i for i in ids if dice.random() < 0.05), dice)
            variables = {
                "n": dice.choice((None, 1, 4, 5)), "ids": [vehicle_global_id(i) for i in ids[:3]], "id": dice.choice(ids),
                **({"on": dice.random() < 0.5} if dice.random() < 0.5 else {}),
            }  # fmt: skip
            projected = await answer(PROJECTED, document, variables, client)
            assert projected == await answer(GENERIC, document, variables, client), text
            failed += bool(projected[1])
    assert 0.05 < failed / (DOCUMENTS * FLEETS) < 0.95  # both kinds of answers were compared
    assert not [fallback for fallback in PROJECTED.fallbacks.counts if fallback.kind == BUG]
