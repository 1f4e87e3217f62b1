"""The `gateway` command: serve · demo · simulate · schema · settings."""

from __future__ import annotations

import difflib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp

from gateway import __version__
from gateway.app import create_app, from_environment
from gateway.engine.manifests import ManifestInvalid, problems_of, read_manifest
from gateway.log_writer import LogWriter, keep_standard_descriptors
from gateway.schema.build import build_schema, print_sdl
from gateway.server.config import ServerConfig
from gateway.server.open_files import allow_files
from gateway.server.processes import Server, serve_with_workers
from gateway.settings import LogSettings, Settings, knobs, unknown_variables, variable_of
from gateway.simulator import FleetPlan, Simulator, Switches
from gateway.telemetry import configure_logs, get_logger

app = typer.Typer(
    help="An unofficial GraphQL gateway over the vehicle management part of the INVERS OneAPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would quote what an exception says
)
schema = typer.Typer(help="The GraphQL schema.", no_args_is_help=True)
app.add_typer(schema, name="schema")
operations = typer.Typer(help="Trusted documents.", no_args_is_help=True)
app.add_typer(operations, name="operations")

Host = Annotated[str | None, typer.Option(help="Address to listen on.  [env: GATEWAY_HOST]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.  [env: GATEWAY_PORT]")]
Workers = Annotated[int | None, typer.Option(help="Worker processes.  [env: GATEWAY_WORKERS]")]
UpstreamUrl = Annotated[str | None, typer.Option(help="Base URL of the fleet API.  [env: GATEWAY_UPSTREAM_URL]")]
Vehicles = Annotated[int, typer.Option(min=0, max=1_000_000, help="Vehicles in the simulated fleet.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    keep_standard_descriptors()


@app.command()
def serve(host: Host = None, port: Port = None, workers: Workers = None, upstream_url: UpstreamUrl = None) -> None:
    """Serves GraphQL over the fleet API."""
    settings = _settings({"host": host, "port": port, "workers": workers, "upstream.url": upstream_url})
    if settings.graphql.manifest:
        try:
            read_manifest(Path(settings.graphql.manifest))
        except ManifestInvalid as invalid:  # said here: whatever ends a server later is logged without its words
            typer.echo(f"{variable_of('graphql.manifest')}: {invalid}", err=True)
            raise typer.Exit(2) from None
    configure_logs(settings.log, workers=settings.workers)
    for warning in _warnings(settings):
        get_logger("gateway").warning(warning)
    room = _room_for_connections(settings)
    if settings.workers == 1:
        Server(ServerConfig(from_environment(), settings, **room), _say_where).run()
        return
    # Workers are processes of their own; like this one they read the environment, where _settings() put the options.
    factory = f"{from_environment.__module__}:{from_environment.__name__}"
    config = ServerConfig(factory, settings, factory=True, workers=settings.workers, **room)
    serve_with_workers(config)


@app.command()
def demo(vehicles: Vehicles = 1000, host: Host = None, port: Port = None) -> None:
    """Serves GraphQL over a simulated fleet: no account, no network."""
    simulator = Simulator([FleetPlan("T7K2M", vehicles)], Switches(rate_limit_requests=0))
    token = simulator.first_token(expires_in=DEMO_TOKEN_SECONDS)
    upstream = _in_background(simulator.app)
    settings = _settings({"host": host, "port": port, "upstream.url": upstream, "log.format": "text"})
    configure_logs(settings.log)

    def greet(url: str) -> None:
        _say(
            f"GraphQL and GraphiQL  {url}/graphql\n"
            f"Fleet API             {upstream} ({vehicles} simulated vehicles)\n"
            f"Token                 {token}\n\n"
            f"curl -s {url}/graphql -H 'Authorization: Bearer {token}' \\\n"
            f"  -H 'Content-Type: application/json' -d '{EXAMPLE}'\n"
        )

    application = create_app(settings, demo_token=token)
    Server(ServerConfig(application, settings, **_room_for_connections(settings)), greet).run()


@app.command()
def simulate(vehicles: Vehicles = 1000, host: Host = None, port: Port = None) -> None:
    """Serves the simulated fleet API alone."""
    simulator = Simulator([FleetPlan("T7K2M", vehicles)])
    client = simulator.plans[0].all_clients()[0]
    token = simulator.first_token(expires_in=DEMO_TOKEN_SECONDS)

    def greet(url: str) -> None:
        _say(
            f"Fleet API  {url} ({vehicles} simulated vehicles)\n"
            f"Client     {client.client_id} (secret: {client.secret})\n"
            f"Token      {token}"
        )

    configure_logs(LogSettings(format="text"))
    Server(_listening(simulator.app, host or "127.0.0.1", port or 0), greet).run()


@schema.command("print")
def schema_print(
    federation: Annotated[bool, typer.Option("--federation", help="As a subgraph, for federation routers.")] = False,
) -> None:
    """Prints the schema in GraphQL's schema definition language."""
    typer.echo(print_sdl(federation=federation), nl=False)


@schema.command("check")
def schema_check(
    file: Annotated[Path, typer.Argument(help="The file to hold against the schema.")] = Path("schema.graphql"),
) -> None:
    """Fails if a file is not the schema of this version."""
    try:
        held = file.read_text()
    except OSError as missing:
        raise typer.BadParameter(f"cannot read {file}: {missing.strerror}") from missing
    diff = list(difflib.unified_diff(held.splitlines(), print_sdl().splitlines(), str(file), "schema", lineterm=""))
    if diff:
        typer.echo("\n".join(diff))
        typer.echo(f"{file} is stale: gateway schema print > {file}", err=True)
        raise typer.Exit(1)


@operations.command("check")
def operations_check(
    file: Annotated[Path, typer.Argument(help="A manifest in Relay's or Apollo's form.")],
) -> None:
    """Fails if an operation of a manifest does not run against the schema."""
    try:
        manifest = read_manifest(file)
    except ManifestInvalid as invalid:
        raise typer.BadParameter(str(invalid)) from invalid
    problems = problems_of(manifest, build_schema().core)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{len(manifest)} operations fit the schema")


@app.command("settings")
def show_settings(
    host: Host = None, port: Port = None, workers: Workers = None, upstream_url: UpstreamUrl = None
) -> None:
    """Lists every setting, its value and where that came from."""
    options = {"host": host, "port": port, "workers": workers, "upstream.url": upstream_url}
    given = frozenset(variable_of(path) for path, value in options.items() if value is not None)
    settings = _settings(options)
    for knob in knobs(settings, given=given):
        typer.echo(f"{knob.variable}={_shown(knob.value)}  [{knob.source}]  {knob.help}")
    for warning in _warnings(settings):
        typer.echo(f"warning: {warning}", err=True)


DEMO_TOKEN_SECONDS = 30 * 86400
EXAMPLE = '{"query":"{ vehicles(first: 3) { nodes { vehicleId masterData { brand model licensePlate } } } }"}'
GREETING_BYTES_MAX = 2**16
# Requests are logged by the gateway itself, with their ids; the server's own log keeps to what is wrong.
UVICORN: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False}


def _listening(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(application, host, port, **UVICORN)


def _room_for_connections(settings: Settings) -> dict[str, Any]:
    """The limits of connections and files for the server; logs a warning if the limit of open files is too low."""
    files = allow_files(settings)
    if files.warning:
        get_logger("gateway").warning(files.warning)
    return {"connections_max": files.connections_max, "files_max": files.files_max}


def _say_where(url: str) -> None:
    _say(f"GraphQL at {url}/graphql")


def _say(text: str) -> None:
    """Says something on standard output; a server goes on where nobody reads that, or it is closed."""
    LogWriter(sys.stdout, GREETING_BYTES_MAX).msg(text)


def _in_background(application: ASGIApp) -> str:
    """Serves an application from a thread of its own, on a free port; returns its URL."""
    where: queue.Queue[str] = queue.Queue()
    server = Server(_listening(application, "127.0.0.1", 0), where.put)
    threading.Thread(target=server.run, name="simulator", daemon=True).start()
    return where.get(timeout=30)


def _settings(options: dict[str, str | int | None]) -> Settings:
    """The settings, command line before environment; a bad one ends the program with a line that says which."""
    for path, value in options.items():
        if value is not None:
            os.environ[variable_of(path)] = str(value)
    try:
        settings = Settings()
    except ValidationError as invalid:
        for error in invalid.errors():
            variable = variable_of(".".join(map(str, error["loc"])))
            # Within JSON a name may be anything.
            known = variable in os.environ or variable in map(variable_of, options)
            typer.echo(f"{variable if known else variable_of(str(error['loc'][0]))}: {error['msg']}", err=True)
        raise typer.Exit(2) from None
    except ValueError as unreadable:  # pydantic-settings' own: a group of settings that is no JSON
        typer.echo(str(unreadable), err=True)
        raise typer.Exit(2) from None
    return settings


def _warnings(settings: Settings) -> Iterator[str]:
    """What of the settings is allowed but most likely not meant."""
    for name in unknown_variables():
        yield f"{name} is no setting of the gateway; `gateway settings` lists them"
    where = urlsplit(settings.upstream.url)
    if where.scheme == "http" and where.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield "GATEWAY_UPSTREAM_URL is no https: callers' tokens go out unencrypted"


def _shown(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
