"""URLs in settings, which are checked at start."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from gateway.app import check
from gateway.cli import app
from gateway.settings import Misconfigured, OidcSettings, RedisSettings, Settings, UpstreamSettings
from tests.upstream.certificates import certificate

HTTP_SETTINGS = ("GATEWAY_UPSTREAM_URL", "GATEWAY_OIDC_ISSUER", "GATEWAY_OIDC_JWKS_URI")
FORM = "must have the form"
BLANKS = "must not contain blanks"
START = "must start with"
WRONG_ADDRESSES = {
    "": FORM,
    ":80": FORM,
    "/path": FORM,
    "?tenant=1": FORM,
    "fleet.test:": FORM,
    "fleet.test:0": FORM,
    "fleet.test:00": FORM,
    "fleet.test:65536": FORM,
    "fleet.test:99999": FORM,
    "fleet.test:-1": FORM,
    "fleet.test:+80": FORM,
    "fleet.test:80a": FORM,
    "fleet.test:\uff18\uff10": FORM,
    "fleet.test:80:80": FORM,
    "::1": FORM,
    "[::1": FORM,
    "[::1]x": FORM,
    "[fe80::1%25eth0]": FORM,
    "[1.2.3.4]": FORM,
    "fleet..test": FORM,
    f"{'a' * 64}.test": FORM,
    "fleet%20.test": FORM,
    "fleet,test": FORM,
    "$FLEET_HOST": FORM,
    "{{ host }}": BLANKS,
    "{{host}}": FORM,
    "stra\u00dfe.test": FORM,
    "fleet.test\n": BLANKS,
    "fleet.test\n.evil.test": BLANKS,
    "fleet.test\t": BLANKS,
    "fleet.test ": BLANKS,
    "fleet.test\u00a0": BLANKS,
    "fleet.test\u200b": BLANKS,
    "fleet.test\\path": BLANKS,
}


def assert_refused(variable: str, url: str, reason: str) -> None:
    """The program ends with one sentence, which names the variable and the reason but not the value."""
    without = {name: None for name in os.environ if name.startswith("GATEWAY_")}
    ended = CliRunner().invoke(app, ["settings"], env=without | {variable: url})
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"{variable}: {reason}")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("address", WRONG_ADDRESSES)
def test_a_url_with_an_invalid_host_or_port_is_refused(address):
    """For every setting that is a URL."""
    for variable in HTTP_SETTINGS:
        assert_refused(variable, f"https://{address}", WRONG_ADDRESSES[address])
    assert_refused("GATEWAY_REDIS_URL", f"redis://{address}", WRONG_ADDRESSES[address])


@pytest.mark.parametrize("variable", HTTP_SETTINGS)
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", START),
        ("fleet.test", START),
        ("//fleet.test", START),
        ("https:fleet.test", START),
        ("https:/fleet.test", START),
        ("ftp://fleet.test", START),
        (" https://fleet.test", BLANKS),
        ("\ufeffhttps://fleet.test", BLANKS),
        ("https://fleet.test/a b", BLANKS),
        ("https://user@fleet.test", "must not contain a user name or a password"),
        ("https://@fleet.test", "must not contain a user name or a password"),
        ("https://fleet.test#here", "must not have a fragment"),
        ("https://fleet.test/path#", "must not have a fragment"),
    ],
)
def test_a_url_is_absolute_and_has_neither_credentials_nor_a_fragment(variable, url, reason):
    """A fragment is never sent, and credentials would be sent in plain text or not at all."""
    assert_refused(variable, url, reason)


@pytest.mark.parametrize("variable", ["GATEWAY_UPSTREAM_URL", "GATEWAY_OIDC_ISSUER"])
@pytest.mark.parametrize("query", ["?tenant=1", "/?tenant=1", "/path?tenant=1", "?", "/?"])
def test_a_url_to_which_paths_are_appended_has_no_query(variable, query):
    """The path would become a part of the query."""
    assert_refused(variable, f"https://fleet.test{query}", "must not have a query")


PATH = "must begin with a slash, and must not have a query"
ID = "must contain {id}"
ASCII = "must consist of printable ASCII characters"
HOST = "must be an address or a host name"
FINITE = "Input should be a finite number"


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        *(
            (f"GATEWAY_UPSTREAM_{name}_PATH", path, PATH)
            for name in ("VEHICLES", "VEHICLE", "LATEST_STATE")
            for path in ("", "list/{id}", "@evil.test/{id}", ".evil.test/{id}", ":81/{id}", "/{id}?tenant=1", "/{id}#x",
                         "/{id}?", "https://evil.test/{id}", " /{id}", "\\{id}", "/\\{id}")
        ),
        *(
            (f"GATEWAY_UPSTREAM_{name}_PATH", path, ID)
            for name in ("VEHICLE", "LATEST_STATE")
            for path in ("/", "/vehicles", "/vehicles/{vehicleId}", "/vehicles/{ID}", "/vehicles/{}", "/vehicles/{", "/vehicles/:id")
        ),
        *(("GATEWAY_UPSTREAM_FLEET_ID", name, ASCII) for name in ("a\nb", "a\r", "T7K2M\n", "\t", "M\u00fcnchen", "\u20ac")),
        *(
            ("GATEWAY_HOST", host, HOST)
            for host in ("", "http://0.0.0.0", "tcp://10.0.0.1:80", "localhost:8000", "[::1]", "[::]:8000", "0.0.0.0\n",
                         "a..b", "a" * 64, ":8000", "::1::", "*", "/run/gateway.sock", "stra\u00dfe.test")
        ),
        *(
            (variable, number, FINITE)
            for variable in ("GATEWAY_CACHE_VEHICLES_TTL", "GATEWAY_UPSTREAM_TOTAL_TIMEOUT", "GATEWAY_LIMITS_DEADLINE",
                             "GATEWAY_RETRY_BACKOFF", "GATEWAY_OIDC_JWKS_TTL", "GATEWAY_REDIS_TIMEOUT")
            for number in ("inf", "Infinity", "nan", "1e999")
        ),
    ],
)  # fmt: skip
def test_a_value_with_which_no_request_would_succeed_is_refused(variable, value, reason):
    """It would change the host to which tokens are sent, fail in each request, or mean another address."""
    assert_refused(variable, value, reason)


@pytest.mark.parametrize(
    ("host", "used"),
    [("127.0.0.2", "127.0.0.2"), ("::", "::"), ("0:0:0:0:0:0:0:1", "::1"), ("fe80::1%eth0", "fe80::1%eth0"),
     ("localhost", "localhost"), ("Gateway_1.test.", "gateway_1.test"), ("m\u00fcnchen.test", "xn--mnchen-3ya.test")],
)  # fmt: skip
def test_addresses_and_names_to_listen_on_are_accepted(host, used):
    """In any form of an address, and in any case."""
    assert Settings(host=host).host == used


def test_paths_and_fleet_ids_may_have_special_characters():
    """What a request line can't contain is encoded; an empty fleet id is none."""
    upstream = UpstreamSettings(vehicle_path="/a b/{id};v=1/%20\n{id}", latest_state_path="/{id}", fleet_id="a b:c,d")
    assert (upstream.vehicle_path, upstream.fleet_id) == ("/a%20b/{id};v=1/%20%0A{id}", "a b:c,d")
    assert UpstreamSettings(fleet_id="").fleet_id == ""


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("https://fleet.test", "https://fleet.test"),
        ("HTTPS://Fleet.test/", "https://fleet.test"),
        ("http://localhost:65535/v1/fleet//", "http://localhost:65535/v1/fleet"),
        ("https://[2001:DB8::1]:8443/v1", "https://[2001:db8::1]:8443/v1"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("https://fleet_api.test.", "https://fleet_api.test"),
        ("https://m\u00fcnchen.test:8443/v1", "https://xn--mnchen-3ya.test:8443/v1"),
        ("https://xn--mnchen-3ya.test", "https://xn--mnchen-3ya.test"),
        ("https://fleet.test/stra\u00dfe;v=1", "https://fleet.test/stra\u00dfe;v=1"),
    ],
)
def test_valid_urls_are_used(url, used):
    """Scheme, host and slashes at the end are normalised; the issuer stays as it is in tokens."""
    assert UpstreamSettings(url=url).url == used
    assert httpx.URL(used).raw_host
    assert OidcSettings(issuer=url).issuer == url


