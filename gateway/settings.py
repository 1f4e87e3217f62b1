"""All settings, in groups: type, default, description and, derived from the path, the environment variable.

`upstream.page_size` is `GATEWAY_UPSTREAM_PAGE_SIZE`. Components receive only the groups that they use.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.hosts import host_and_port, host_pattern, in_ascii, origin_of, origin_pattern

PREFIX = "GATEWAY_"


class SettingsGroup(BaseModel):
    """A group of settings. Unknown names are errors, numbers are finite, and error messages never quote values."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def as_sent(path: str) -> str:
    """A path for a request line: characters that are not allowed there are percent-encoded.

    Raises ValueError for anything but a path, which would change the URL's host or query.
    """
    if not path.startswith("/") or set("?#\\") & set(path):
        raise ValueError("must begin with a slash, and must not have a query, a fragment or a backslash")
    return quote(path, safe=string.punctuation)


def has(place: str, meaning: str) -> AfterValidator:
    """Checks that something has a place in a path."""

    def check(path: str) -> str:
        if place not in path:
            raise ValueError(f"must contain {place}, which stands for {meaning}")
        return path

    return AfterValidator(check)


class Misconfigured(ValueError):
    """A valid setting that can't be used here, such as a missing file; `setting` is the path of the one to change."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list that are not empty."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


# Among trusted proxies: the clients of the unix socket.
UNIX = "unix"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks_of(text: str) -> tuple[Network, ...]:
    """Parses comma-separated addresses and networks, and skips `unix`. Raises ValueError."""
    return tuple(ipaddress.ip_network(part, strict=False) for part in listed(text) if part != UNIX)


SentPath = Annotated[str, AfterValidator(as_sent)]
VehiclePath = Annotated[SentPath, has("{id}", "the vehicle's id")]
CommandPath = Annotated[VehiclePath, has("{command}", "the command")]
BrandPath = Annotated[SentPath, has("{brand}", "the telematics brand")]
HTTP = ("http", "https")


def parse_url(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL with one of the schemes, and with its host as in DNS.

    Raises ValueError for an invalid or ambiguous URL and never quotes it.
    """
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("must not contain blanks, line breaks or backslashes")
    starts = tuple(f"{scheme}://" for scheme in schemes)
    if not url.lower().startswith(starts):
        raise ValueError(f"must start with {' or '.join(starts)}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    user, at, authority = parts.netloc.rpartition("@")
    authority = in_ascii(authority) or ""
    # An unencoded slash or hash in a password ends the authority, so that the user name would be taken for the host.
    hides_host = "@" in url.partition("://")[2][len(parts.netloc) :]
    if host_and_port(authority.encode()) is None or port == 0 or authority.endswith(":") or hides_host:
        raise ValueError(
            f"must have the form {starts[-1]}host:port, with a host name as in DNS or an address, a port from 1 to "
            "65535 or none, and special characters percent-encoded"
        )
    return parts._replace(netloc=user + at + authority)


def is_http(url: str) -> str:
    """Checks for an http or https URL without credentials and fragment."""
    parts = parse_url(url, HTTP)
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or a password")
    if "#" in url:
        raise ValueError("must not have a fragment")
    return parts.geturl()


def is_base(url: str) -> str:
    """Checks for a URL to which paths can be appended, and normalises its host and port.

    So the name that is resolved, the one in the certificate and the one in `Host` are the same.
    """
    parts = urlsplit(is_http(url))
    if "?" in url:
        raise ValueError("must not have a query")
    return f"{origin_of(f'{parts.scheme}://{parts.netloc}'.encode())}{parts.path}".rstrip("/")


def is_issuer(url: str) -> str:
    """Checks for an issuer's URL, and leaves it as it is in tokens."""
    is_base(url)
    return url


# The parameters of Redis URLs that neither another part of the URL nor a setting sets; those of TLS are for rediss://.
REDIS_PARAMETERS = ("client_name", "db", "health_check_interval", "protocol", "retry_on_timeout", "socket_keepalive")
REDIS_TLS_PARAMETERS = (
    *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname"),
    *("ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password"),
)


def is_redis(url: SecretStr) -> SecretStr:
    """Checks for a Redis URL that redis-py parses as intended; whether it can use the parameters is checked later."""
    parts = parse_url(url.get_secret_value(), ("rediss", "redis"))
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    values = dict(parameters)
    database = [number for number in (parts.path.removeprefix("/"), values.get("db")) if number]
    if "#" in url.get_secret_value() or not re.fullmatch("[0-9]{0,9}", ",".join(database)):
        raise ValueError(
            "must have the form redis://user:password@host:port/number, with the number of one database and special "
            "characters percent-encoded"
        )
    known = REDIS_PARAMETERS + (REDIS_TLS_PARAMETERS if parts.scheme == "rediss" else ())
    if len(values) < len(parameters) or not all(values.values()) or not values.keys() <= set(known):
        raise ValueError(
            f"may have only these parameters, each once and with a value: {', '.join(known)}; "
            "time-outs and the number of connections are settings, and ssl_ parameters need rediss://"
        )
    if not re.fullmatch("[!-~]*", values.get("client_name", "")):
        raise ValueError("must have a client_name without blanks, of printable ASCII characters")
    if not re.fullmatch("[0-9]{1,9}", values.get("health_check_interval", "0")):
        raise ValueError("must have a health_check_interval in whole seconds")
    return url


HttpUrl = Annotated[str, AfterValidator(is_http)]
BaseUrl = Annotated[str, AfterValidator(is_base)]
IssuerUrl = Annotated[str, AfterValidator(is_issuer)]
RedisUrl = Annotated[SecretStr, AfterValidator(is_redis)]


def host_patterns(names: str) -> str:
    """Normalises comma-separated host names."""
    return ",".join(map(host_pattern, listed(names)))


def origin_patterns(origins: str) -> str:
    """Normalises comma-separated origins. The ValueError for an invalid one has its position, but does not quote it."""
    found = []
    for number, origin in enumerate(listed(origins), start=1):
        try:
            found.append(origin_pattern(origin))
        except ValueError as invalid:
            raise ValueError(f"origin {number} of the list {invalid}, such as https://app.example.com") from None
    return ",".join(found)


def field_names(names: str) -> str:
    """Checks comma-separated names of header fields. Raises ValueError, which does not quote them."""
    for number, name in enumerate(listed(names), start=1):
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"name {number} of the list must be the name of a header field, such as X-Client-Name")
    return names


