"""The `gateway` command: serve · demo · simulate · schema · settings."""

from __future__ import annotations

import difflib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from gateway import __version__
from gateway.app import check, create_app, from_environment, reload
from gateway.engine.trusted_documents import ManifestInvalid, problems_of, read_manifest
from gateway.hosts import is_loopback
from gateway.schema.build import build_schema, print_sdl
from gateway.server.config import ServerConfig
from gateway.server.listening import listening_on
from gateway.server.open_files import allow_files
from gateway.server.processes import Server, serve_with_workers
from gateway.settings import (
    LogSettings,
    Misconfigured,
    Settings,
    service_links,
    setting_infos,
    unknown_variables,
    variable_of,
)
from gateway.simulator import Behaviours, FleetPlan, Simulator
from gateway.telemetry.log_writer import LogWriter, keep_standard_descriptors
from gateway.telemetry.logs import configure_logs, get_logger
from gateway.telemetry.metrics import PARENT_METRICS, Metrics, metrics_of, served, shared_folder
from gateway.telemetry.traces import tracing_of

app = typer.Typer(
    help="Unofficial GraphQL gateway for the vehicle management part of the INVERS OneAPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print exception messages
)
schema = typer.Typer(help="Print and check the GraphQL schema.", no_args_is_help=True)
app.add_typer(schema, name="schema")
operations = typer.Typer(help="Check trusted documents.", no_args_is_help=True)
app.add_typer(operations, name="operations")

