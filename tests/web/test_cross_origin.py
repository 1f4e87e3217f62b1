"""Cross-origin requests: which origins are allowed, and which header fields they may send and read."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from gateway.app import create_app
from gateway.cli import app
from gateway.settings import Settings
from gateway.web.graphql_request import FIELDS
from tests.gateways import serving

ORIGINS = (
    "https://App.Example.com/, HTTPS://b.example.com:443,http://localhost:3000 ,http://c.example:80/,https://bücher.example"
    ",https://d.example.,http://[0:0:0:0:0:0:0:1]:8080,capacitor://localhost,https://e.example:8443,"
)
APP = "https://app.example.com"


def settings(**http: str) -> Settings:
    return Settings(http=http, log={"level": "error"})


@pytest.fixture(scope="module")
def allowing() -> Iterator[str]:
    """The URL of a gateway that allows origins."""
    with serving(create_app(settings(cors_origins=ORIGINS))) as url:
        yield url


def answer_of(url: str, method: str, *fields: tuple[str, str]) -> tuple[int, dict[str, str]]:
    """The status and the header fields of a response; the request's fields are sent as they are spelt."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.putrequest(method, "/graphql")
        for name, value in fields:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def preflight(url: str, origin: str, *more: tuple[str, str]) -> tuple[int, dict[str, str]]:
    return answer_of(url, "OPTIONS", ("Origin", origin), ("Access-Control-Request-Method", "POST"), *more)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (APP, True),
        ("https://APP.example.COM", True),
        ("https://app.example.com:443", True),
        ("https://app.example.com.", True),
        ("https://app.example.com:0443", True),
        ("https://b.example.com", True),
        ("http://localhost:3000", True),
        ("http://c.example", True),
        ("https://xn--bcher-kva.example", True),
        ("https://XN--BCHER-KVA.example:443", True),
        ("https://d.example", True),
        ("http://[::1]:8080", True),
        ("capacitor://localhost", True),
        ("https://e.example:8443", True),
        ("https://e.example", False),
        ("http://app.example.com", False),
        ("http://app.example.com:443", False),
        ("https://app.example.com:80", False),
        ("https://app.example.com:8443", False),
        ("http://localhost", False),
        ("https://localhost:3000", False),
        ("https://sub.app.example.com", False),
        ("https://app.example.com.evil.test", False),
        ("https://evil.test/https://app.example.com", False),
        ("https://app.example.com@evil.test", False),
        ("https://app.example.com/", False),
        ("https://app.example.com, https://app.example.com", False),
        ("app.example.com", False),
        ("capacitor://localhost:443", False),
        ("null", False),
        ("*", False),
        ("", False),
    ],
)
def test_origins_are_compared_as_browsers_do(allowing, origin, is_allowed):
    """Case, a final dot, the scheme's port and the form of an address do not matter; the browser's spelling is sent."""
    status, fields = preflight(allowing, origin)
    assert (status, fields.get("access-control-allow-origin")) == ((200, origin) if is_allowed else (400, None))
    for method in ("POST", "GET"):  # without a token, so an error, which the page may read
        status, fields = answer_of(allowing, method, ("Origin", origin))
        assert (status, fields.get("access-control-allow-origin")) == (401, origin if is_allowed else None)


@pytest.mark.parametrize("origins", ["*", f"{APP}, *"])
def test_a_star_allows_all_origins(serve, origins):
    """Also `null`, which browsers send for sandboxed pages and files."""
    url = serve(create_app(settings(cors_origins=origins)))
    for origin in ("https://any.example", "null"):
        status, fields = preflight(url, origin)
        assert (status, fields["access-control-allow-origin"]) == (200, "*")
        assert answer_of(url, "POST", ("Origin", origin))[1]["access-control-allow-origin"] == "*"


def test_without_the_setting_no_origin_is_allowed(serve):
    """A preflight request is a request with another method."""
    status, fields = preflight(serve(create_app(settings())), APP)
    assert (status, "access-control-allow-origin" in fields) == (405, False)


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com", "localhost:3000", "//app.example.com", "https://", "https:app.example.com", "null", "file:///",
        "https://app.example.com/page", "https://app.example.com//", "https://app.example.com?secret",
        "https://app.example.com/?secret", "https://app.example.com#secret", "https://user:secret@app.example.com",
        "https://secret@app.example.com", "https://app.example.com:99999", "https://app.example.com:0",
        "https://app.example.com:http", "https://app.example.com:-1", "https://[::1", "https://::1", "https://a..example",
        "https:// app.example.com", "https://app.example.com https://b.example", "https://*.example.com",
        "https://straße.example", "https://ü..example", "1https://app.example.com", "https\\://app.example.com",
    ],
)  # fmt: skip
def test_what_is_no_origin_fails_at_start(origin, monkeypatch):
    """With one sentence that names the setting and the position in the list, and quotes nothing."""
    monkeypatch.setenv("GATEWAY_HTTP_CORS_ORIGINS", f"{APP},,{origin}")
    ended = CliRunner().invoke(app, ["settings"])
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("GATEWAY_HTTP_CORS_ORIGINS: origin 2 of the list must ")
    assert "secret" not in line