def content_codings(names: str) -> str:
    """Normalises comma-separated content codings. Raises ValueError for one that is unknown or repeated."""
    codings = [name.lower() for name in listed(names)]
    if not {*codings} <= {*CODINGS} or len({*codings}) < len(codings):
        raise ValueError(f"must be a comma-separated list of {' and '.join(CODINGS)}, each at most once")
    return ",".join(codings)


CODINGS = ("gzip", "zstd")
ContentCodings = Annotated[str, AfterValidator(content_codings)]


def is_field_value(text: str) -> str:
    """Checks for a value that a header field can have."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("must consist of printable ASCII characters")
    return text


def is_host(host: str) -> str:
    """Checks for an address or a name to listen on, and normalises it."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        found = host_and_port((in_ascii(host) or "").encode())
    if found is None or found[1] is not None or ":" in host or "[" in host:
        raise ValueError("must be an address or a host name, without a scheme, a port or brackets")
    return found[0]


FieldValue = Annotated[str, AfterValidator(is_field_value)]
Host = Annotated[str, AfterValidator(is_host)]
HostPatterns = Annotated[str, AfterValidator(host_patterns)]
FieldNames = Annotated[str, AfterValidator(field_names)]
OriginPatterns = Annotated[str, AfterValidator(origin_patterns)]


