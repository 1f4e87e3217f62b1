"""The vehicle models that can be added to a fleet, by the brand of their telematics units."""

from __future__ import annotations

import hashlib
from typing import Any

from gateway.simulator.fleet import BIKES, CARS, COMMANDS, EVERYWHERE, MODELS, TWO_WHEELERS

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def models_of(telematics_brand: str) -> list[tuple[int, dict[str, Any]]]:
    """The vehicle models of a telematics brand, each with its number in MODELS; none if the brand is not known."""
    return [
        (number, _model(*MODELS[number][:3])) for number in range(len(MODELS)) if MODELS[number][4] == telematics_brand
    ]


def _model(brand: str, model: str, form: str) -> dict[str, Any]:
    two_wheeler = form in TWO_WHEELERS
    digest = hashlib.blake2b(f"{brand} {model}".encode(), digest_size=22).digest()
    state = EVERYWHERE | (BIKES if two_wheeler else CARS)
    return {
        "id": "01HX" + "".join(CROCKFORD[byte % 32] for byte in digest),
        "vehicle_brand": brand,
        "vehicle_model": model,
        "vehicle_type": form,
        "regions": ["Europe", "USA", "Canada"],
        "version": 1,
        "documents": [],
        "start_of_production": "2019-03",
        "central_lock_connection_types": [] if two_wheeler else ["DIRECT"],
        "capabilities": {"commands": COMMANDS[two_wheeler], "vehicle_state": sorted(name.upper() for name in state)},
    }