Host = Annotated[str | None, typer.Option(help="Address to listen on.  [env: GATEWAY_HOST]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.  [env: GATEWAY_PORT]")]
Workers = Annotated[int | None, typer.Option(help="Number of worker processes.  [env: GATEWAY_WORKERS]")]
UnixSocket = Annotated[
    str | None, typer.Option(help="Path of a unix socket to listen on instead.  [env: GATEWAY_UNIX_SOCKET]")
]
UpstreamUrl = Annotated[str | None, typer.Option(help="Base URL of the fleet API.  [env: GATEWAY_UPSTREAM_URL]")]
Vehicles = Annotated[int, typer.Option(min=0, max=1_000_000, help="Number of vehicles in the simulated fleet.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    keep_standard_descriptors()


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    unix_socket: UnixSocket = None,
    workers: Workers = None,
    upstream_url: UpstreamUrl = None,
) -> None:
    """Serve GraphQL over the fleet API."""
    options = {"host": host, "port": port, "unix_socket": unix_socket, "workers": workers, "upstream.url": upstream_url}
    settings = _checked_settings(options)
    configure_logs(settings.log, workers=settings.workers)
    _log_warnings(settings)
    connection_limits = _connection_limits(settings)
    with _misconfiguration_shown(STARTUP_FAILURE):
        listening = listening_on(settings)
    with ExitStack() as closing:
        if settings.workers == 1:
            application = from_environment()
            _serve_metrics(closing, settings, application.metrics)
            config = ServerConfig(application, settings, **connection_limits)
            server = Server(config, _print_address, reload=lambda: reload(application, settings), listening=listening)
            server.run(listening.sockets)
            return
        # Workers read the environment, to which _settings() has added the command-line options.
        factory = f"{from_environment.__module__}:{from_environment.__name__}"
        config = ServerConfig(factory, settings, factory=True, workers=settings.workers, **connection_limits)
        with _misconfiguration_shown():
            closing.enter_context(shared_folder(settings.metrics))
        metrics = metrics_of(settings.metrics, metrics=PARENT_METRICS)
        _serve_metrics(closing, settings, metrics)
        serve_with_workers(config, lambda: check(settings), listening, metrics)


@app.command()
def demo(vehicles: Vehicles = 1000, host: Host = None, port: Port = None) -> None:
    """Serve GraphQL over a simulated fleet; needs no account and no network."""
    simulator = Simulator([FleetPlan("T7K2M", vehicles)], Behaviours(rate_limit_requests=0))
    token = simulator.first_token(expires_in=DEMO_TOKEN_SECONDS)
    upstream = _in_background(simulator.app)
    settings = _checked_settings(
        {"host": host, "port": port, "upstream.url": upstream, "log.format": "text", "writes": "all"}
    )
    configure_logs(settings.log)
    _log_warnings(settings)

    def greet(url: str) -> None:
        _print(
            f"GraphQL and GraphiQL  {url}/graphql\n"
            f"Map                   {url}/map\n"
            f"Fleet API             {upstream} ({vehicles} simulated vehicles)\n"
            f"Token                 {token}\n\n"
            f"curl -s {url}/graphql -H 'Authorization: Bearer {token}' \\\n"
            f"  -H 'Content-Type: application/json' -d '{EXAMPLE}'\n"
        )

    application = create_app(settings, demo_token=token, tracing=tracing_of(os.environ))
    with ExitStack() as closing:
        _serve_metrics(closing, settings, application.metrics)
        Server(ServerConfig(application, settings, **_connection_limits(settings)), greet).run()


@app.command()
def simulate(vehicles: Vehicles = 1000, host: Host = None, port: Port = None) -> None:
    """Serve only the simulated fleet API."""
    simulator = Simulator([FleetPlan("T7K2M", vehicles)])
    client = simulator.plans[0].all_clients()[0]
    token = simulator.first_token(expires_in=DEMO_TOKEN_SECONDS)

    def greet(url: str) -> None:
        _print(
            f"Fleet API  {url} ({vehicles} simulated vehicles)\n"
            f"Client     {client.client_id} (secret: {client.secret})\n"
            f"Token      {token}"
        )

    configure_logs(LogSettings(format="text"))
    Server(_simulator_config(simulator.app, host or "127.0.0.1", port or 0), greet).run()


@schema.command("print")
def schema_print(
    federation: Annotated[bool, typer.Option("--federation", help="Print it as a federation subgraph.")] = False,
) -> None:
    """Print the schema in GraphQL's schema definition language."""
    typer.echo(print_sdl(federation=federation), nl=False)


@schema.command("check")
def schema_check(
    file: Annotated[Path, typer.Argument(help="File to compare with the schema.")] = Path("schema.graphql"),
) -> None:
    """Fail if a file differs from the schema of this version."""
    try:
        saved = file.read_text()
    except OSError as missing:
        raise typer.BadParameter(f"cannot read {file}: {missing.strerror}") from missing
    diff = list(difflib.unified_diff(saved.splitlines(), print_sdl().splitlines(), str(file), "schema", lineterm=""))
    if diff:
        typer.echo("\n".join(diff))
        typer.echo(f"{file} is stale: gateway schema print > {file}", err=True)
        raise typer.Exit(1)


@operations.command("check")
def operations_check(
    file: Annotated[Path, typer.Argument(help="Manifest in Relay's or Apollo's format.")],
) -> None:
    """Fail if an operation of a manifest is invalid for the schema."""
    try:
        manifest = read_manifest(file)
    except ManifestInvalid as invalid:
        raise typer.BadParameter(str(invalid)) from invalid
    problems = problems_of(manifest, build_schema().core)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"Valid operations: {len(manifest)}")


@app.command("settings")
def show_settings(
    host: Host = None, port: Port = None, workers: Workers = None, upstream_url: UpstreamUrl = None
) -> None:
    """List all settings with their values and sources."""
    options = {"host": host, "port": port, "workers": workers, "upstream.url": upstream_url}
    given = frozenset(variable_of(path) for path, value in options.items() if value is not None)
    settings = _settings(options)
    for info in setting_infos(settings, given=given):
        typer.echo(f"{info.variable}={_shown(info.value)}  [{info.source}]  {info.help}")
    for warning in _warnings(settings):
        typer.echo(f"warning: {warning}", err=True)


DEMO_TOKEN_SECONDS = 30 * 86400
EXAMPLE = '{"query":"{ vehicles(first: 3) { nodes { vehicleId masterData { brand model licensePlate } } } }"}'
GREETING_BYTES_MAX = 2**16
# The gateway logs requests itself, with their ids; uvicorn logs only errors.
UVICORN: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False}