class UpstreamSettings(SettingsGroup):
    """The fleet API: its URL, paths and parameters, and the transport's limits."""

    url: BaseUrl = Field(default="https://api.invers.com", description="Base URL of the fleet API.")
    transport: Literal["builtin", "httpx"] = Field(
        default="builtin",
        description="HTTP client: `builtin` is the gateway's own, for HTTP/1.1; `httpx` supports HTTP/2 and the "
        "proxies of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, but takes several times the CPU time.",
    )
    http2: bool = Field(
        default=False,
        description="Whether HTTP/2 is offered to the upstream; needs the transport `httpx` and the extra `http2`.",
    )
    ca_file: str | None = Field(
        default=None,
        description="PEM file of the certificate authorities to trust instead of the system's.",
    )
    client_certificate: str | None = Field(
        default=None, description="PEM file of the certificate to present to the upstream, with its chain."
    )
    client_key: str | None = Field(
        default=None,
        description="PEM file of that certificate's key, unencrypted; unset: the key is in the certificate's file.",
    )
    fleet_id: FieldValue | None = Field(default=None, description="Value of the X-INVERS-Fleet-Id header, if set.")
    vehicles_path: SentPath = Field(default="/vehicles", description="Path of the vehicle list.")
    vehicle_path: VehiclePath = Field(default="/vehicles/{id}", description="Path of a vehicle.")
    latest_state_path: VehiclePath = Field(
        default="/vehicles/{id}/latest-state", description="Path of a vehicle's latest state."
    )
    add_vehicle_path: SentPath = Field(default="/vehicles", description="Path to which a new vehicle is posted.")
    update_vehicle_path: VehiclePath = Field(
        default="/vehicles/{id}", description="Path of the changes of a vehicle, which are sent with PATCH."
    )
    archive_vehicle_path: VehiclePath = Field(
        default="/vehicles/{id}", description="Path of a vehicle that is archived, with DELETE."
    )
    share_vehicle_path: VehiclePath = Field(
        default="/vehicles/{id}/sharing", description="Path to which the sharing of a vehicle is posted."
    )
    command_path: CommandPath = Field(
        default="/vehicles/{id}/commands/{command}",
        description="Path to which a command is posted; `{command}` is its name in kebab case.",
    )
    vehicle_models_path: BrandPath = Field(
        default="/telematics-brands/{brand}/available-vehicle-models",
        description="Path of the vehicle models that a telematics brand supports.",
    )
    sharing_partners_path: SentPath = Field(
        default="/sharing-partners", description="Path of the fleets with which vehicles can be shared."
    )
    limit_parameter: str = Field(default="limit", description="Query parameter for the page size of the first page.")
    cursor_parameter: str = Field(default="cursor", description="Query parameter for a cursor.")
    search_parameter: str = Field(default="q", description="Query parameter for free-text search.")
    page_token_parameter: str = Field(
        default="page_token",
        description="Query parameter for a next_page_token, if lists return one instead of cursors.",
    )
    page_size: int = Field(
        default=100, ge=1, le=1000, description="Vehicles per upstream page, independent of `first`."
    )
    page_dedup_bytes_max: int = Field(
        default=33_554_432,
        ge=0,
        description="Bytes of memory for page de-duplication, per process, if the cache is off: a page with the same "
        "bytes as before is not decoded again. 0 turns it off.",
    )
    unit_search: bool = Field(default=False, description="Whether the fleet API's search covers telematics unit ids.")
    parallel_reads_max: int = Field(default=32, ge=1, description="Vehicles that one request reads by id in parallel.")
    connect_timeout: float = Field(default=3.0, gt=0, description="Seconds to establish a connection.")
    read_timeout: float = Field(default=10.0, gt=0, description="Seconds to wait for more data of a response.")
    write_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait until more data of a request is sent.")
    pool_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait for a free connection in the pool.")
    total_timeout: float = Field(
        default=15.0, gt=0, description="Seconds for a whole call, even if data is still arriving."
    )
    command_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds for a whole command, for which the fleet API contacts the vehicle. An operation with a "
        "command may take so many seconds longer than others.",
    )
    connections_max: int = Field(default=256, ge=1, description="Connections to the fleet API, per process.")
    keepalive_expiry: float = Field(default=60.0, ge=0, description="Seconds until an idle connection is closed.")
    response_bytes_max: int = Field(
        default=8 * 2**20, ge=1024, description="Bytes of a response, both compressed and decompressed."
    )


class PaginationSettings(SettingsGroup):
    """Relay connections: page sizes and limits of scans."""

    page_default: int = Field(default=50, ge=1, description="Edges if neither `first` nor `last` is given.")
    page_max: int = Field(default=500, ge=1, description="Maximum of `first` and `last`; larger values are errors.")
    scan_pages_max: int = Field(default=100, ge=1, description="Upstream pages that one field may read.")
    empty_pages_max: int = Field(
        default=10, ge=1, description="Consecutive empty upstream pages until paging is considered broken."
    )
    nodes_max: int = Field(default=1000, ge=1, description="Ids in `nodes(ids:)`; more are an error.")


