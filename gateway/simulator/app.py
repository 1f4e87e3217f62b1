"""The simulated fleet API: endpoints, authorization and request counts. `/__simulator/…` controls it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import random
import re
import secrets
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.simulator.behaviours import Behaviours
from gateway.simulator.faults import Fault, Faults, corrupted, rate_limit_headers
from gateway.simulator.fleet import Fleet, encoded
from gateway.simulator.paging import CursorRejected, PageRequest, decode_cursor, encode_cursor, page_of

DOCUMENTS = "https://developers.invers.com"
TITLES = {
    "/problems/validation-error": (400, "Validation Error"),
    "/problems/invalid-json": (400, "The body contains invalid JSON."),
    "/problems/referenced-resource-not-found": (400, "A referenced resource cannot be found."),
    "/problems/missing-credentials": (401, "The credentials are missing."),
    "/problems/invalid-credentials": (401, "The credentials are invalid."),
    "/problems/missing-permissions": (403, "Accessing this resource is forbidden."),
    "/problems/forbidden-resource": (403, "Accessing this resource is forbidden."),
    "/problems/resource-not-found": (404, "The resource cannot be found."),
    "/problems/method-not-allowed": (405, "The method is not allowed."),
    "/problems/conflicting-resource": (
        409,
        "Request cannot be processed due to a conflicting resource or resource state.",
    ),
    "/problems/unique-identifier-already-exists": (409, "Unique identifier already exists."),
    "/problems/incompatible-telematics-unit-model": (
        409,
        "The desired configuration is not available for the CloudBoxx 3G.",
    ),
    "/problems/incompatible-installation-variant": (409, "Incompatible installation variant."),
    "/problems/vehicle/command-not-supported": (409, "The command is not supported by the vehicle."),
    "/problems/vehicle/conflicting-state": (
        409,
        "The command cannot be executed due to the current state of the vehicle.",
    ),
    "/problems/vehicle/conflicting-command": (
        409,
        "The command cannot be executed because of a conflicting command's processing.",
    ),
    "/problems/vehicle/conflicting-setup-status": (
        409,
        "The operation cannot be performed due to the vehicle's setup status.",
    ),
    "/problems/vehicle/shared-with-partner": (409, "The vehicle is currently shared with a partner."),
    "/problems/resource-modified": (412, "Resource has been modified."),
    "/problems/too-many-requests": (429, "Too many requests."),
    "/problems/internal-server-error": (500, "Internal Server Error"),
    "/problems/telematics-unit/error": (500, "An error occurred on the telematics unit"),
    "/problems/vehicle/not-reachable": (504, "The vehicle cannot be reached."),  # not documented: a guess
}
TEMPLATES = [
    (re.compile(r"/vehicles"), "/vehicles"),
    (re.compile(r"/vehicles/[^/]+"), "/vehicles/{id}"),
    (re.compile(r"/vehicles/[^/]+/latest-state"), "/vehicles/{id}/latest-state"),
    (re.compile(r"/auth/oauth/token"), "/auth/oauth/token"),
]


@dataclass(frozen=True, slots=True)
class Client:
    """An API client; `token`, if given, is an access token that never expires."""

    client_id: str
    secret: str = "secret"  # noqa: S105 - of a simulated client
    permissions: frozenset[str] = frozenset({"vehicles.ro"})
    scopes: frozenset[str] = frozenset({"vehicles.ro"})
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
            Client(f"{self.fleet_id}#no-permission", permissions=frozenset()),
            Client(f"{self.fleet_id}#no-scope", scopes=frozenset()),
        )


class ProblemRaised(Exception):
    """A problem response."""

    def __init__(
        self, kind: str, detail: str = "", headers: dict[str, str] | None = None, status: int | None = None
    ) -> None:
        super().__init__(kind)
        self.kind, self.detail, self.headers, self.status = kind, detail, headers or {}, status


@dataclass(slots=True)
class Counts:
    """Counts of requests by path, client and status, and a log of the latest ones."""

    total: int = 0
    by_path: Counter[str] = field(default_factory=Counter)
    by_client: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    max_in_flight: int = 0
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=1000))

    def as_dict(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "by_path": dict(self.by_path),
            "by_client": dict(self.by_client),
            "by_status": dict(self.by_status),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "not_modified": self.by_status["304"],
            "log": list(self.log),
        }


class Simulator:
    """Fleets, clients, tokens, behaviours, faults and counts; `app` is the ASGI application."""

    def __init__(self, plans: Sequence[FleetPlan] = (FleetPlan(),), behaviours: Behaviours | None = None) -> None:
        self.behaviours = behaviours or Behaviours()
        self.faults = Faults()
        self.requests = Counts()
        self.plans = list(plans)
        self.fleets = {p.fleet_id: Fleet(p.fleet_id, p.vehicles, p.seed, n) for n, p in enumerate(plans)}
        self.clients = {c.client_id: (c, self.fleets[p.fleet_id]) for p in plans for c in p.all_clients()}
        self._tokens: dict[str, tuple[Client, Fleet, float | None]] = {}
        self._windows: dict[str, tuple[float, int]] = {}
        for client, fleet in self.clients.values():
            if client.token is not None:
                self._tokens[client.token] = (client, fleet, None)
        self.app = _Connection(self, _application(self))

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

    def admit(self, request: Request) -> Fleet:
        """The fleet that the caller may read. Raises the problems of missing permissions and of the rate limit."""
        client, fleet = self.caller_of(request)
        wanted = request.headers.get("X-INVERS-Fleet-Id")
        if not client.scopes & {"vehicles", "vehicles.ro"} or wanted not in (None, fleet.fleet_id):
            raise ProblemRaised("/problems/forbidden-resource")
        if not client.permissions & {"vehicles", "vehicles.ro"}:
            raise ProblemRaised("/problems/missing-permissions")
        self._take_from_window(request, client.client_id)
        return fleet

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


def list_page(
    fleet: Fleet,
    behaviours: Behaviours,
    *,
    limit: int | None = None,
    cursor: str | None = None,
    search: str = "",
    now: float | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """The ids of a page, and the other members of its body. Raises CursorRejected."""
    now = time.time() if now is None else now
    if cursor:
        request = decode_cursor(cursor, fleet.fleet_id, behaviours, now)
    else:
        request = PageRequest(limit=limit or behaviours.default_limit, search=search, fleet=fleet.fleet_id)
    ids, keys = fleet.found(request.search, behaviours)
    span = page_of(keys, request, behaviours)
    cursors = {name: encode_cursor(to, behaviours, now) if to else None for name, to in span.cursors.items()}
    shown = list(ids[span.start : span.end])
    if behaviours.next_page_token:
        return shown, {"next_page_token": cursors["next"]}
    if behaviours.ends == "absent":
        cursors = {name: text for name, text in cursors.items() if text is not None}
    return shown, {"cursors": cursors}


class _Connection:
    """Adds a flow id to each request, and the server's own `send`, by which a fault closes the connection."""

    def __init__(self, simulator: Simulator, application: Starlette) -> None:
        self._simulator = simulator
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {}).update(
                flow_id=str(uuid.uuid4()), simulator=self._simulator, send=send, client=None, headers={}
            )
        with contextlib.suppress(_ConnectionAborted):
            await self._application(scope, receive, send)


