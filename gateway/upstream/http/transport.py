"""The innermost fetcher: one HTTP call over one of two transports, `Http1` or `HttpxTransport`.

Both raise httpx's errors, which are mapped to the gateway's errors here.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec

from gateway import __version__
from gateway.errors import (
    Problem,
    RateLimited,
    UpstreamError,
    UpstreamForbidden,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthenticated,
    UpstreamUnavailable,
)
from gateway.settings import UpstreamSettings
from gateway.telemetry.logs import EventCounter
from gateway.telemetry.metrics import UPSTREAM_CONNECTIONS, UPSTREAM_QUEUED, Sample
from gateway.upstream.endpoints import Parameters
from gateway.upstream.http.http1 import Call, Http1, RawResponse
from gateway.upstream.http.inflate import Fields, inflated
from gateway.upstream.http.network import check
from gateway.upstream.models import ProblemBody
from gateway.upstream.requests import Rate, UpstreamRequest, UpstreamResponse

if TYPE_CHECKING:
    from gateway.upstream.http.httpx_transport import HttpxTransport

T = TypeVar("T")
# Replaces the network in tests.
Network = httpx.AsyncBaseTransport
FLOW_ID = "X-INVERS-Flow-ID"
FLOW_ID_BYTES = FLOW_ID.lower().encode()
# The header fields of a successful response that are used.
USED_FIELDS = frozenset((b"etag", FLOW_ID_BYTES, b"x-rate-limit-limit", b"content-encoding"))
# The vendor's documentation requires a content type on every request.
EVERY_REQUEST = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "Content-Type": "application/json",
    "User-Agent": f"invers-graphql-gateway/{__version__}",
}
# The longest last parameter, a cursor or a caller's search, for which the request target is cached.
CACHED_LENGTH_MAX = 512
# Digits of a number in a header; longer ones are no sensible time or count.
DIGITS_MAX = 12
RATE_FIELDS = ("Limit", "Remaining", "Reset")
# Years ahead from which the two-digit year of a date is one of the past (RFC 9110, 5.6.7).
CENTURY_AHEAD = 50
TWO_DIGIT_YEAR = re.compile(r"\d[\s-]+[A-Za-z]{3}[\s-]+\d\d\s")
# The longest wait in seconds, because the fleet API may state a wrong one.
WAIT_MAX = 3600.0
# Characters of a request's target. Servers may drop the connection for longer ones, which would look like an outage.
TARGET_MAX = 8000
TOO_LONG = Problem(414)
PROBLEM_TYPE = re.compile(r"/problems/[a-z0-9/_-]{1,90}")
FLOW_ID_FORM = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The errors that transports raise only before a request is sent, and all of their errors.
UNSENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
TRANSPORT_ERRORS = (httpx.TransportError, httpx.StreamError, httpx.DecodingError, UnicodeDecodeError, OSError)


class HttpTransport:
    """Calls the upstream; `network` replaces the network in tests."""

    def __init__(self, settings: UpstreamSettings, network: Network | None = None) -> None:
        if network is None:
            check(settings)
        self._bytes_max = settings.response_bytes_max
        self._headers = EVERY_REQUEST | ({"X-INVERS-Fleet-Id": settings.fleet_id} if settings.fleet_id else {})
        self._http1 = Http1(settings) if network is None and settings.transport == "builtin" else None
        self._httpx = _httpx_transport(settings, network) if self._http1 is None else None
        self.sends_inline = self._http1 is not None
        self._failures = EventCounter("upstream failures", host=urlsplit(settings.url).hostname or "")

    async def fetch(self, request: UpstreamRequest[T]) -> UpstreamResponse[T]:
        target = _target_of(request)
        request.stats.upstream_calls += 1
        decode, may_resend = partial(self.response_to, request), partial(self.may_resend, request)
        seconds, send_until = request.endpoint.timeout, _send_until(request)
        try:
            if self._httpx is not None:
                headers = self._headers_of(request)
                return await self._httpx.send(
                    request.endpoint.method, target, headers, request.body, decode, may_resend, seconds, send_until
                )
            assert self._http1 is not None
            head = self._http1.request(request.endpoint.method, target, self._prepared_for(request), request.body)
            response: UpstreamResponse[T] = await self._http1.fetch_raw(
                head,
                request.caller.principal,
                decode,
                may_resend,
                is_checked=request.is_matched_by_id,
                seconds=seconds,
                send_until=send_until,
            )
        except TRANSPORT_ERRORS as failure:
            raise self.error_of(failure) from failure
        return response

    def begin(self, request: UpstreamRequest[Any], call: Call) -> None:
        """Starts a call, which is completed later; raises one of TRANSPORT_ERRORS, or UpstreamRejected."""
        assert self._http1 is not None
        target, scope = _target_of(request), request.scope
        scope.stats.upstream_calls += 1
        prepared = scope.caller.head(self._rendered) if _is_plain(request) else self._prepared_for(request)
        call.head = self._http1.request(request.endpoint.method, target, prepared, request.body)
        if not request.endpoint.idempotent:
            call.seconds, call.send_until = request.endpoint.timeout, _send_until(request)
        call.tenant = scope.caller.principal
        if request.is_matched_by_id:
            call.reuse_key = call.tenant
        self._http1.begin(call)

    def may_resend(self, request: UpstreamRequest[Any]) -> bool:
        """Whether a request may be sent once more, if its kept connection ends without a byte of a response.

        That is no failure of the call, but it counts as an upstream call.
        """
        if request.endpoint.idempotent:
            request.stats.upstream_calls += 1
            self._failures.count("kept connection ended", asyncio.get_running_loop())
        return request.endpoint.idempotent

    def error_of(self, failure: Exception) -> UpstreamError:
        """The gateway's error for one of TRANSPORT_ERRORS, which is logged by its kind."""
        self._failures.count(kind_of(failure), asyncio.get_running_loop())
        error: UpstreamError = UpstreamUnavailable()
        if isinstance(failure, (httpx.TimeoutException, TimeoutError)):
            error = UpstreamTimeout()
        elif isinstance(failure, (httpx.DecodingError, UnicodeDecodeError)):
            error = UpstreamInvalidResponse()
        error.is_unsent = isinstance(failure, UNSENT_ERRORS)
        return error

    def response_to(self, request: UpstreamRequest[T], raw: RawResponse) -> UpstreamResponse[T]:
        """The decoded response; raises the gateway's errors."""
        status, fields, body = raw
        names = _used_fields(tuple(fields))
        if b"content-encoding" in names:
            try:
                fields, body = inflated(fields, body, self._bytes_max)
            except TRANSPORT_ERRORS as malformed:
                raise self.error_of(malformed) from malformed
        if len(body) > self._bytes_max:
            raise UpstreamInvalidResponse(_problem_of(status, httpx.Headers(fields), b""))
        if status != 200 and status not in request.endpoint.success:
            return self._other_status(request, status, fields, body)
        request.stats.accepted = True
        value = self._decoded(request, body)
        endpoint = request.endpoint
        id_of = endpoint.id_of
        if request.item_id is not None and id_of is not None and value is not None and id_of(value) != request.item_id:
            raise UpstreamInvalidResponse(Problem(status))
        # A vehicle has its JSON, which may have been repaired.
        stored = getattr(value, "body", body) if endpoint.stays_encoded else None
        response = UpstreamResponse(value, len(body), body=stored, status=status)
        if names:
            etag, flow_id = names.get(b"etag"), names.get(FLOW_ID_BYTES)
            # An ETag outside ASCII, or with a control character, can't be sent back.
            text = "" if etag is None else fields[etag].decode("latin-1")
            response.etag = text if text and text.isascii() and text.isprintable() else None
            response.flow_id = None if flow_id is None else valid_flow_id(fields[flow_id].decode("latin-1"))
            response.rate = rate_of(httpx.Headers(fields)) if b"x-rate-limit-limit" in names else None
        if endpoint.set_version is not None and value is not None:
            endpoint.set_version(value, response.etag)
        return response

    def _other_status(
        self, request: UpstreamRequest[T], status: int, fields: Fields, body: bytes
    ) -> UpstreamResponse[T]:
        headers = httpx.Headers(fields)
        if status == 304 and request.known is not None:
            request.stats.accepted = True
            return msgspec.structs.replace(request.known, rate=rate_of(headers), status=status)
        if status == 404 and request.endpoint.missing is not None:
            flow_id = valid_flow_id(headers.get(FLOW_ID))
            return UpstreamResponse(None, len(body), flow_id=flow_id, rate=rate_of(headers), status=status)
        raise failure_of(status, headers, body)

    def samples(self) -> Iterator[Sample]:
        """The connections, by what they do, and the calls that wait for one."""
        transport = self._http1 or self._httpx
        assert transport is not None
        load = transport.load()
        yield UPSTREAM_CONNECTIONS, ("idle",), load.idle
        yield UPSTREAM_CONNECTIONS, ("busy",), load.busy
        yield UPSTREAM_CONNECTIONS, ("connecting",), load.connecting
        yield UPSTREAM_QUEUED, (), load.queued

    async def close(self) -> None:
        """Closes the pool."""
        for transport in (self._http1, self._httpx):
            if transport is not None:
                await transport.aclose()

    def _headers_of(self, request: UpstreamRequest[Any]) -> dict[str, str]:
        headers = {**self._headers, "Authorization": request.caller.authorization()}
        traceparent = request.traceparent or request.scope.traceparent
        if traceparent is not None:
            headers["traceparent"] = traceparent
        if request.known is not None and request.known.etag is not None:
            headers["If-None-Match"] = request.known.etag
        if request.if_match is not None:
            headers["If-Match"] = request.if_match
        return headers

    def _prepared_for(self, request: UpstreamRequest[Any]) -> bytes:
        """The rendered headers of a request, rendered once per caller where possible."""
        if _is_plain(request):
            return request.caller.head(self._rendered)
        assert self._http1 is not None
        return self._http1.prepared(self._headers_of(request))

    def _rendered(self, bearer: str) -> bytes:
        assert self._http1 is not None
        return self._http1.prepared({**self._headers, "Authorization": bearer})

    def _decoded(self, request: UpstreamRequest[T], body: bytes) -> T:
        try:
            return request.endpoint.decode(body, request.key, request.mask)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as malformed:
            raise UpstreamInvalidResponse(Problem(200)) from malformed