class CacheSettings(SettingsGroup):
    """The cache of upstream responses, separate for each principal."""

    enabled: bool = Field(default=True, description="Whether upstream responses are cached.")
    entries_max: int = Field(default=100_000, ge=1, description="Entries in memory, per process.")
    bytes_max: int = Field(default=256 * 2**20, ge=2**20, description="Bytes of memory for entries, per process.")
    vehicles_ttl: float = Field(default=30, ge=0, description="Seconds for which a page of vehicles is fresh.")
    vehicles_stale_while_revalidate: float = Field(
        default=30, ge=0, description="Seconds after that in which it is served stale while it is refreshed."
    )
    vehicles_stale_if_error: float = Field(
        default=300, ge=0, description="Seconds after that in which it is served stale if the fleet API fails."
    )
    vehicle_ttl: float = Field(default=30, ge=0, description="Seconds for which a vehicle is fresh.")
    vehicle_stale_while_revalidate: float = Field(
        default=30, ge=0, description="Seconds after that in which it is served stale while it is refreshed."
    )
    vehicle_stale_if_error: float = Field(
        default=300, ge=0, description="Seconds after that in which it is served stale if the fleet API fails."
    )
    latest_state_ttl: float = Field(
        default=10, ge=0, description="Seconds for which a separately read latest state is fresh."
    )
    latest_state_stale_while_revalidate: float = Field(
        default=10, ge=0, description="Seconds after that in which it is served stale while it is refreshed."
    )
    latest_state_stale_if_error: float = Field(
        default=300, ge=0, description="Seconds after that in which it is served stale if the fleet API fails."
    )
    negative_ttl: float = Field(default=10, ge=0, description="Seconds for which a 404 is cached.")
    responses: bool = Field(
        default=True,
        description="Whether responses other than connections are cached, for as long as the data in them is fresh.",
    )
    responses_bytes_max: int = Field(
        default=16 * 2**20, ge=2**16, description="Bytes of memory for cached responses, per process."
    )
    prefetch: bool = Field(default=False, description="Whether the next page of a connection is read in advance.")


class FleetIndexSettings(SettingsGroup):
    """The indexes that answer filters, orders and totals, one for each principal, read by a scan of the fleet.

    `GATEWAY_PAGINATION_SCAN_PAGES_MAX` limits the pages of a scan. Without a cache each question waits for a scan.
    """

    ttl: float = Field(default=60, ge=0, description="Seconds for which an index is fresh, from its oldest page on.")
    stale_while_revalidate: float = Field(
        default=240, ge=0, description="Seconds after that in which it answers while the fleet is scanned again."
    )
    stale_if_error: float = Field(
        default=300, ge=0, description="Seconds after that in which it answers if the fleet API fails."
    )
    scan_timeout: float = Field(default=120, gt=0, description="Time limit of a scan in seconds.")
    idle: float = Field(default=900, gt=0, description="Seconds after the last question until an index is dropped.")
    bytes_max: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Bytes of memory for all indexes with their pages, per process. Those that were used longest ago "
        "are dropped.",
    )


class CoalescingSettings(SettingsGroup):
    """Equal concurrent reads of a principal share one upstream call."""

    enabled: bool = Field(default=True, description="Whether equal concurrent reads share one upstream call.")
    lease: float = Field(
        default=5.0,
        gt=0,
        description="Seconds that a process waits for the same read in another process; only with Redis.",
    )


class RedisSettings(SettingsGroup):
    """Redis as a second cache tier that all processes share."""

    url: RedisUrl | None = Field(default=None, description="redis:// or rediss:// URL; if unset, only memory is used.")
    timeout: float = Field(
        default=0.1, gt=0, description="Seconds until a command is given up and the gateway goes on without Redis."
    )
    cooldown: float = Field(
        default=1.0,
        ge=0,
        description="Seconds after a failed command in which Redis is not used for what needs it: entries and leases, "
        "or rate limits; after a timeout, for nothing.",
    )
    connections_max: int = Field(default=50, ge=1, description="Connections to Redis, per process.")
    namespace: str = Field(default="gateway", description="Prefix of all keys.")


class RetrySettings(SettingsGroup):
    """Retries of reads that failed with a transient error (network, 5xx, 429)."""

    attempts: int = Field(default=3, ge=1, description="Attempts per read, including the first; 1 turns retries off.")
    backoff: float = Field(
        default=0.1, ge=0, description="Backoff before the first retry in seconds; doubled for each further retry."
    )
    backoff_max: float = Field(
        default=2.0, ge=0, description="Maximum backoff in seconds. Random jitter shortens each backoff by up to half."
    )
    budget_ratio: float = Field(default=0.1, ge=0, le=1, description="Retry budget: retries as a share of all reads.")
    budget_burst: float = Field(
        default=10, ge=1, description="Retries that the budget can accumulate, which is also the initial budget."
    )


class RateLimitSettings(SettingsGroup):
    """The client-side rate limiter, which follows the rate limits that the fleet API reports."""

    enabled: bool = Field(default=True, description="Whether upstream calls are rate-limited by the gateway.")
    share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of a client's calls per window that is spread evenly over the rest of the window.",
    )
    reserve: int = Field(default=1, ge=0, description="Calls per window that are never used.")
    clients_max: int = Field(default=10_000, ge=1, description="Clients that are tracked, per process.")