def test_the_url_of_keys_may_have_a_query():
    """Some issuers select the keys by a parameter."""
    url = "https://issuer.test/keys?policy=sign-in"
    assert OidcSettings(jwks_uri=url).jwks_uri == url


DATABASE = "must have the form redis://user:password@host:port/number"
PARAMETERS = "may have only these parameters"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("unix:///run/redis.sock", START),
        ("unix://user@/run/redis.sock?db=1", START),
        ("localhost:6379", START),
        ("redis://localhost/abc", DATABASE),
        ("redis://localhost/-1", DATABASE),
        ("redis://localhost/1/2", DATABASE),
        ("redis://localhost/1/", DATABASE),
        ("redis://localhost/\u0663", DATABASE),
        ("redis://localhost?db=abc", DATABASE),
        ("redis://localhost/1?db=2", DATABASE),
        ("redis://localhost#0", DATABASE),
        (f"redis://localhost/{'1' * 5000}", DATABASE),
        (f"redis://localhost?db={'9' * 10}", DATABASE),
        *(
            (f"redis://localhost?client_name={name}", "must have a client_name")
            for name in ("a%20b", "a%0ab", "a+b", "m%C3%BCnchen", "%7F")
        ),
        *(
            (f"redis://localhost?health_check_interval={interval}", "must have a health_check_interval")
            for interval in ("-1", "often", "0.5", "1e3", "inf", "%2B1")
        ),
        ("redis://localhost?tenant=1", PARAMETERS),
        ("redis://localhost?tenant", PARAMETERS),
        ("redis://localhost?client_name=", PARAMETERS),
        ("redis://localhost?client_name=a&client_name=b", PARAMETERS),
        ("redis://localhost?socket_timeout=1", PARAMETERS),
        ("redis://localhost?max_connections=5", PARAMETERS),
        ("redis://localhost?decode_responses=true", PARAMETERS),
        ("redis://localhost?ssl_cert_reqs=none", PARAMETERS),
        ("rediss://localhost?ssl_cert_reqs=none&tenant=1", PARAMETERS),
    ],
)
def test_a_redis_url_that_the_client_would_not_use_as_intended_is_refused(url, reason):
    """The client ignores a path that is no number, and fails at the first command for a parameter that is unknown."""
    assert_refused("GATEWAY_REDIS_URL", url, reason)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://localhost?protocol=7", "A parameter"),
        ("rediss://localhost?ssl_cert_reqs=sometimes", "A parameter"),
        ("rediss://localhost?ssl_min_version=1", "A parameter"),
        (f"rediss://localhost?ssl_ca_certs={__file__}", "A parameter"),
        ("rediss://localhost?ssl_ca_certs=/none.pem", "A file"),
        ("rediss://localhost?ssl_certfile=/none.pem", "A file"),
    ],
)
def test_values_and_files_in_a_redis_url_are_checked_at_start(url, reason):
    """Otherwise every response would be an internal error, or Redis would never be used."""
    with pytest.raises(Misconfigured, match=reason) as refused:
        check(Settings(redis=RedisSettings(url=url)))
    assert refused.value.setting == "redis.url"