def _is_plain(request: UpstreamRequest[Any]) -> bool:
    """Whether a request has the same header fields as all others of its caller."""
    return request.scope.traceparent is None and request.known is None and request.if_match is None


def _send_until(request: UpstreamRequest[Any]) -> float | None:
    """Until when a request may be sent, in seconds of the event loop's clock."""
    if request.send_by is None:
        return None
    return asyncio.get_running_loop().time() + request.send_by - time.monotonic()


def kind_of(failure: Exception) -> str:
    """What an operator should look at after a transport's error: a few constants, and never a text of the error."""
    for cause in _causes(failure):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "TLS certificate refused"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed"
        if isinstance(cause, socket.gaierror):
            return "name not resolved"
        if isinstance(cause, OSError) and (name := errno.errorcode.get(cause.errno or 0)):
            return f"{type(failure).__name__} {name}"
    return type(failure).__name__


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """An error and its causes; those of httpcore are its errors' first argument."""
    cause: object = failure
    while isinstance(cause, BaseException):
        yield cause
        cause = cause.__cause__ or next(iter(cause.args), None)


def _target_of(request: UpstreamRequest[Any]) -> str:
    if not request.parameters:
        if len(request.path) > TARGET_MAX:
            raise UpstreamRejected(TOO_LONG)
        return request.path
    return (_cached_target if len(request.parameters[-1][1]) <= CACHED_LENGTH_MAX else _target)(
        request.path, request.parameters
    )