def _simulator_config(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(application, host, port, **UVICORN)


def _connection_limits(settings: Settings) -> dict[str, Any]:
    """The server's limits of connections and open files; logs a warning if the system's limit is too low."""
    files = allow_files(settings)
    if files.warning:
        get_logger("gateway").warning(files.warning)
    return {"connections_max": files.connections_max, "files_max": files.files_max}


def _print_address(url: str) -> None:
    _print(f"GraphQL at {url}" + ("" if url.startswith("unix:") else "/graphql"))


def _print(text: str) -> None:
    """Prints text without blocking; the server keeps running if nobody reads standard output or it is closed."""
    LogWriter(sys.stdout, GREETING_BYTES_MAX).msg(text)


def _in_background(application: ASGIApp) -> str:
    """Serves an application in a background thread on a free port; returns its URL."""
    urls: queue.Queue[str] = queue.Queue()
    server = Server(_simulator_config(application, "127.0.0.1", 0), urls.put)
    threading.Thread(target=server.run, name="simulator", daemon=True).start()
    return urls.get(timeout=30)


def _settings(options: dict[str, str | int | None]) -> Settings:
    """The settings; options override the environment. Exits with a message for each invalid setting."""
    for path, value in options.items():
        if value is not None:
            os.environ[variable_of(path)] = str(value)
    try:
        settings = Settings()
    except ValidationError as invalid:
        for error in invalid.errors():
            variable = variable_of(".".join(map(str, error["loc"])))
            # A group given as JSON may contain any name.
            known = variable in os.environ or variable in map(variable_of, options)
            message = error["msg"].removeprefix("Value error, ")
            typer.echo(f"{variable if known else variable_of(str(error['loc'][0]))}: {message}", err=True)
        raise typer.Exit(2) from None
    except SettingsError as unreadable:  # a group that is not valid JSON; the message names its field in quotes
        group = str(unreadable).split('"')[1]
        typer.echo(f"{variable_of(group)}: must be an object in JSON", err=True)
        raise typer.Exit(2) from None
    return settings


def _checked_settings(options: dict[str, str | int | None]) -> Settings:
    """Settings with which a process can start. Exits with the message, which would be left out of a later log line."""
    settings = _settings(options)
    with _misconfiguration_shown():
        check(settings)
    return settings


@contextmanager
def _misconfiguration_shown(status: int = 2) -> Iterator[None]:
    """Ends the process with this status, and a sentence that names the variable, if it can't be used."""
    try:
        yield
    except Misconfigured as misconfigured:
        typer.echo(f"{variable_of(misconfigured.setting)}: {misconfigured}", err=True)
        raise typer.Exit(status) from None


def _serve_metrics(closing: ExitStack, settings: Settings, metrics: Metrics) -> None:
    with _misconfiguration_shown():
        port = closing.enter_context(served(settings.metrics, settings.host, metrics))
    if port is not None:
        get_logger("gateway").info("metrics served", port=port)


def _log_warnings(settings: Settings) -> None:
    for warning in _warnings(settings):
        get_logger("gateway").warning(warning)


def _warnings(settings: Settings) -> Iterator[str]:
    """Warnings about settings that are allowed but probably not intended."""
    ignored = [
        f"{name} is not a setting" + (f" (did you mean {closest}?)" if closest else "")
        for name, closest in unknown_variables().items()
    ]
    if links := service_links():
        ignored.append(f"service links of Kubernetes or Docker are no settings: {', '.join(links)}")
    if ignored:
        yield f"ignored variables: {'; '.join(ignored)}"
    url = urlsplit(settings.upstream.url)
    if settings.writes != "off" and settings.redis.url is None and not is_loopback(url.hostname or ""):
        yield (
            "GATEWAY_WRITES is on without GATEWAY_REDIS_URL: a restart forgets all idempotency keys, and other "
            "gateways in front of this fleet API do not learn of writes"
        )
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        yield "GATEWAY_UPSTREAM_URL is not https: tokens are sent unencrypted"


def _shown(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
