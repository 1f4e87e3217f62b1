"""Every knob of the gateway: its type, default and one line of help; the environment's name follows from the path.

`upstream.page_size` is `GATEWAY_UPSTREAM_PAGE_SIZE`. Stations get the slice that concerns them, never the whole.
"""

from __future__ import annotations

import ipaddress
import os
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.hosts import host_pattern

PREFIX = "GATEWAY_"


class Slice(BaseModel):
    """The knobs of one station; an unknown name is refused, and what was given is not quoted."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def as_sent(path: str) -> str:
    """A path as a request line can hold it: what can't stand there is percent-encoded."""
    return quote(path, safe=string.punctuation)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks_of(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas; raises ValueError for anything else."""
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


SentPath = Annotated[str, AfterValidator(as_sent)]
HTTP = ("http", "https")


def _parts(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """A URL's parts; ValueError if it has none of the schemes, or can't be read as it is meant. Never quotes it."""
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    if not url.lower().startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"must start with {allowed}")
    try:
        parts = urlsplit(url)
        readable = parts.port != 0 and bool(parts.hostname or parts.scheme == "unix")
    except ValueError:
        readable = False
    # A password with a slash or a hash in it ends the host: what looks like the host is the user's name then.
    hides_host = "@" in url.partition("://")[2][len(parts.netloc) :] if readable else False
    if not readable or hides_host or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(f"is no URL of the form {allowed}host:port; special characters must be percent-encoded")
    return parts


def is_http(url: str) -> str:
    """An http or https URL without credentials."""
    if "@" in _parts(url, HTTP).netloc:
        raise ValueError("must hold no user name and no password")
    return url


def is_base(url: str) -> str:
    """What paths can be added to."""
    parts = _parts(is_http(url), HTTP)
    if "?" in url or "#" in url or not parts.hostname:
        raise ValueError("must have neither a query nor a fragment")
    return url.rstrip("/")


def is_redis(url: SecretStr) -> SecretStr:
    """A URL as redis-py reads it; where it reads something else than was meant, or nothing, it is refused."""
    parts = _parts(url.get_secret_value(), ("redis", "rediss", "unix"))
    if parts.fragment or (parts.scheme != "unix" and not re.fullmatch(r"(?:/\d*)?", parts.path)):
        raise ValueError(
            "must have the form redis://user:password@host:port/number, special characters percent-encoded"
        )
    return url


HttpUrl = Annotated[str, AfterValidator(is_http)]
BaseUrl = Annotated[str, AfterValidator(is_base)]
RedisUrl = Annotated[SecretStr, AfterValidator(is_redis)]


def host_patterns(names: str) -> str:
    """Names of hosts, separated by commas, as requests are compared with them."""
    return ",".join(host_pattern(name.strip()) for name in names.split(",") if name.strip())


HostPatterns = Annotated[str, AfterValidator(host_patterns)]


class UpstreamSettings(Slice):
    """The fleet API: where it is, what its paths and parameters are called, how patient we are."""

    url: BaseUrl = Field(default="https://api.invers.com", description="Base URL of the fleet API.")
    transport: Literal["wire", "aiohttp"] = Field(
        default="wire", description="What makes the calls: the gateway's own HTTP/1.1, or aiohttp at a higher cost."
    )
    fleet_id: str | None = Field(default=None, description="Sent as X-INVERS-Fleet-Id when set.")
    vehicles_path: SentPath = Field(default="/vehicles", description="Path of the paged list.")
    vehicle_path: SentPath = Field(default="/vehicles/{id}", description="Path of one vehicle.")
    latest_state_path: SentPath = Field(
        default="/vehicles/{id}/latest-state", description="Path of one vehicle's latest state."
    )
    limit_parameter: str = Field(default="limit", description="Query parameter for the page size of a first read.")
    cursor_parameter: str = Field(default="cursor", description="Query parameter that carries a cursor.")
    search_parameter: str = Field(default="q", description="Query parameter for free-text search.")
    page_token_parameter: str = Field(
        default="page_token",
        description="Query parameter for a next_page_token, where lists answer one in place of cursors.",
    )
    page_size: int = Field(
        default=100, ge=1, le=1000, description="Vehicles in an upstream page, whatever `first` says."
    )
    unchanged_bytes_max: int = Field(
        default=33_554_432,
        ge=0,
        description="Bytes that the pages read last may take where no cache keeps them, per process: one that comes "
        "again as it was is not decoded again. 0: each is.",
    )
    unit_search: bool = Field(
        default=False, description="Whether search finds a vehicle by the id of its telematics unit."
    )
    parallel_reads_max: int = Field(default=32, ge=1, description="Vehicles one request reads by id at the same time.")
    connect_timeout: float = Field(default=3.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout: float = Field(default=10.0, gt=0, description="Seconds to wait for more of an answer.")
    write_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait until more of a request is sent.")
    pool_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait for a free connection.")
    total_timeout: float = Field(
        default=15.0, gt=0, description="Seconds until an answer that is still arriving is given up."
    )
    connections_max: int = Field(default=256, ge=1, description="Open connections to the upstream, per process.")
    keepalive_expiry: float = Field(default=60.0, ge=0, description="Seconds an idle connection is kept.")
    response_bytes_max: int = Field(
        default=8 * 2**20, ge=1024, description="Bytes of an answer, as it arrives and decompressed."
    )


class ConnectionSettings(Slice):
    """Relay connections: page sizes, and how far a walk may go."""

    page_default: int = Field(default=50, ge=1, description="Edges when neither `first` nor `last` is given.")
    page_max: int = Field(default=500, ge=1, description="Largest `first` or `last`; more is refused.")
    walk_pages_max: int = Field(
        default=100, ge=1, description="Upstream pages one field may read before it is refused."
    )
    empty_pages_max: int = Field(default=10, ge=1, description="Empty pages in a row before paging counts as broken.")
    nodes_max: int = Field(default=1000, ge=1, description="Ids in one `nodes(ids:)`; more is refused.")


class CacheSettings(Slice):
    """What the fleet API answered is kept for each principal; times in seconds."""

    enabled: bool = Field(default=True, description="Whether answers are kept at all.")
    entries_max: int = Field(default=100_000, ge=1, description="Entries kept in memory, per process.")
    bytes_max: int = Field(default=256 * 2**20, ge=2**20, description="Bytes of memory for entries, per process.")
    vehicles_ttl: float = Field(default=30, ge=0, description="How long a page of vehicles is fresh.")
    vehicles_stale_while_revalidate: float = Field(
        default=30, ge=0, description="How long after that it is still given while it is read again."
    )
    vehicles_stale_if_error: float = Field(
        default=300, ge=0, description="How long after that it is still given while the fleet API fails."
    )
    vehicle_ttl: float = Field(default=30, ge=0, description="How long a vehicle is fresh.")
    vehicle_stale_while_revalidate: float = Field(
        default=30, ge=0, description="How long after that it is still given while it is read again."
    )
    vehicle_stale_if_error: float = Field(
        default=300, ge=0, description="How long after that it is still given while the fleet API fails."
    )
    latest_state_ttl: float = Field(default=10, ge=0, description="How long a vehicle's state, read alone, is fresh.")
    latest_state_stale_while_revalidate: float = Field(
        default=10, ge=0, description="How long after that it is still given while it is read again."
    )
    latest_state_stale_if_error: float = Field(
        default=300, ge=0, description="How long after that it is still given while the fleet API fails."
    )
    negative_ttl: float = Field(default=10, ge=0, description="How long it is known that something does not exist.")
    answers: bool = Field(
        default=False,
        description="Whether whole answers of plain queries by POST are kept, for as long as what they were made of.",
    )
    answers_bytes_max: int = Field(
        default=64 * 2**20, ge=2**16, description="Bytes of memory for whole answers, per process."
    )
    answers_gzip: bool = Field(
        default=False, description="Whether whole answers are also kept as gzip, for callers who take that."
    )
    prefetch: bool = Field(
        default=False, description="Whether the next page of a connection is read ahead while this one is answered."
    )


class CoalescingSettings(Slice):
    """Equal reads at the same time are one, for each principal."""

    enabled: bool = Field(default=True, description="Whether equal reads share one upstream call.")
    lease: float = Field(
        default=5.0, gt=0, description="Seconds other processes wait for a read under way elsewhere; with Redis only."
    )


class RedisSettings(Slice):
    """Redis as a second tier of the cache, shared by all processes."""

    url: RedisUrl | None = Field(
        default=None, description="redis:// or rediss:// URL; without it memory alone is used."
    )
    timeout: float = Field(default=0.1, gt=0, description="Seconds a command may take before the answer does without.")
    pause: float = Field(default=1.0, ge=0, description="Seconds Redis is left alone after it failed.")
    connections_max: int = Field(default=50, ge=1, description="Open connections to Redis, per process.")
    namespace: str = Field(default="gateway", description="First part of every key.")


class RetrySettings(Slice):
    """A read that failed for a reason that may pass (network, 5xx, 429) is made again."""

    attempts: int = Field(default=3, ge=1, description="Attempts at one read, the first counted; 1: no retries.")
    pause: float = Field(
        default=0.1, ge=0, description="Seconds before the second attempt, doubled with each further one."
    )
    pause_max: float = Field(default=2.0, ge=0, description="Longest of these pauses; each is cut by up to half.")
    share: float = Field(default=0.1, ge=0, le=1, description="Retries as a share of all reads, in the long run.")
    reserve: float = Field(default=10, ge=1, description="Retries that may be saved up, and are there at the start.")


class PacingSettings(Slice):
    """The rate limits that the fleet API tells are kept before it has to refuse."""

    enabled: bool = Field(default=True, description="Whether calls are paced.")
    share: float = Field(
        default=0.2, ge=0, le=1, description="Share of a client's calls that is spread over the rest of the window."
    )
    reserve: int = Field(default=1, ge=0, description="Calls of a window that are never made.")
    clients_max: int = Field(default=10_000, ge=1, description="Clients remembered, per process.")


class BreakerSettings(Slice):
    """While the fleet API is out, calls fail at once, or stale answers are given, and single probes are made."""

    enabled: bool = Field(default=True, description="Whether there is a circuit breaker.")
    window: float = Field(default=10, gt=0, description="Seconds that failures are counted over.")
    failures: int = Field(default=10, ge=1, description="Failed reads in the window that open the circuit, ...")
    share: float = Field(default=0.5, ge=0, le=1, description="... if they are this share of all at least.")
    pause: float = Field(default=1, gt=0, description="Seconds before a probe, doubled each time that one fails.")
    pause_max: float = Field(default=30, gt=0, description="Longest pause before a probe.")


class LimitSettings(Slice):
    """What one operation may take, and what one process takes on; more is refused with a code that says which."""

    deadline: float = Field(
        default=30, gt=0, description="Seconds an operation may take; a caller may ask for less by X-Gateway-Timeout."
    )
    document_bytes: int = Field(default=64 * 1024, ge=1, description="Bytes of a document.")
    variables_bytes: int = Field(default=256 * 1024, ge=2, description="Bytes of the variables as JSON.")
    tokens: int = Field(default=2000, ge=1, description="Lexical tokens of a document.")
    depth: int = Field(default=15, ge=1, description="Levels of fields, fragments counted where they are used.")
    root_fields: int = Field(default=50, ge=1, description="Fields of an operation's root.")
    aliases: int = Field(default=100, ge=0, description="Fields with an alias, fragments counted each time.")
    directives: int = Field(default=50, ge=0, description="Directives, fragments counted each time.")
    overlaps: int = Field(
        default=10_000,
        ge=1,
        description="Pairs of fields with one name at one place of the answer, and of fragments there; in all of a "
        "document.",
    )
    upstream_calls: int = Field(default=1000, ge=1, description="Upstream calls by the price of an operation.")
    nodes: int = Field(
        default=20_000,
        ge=1,
        description="Vehicles and units an answer may hold by its price, and items that the lists in variables may.",
    )
    fields: int = Field(
        default=250_000,
        ge=1,
        description="Fields an answer may hold by its price; a field of introspection counts for ten.",
    )
    response_bytes: int = Field(default=16 * 2**20, ge=1024, description="Bytes of an answer, before compression.")
    concurrency: int = Field(default=64, ge=1, description="Operations run at the same time, per process.")
    queue: int = Field(default=256, ge=0, description="Operations that wait their turn, per process.")
    busy: float = Field(
        default=0.9, gt=0, description="Share of a processor's time above which fewer operations are run at a time."
    )
    principal_concurrency: int = Field(
        default=32, ge=1, description="Operations run at the same time for one principal."
    )
    principal_queue: int = Field(default=224, ge=0, description="Operations of one principal that wait their turn.")
    refusals: float = Field(
        default=0.12,
        gt=0,
        le=1,
        description="Share of a busy processor's time for refusals that are sent at once; those beyond follow in turn, "
        "and leave time for answers.",
    )


class OidcSettings(Slice):
    """Verification of callers' tokens; without an issuer nothing is verified and each token is its own principal."""

    issuer: HttpUrl | None = Field(
        default=None, description="OpenID Connect issuer whose tokens are verified, exactly as in `iss`."
    )
    audience: str | None = Field(default=None, description="What `aud` must hold; unset: any.")
    keys_url: HttpUrl | None = Field(default=None, description="URL of the issuer's keys; unset: discovered.")
    keys_ttl: float = Field(
        default=3600,
        gt=0,
        description="Seconds after which the issuer's keys are fetched again; they are used meanwhile.",
    )
    keys_stale_if_error: float = Field(
        default=86_400,
        ge=0,
        description="Seconds after that in which they are still used while the issuer fails; then tokens are answered "
        "503.",
    )
    keys_pause: float = Field(
        default=10,
        ge=0,
        description="Seconds from the end of a fetch of the keys, also of one that failed, to the next. A token that "
        "names an unknown key meanwhile is refused at once.",
    )
    leeway: int = Field(default=30, ge=0, description="Seconds clocks may differ by.")
    timeout: float = Field(
        default=5,
        gt=0,
        description="Seconds the issuer has to answer, with both documents where its keys are discovered.",
    )
    fleet_claim: str = Field(default="fleet_id", description="Claim that names the caller's fleet.")
    principal_claims: str = Field(
        default="",
        description="Claims that tell callers apart, separated by commas, such as sub,fleet_id,scope; `iss` always "
        "does. Callers whose tokens differ only in other claims share cached answers, so name all that decide what "
        "may be seen. A token that lacks one of them is told apart by all that it has. Empty: by all claims but times "
        "and the token's id.",
    )

    @property
    def principal_names(self) -> frozenset[str]:
        """The names in `principal_claims`."""
        return frozenset(name.strip() for name in self.principal_claims.split(",") if name.strip())


class GraphQLSettings(Slice):
    """Who may ask for what of the schema."""

    introspection: Literal["public", "authenticated", "off"] = Field(
        default="authenticated",
        description="Who is told the schema, also by federation's `_service`: anyone, callers with a token, nobody.",
    )
    manifest: str | None = Field(
        default=None,
        description="File of trusted documents, in Relay's or Apollo's form; with one, nothing else is run.",
    )
    documents_bytes_max: int = Field(
        default=64 * 2**20,
        ge=2**20,
        description="Bytes of memory for documents that are kept parsed, and all derived from them, per process.",
    )
    projection: bool = Field(
        default=True, description="Whether plain selections are projected; off: all is executed field by field."
    )


class HttpSettings(Slice):
    """The road in."""

    cors_origins: str = Field(
        default="", description="Origins whose pages may ask, separated by commas, such as https://app.example.com."
    )
    body_bytes_max: int = Field(default=2**20, ge=1024, description="Bytes of a request body; more is answered 413.")
    header_bytes_max: int = Field(
        default=32 * 1024, ge=1024, description="Bytes of a request's line and headers; more is answered 431."
    )
    request_timeout: float = Field(
        default=30, gt=0, description="Seconds until a request has to be there whole; later is answered 408."
    )
    reading_timeout: float = Field(
        default=30,
        gt=0,
        description="Seconds a caller may read nothing of an answer; then the connection is closed. Beyond them it has "
        "to be read at `reading_rate_min`.",
    )
    reading_rate_min: float = Field(
        default=65536,
        gt=0,
        description="Bytes of an answer a second, on average, that a caller has to read after `reading_timeout`.",
    )
    unsent_bytes_max: int = Field(
        default=96 * 2**20,
        ge=2**16,
        description="Bytes of answers that callers have not read, per process; beyond it the slowest connections are "
        "closed.",
    )
    principal_unsent_bytes_max: int = Field(
        default=32 * 2**20,
        ge=2**16,
        description="Bytes of answers that one principal has not read, per process; beyond it the slowest of its "
        "connections are closed.",
    )
    connections_max: int = Field(
        default=5000,
        ge=1,
        description="Open connections, per process, as far as `ulimit -n` allows. One more closes the one that has "
        "been idle for longest, those that never asked first; where none is idle it is answered 503 and closed.",
    )
    address_connections_max: int | None = Field(
        default=None,
        ge=1,
        description="Open connections from one address (of IPv6: from one /64 network), per process; unset: four "
        "fifths of `connections_max`. One more closes the one of these that has been idle for longest.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses and networks of proxies, separated by commas, such as 10.0.0.0/8. Their connections "
        "count as those of the client that `X-Forwarded-For` names while they carry a request of it, else as nobody's.",
    )
    arriving_bytes_max: int = Field(
        default=64 * 2**20,
        ge=0,
        description="Bytes of request bodies that are not whole yet, per process; beyond it one of more than 64 KiB is "
        "answered 503.",
    )
    keep_alive: int = Field(default=75, ge=1, description="Seconds an idle connection is kept open.")
    shutdown_timeout: int = Field(
        default=35, ge=1, description="Seconds that requests under way have to end when the process is told to stop."
    )
    shutdown_idle_timeout: float = Field(
        default=1,
        ge=0,
        description="Seconds that a connection without a request stays open then: one that arrives is answered.",
    )
    hosts: HostPatterns = Field(
        default="",
        description="Names that callers may use in `Host`, separated by commas, such as api.example.com or "
        "*.example.com, in any case and whatever the port; empty: any. Health is told to all.",
    )
    graphiql: bool = Field(default=True, description="Whether a browser gets GraphiQL at /graphql.")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        networks_of(proxies)
        return proxies


class LogSettings(Slice):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level written."
    )
    format: Literal["json", "text"] = Field(default="json", description="One JSON object a line, or lines for people.")
    queue_bytes_max: int = Field(
        default=4 * 2**20,
        ge=2**14,
        description="Bytes of lines that may wait to be written, per process; beyond it lines are dropped and counted.",
    )


