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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.simulator import writes
from gateway.simulator.behaviours import Behaviours
from gateway.simulator.faults import Fault, corrupted, rate_limit_headers
from gateway.simulator.fleet import Fleet, encoded
from gateway.simulator.models import models_of
from gateway.simulator.paging import CursorRejected, PageRequest, decode_cursor, encode_cursor, page_of
from gateway.simulator.problems import ProblemRaised, problem_response
from gateway.simulator.state import Counts, Executions, FleetPlan, SimulatorState, vehicle_of

TEMPLATES = [
    (re.compile(r"/vehicles/[^/]+/commands/[^/]+"), "/vehicles/{id}/commands/{command}"),
    (re.compile(r"/vehicles"), "/vehicles"),
    (
        re.compile(r"/telematics-brands/[^/]+/available-vehicle-models"),
        "/telematics-brands/{brand}/available-vehicle-models",
    ),
    (re.compile(r"/vehicles/[^/]+/sharing"), "/vehicles/{id}/sharing"),
    (re.compile(r"/vehicles/[^/]+"), "/vehicles/{id}"),
    (re.compile(r"/vehicles/[^/]+/latest-state"), "/vehicles/{id}/latest-state"),
    (re.compile(r"/auth/oauth/token"), "/auth/oauth/token"),
]


class Simulator(SimulatorState):
    """A simulated fleet API; `app` is its ASGI application."""

    def __init__(self, plans: Sequence[FleetPlan] = (FleetPlan(),), behaviours: Behaviours | None = None) -> None:
        super().__init__(plans, behaviours)
        self.app = _Connection(self, _application(self))


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
            Route("/vehicles", _counted(_vehicles), methods=["GET"]),
            Route("/vehicles", _counted(writes.add), methods=["POST"]),
            Route("/telematics-brands/{brand}/available-vehicle-models", _counted(_available_models)),
            Route("/sharing-partners", _counted(_sharing_partners)),
            Route("/vehicles/{id}", _counted(_vehicle), methods=["GET"]),
            Route("/vehicles/{id}", _counted(writes.change), methods=["PATCH", "PUT"]),
            Route("/vehicles/{id}/latest-state", _counted(_latest_state)),
            Route("/vehicles/{id}", _counted(writes.archive), methods=["DELETE"]),
            Route("/vehicles/{id}/archive", _counted(writes.archive), methods=["POST"]),
            Route("/vehicles/{id}/sharing", _counted(writes.share), methods=["POST"]),
            Route("/vehicles/{id}/sharing", _counted(writes.end_sharing), methods=["DELETE"]),
            Route("/vehicles/{id}/sharing/end", _counted(writes.end_sharing), methods=["POST"]),
            Route("/vehicles/{id}/commands/{command}", _counted(writes.command), methods=["POST"]),
            Route("/vehicles/{id}/{member}", _counted(writes.change_member), methods=["PATCH", "PUT"]),
            Route("/__simulator/requests", _show_requests, methods=["GET", "DELETE"]),
            Route("/__simulator/executions", _show_executions, methods=["GET", "DELETE"]),
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


def _template_of(method: str, path: str) -> str:
    """The path with placeholders; for a write, after its method."""
    name = next((name for pattern, name in TEMPLATES if pattern.fullmatch(path)), path)
    return name if method == "GET" or name.startswith("/auth/") else f"{method} {name}"


def _counted(handler: Handler) -> Handler:
    """An API endpoint with request counts, faults, problem responses and flow ids."""

    async def endpoint(request: Request) -> Response:
        simulator: Simulator = request.state.simulator
        counts = simulator.requests
        counts.total += 1
        counts.in_flight += 1
        counts.max_in_flight = max(counts.max_in_flight, counts.in_flight)
        path = request.url.path
        counts.by_method[request.method] += 1
        counts.by_path[_template_of(request.method, path)] += 1
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
    await request.body()  # while the client is there
    faults = simulator.faults.matching(request.url.path, client, request.method)
    try:
        for fault in faults:
            if not fault.executed:
                await _fail(request, simulator, fault)
        response = await handler(request)
        for fault in faults:
            if fault.executed:
                await _fail(request, simulator, fault)
    except ProblemRaised as problem:
        response = problem_response(request, problem)
    response.headers.update(request.state.headers)
    response.headers["X-INVERS-Flow-ID"] = request.state.flow_id
    for fault in faults:
        response = await _apply_after(request, response, fault)
    return response


async def _fail(request: Request, simulator: Simulator, fault: Fault) -> None:  # noqa: C901 - a list of kinds
    kind = fault.kind
    if kind == "latency":
        await asyncio.sleep(fault.seconds + random.uniform(0, fault.jitter))
    elif kind == "drop":
        await _abort(request)
    elif kind == "silence":
        await asyncio.sleep(fault.seconds)
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


async def _vehicle(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    fleet, behaviours = simulator.admit(request), simulator.behaviours
    archived = fleet.archived.get(request.path_params["id"])
    if archived is not None and behaviours.archived_vehicles == "readable":
        return Response(encoded(archived), media_type="application/json")
    vehicle_id = vehicle_of(request, fleet)
    headers = {"ETag": simulator.etag_of(fleet, vehicle_id)} if behaviours.etags else {}
    if behaviours.etags and behaviours.not_modified and request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(_text_of(request, fleet, vehicle_id), headers=headers, media_type="application/json")


async def _latest_state(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    fleet = simulator.admit(request)
    return Response(
        encoded(fleet.state(vehicle_of(request, fleet), simulator.behaviours)), media_type="application/json"
    )


async def _available_models(request: Request) -> Response:
    request.state.simulator.admit(request)
    models = [model for _, model in models_of(request.path_params["brand"])]
    if not models:
        raise ProblemRaised("/problems/resource-not-found", "There is no such telematics brand.")
    return JSONResponse({"items": models})


async def _sharing_partners(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    return JSONResponse({"items": [party for party, _ in simulator.partners_of(simulator.admit(request))]})


async def _no_route(request: Request, error: Exception) -> Response:
    response = problem_response(request, ProblemRaised("/problems/resource-not-found"))
    response.headers["X-INVERS-Flow-ID"] = request.state.flow_id
    return response


async def _no_method(request: Request, error: Exception) -> Response:
    response = problem_response(request, ProblemRaised("/problems/method-not-allowed"))
    response.headers["X-INVERS-Flow-ID"] = request.state.flow_id
    return response


async def _show_requests(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    if request.method == "DELETE":
        in_flight = simulator.requests.in_flight
        simulator.requests = Counts(in_flight=in_flight)
    return JSONResponse(simulator.requests.as_dict())


async def _show_executions(request: Request) -> Response:
    simulator: Simulator = request.state.simulator
    if request.method == "DELETE":
        simulator.executions = Executions()
    return JSONResponse(simulator.executions.as_dict())


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
        owner.share(vehicle_id, partner, body.get("position"), ends_at=time.time() + body.get("seconds", 3600))
    except (KeyError, ValueError) as wrong:
        return JSONResponse({"error": str(wrong)}, 400)
    return Response(status_code=204)