def _target(path: str, parameters: Parameters) -> str:
    target = f"{path}?{urlencode(parameters)}"
    if len(target) > TARGET_MAX:
        raise UpstreamRejected(TOO_LONG)
    return target


_cached_target = lru_cache(1024)(_target)


@lru_cache(64)
def _used_fields(names: tuple[bytes, ...]) -> Mapping[bytes, bytes]:
    """The names of the used fields as received, by lower-case name; a server's field names seldom change."""
    return {name.lower(): name for name in names if name.lower() in USED_FIELDS}


def _httpx_transport(settings: UpstreamSettings, network: Network | None) -> HttpxTransport:
    from gateway.upstream.http.httpx_transport import HttpxTransport  # noqa: PLC0415 - httpcore is not needed by `builtin`

    return HttpxTransport(settings, network)


def failure_of(status: int, headers: Mapping[str, str], body: bytes, now: float | None = None) -> UpstreamError:
    """The error for a response that is neither a success nor a 404; `now` is the epoch time that waits start from."""
    kind: type[UpstreamError] = UpstreamInvalidResponse
    if status in (401, 403, 429):
        kind = {401: UpstreamUnauthenticated, 403: UpstreamForbidden, 429: RateLimited}[status]
    elif 400 <= status < 500:
        kind = UpstreamRejected
    elif status >= 500:
        kind = UpstreamUnavailable
    wait = wait_of(headers, time.time() if now is None else now) if kind.retryable else None
    failure = kind(_problem_of(status, headers, body), retry_after=wait)
    failure.rate = rate_of(headers)
    return failure