class BreakerSettings(SettingsGroup):
    """The circuit breaker for outages of the fleet API. While it is open, calls fail at once or get stale data."""

    enabled: bool = Field(default=True, description="Whether the circuit breaker is on.")
    window: float = Field(default=10, gt=0, description="Sliding window in seconds in which failures are counted.")
    failure_threshold: int = Field(
        default=10, ge=1, description="Minimum number of failures in the window that opens the circuit."
    )
    failure_rate: float = Field(
        default=0.5, ge=0, le=1, description="Minimum share of failed calls in the window that opens the circuit."
    )
    open_seconds: float = Field(
        default=1, gt=0, description="Seconds until the first probe; doubled after each failed probe."
    )
    open_seconds_max: float = Field(default=30, gt=0, description="Maximum of seconds until a probe.")


class LimitSettings(SettingsGroup):
    """Limits of operations and of the load of a process."""

    deadline: float = Field(
        default=30, gt=0, description="Seconds that an operation may take; clients can lower it with X-Gateway-Timeout."
    )
    document_bytes: int = Field(default=64 * 1024, ge=1, description="Bytes of a document.")
    variables_bytes: int = Field(default=256 * 1024, ge=2, description="Bytes of the variables as JSON.")
    tokens: int = Field(default=2000, ge=1, description="Lexical tokens of a document.")
    depth: int = Field(default=15, ge=1, description="Levels of nested fields, including those in fragments.")
    root_fields: int = Field(default=50, ge=1, description="Root fields of an operation.")
    aliases: int = Field(default=100, ge=0, description="Aliased fields; a fragment counts at each spread.")
    directives: int = Field(default=50, ge=0, description="Directives; a fragment counts at each spread.")
    overlaps: int = Field(
        default=10_000,
        ge=1,
        description="Pairs of fields with the same response name at the same response path, and pairs of fragment "
        "spreads there, in a document.",
    )
    upstream_calls: int = Field(default=1000, ge=1, description="Upstream calls by the estimated cost of an operation.")
    nodes: int = Field(
        default=20_000,
        ge=1,
        description="Vehicles and units in a response by its estimated cost, and list items in variables.",
    )
    fields: int = Field(
        default=250_000,
        ge=1,
        description="Fields in a response by its estimated cost; an introspection field counts as ten.",
    )
    response_bytes: int = Field(default=16 * 2**20, ge=1024, description="Bytes of a response before compression.")
    concurrency: int = Field(default=64, ge=1, description="Concurrent operations, per process.")
    queue: int = Field(default=256, ge=0, description="Queued operations, per process.")
    cpu_threshold: float = Field(
        default=0.9, gt=0, description="CPU utilisation above which the number of concurrent operations is reduced."
    )
    principal_concurrency: int = Field(
        default=32, ge=1, description="Concurrent operations of one principal, per process."
    )
    writes: int = Field(
        default=32, ge=1, description="Writes in progress, per process; further ones are rejected without being sent."
    )
    principal_writes: int = Field(default=16, ge=1, description="Writes of one principal in progress, per process.")
    principal_queue: int = Field(default=224, ge=0, description="Queued operations of one principal, per process.")
    rejection_cpu_share: float = Field(
        default=0.12,
        gt=0,
        le=1,
        description="Share of the CPU time that immediate rejections may take while the CPU is busy; further "
        "rejections are delayed.",
    )


class OidcSettings(SettingsGroup):
    """Verification of tokens. Without an issuer tokens are not verified, and each token is its own principal."""

    issuer: IssuerUrl | None = Field(
        default=None, description="OpenID Connect issuer of the tokens, exactly as in `iss` and in its metadata."
    )
    audience: str | None = Field(default=None, description="Required `aud` claim; if unset, any audience is accepted.")
    jwks_uri: HttpUrl | None = Field(default=None, description="URL of the issuer's JWKS; if unset, it is discovered.")
    jwks_ttl: float = Field(
        default=3600,
        gt=0,
        description="Seconds after which the issuer's keys are refreshed in the background.",
    )
    jwks_stale_if_error: float = Field(
        default=86_400,
        ge=0,
        description="Seconds after that in which the old keys are used if the issuer fails. After that, requests get "
        "503.",
    )
    jwks_cooldown: float = Field(
        default=10,
        ge=0,
        description="Minimum seconds between two fetches of the keys. A token with an unknown key is rejected "
        "meanwhile.",
    )
    leeway: int = Field(default=30, ge=0, description="Allowed clock skew in seconds.")
    timeout: float = Field(
        default=5,
        gt=0,
        description="Seconds for fetching the keys, including discovery.",
    )
    fleet_claim: str = Field(default="fleet_id", description="Claim with the caller's fleet id.")
    principal_claims: str = Field(
        default="",
        description="Comma-separated claims that identify a principal in addition to `iss`, such as "
        "sub,fleet_id,scope. Callers whose tokens differ only in other claims share cached data, so include every "
        "claim that affects access. For a token that lacks one of them all its claims count. If empty, all claims "
        "count except times and the token id.",
    )

    @property
    def principal_names(self) -> frozenset[str]:
        """The set of names in `principal_claims`."""
        return frozenset(listed(self.principal_claims))


