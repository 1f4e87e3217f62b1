"""Builds the ASGI application; importing this module has no side effects."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.engine.trusted_documents import ManifestInvalid, operation_names, read_manifest
from gateway.fleet_index.fleet_indexes import FleetIndexes
from gateway.hosts import AllowedHosts
from gateway.identity import Caller
from gateway.overload.cpu_monitor import monitor
from gateway.overload.load_shedding import LoadShedder
from gateway.schema.build import build_schema
from gateway.schema.cost import CostModel
from gateway.schema.filters import KNOWN_WORDS
from gateway.schema.pagination import Limits
from gateway.settings import (
    GraphQLSettings,
    HttpSettings,
    Misconfigured,
    OidcSettings,
    PaginationSettings,
    Settings,
    listed,
    variable_of,
)
from gateway.telemetry.logs import RequestLog, configure_logs, failures_logged, get_logger
from gateway.telemetry.metrics import metrics_of
from gateway.telemetry.traces import Tracing, tracing_of
from gateway.telemetry.traces import check as check_traces
from gateway.upstream.client import FleetClient
from gateway.upstream.http.transport import Network
from gateway.upstream.requests import Clock, now
from gateway.upstream.stack import build_client
from gateway.upstream.stack import check as check_upstream
from gateway.web.asgi_app import GatewayApp
from gateway.web.compression import Compression
from gateway.web.explorer import Explorer
from gateway.web.graphql_app import GraphQLApp, Identify, Runtime
from gateway.web.graphql_request import HTTPError
from gateway.web.health import AWAY, CIRCUIT_OPEN, UP, health_routes
from gateway.web.map_page import MapPage
from gateway.web.responses import rejection_bytes


def create_app(
    settings: Settings,
    network: Network | None = None,
    clock: Clock = now,
    demo_token: str | None = None,
    tracing: Tracing | None = None,
) -> GatewayApp:
    """The application. Tests replace the network with `network` (an httpx transport) and the time with `clock`.

    GraphiQL and the map use `demo_token`, so it must be a token of the simulator.
    """
    explorer = Explorer(settings, demo_token) if settings.http.graphiql else None
    trusted = _trusted_documents(settings.graphql)
    has_metrics = settings.metrics.port is not None  # otherwise no document has to be parsed here
    metrics = metrics_of(settings.metrics, operation_names(trusted) if has_metrics and trusted else ())
    schema, limits = build_schema(), limits_of(settings.pagination)
    graphql = GraphQLApp(
        schema,
        settings,
        CostModel(schema.core, limits, settings.upstream.page_size, settings.limits),
        explorer=explorer,
        trusted=trusted,
        clock=clock,
        tracing=tracing,
    )
    dependencies: dict[str, Callable[[], str]] = {}
    log = RequestLog(settings.log)
    shedder = LoadShedder(graphql.admission, settings.limits, rejection_bytes(), log.count_rejection)

    metrics.samplers += (graphql.samples, graphql.admission.samples, shedder.samples)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with (
            failures_logged("application failed"),
            build_client(settings, network, clock, metrics, traced=tracing is not None) as client,
            identify_by(settings.oidc, network, dependencies) as identify,
        ):
            dependencies.update(upstream_states(client))
            indexes = FleetIndexes(
                client,
                client.changes,
                KNOWN_WORDS,
                settings.fleet_index,
                clock,
                metrics,
                pages_max=limits.scan_pages_max,
                cached=settings.cache.enabled,
            )
            metrics.samplers.append(indexes.samples)
            graphql.runtime = Runtime(client, indexes, identify)
            tasks = [
                asyncio.create_task(monitor(metrics, graphql.admission.adapt, shedder.throttle.adapt)),
                asyncio.create_task(metrics.sample_forever()),
            ]
            try:
                yield
            finally:
                graphql.runtime = None
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await indexes.close()
                if tracing is not None:
                    await tracing.close()

    starlette = Starlette(
        routes=[
            Route("/", _home),
            *([Route("/explorer/{name}", explorer.files.respond)] if explorer is not None else []),
            *(MapPage(demo_token).routes() if settings.http.graphiql else []),
            *health_routes(graphql.load, dependencies),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed},
        lifespan=lifespan,
    )
    # Starlette would redirect from /graphql/ to whatever host the client names.
    starlette.router.redirect_slashes = False
    return GatewayApp(
        graphql,
        starlette,
        log,
        shedder,
        hosts=AllowedHosts(listed(settings.http.allowed_hosts)),
        cors_origins=listed(settings.http.cors_origins),
        cors_headers=listed(settings.http.cors_headers),
        draft=settings.http.statuses == "draft",
        metrics=metrics,
        compression=_compression(settings.http),
    )


def check(settings: Settings) -> None:
    """Raises Misconfigured for settings with which no process could start or which would be ignored."""
    check_upstream(settings)
    if settings.writes != "off" and settings.workers > 1 and settings.redis.url is None:
        message = (
            f"Writes with several workers need {variable_of('redis.url')}: without it, a worker knows neither the "
            "writes of the others nor their idempotency keys"
        )
        raise Misconfigured("writes", message)
    check_traces(os.environ)
    _compression(settings.http)
    for name in ("audience", "jwks_uri", "principal_claims"):
        if settings.oidc.issuer is None and getattr(settings.oidc, name):
            raise Misconfigured(
                f"oidc.{name}", f"It has no effect, and tokens are not verified, without {variable_of('oidc.issuer')}"
            )
    for name in ("oidc_client_id", "oidc_origins"):
        if settings.oidc.issuer is None and getattr(settings.explorer, name):
            raise Misconfigured(f"explorer.{name}", f"It has no effect without {variable_of('oidc.issuer')}")
    _trusted_documents(settings.graphql)


def _compression(settings: HttpSettings) -> Compression | None:
    return Compression(settings) if settings.compression else None


def reload(app: GatewayApp, settings: Settings) -> None:
    """Reads the trusted documents again; if that fails, the previous ones are kept."""
    log = get_logger("gateway")
    try:
        trusted = _trusted_documents(settings.graphql)
    except Misconfigured as failure:
        variable = variable_of(failure.setting)
        log.error("trusted documents not reloaded", variable=variable, reason=str(failure))  # noqa: TRY400 - no bug
        return
    if trusted is not None:
        app.graphql.trust(trusted)
    log.info("trusted documents reloaded", number=len(trusted or ()))


def _trusted_documents(settings: GraphQLSettings) -> Mapping[str, str] | None:
    if not settings.trusted_documents:
        return None
    try:
        return read_manifest(Path(settings.trusted_documents))
    except ManifestInvalid as invalid:
        raise Misconfigured("graphql.trusted_documents", str(invalid)) from invalid


def from_environment() -> GatewayApp:
    """The application with the settings of the environment, for every worker process."""
    settings = Settings()
    configure_logs(settings.log, workers=settings.workers)
    app = create_app(settings, tracing=tracing_of(os.environ))
    # Existing objects live as long as the process, so the garbage collector can skip them.
    gc.collect()
    gc.freeze()
    # Simple requests create no reference cycles, so collections are rarely useful.
    gc.set_threshold(*COLLECTED_AFTER)
    return app


# Thresholds of the three generations of the garbage collector.
COLLECTED_AFTER = (10_000, 20, 20)


@asynccontextmanager
async def identify_by(
    settings: OidcSettings, network: Network | None, dependencies: dict[str, Callable[[], str]]
) -> AsyncIterator[Identify]:
    """The authenticator: by verified claims if an issuer is configured, otherwise by the token itself.

    The issuer is added to the dependencies.
    """
    if settings.issuer is None:
        yield opaque_caller
        return
    # These imports take ten megabytes and are needed only with an issuer.
    from gateway.web.authentication import JWTAuthenticator  # noqa: PLC0415
    from gateway.web.jwks import JWKSClient  # noqa: PLC0415

    keys = JWKSClient(settings, network)
    dependencies["issuer"] = keys.state
    try:
        yield JWTAuthenticator(settings, keys)
    finally:
        await keys.close()


async def opaque_caller(token: str, _seconds: float = 0.0) -> Caller:
    """The caller of an unverified token: each token is a principal of its own."""
    return Caller(token)


def upstream_states(client: FleetClient) -> dict[str, Callable[[], str]]:
    """The states of the fleet API and, if it is configured, of Redis."""
    is_redis_away = client.is_redis_away
    states: dict[str, Callable[[], str]] = {"upstream": lambda: CIRCUIT_OPEN if client.is_circuit_open() else UP}
    if is_redis_away is not None:
        states["redis"] = lambda: AWAY if is_redis_away() else UP
    return states


def limits_of(settings: PaginationSettings) -> Limits:
    """The connection limits of the settings."""
    return Limits(settings.page_default, settings.page_max, settings.scan_pages_max, settings.empty_pages_max)


async def _home(request: Request) -> Response:
    return RedirectResponse("/graphql", 307)


async def _not_found(request: Request, failure: Exception) -> Response:
    raise HTTPError(404, "NOT_FOUND", "Not found. GraphQL is at /graphql.")


async def _not_allowed(request: Request, failure: Exception) -> Response:
    raise HTTPError(405, "METHOD_NOT_ALLOWED", "Method not allowed.", getattr(failure, "headers", None))