FORBIDDEN = {
    b"accept-encoding",
    b"access-control-request-headers",
    b"access-control-request-method",
    b"content-length",
    b"host",
    b"origin",
}
ADDED = (
    "tracestate, baggage, sentry-trace, b3, x-b3-traceid, x-b3-spanid, x-b3-parentspanid, x-b3-sampled, x-b3-flags, "
    "apollographql-client-name, apollographql-client-version, apollo-require-preflight, x-apollo-operation-name, "
    "x-apollo-operation-id, graphql-client-name, graphql-client-version, x-requested-with"
)


@pytest.mark.parametrize(
    ("asked", "is_allowed"),
    [
        ("authorization,content-type,traceparent", True),
        ("traceparent, tracestate, Content-Type, AUTHORIZATION", True),
        (b", ".join(sorted(FIELDS - FORBIDDEN)).decode(), True),
        (ADDED, True),
        (ADDED.title(), True),
        (", ".join(reversed(ADDED.upper().split(", "))), True),
        ("x-datadog-trace-id,x-datadog-parent-id,x-datadog-origin,x-datadog-sampling-priority", True),
        (" , authorization,,\ttraceparent\t,", True),
        ("x-own,authorization", False),
        (",x-own", False),
        ("cookie2", False),
    ],
)
def test_a_page_may_send_what_is_read_and_what_libraries_add(allowing, asked, is_allowed):
    """In any case and order; a browser sends none of the request if it may not send one of its fields."""
    status, fields = preflight(allowing, APP, ("Access-Control-Request-Headers", asked))
    assert status == (200 if is_allowed else 400)
    names = {name.strip().lower() for name in fields["access-control-allow-headers"].split(",")}
    assert (names >= {name.strip().lower() for name in asked.split(",")} - {""}) is is_allowed


@pytest.mark.parametrize("asked", ["", ",", " , "])
def test_a_list_of_no_fields_asks_for_none(allowing, asked):
    """It is answered as a request without the field."""
    assert preflight(allowing, APP, ("Access-Control-Request-Headers", asked))[0] == 200


def test_fields_in_several_lines_are_one_list(allowing):
    """All lines count (RFC 9110, 5.3)."""
    lines = [("Access-Control-Request-Headers", name) for name in ("traceparent", "x-own")]
    assert preflight(allowing, APP, *lines)[0] == preflight(allowing, APP, *reversed(lines))[0] == 400


def test_further_fields_are_a_setting(serve):
    """In addition to the others."""
    url = serve(create_app(settings(cors_origins=APP, cors_headers="X-Own-Name, x_other.name,")))
    asked = "authorization,traceparent,x-own-name,X_Other.Name"
    assert preflight(url, APP, ("Access-Control-Request-Headers", asked))[0] == 200
    assert preflight(url, APP, ("Access-Control-Request-Headers", f"{asked},x-third"))[0] == 400
    url = serve(create_app(settings(cors_origins=APP, cors_headers="*")))
    status, fields = preflight(url, APP, ("Access-Control-Request-Headers", f"{asked},x-third"))
    assert (status, fields["access-control-allow-headers"]) == (200, f"{asked},x-third")


@pytest.mark.parametrize(
    "name", ["a b", "secret:", "X-Näme", "X-Name: secret", "(secret)", "secret@a", '"secret"', "a;b"]
)
def test_what_is_no_field_name_fails_at_start(name, monkeypatch):
    """With one sentence that names the setting and the position in the list, and quotes nothing."""
    monkeypatch.setenv("GATEWAY_HTTP_CORS_HEADERS", f"X-Name,{name}")
    ended = CliRunner().invoke(app, ["settings"])
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("GATEWAY_HTTP_CORS_HEADERS: name 2 of the list must ")
    assert "secret" not in line


def test_a_page_may_read_what_a_client_needs(allowing):
    """Also of errors: when to try again, how to authenticate, how old data is, and the id for the logs."""
    for method in ("POST", "GET", "DELETE"):
        _, fields = answer_of(allowing, method, ("Origin", APP))
        names = {name.strip().lower() for name in fields["access-control-expose-headers"].split(",")}
        assert names == {
            "accept-post", "age", "allow", "cache-control", "date", "etag", "retry-after", "www-authenticate", "x-request-id",
        }  # fmt: skip