class GraphQLSettings(SettingsGroup):
    """Introspection, trusted documents and execution."""

    introspection: Literal["public", "authenticated", "off"] = Field(
        default="authenticated",
        description="Who may use introspection and federation's `_service`: anyone, clients with a token, or nobody.",
    )
    trusted_documents: str | None = Field(
        default=None,
        description="File with trusted documents in Relay's or Apollo's format; if set, no other documents are "
        "executed. SIGHUP loads it again.",
    )
    documents_bytes_max: int = Field(
        default=64 * 2**20,
        ge=2**20,
        description="Bytes of memory for cached documents with their plans, per process.",
    )
    projection: bool = Field(
        default=True,
        description="Whether operations are compiled to plans; if false, every field is executed by graphql-core.",
    )


class HttpSettings(SettingsGroup):
    """The HTTP server."""

    cors_origins: OriginPatterns = Field(
        default="",
        description="Comma-separated origins that CORS allows, such as https://app.example.com or "
        "http://localhost:3000, in any case; `*` allows all.",
    )
    cors_headers: FieldNames = Field(
        default="",
        description="Comma-separated names of header fields that pages of these origins may send in addition to those "
        "that the gateway reads and that tracing libraries and GraphQL clients add; `*` allows all.",
    )
    statuses: Literal["september2026", "draft"] = Field(
        default="september2026",
        description="Statuses and media types of GraphQL responses: those of the GraphQL over HTTP specification of "
        "September 2026, or those of the draft before it, for clients that are not ready. The draft goes with the next "
        "release.",
    )
    body_bytes_max: int = Field(
        default=2**20, ge=1024, description="Bytes of a request body, decompressed as well; a larger one gets 413."
    )
    header_bytes_max: int = Field(
        default=32 * 1024, ge=1024, description="Bytes of the request line and headers; more get 414 or 431."
    )
    request_timeout: float = Field(
        default=30, gt=0, description="Seconds until a request must have arrived completely; after that it gets 408."
    )
    slow_reader_timeout: float = Field(
        default=30,
        gt=0,
        description="Seconds that a client may take to read a response in addition to the time that "
        "`slow_reader_rate_min` allows; after that the connection is closed.",
    )
    slow_reader_rate_min: float = Field(
        default=65536,
        gt=0,
        description="Minimum average rate at which a client must read a response, in bytes per second.",
    )
    unsent_bytes_max: int = Field(
        default=96 * 2**20,
        ge=2**16,
        description="Bytes of responses that clients have not read, per process; above that the slowest connections "
        "are closed.",
    )
    principal_unsent_bytes_max: int = Field(
        default=32 * 2**20,
        ge=2**16,
        description="Bytes of responses that one principal has not read, per process; above that its slowest "
        "connections are closed.",
    )
    connections_max: int = Field(
        default=5000,
        ge=1,
        description="Client connections, per process, if `ulimit -n` allows as many. A further connection replaces "
        "the one that has been idle longest, preferably one without any request so far. If none is idle, it gets 503.",
    )
    address_connections_max: int | None = Field(
        default=None,
        ge=1,
        description="Client connections from one IPv4 address or IPv6 /64 network, per process; by default four "
        "fifths of `connections_max`. A further connection replaces the one of these that has been idle longest.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Comma-separated addresses and networks of proxies, such as 10.0.0.0/8, or `unix` for the "
        "clients of a unix socket. During a request their "
        "connections count for the client in `X-Forwarded-For`, otherwise for no address.",
    )
    inflight_body_bytes_max: int = Field(
        default=64 * 2**20,
        ge=0,
        description="Bytes of request bodies that are still arriving, per process; above that a body over 64 KiB gets "
        "503.",
    )
    keep_alive: int = Field(default=75, ge=1, description="Seconds until an idle client connection is closed.")
    shutdown_delay: float = Field(
        default=0,
        ge=0,
        description="Seconds for which a process that stops still serves, but is not ready, so that load balancers "
        "send requests elsewhere. With Kubernetes about 5; its grace period has to be longer than this and "
        "`shutdown_timeout` together.",
    )
    shutdown_timeout: int = Field(
        default=35, ge=1, description="Seconds for running requests to finish when the process stops."
    )
    shutdown_idle_timeout: float = Field(
        default=1,
        ge=0,
        description="Seconds that an idle connection stays open when the process stops, in case a request is on its "
        "way.",
    )
    allowed_hosts: HostPatterns = Field(
        default="",
        description="Comma-separated host names that requests may use, such as api.example.com or *.example.com, in "
        "any case and with any port; if empty, all are allowed. The health endpoints allow all.",
    )
    compression: ContentCodings = Field(
        default="gzip",
        description="Comma-separated content codings for the responses to clients that accept them, `gzip` and `zstd`, "
        "in the order of preference; if empty, no response is compressed, as behind a proxy that does it. zstd needs "
        "Python 3.14 or the extra `zstd`.",
    )
    compression_level: int = Field(
        default=3, ge=1, le=9, description="Compression level: 1 takes the least CPU time, 9 gives the fewest bytes."
    )
    compression_bytes_min: int = Field(default=1024, ge=0, description="Bytes from which on a response is compressed.")
    compression_cache_bytes_max: int = Field(
        default=32 * 2**20,
        ge=0,
        description="Bytes of memory for bodies that were sent repeatedly, plain and compressed, per process. 0 turns "
        "this cache off.",
    )
    graphiql: bool = Field(default=True, description="Whether browsers get GraphiQL at /graphql and the map at /map.")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        networks_of(proxies)
        return proxies