def _application(simulator: Simulator) -> Starlette:
    return Starlette(
        routes=[
            Route("/auth/oauth/token", _counted(_token), methods=["POST"]),
            Route("/vehicles", _counted(_vehicles)),
            Route("/vehicles/{id}", _counted(_vehicle)),
            Route("/vehicles/{id}/latest-state", _counted(_latest_state)),
            Route("/__simulator/requests", _show_requests, methods=["GET", "DELETE"]),
            Route("/__simulator/behaviours", _set_behaviours, methods=["GET", "PATCH"]),
            Route("/__simulator/faults", _set_faults, methods=["GET", "PUT", "DELETE"]),
            Route("/__simulator/tokens", _mint_token, methods=["POST"]),
            Route("/__simulator/fleets", _show_fleets),
            Route("/__simulator/fleets/{fleet}/ids", _show_ids),
            Route("/__simulator/fleets/{fleet}/vehicles", _insert, methods=["POST"]),
            Route("/__simulator/fleets/{fleet}/vehicles/{id}", _delete, methods=["DELETE"]),
            Route("/__simulator/fleets/{fleet}/vehicles/{id}/touch", _touch, methods=["POST"]),
            Route("/__simulator/fleets/{fleet}/vehicles/{id}/edit", _edit, methods=["POST"]),
            Route("/__simulator/fleets/{fleet}/vehicles/{id}/sharing", _share, methods=["POST"]),
        ],
        exception_handlers={404: _no_route, 405: _no_method},
    )