@pytest.mark.parametrize(
    ("name", "value"),
    [("audience", "fleet"), ("jwks_uri", "https://issuer.test/keys"), ("principal_claims", "sub,scope")],
)
def test_a_setting_of_verification_needs_an_issuer(name, value):
    """Without one no token is verified, which whoever sets an audience or keys does not expect."""
    with pytest.raises(Misconfigured, match="without GATEWAY_OIDC_ISSUER") as refused:
        check(Settings(oidc={name: value}))
    assert refused.value.setting == f"oidc.{name}"
    check(Settings(oidc={name: value, "issuer": "https://issuer.test"}))


def test_valid_redis_urls_are_accepted(tmp_path: Path):
    """With credentials, an address of either kind, a database and parameters of the client."""
    authority = certificate(tmp_path, "localhost")
    for url in (
        "redis://localhost",
        "REDIS://localhost/",
        "redis://:p%2Fw%40rd@localhost:6380/1",
        "redis://user:password@[::1]:6379/15",
        "redis://localhost?db=1&client_name=gateway&protocol=3&health_check_interval=30&socket_keepalive=true",
        "rediss://localhost?ssl_cert_reqs=none&ssl_check_hostname=false",
        f"rediss://localhost?ssl_ca_certs={authority.file}",
    ):
        check(Settings(redis=RedisSettings(url=url)))


CODINGS = "must be a comma-separated list of gzip and zstd, each at most once"


@pytest.mark.parametrize("codings", ["br", "gzip,deflate", "gzip, GZIP", "identity", "*", "gzip;q=1"])
def test_an_unknown_or_repeated_coding_is_refused(codings):
    """Responses would be sent otherwise than intended."""
    assert_refused("GATEWAY_HTTP_COMPRESSION", codings, CODINGS)


@pytest.mark.parametrize(("codings", "used"), [("", ""), (" , ", ""), ("GZIP", "gzip"), ("gzip, zstd,", "gzip,zstd")])
def test_codings_are_normalised(codings, used):
    """They may be spelt in any case, and there may be none."""
    assert Settings(http={"compression": codings}).http.compression == used
