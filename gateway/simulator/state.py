"""The state of a simulator: fleets, clients and their rights, tokens, behaviours, faults and counts."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from gateway.simulator.behaviours import Behaviours
from gateway.simulator.faults import Faults
from gateway.simulator.fleet import PARTNER, Fleet
from gateway.simulator.problems import ProblemRaised

RIGHTS = frozenset({"vehicles", "vehicle-commands", "vehicle-lifecycle"})  # holding one implies its `.ro` form
READ_ONLY = frozenset({"vehicles.ro"})


@dataclass(frozen=True, slots=True)
class Client:
    """An API client; `token`, if given, is an access token that never expires."""

    client_id: str
    secret: str = "secret"  # noqa: S105 - of a simulated client
    permissions: frozenset[str] = RIGHTS
    scopes: frozenset[str] = RIGHTS
    token: str | None = None


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet to simulate and its API clients; by default there is one client of each kind."""

    fleet_id: str = "T7K2M"
    vehicles: int = 1000
    seed: int = 1
    clients: tuple[Client, ...] = ()

    def all_clients(self) -> tuple[Client, ...]:
        return self.clients or (
            Client(f"{self.fleet_id}#cl1"),
            Client(f"{self.fleet_id}#cl2", permissions=frozenset({"vehicles"}), scopes=frozenset({"vehicles"})),
            Client(f"{self.fleet_id}#read-only", permissions=READ_ONLY, scopes=READ_ONLY),
            Client(f"{self.fleet_id}#no-permission", permissions=frozenset()),
            Client(f"{self.fleet_id}#no-scope", scopes=frozenset()),
        )


@dataclass(slots=True)
class Counts:
    """Counts of requests by method, path, client and status, and a log of the latest ones."""

    total: int = 0
    by_method: Counter[str] = field(default_factory=Counter)
    by_path: Counter[str] = field(default_factory=Counter)
    by_client: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    max_in_flight: int = 0
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=1000))

    def as_dict(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "by_method": dict(self.by_method),
            "by_path": dict(self.by_path),
            "by_client": dict(self.by_client),
            "by_status": dict(self.by_status),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "not_modified": self.by_status["304"],
            "log": list(self.log),
        }


@dataclass(slots=True)
class Executions:
    """Counts of the writes that were executed, whether or not a response told it: by kind, vehicle and request key.

    The kind is a command's capability, `CHANGE`, `ADD`, `ARCHIVE`, `SHARE` or `END_SHARING`. The key is the request's
    Idempotency-Key or, without one, its X-Request-Id.
    """

    by_kind: Counter[str] = field(default_factory=Counter)
    by_vehicle: Counter[str] = field(default_factory=Counter)
    by_vehicle_and_kind: Counter[str] = field(default_factory=Counter)
    by_key: Counter[str] = field(default_factory=Counter)
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=100_000))

    def add(self, request: Request, kind: str, vehicle_id: str, body: Any = None) -> None:
        """Counts one executed write."""
        key = request.headers.get("Idempotency-Key") or request.headers.get("X-Request-Id")
        self.by_kind[kind] += 1
        self.by_vehicle[vehicle_id] += 1
        self.by_vehicle_and_kind[f"{vehicle_id} {kind}"] += 1
        if key:
            self.by_key[key] += 1
        self.log.append({"kind": kind, "vehicle": vehicle_id, "key": key, "client": request.state.client, "body": body})

    def as_dict(self) -> dict[str, Any]:
        return {
            "total": self.by_kind.total(),
            "by_kind": dict(self.by_kind),
            "by_vehicle": dict(self.by_vehicle),
            "by_vehicle_and_kind": dict(self.by_vehicle_and_kind),
            "by_key": dict(self.by_key),
            "log": list(self.log),
        }