Handler = Callable[[Request], Awaitable[Response]]


def _counted(handler: Handler) -> Handler:
    """An API endpoint with request counts, faults, problem responses and flow ids."""

    async def endpoint(request: Request) -> Response:
        simulator: Simulator = request.state.simulator
        counts = simulator.requests
        counts.total += 1
        counts.in_flight += 1
        counts.max_in_flight = max(counts.max_in_flight, counts.in_flight)
        path = request.url.path
        counts.by_path[next((name for pattern, name in TEMPLATES if pattern.fullmatch(path)), path)] += 1
        status = 0
        try:
            response = await _with_faults(request, handler)
            status = response.status_code
            return response
        finally:
            counts.in_flight -= 1
            counts.by_status[str(status)] += 1
            counts.by_client[request.state.client or "?"] += 1
            counts.log.append(
                {
                    "method": request.method,
                    "path": path,
                    "query": request.url.query,
                    "client": request.state.client,
                    "status": status,
                }
            )

    return endpoint


async def _with_faults(request: Request, handler: Handler) -> Response:
    simulator: Simulator = request.state.simulator
    try:
        client = simulator.caller_of(request)[0].client_id
    except ProblemRaised:
        client = None
    faults = simulator.faults.matching(request.url.path, client)
    try:
        for fault in faults:
            await _apply_before(request, simulator, fault)
        response = await handler(request)
    except ProblemRaised as problem:
        response = _problem(request, problem)
    response.headers.update(request.state.headers)
    response.headers["X-INVERS-Flow-ID"] = request.state.flow_id
    for fault in faults:
        response = await _apply_after(request, response, fault)
    return response


async def _apply_before(request: Request, simulator: Simulator, fault: Fault) -> None:
    kind = fault.kind
    if kind == "latency":
        await asyncio.sleep(fault.seconds + random.uniform(0, fault.jitter))
    elif kind == "drop":
        await _abort(request)
    elif kind == "outage":
        raise ProblemRaised("/problems/internal-server-error", status=503)
    elif kind == "telematics_unit_error":
        raise ProblemRaised("/problems/telematics-unit/error", "The unit is busy.")
    elif kind == "rate_limit":
        headers = rate_limit_headers(fault, simulator.behaviours.rate_limit_requests)
        raise ProblemRaised("/problems/too-many-requests", headers=headers)
    elif kind == "status":
        raise ProblemRaised(fault.type or "", fault.body or "", status=fault.status)
    elif kind == "expired_cursor" and simulator.behaviours.cursor_parameter in request.query_params:
        raise ProblemRaised("/problems/validation-error", "The cursor has expired.")
    elif kind == "churn" and request.url.path == "/vehicles":
        _churn(simulator)
    elif kind == "sharing" and request.url.path == "/vehicles":
        _share_or_end(simulator)


def _churn(simulator: Simulator) -> None:
    for fleet in simulator.fleets.values():
        if len(fleet) and simulator.faults.below(2):
            fleet.delete(fleet.ids[simulator.faults.below(len(fleet))])
        else:
            fleet.insert(simulator.faults.below(len(fleet) + 1))


def _share_or_end(simulator: Simulator) -> None:
    """Shares a vehicle of each fleet with the next fleet, or ends a sharing."""
    fleets = list(simulator.fleets.values())
    for owner, partner in zip(fleets, [*fleets[1:], *fleets[:1]], strict=True):
        shared = list(partner.owners)
        if shared and simulator.faults.below(2):
            partner.delete(shared[simulator.faults.below(len(shared))])
            continue
        if not len(owner):
            continue
        vehicle_id = owner.ids[simulator.faults.below(len(owner))]
        with contextlib.suppress(ValueError):  # it is shared already
            owner.share(vehicle_id, partner, simulator.faults.below(len(partner) + 1))


