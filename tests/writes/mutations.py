"""The texts of mutations, and their answers."""

from __future__ import annotations

import itertools
import json
import ssl
import uuid
from functools import partial
from typing import Any

import httpx

# The default context of httpx reads certificates for longer than a request takes.
client_of = partial(httpx.AsyncClient, timeout=60, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
EXPIRES_AT = "2099-01-01T00:00:00Z"
KEYS = (f"{uuid.uuid4()}" for _ in itertools.count())
PAYLOADS = {
    "updateVehicle": "vehicle { vehicleId version tags masterData { remark } }",
    "addVehicle": "vehicle { vehicleId setupStatus { value } }",
    "archiveVehicle": "vehicleId archivedVehicleId",
    "shareVehicle": "vehicle { vehicleId sharing { partner { fleetId } } }",
    "sendVehicleCommand": "vehicle { vehicleId latestState { centralLock { value } } }",
}


def literal(value: Any) -> str:
    """A value as a GraphQL literal."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name}: {literal(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def mutation(name: str, *, key: str | None = None, alias: str | None = None, **members: Any) -> str:
    """One field of a mutation, with a key of its own."""
    given = {"idempotencyKey": key or next(KEYS), **members}
    if name == "sendVehicleCommand":
        given.setdefault("expiresAt", EXPIRES_AT)
    prefix = f"{alias}: " if alias else ""
    return f"{prefix}{name}(input: {literal(given)}) {{ outcome {PAYLOADS[name]} userErrors {{ code message field }} }}"


def document(*fields: str) -> str:
    """A mutation with these fields."""
    return f"mutation {{ {' '.join(fields)} }}"