class SimulatorState:
    """Fleets, clients, tokens, behaviours, faults, and counts of requests and of executed writes."""

    def __init__(self, plans: Sequence[FleetPlan] = (FleetPlan(),), behaviours: Behaviours | None = None) -> None:
        self.behaviours = behaviours or Behaviours()
        self.faults = Faults()
        self.requests = Counts()
        self.executions = Executions()
        self.running: dict[str, str] = {}  # the command that each vehicle is executing
        self.plans = list(plans)
        self.fleets = {p.fleet_id: Fleet(p.fleet_id, p.vehicles, p.seed, n) for n, p in enumerate(plans)}
        self.clients = {c.client_id: (c, self.fleets[p.fleet_id]) for p in plans for c in p.all_clients()}
        self._tokens: dict[str, tuple[Client, Fleet, float | None]] = {}
        self._windows: dict[str, tuple[float, int]] = {}
        for client, fleet in self.clients.values():
            if client.token is not None:
                self._tokens[client.token] = (client, fleet, None)

    def token_for(self, client_id: str, expires_in: float | None = None) -> str:
        """A new access token of a client, valid for `expires_in` seconds; a negative number makes an expired one."""
        client, fleet = self.clients[client_id]
        token = ".".join(secrets.token_urlsafe(n).replace("-", "a") for n in (24, 60, 32))
        seconds = self.behaviours.token_seconds if expires_in is None else expires_in
        self._tokens[token] = (client, fleet, time.time() + seconds)
        return token

    def accept(self, token: str, client_id: str) -> None:
        """Accepts a token from another issuer as a client's."""
        self._tokens[token] = (*self.clients[client_id], None)

    def first_token(self, fleet_id: str | None = None, expires_in: float | None = None) -> str:
        """A new token of the first client of a fleet."""
        plan = next(p for p in self.plans if fleet_id in (None, p.fleet_id))
        return self.token_for(plan.all_clients()[0].client_id, expires_in)

    def caller_of(self, request: Request) -> tuple[Client, Fleet]:
        """The client and fleet of the bearer token. Raises the 401 problems."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            raise ProblemRaised("/problems/missing-credentials")
        known = self._tokens.get(token)
        if scheme.lower() != "bearer" or known is None or (known[2] is not None and time.time() >= known[2]):
            raise ProblemRaised("/problems/invalid-credentials")
        client, fleet, _ = known
        request.state.client = client.client_id
        return client, fleet

    def admit(self, request: Request, right: str = "vehicles.ro") -> Fleet:
        """The fleet that the caller may read or write. Raises the problems of missing rights and of the rate limit."""
        client, fleet = self.caller_of(request)
        wanted = request.headers.get("X-INVERS-Fleet-Id")
        sufficient = {right, right.removesuffix(".ro")}
        if not client.scopes & sufficient or wanted not in (None, fleet.fleet_id):
            raise ProblemRaised("/problems/forbidden-resource")
        if not client.permissions & sufficient:
            raise ProblemRaised("/problems/missing-permissions")
        self._take_from_window(request, client.client_id)
        for each in self.fleets.values():
            each.advance(time.time())
        return fleet

    def partners_of(self, fleet: Fleet) -> list[tuple[dict[str, str], Fleet | None]]:
        """The fleets that a fleet can share vehicles with; one of them is not simulated."""
        others = [(each.party(), each) for each in self.fleets.values() if each is not fleet]
        return [*others, (PARTNER, None)]

    def etag_of(self, fleet: Fleet, vehicle_id: str) -> str:
        """The entity tag of a vehicle in the form of the behaviours."""
        return ("W/" if self.behaviours.etag_form == "weak" else "") + fleet.etag(vehicle_id)

    def _take_from_window(self, request: Request, client_id: str) -> None:
        limit, seconds = self.behaviours.rate_limit_requests, self.behaviours.rate_limit_seconds
        if not limit:
            return
        began, used = self._windows.get(client_id, (0.0, 0))
        now = time.time()
        began, used = (now, 0) if now - began >= seconds else (began, used)
        self._windows[client_id] = (began, used + 1)
        headers = {
            "X-Rate-Limit-Limit": str(limit),
            "X-Rate-Limit-Remaining": str(max(0, limit - used - 1)),
            "X-Rate-Limit-Reset": str(int(began + seconds) + 1),
        }
        request.state.headers.update(headers)
        if used >= limit:
            if self.behaviours.rate_limit_form == "retry_after":
                request.state.headers.clear()
                headers = {"Retry-After": str(int(began + seconds - now) + 1)}
            raise ProblemRaised("/problems/too-many-requests", "This client has sent too many requests.", headers)


def vehicle_of(request: Request, fleet: Fleet) -> str:
    """The id in the path. Raises a problem if the fleet has no such vehicle."""
    vehicle_id: str = request.path_params["id"]
    if vehicle_id not in fleet:
        raise ProblemRaised("/problems/resource-not-found")
    return vehicle_id