async def _apply_after(request: Request, response: Response, fault: Fault) -> Response:
    if fault.kind in ("malformed_json", "not_an_object", "wrong_types", "huge_body"):
        body = corrupted(bytes(response.body), fault)
        headers = {k: v for k, v in response.headers.items() if k != "content-length"}
        return Response(body, response.status_code, headers)
    if fault.kind in ("truncate", "stall"):
        send: Send = request.state.send
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send(
            {"type": "http.response.body", "body": bytes(response.body)[: len(response.body) // 2], "more_body": True}
        )
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
        await _abort(request)
    if fault.kind == "slow_body":
        return _SlowResponse(response, fault.seconds)
    return response


class _SlowResponse(Response):
    """A response whose body is sent in about a hundred chunks, with a delay before each."""

    def __init__(self, response: Response, seconds: float) -> None:
        super().__init__(bytes(response.body), response.status_code, dict(response.headers))
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _chunks(self) -> AsyncIterator[bytes]:
        size = max(1, len(self.body) // 100)
        for at in range(0, len(self.body), size):
            await asyncio.sleep(self._seconds)
            yield bytes(self.body[at : at + size])


async def _abort(request: Request) -> None:
    """Aborts the connection. Without one, as in an in-process call, the caller gets an exception."""
    transport = getattr(getattr(request.state.send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("the simulator aborted the connection")
    transport.abort()
    raise _ConnectionAborted


class _ConnectionAborted(Exception):
    """The connection of a request is aborted."""


def _problem(request: Request, problem: ProblemRaised) -> Response:
    known_status, title = TITLES.get(problem.kind, (500, "Error"))
    status = problem.status or known_status
    if not problem.kind:
        return Response(
            problem.detail, status, problem.headers, "text/html" if problem.detail.startswith("<") else "text/plain"
        )
    body = {
        "type": problem.kind,
        "type_documentation": DOCUMENTS + problem.kind,
        "title": title,
        "status": status,
        "detail": problem.detail or title,
        "flow_id": request.state.flow_id,
    }
    return JSONResponse(body, status, problem.headers)


async def _token(request: Request) -> Response:
    simulator: Simulator = request.state.simulator

    def oauth_error(error: str, description: str, status: int = 401) -> Response:
        return JSONResponse({"error": error, "error_description": description}, status)

    if request.query_params.get("grant_type") != "client_credentials":
        return oauth_error("unsupported_grant_type", "grant_type must be client_credentials.", 400)
    try:
        scheme, _, packed = request.headers.get("Authorization", "").partition(" ")
        client_id, _, secret = base64.b64decode(packed, validate=True).decode().rpartition(":")
    except (binascii.Error, UnicodeDecodeError):
        return oauth_error("invalid_client", "The credentials can't be read.")
    known = simulator.clients.get(client_id)
    if scheme.lower() != "basic" or known is None or not secrets.compare_digest(known[0].secret, secret):
        return oauth_error("invalid_client", "The credentials are wrong.")
    request.state.client = client_id
    token = simulator.token_for(client_id)
    return JSONResponse(
        {"access_token": token, "token_type": "bearer", "expires_in": int(simulator.behaviours.token_seconds)}
    )


async def _vehicles(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    fleet, behaviours = simulator.admit(request), simulator.behaviours
    parameters = request.query_params
    cursor = parameters.get("page_token" if behaviours.next_page_token else behaviours.cursor_parameter)
    if cursor is not None and "limit" in parameters and behaviours.limit_with_cursor == "rejected":
        raise ProblemRaised("/problems/validation-error", "limit can't be combined with a cursor.")
    limit = None if cursor is not None else _limit_of(parameters.get("limit"), behaviours)
    try:
        ids, members = list_page(fleet, behaviours, limit=limit, cursor=cursor, search=parameters.get("q", ""))
    except CursorRejected as rejected:
        raise ProblemRaised("/problems/validation-error", f"The cursor is {rejected}.") from rejected
    items = b",".join(_text_of(request, fleet, vehicle_id) for vehicle_id in ids)
    return Response(b'{"items":[' + items + b"]," + encoded(members)[1:], media_type="application/json")


def _text_of(request: Request, fleet: Fleet, vehicle_id: str) -> bytes:
    behaviours: Behaviours = request.state.simulator.behaviours
    text = fleet.text(vehicle_id, behaviours)
    # Decoders use the last of two members with the same name.
    return (
        text[:-1] + encoded({"vehicle_model_id": request.state.client}).replace(b"{", b",")
        if behaviours.stamp_callers
        else text
    )


def _limit_of(text: str | None, behaviours: Behaviours) -> int:
    if text is None:
        return behaviours.default_limit
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= behaviours.maximum_limit:
        raise ProblemRaised("/problems/validation-error", f"limit must be between 1 and {behaviours.maximum_limit}.")
    return int(text)


def _vehicle_of(request: Request, fleet: Fleet) -> str:
    vehicle_id: str = request.path_params["id"]
    if vehicle_id not in fleet:
        raise ProblemRaised("/problems/resource-not-found")
    return vehicle_id


async def _vehicle(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    fleet, behaviours = simulator.admit(request), simulator.behaviours
    vehicle_id = _vehicle_of(request, fleet)
    headers = {"ETag": fleet.etag(vehicle_id)} if behaviours.etags else {}
    if behaviours.etags and behaviours.not_modified and request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(_text_of(request, fleet, vehicle_id), headers=headers, media_type="application/json")


async def _latest_state(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    fleet = simulator.admit(request)
    return Response(
        encoded(fleet.state(_vehicle_of(request, fleet), simulator.behaviours)), media_type="application/json"
    )


async def _no_route(request: Request, error: Exception) -> Response:
    response = _problem(request, ProblemRaised("/problems/resource-not-found"))
    response.headers["X-INVERS-Flow-ID"] = request.state.flow_id
    return response


async def _no_method(request: Request, error: Exception) -> Response:
    response = _problem(request, ProblemRaised("/problems/method-not-allowed"))
    response.headers["X-INVERS-Flow-ID"] = request.state.flow_id
    return response


async def _show_requests(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    if request.method == "DELETE":
        in_flight = simulator.requests.in_flight
        simulator.requests = Counts(in_flight=in_flight)
    return JSONResponse(simulator.requests.as_dict())


async def _set_behaviours(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    if request.method == "PATCH":
        wanted = msgspec.to_builtins(simulator.behaviours) | await request.json()
        try:
            simulator.behaviours = msgspec.convert(wanted, Behaviours)
        except msgspec.ValidationError as wrong:
            return JSONResponse({"error": str(wrong)}, 400)
    return JSONResponse(msgspec.to_builtins(simulator.behaviours))


async def _set_faults(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    if request.method == "DELETE":
        simulator.faults.rules = []
    elif request.method == "PUT":
        try:
            simulator.faults.rules = msgspec.convert(await request.json(), list[Fault])
        except msgspec.ValidationError as wrong:
            return JSONResponse({"error": str(wrong)}, 400)
    return JSONResponse(msgspec.to_builtins(simulator.faults.rules))


async def _mint_token(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    body = await request.json()
    if body.get("client_id") not in simulator.clients:
        return JSONResponse({"error": "no such client"}, 404)
    return JSONResponse({"access_token": simulator.token_for(body["client_id"], body.get("expires_in"))})


async def _show_fleets(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    shown = [
        {
            "fleet_id": p.fleet_id,
            "size": len(simulator.fleets[p.fleet_id]),
            "clients": [c.client_id for c in p.all_clients()],
        }
        for p in simulator.plans
    ]
    return JSONResponse(shown)


def _fleet_of(request: Request) -> Fleet:
    """The fleet in the path of a control request; if the path has a vehicle, it must exist."""
    simulator: Simulator = request.state.simulator
    fleet = simulator.fleets.get(request.path_params["fleet"])
    vehicle_id = request.path_params.get("id")
    if fleet is None or (vehicle_id is not None and vehicle_id not in fleet):
        raise HTTPException(404)
    return fleet


async def _show_ids(request: Request) -> Response:
    return JSONResponse(_fleet_of(request).ids)


async def _insert(request: Request) -> Response:
    body = await request.json() if await request.body() else {}
    return JSONResponse({"id": _fleet_of(request).insert(body.get("position"))}, 201)


async def _delete(request: Request) -> Response:
    _fleet_of(request).delete(request.path_params["id"])
    return Response(status_code=204)


async def _touch(request: Request) -> Response:
    _fleet_of(request).touch(request.path_params["id"])
    return Response(status_code=204)


async def _edit(request: Request) -> Response:
    _fleet_of(request).edit(request.path_params["id"])
    return Response(status_code=204)


async def _share(request: Request) -> Response:
    """Shares a vehicle with the fleet `partner`; it is no longer shared when it is deleted from that fleet."""
    body = await request.json()
    owner, vehicle_id = _fleet_of(request), request.path_params["id"]
    try:
        partner = request.state.simulator.fleets[body["partner"]]
        owner.share(vehicle_id, partner, body.get("position"), body.get("seconds", 3600))
    except (KeyError, ValueError) as wrong:
        return JSONResponse({"error": str(wrong)}, 400)
    return Response(status_code=204)
