"""`create_app()` joins the stations into one ASGI application. Nothing happens before it is called."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.engine.manifests import read_manifest
from gateway.hosts import AllowedHosts
from gateway.identity import Caller
from gateway.schema.build import build_schema
from gateway.schema.context import Context
from gateway.schema.loaders import Loaders
from gateway.schema.pagination import Limits
from gateway.schema.pricing import Prices
from gateway.settings import CacheSettings, ConnectionSettings, HttpSettings, OidcSettings, Settings
from gateway.telemetry import RequestLog, configure_logs, failures_logged
from gateway.upstream.connect import connect
from gateway.upstream.fetching import Clock, Errand, Patience, Tally, now
from gateway.upstream.transport import Wire
from gateway.web import health
from gateway.web.answers import broken, refusal, too_large
from gateway.web.explorer import Explorer
from gateway.web.graphql_endpoint import COST, TIMEOUT, GraphQLEndpoint
from gateway.web.middleware import REQUEST_ID, BearerToken, BodyLimit, Hardening, RequestId, new_request_id
from gateway.web.processor import watch
from gateway.web.refusals import Refusals, Shedding
from gateway.web.short_road import ShortRoad
from gateway.web.tokens import Identify, by_digest
from gateway.web.whole_answers import WholeAnswers


def create_app(
    settings: Settings, wire: Wire | None = None, clock: Clock = now, demo_token: str | None = None
) -> Starlette:
    """The gateway; for tests, `wire` (an httpx transport) replaces the network and `clock` the time.

    `demo_token` is shown to whoever opens GraphiQL: a token of the simulator's, never of a real fleet.
    """
    limits = limits_of(settings.connections)
    prices = Prices(limits, settings.upstream.page_size)
    explorer = Explorer(demo_token) if settings.http.graphiql else None
    graphql = GraphQLEndpoint(
        build_schema(),
        prices,
        settings.graphql,
        settings.limits,
        explorer=explorer,
        trusted=read_manifest(Path(settings.graphql.manifest)) if settings.graphql.manifest else None,
        clock=clock,
        nodes_max=settings.connections.nodes_max,
        whole_answers=_whole_answers(settings.cache),
    )
    log = RequestLog(settings.log)
    refusals = Refusals(graphql.admission, log, settings.limits)
    endpoint = BearerToken(graphql, graphql.seconds_of, anonymous=settings.graphql.introspection == "public")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with (
            failures_logged("the application failed"),
            connect(settings, wire, clock) as client,
            identify_by(settings.oidc, wire) as app.state.identify,
        ):

            def context_of(caller: Caller, request_id: str, traceparent: str | None, patience: Patience) -> Context:
                errand = Errand(caller, Tally(), traceparent, patience)
                return Context(
                    errand,
                    Loaders(client, errand),
                    limits,
                    request_id,
                    settings.connections.nodes_max,
                    settings.upstream.unit_search,
                )

            def load() -> dict[str, int]:
                admission = graphql.admission
                return {"operations": admission.running, "queued": admission.waiting, "reads": client.under_way()}

            app.state.load = load
            app.state.context_of = context_of
            app.state.client = client
            watching = asyncio.create_task(watch(graphql.admission.adapt, refusals.pace.adapt))
            try:
                yield
            finally:
                app.state.context_of = None
                watching.cancel()
                await asyncio.wait((watching,))

    app = Starlette(
        routes=[
            Route("/", _home),
            Route("/graphql", endpoint),
            *([Route("/explorer/{name}", explorer.file)] if explorer is not None else []),
            Route("/health/live", health.live),
            Route("/health/ready", health.ready),
        ],
        middleware=_middleware(settings.http, refusals, log),
        exception_handlers={404: _not_found, 405: _not_allowed, 413: _too_large, 500: _broken},
        lifespan=lifespan,
    )
    # Starlette would redirect from /graphql/ to whatever host the caller names.
    app.router.redirect_slashes = False
    # A page of another origin can read a refusal only if it passed what lets it.
    app.state.refusals = None if settings.http.cors_origins else refusals
    if settings.http.short_road:
        # In front of all layers, also of the one that turns what nobody expected into a 500: it does so itself.
        app.middleware_stack = ShortRoad(
            app.build_middleware_stack(),
            started=app,
            endpoint=graphql,
            log=log,
            bytes_max=settings.http.body_bytes_max,
            hosts=AllowedHosts(_names(settings.http.hosts)),
        )
    return app


def _middleware(settings: HttpSettings, refusals: Refusals, log: RequestLog) -> list[Middleware]:
    shedding, crossing = Middleware(Shedding, refusals=refusals), cross_origin(settings)
    named = [Middleware(RequestId, log=log), Middleware(Hardening, hosts=AllowedHosts(_names(settings.hosts)))]
    limit = Middleware(BodyLimit, bytes_max=settings.body_bytes_max)
    return [*named, *crossing, shedding, limit] if crossing else [shedding, *named, limit]


def from_environment() -> Starlette:
    """The gateway as the environment describes it; what every worker process starts."""
    settings = Settings()
    configure_logs(settings.log, workers=settings.workers)
    app = create_app(settings)
    # What exists now lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # A plain request leaves no circle behind, so there is seldom anything to find.
    gc.set_threshold(*COLLECTED_AFTER)
    return app


# Of Python's collector: new objects, and rounds of each generation before the next is looked at.
COLLECTED_AFTER = (10_000, 20, 20)


def cross_origin(settings: HttpSettings) -> list[Middleware]:
    """Pages of these origins may ask; of others none may. Every request needs a header no form can send: no CSRF."""
    origins = _names(settings.cors_origins)
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", COST, REQUEST_ID, TIMEOUT],
            expose_headers=["Age", "Cache-Control", "Retry-After", "WWW-Authenticate", REQUEST_ID],
            max_age=3600,
        )
    ]


@asynccontextmanager
async def identify_by(settings: OidcSettings, wire: Wire | None) -> AsyncIterator[Identify]:
    """How a token becomes a caller: by its verified claims where an issuer is configured."""
    if settings.issuer is None:
        yield by_digest
        return
    # What they bring along takes ten megabytes, which most gateways need not have.
    from gateway.upstream.issuer import Issuer  # noqa: PLC0415
    from gateway.web.verified_claims import VerifiedClaims  # noqa: PLC0415

    issuer = Issuer(settings, wire)
    try:
        yield VerifiedClaims(settings, issuer)
    finally:
        await issuer.close()


def limits_of(settings: ConnectionSettings) -> Limits:
    """The connection limits of the settings."""
    return Limits(settings.page_default, settings.page_max, settings.walk_pages_max, settings.empty_pages_max)


def _whole_answers(settings: CacheSettings) -> WholeAnswers | None:
    if not (settings.enabled and settings.answers):
        return None
    return WholeAnswers(bytes_max=settings.answers_bytes_max, gzip=settings.answers_gzip)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


async def _home(request: Request) -> Response:
    return RedirectResponse("/graphql", 307)


async def _not_found(request: Request, error: Exception) -> Response:
    return refusal(404, "NOT_FOUND", "There is nothing here; GraphQL is at /graphql.")


async def _not_allowed(request: Request, error: Exception) -> Response:
    return refusal(405, "METHOD_NOT_ALLOWED", "This method is not allowed here.", getattr(error, "headers", None))


async def _too_large(request: Request, error: Exception) -> Response:
    return too_large()


async def _broken(request: Request, error: Exception) -> Response:
    # Of the outermost layer, so no other adds to it; without an id the request was for none of the routes.
    return broken(request.scope.get("state", {}).get("request_id") or new_request_id())