class Settings(BaseSettings):
    """All knobs, a slice for each concern."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, description="Worker processes.")
    upstream: UpstreamSettings = UpstreamSettings()
    connections: ConnectionSettings = ConnectionSettings()
    cache: CacheSettings = CacheSettings()
    coalescing: CoalescingSettings = CoalescingSettings()
    redis: RedisSettings = RedisSettings()
    retry: RetrySettings = RetrySettings()
    pacing: PacingSettings = PacingSettings()
    breaker: BreakerSettings = BreakerSettings()
    limits: LimitSettings = LimitSettings()
    oidc: OidcSettings = OidcSettings()
    graphql: GraphQLSettings = GraphQLSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting as people see it; a secret's value, and what may be one in a URL, reads `********`."""

    path: str
    variable: str
    value: object
    default: object
    help: str
    source: Literal["default", "environment", "command line"]


def variable_of(path: str) -> str:
    """The environment variable of `upstream.page_size`: `GATEWAY_UPSTREAM_PAGE_SIZE`."""
    return PREFIX + path.replace(".", "_").upper()


def knobs(
    settings: Settings, environ: Mapping[str, str] = os.environ, given: frozenset[str] = frozenset()
) -> Iterator[Knob]:
    """Every setting with its value and where that came from; `given` are variables set by the command line."""
    for path, value, default, text in _leaves(settings):
        variable = variable_of(path)
        if variable in given:
            source: Literal["default", "environment", "command line"] = "command line"
        else:
            source = "environment" if variable in environ else "default"
        yield Knob(path, variable, masked(value), default, text, source)


def masked(value: object) -> object:
    """A value without secrets: in a URL or path all before an `@`, and all after `?` or `#`, may be one."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, str) and ("://" in value or value.startswith("/")):
        return _AFTER.sub(MASK, _BEFORE.sub(f"{MASK}@", value))
    return value


MASK = "********"
_BEFORE = re.compile(r"(?s)(?<=://).*@")
_AFTER = re.compile(r"(?s)(?<=[?#]).+")


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names that start with GATEWAY_ and set nothing: most likely misspelt."""
    known = {variable_of(path) for path, *_ in _leaves(Settings.model_construct())}
    return sorted(name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def _leaves(model: BaseModel, path: str = "") -> Iterator[tuple[str, object, object, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value, field.default, field.description or ""