class ExplorerSettings(SettingsGroup):
    """The login of GraphiQL's page. Without a client, people paste their tokens."""

    oidc_client_id: str | None = Field(
        default=None,
        min_length=1,
        description="Id of a public client of the issuer `GATEWAY_OIDC_ISSUER`, with which people log in: by "
        "authorization code with PKCE, and the redirect URI `/explorer/login` of the gateway. The issuer must allow "
        "the gateway's origin to read its metadata and its token endpoint (CORS).",
    )
    oidc_scope: str = Field(
        default="openid",
        description="Scopes of the login, separated by blanks. Some issuers give refresh tokens only for "
        "`offline_access`.",
    )
    oidc_origins: OriginPatterns = Field(
        default="",
        description="Comma-separated further origins that the page may contact, if the issuer's token endpoint has "
        "another origin than the issuer.",
    )


LogLevel = Literal["debug", "info", "warning", "error"]
# Parts of the gateway with log levels of their own; `server` is what is in no other part.
LOG_COMPONENTS = ("engine", "library", "schema", "server", "upstream", "web")


def component_levels(text: str) -> str:
    """Checks a comma-separated list of `component=level`."""
    for item in listed(text):
        component, _, level = item.partition("=")
        if component not in LOG_COMPONENTS:
            raise ValueError(f"component must be one of {', '.join(LOG_COMPONENTS)}")
        if level not in get_args(LogLevel):
            raise ValueError(f"level of {component} must be one of {', '.join(get_args(LogLevel))}")
    return text


ComponentLevels = Annotated[str, AfterValidator(component_levels)]


class LogSettings(SettingsGroup):
    """Logs, which are written to standard error."""

    level: LogLevel = Field(default="info", description="Minimum level.")
    levels: ComponentLevels = Field(
        default="",
        description=f"Minimum levels of single components, such as upstream=debug,web=warning. Components: "
        f"{', '.join(LOG_COMPONENTS)}.",
    )
    slow_operation: float = Field(
        default=2.0, ge=0, description="Seconds from which an operation is logged as slow, with its document's hash."
    )
    costly_operation: int = Field(
        default=50, ge=0, description="Upstream calls from which an operation is logged as costly, likewise."
    )
    format: Literal["json", "text"] = Field(default="json", description="JSON lines, or text for people.")
    queue_bytes_max: int = Field(
        default=4 * 2**20,
        ge=2**14,
        description="Bytes of queued log lines, per process; above that lines are dropped and counted.",
    )