def wait_of(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by `Retry-After` (seconds or HTTP date), else `X-Rate-Limit-Reset` (epoch); at most WAIT_MAX."""
    wait = _stated_wait(headers, now)
    return None if wait is None else min(wait, WAIT_MAX)


def _stated_wait(headers: Mapping[str, str], now: float) -> float | None:
    after = headers.get("Retry-After")
    if after is not None:
        # A repeated field is a list (RFC 9110, 5.3).
        parts = after.split(",")
        waits = [wait for part in parts if (wait := _number(part)) is not None]
        if len(waits) == len(parts):
            return float(max(waits))
        try:
            return max(0.0, _http_date(after, now) - now)
        except (ValueError, OverflowError):
            pass
    reset = _number(headers.get("X-Rate-Limit-Reset", ""))
    if reset is not None and headers.get("X-Rate-Limit-Remaining", "0").strip() == "0":
        return max(0.0, reset - now)
    return None


def _http_date(text: str, now: float) -> float:
    """The epoch seconds of a date in any form of RFC 9110, 5.6.7, also without its zone; raises ValueError."""
    # RFC 850's form is parsed only with a zone, and a date without one is in UTC.
    parsed = email.utils.parsedate_tz(text) or email.utils.parsedate_tz(f"{text} GMT")
    if parsed is None or not text.isascii():
        raise ValueError("not a date")
    year, month, day, hour, minute, second, *_, offset = parsed
    is_leap = second == 60  # a leap second, which datetime lacks
    today = datetime.fromtimestamp(now, UTC)
    if TWO_DIGIT_YEAR.search(text):
        latest = today.year + CENTURY_AHEAD
        year = latest - (latest - year) % 100
        if (month, day) > (today.month, today.day) and year == latest:
            year -= 100
    moment = datetime(year, month, day, hour, minute, second - is_leap, tzinfo=UTC)
    return (moment - timedelta(seconds=offset or 0)).timestamp() + is_leap


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX else None


def rate_of(headers: Mapping[str, str]) -> Rate | None:
    """The client's rate limit, if a response states all three of its numbers."""
    limit, remaining, reset = (_number(headers.get(f"X-Rate-Limit-{name}", "")) for name in RATE_FIELDS)
    if limit is None or remaining is None or reset is None:
        return None
    return Rate(limit, remaining, min(float(reset), time.time() + WAIT_MAX))


def _problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    try:
        problem = msgspec.json.decode(body, type=ProblemBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = ProblemBody()
    # Only a well-formed problem type is passed on; other upstream text must not reach clients.
    kind = problem.type if problem.type and PROBLEM_TYPE.fullmatch(problem.type) else None
    return Problem(status, kind, valid_flow_id(headers.get(FLOW_ID) or problem.flow_id))


def valid_flow_id(given: str | None) -> str | None:
    """The fleet API's id of a request, if it is well-formed."""
    return given if given is not None and FLOW_ID_FORM.fullmatch(given) else None