class MetricsSettings(SettingsGroup):
    """Metrics for Prometheus, on a management port of their own: `/metrics`."""

    port: int | None = Field(
        default=None, ge=0, le=65535, description="Port that serves metrics; if unset, there are none."
    )
    host: str | None = Field(default=None, description="Address of that port; if unset, GATEWAY_HOST.")
    operation_names_max: int = Field(
        default=100,
        ge=0,
        description="Operation names that become labels, in addition to those of trusted documents; others are counted "
        "as `other`.",
    )


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    unix_socket: str | None = Field(
        default=None,
        min_length=1,
        description="Path of a unix socket to listen on instead of the host and the port. Sockets that systemd passes "
        "replace both.",
    )
    unix_socket_mode: str = Field(
        default="660",
        pattern="^0?[0-7]{3}$",
        description="Mode of the unix socket's file: who may write to it may connect.",
    )
    workers: int = Field(default=1, ge=1, description="Number of worker processes.")
    writes: Literal["off", "vehicles", "commands", "all"] = Field(
        default="off",
        description="Mutations that are on: none, those that change vehicles, commands to vehicles, or all. The fleet "
        "API's permissions apply in any case. Several workers, or several gateways in front of one fleet API, need "
        "Redis for them.",
    )
    upstream: UpstreamSettings = UpstreamSettings()
    pagination: PaginationSettings = PaginationSettings()
    cache: CacheSettings = CacheSettings()
    fleet_index: FleetIndexSettings = FleetIndexSettings()
    coalescing: CoalescingSettings = CoalescingSettings()
    redis: RedisSettings = RedisSettings()
    retry: RetrySettings = RetrySettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    breaker: BreakerSettings = BreakerSettings()
    limits: LimitSettings = LimitSettings()
    oidc: OidcSettings = OidcSettings()
    graphql: GraphQLSettings = GraphQLSettings()
    http: HttpSettings = HttpSettings()
    explorer: ExplorerSettings = ExplorerSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads arguments and those environment variables that are settings."""
        environment = EnvSettingsSource(settings_cls)
        ignored = {name.lower() for name in (*unknown_variables(), *service_links())}
        environment.env_vars = {name: text for name, text in environment.env_vars.items() if name not in ignored}
        return init_settings, environment


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """A setting as it is displayed; secrets, and parts of URLs that may be secrets, are masked."""

    path: str
    variable: str
    value: object
    default: object
    help: str
    source: Literal["default", "environment", "command line"]


def variable_of(path: str) -> str:
    """The environment variable of `upstream.page_size`: `GATEWAY_UPSTREAM_PAGE_SIZE`. Others' variables stay."""
    return path if path.isupper() else PREFIX + path.replace(".", "_").upper()


def setting_infos(
    settings: Settings, environ: Mapping[str, str] = os.environ, given: frozenset[str] = frozenset()
) -> Iterator[SettingInfo]:
    """All settings with values and sources; `given` are the variables that the command line sets."""
    ignored = service_links(environ)
    set_there = {name.upper() for name in environ if name not in ignored}
    for path, value, default, text in _leaves(settings):
        variable = variable_of(path)
        if variable in given:
            source: Literal["default", "environment", "command line"] = "command line"
        else:
            source = "environment" if variable in set_there else "default"
        yield SettingInfo(path, variable, masked(value), default, text, source)


def masked(value: object) -> object:
    """A value without secrets. In a URL or path, everything before `@` and after `?` or `#` may be secret."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, str) and ("://" in value or value.startswith("/")):
        return _AFTER.sub(MASK, _BEFORE.sub(f"{MASK}@", value))
    return value


MASK = "********"
_BEFORE = re.compile(r"(?s)(?<=://).*@")
_AFTER = re.compile(r"(?s)(?<=[?#]).+")


# Kubernetes and Docker set such variables for each service that a container may reach. Those of a service whose name
# begins with "gateway" begin with GATEWAY_, and the service "gateway" has GATEWAY_PORT=tcp://10.0.0.1:8000.
_LINK_NAME = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_LINK = re.compile(r"(tcp|udp|sctp)://(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}")


def service_links(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that start with GATEWAY_ but were set by Kubernetes or Docker for a service, and are not settings."""
    return [
        name
        for name in _ours(environ)
        if _LINK_NAME.fullmatch(name.upper())
        and (name.upper() not in _variables() or _LINK.fullmatch(environ[name]) is not None)
    ]


def unknown_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Other variables that start with GATEWAY_ but are not settings, each with the setting of the most similar name."""
    known, links = _variables(), service_links(environ)
    return {
        name: _closest(name.upper(), known)
        for name in _ours(environ)
        if name not in links and name.upper() not in known
    }


def _ours(environ: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environ if name.upper().startswith(PREFIX))


@cache
def _variables() -> frozenset[str]:
    """The variables of all settings, and those of groups, which hold JSON."""
    paths = [path for path, *_ in _leaves(Settings.model_construct())]
    return frozenset(map(variable_of, (*paths, *(path.partition(".")[0] for path in paths))))


def _closest(name: str, known: frozenset[str]) -> str | None:
    names = sorted(variable.removeprefix(PREFIX) for variable in known)
    found = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1, cutoff=0.75)
    return PREFIX + found[0] if found else None


def _leaves(model: BaseModel, path: str = "") -> Iterator[tuple[str, object, object, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value, field.default, field.description or ""
