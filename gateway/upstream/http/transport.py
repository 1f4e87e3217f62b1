"""The innermost fetcher: one HTTP call over one of two transports, `Http1` or `HttpxTransport`.

Both raise httpx's errors; every failure becomes one of the gateway's own errors here.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

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
from gateway.upstream.endpoints import Parameters
from gateway.upstream.http.http1 import Call, Http1, Parts
from gateway.upstream.http.inflate import Fields, inflated
from gateway.upstream.http.network import check
from gateway.upstream.models import ProblemBody
from gateway.upstream.requests import Rate, UpstreamRequest, UpstreamResponse

if TYPE_CHECKING:
    from gateway.upstream.http.httpx_transport import HttpxTransport

T = TypeVar("T")
# What tests put in place of the network.
Network = httpx.AsyncBaseTransport
FLOW_ID = "X-INVERS-Flow-ID"
FLOW_ID_BYTES = FLOW_ID.lower().encode()
# What an answer's header fields tell that is used where all is well.
TELLING = frozenset((b"etag", FLOW_ID_BYTES, b"x-rate-limit-limit", b"content-encoding"))
# The vendor's examples send a content type on every request and its documents ask for it.
EVERY_REQUEST = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "Content-Type": "application/json",
    "User-Agent": f"invers-graphql-gateway/{__version__}",
}
# How long a parameter may be whose call's target is remembered: the last, which may be a cursor or words of a caller's.
SHORT = 512
# Of a number in a header: more says nothing of time or calls.
DIGITS_MAX = 12
# Seconds after which it is asked again, however long the fleet API says to wait: what it says may be wrong.
WAIT_MAX = 3600.0


# Characters of a request's target; servers that are asked for more may drop the connection, which looks like an outage.
TARGET_MAX = 8000
TOO_LONG = Problem(414)
PROBLEM_TYPE = re.compile(r"/problems/[a-z0-9/_-]{1,90}")
FLOW_ID_FORM = re.compile(r"[A-Za-z0-9_-]{1,64}")
# What transports raise.
BROKEN = (httpx.TransportError, httpx.StreamError, httpx.DecodingError, UnicodeDecodeError, OSError)


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

    async def fetch(self, read: UpstreamRequest[T]) -> UpstreamResponse[T]:
        target = _target_of(read)
        read.stats.upstream_calls += 1
        made = partial(self.reply_to, read)
        try:
            if self._httpx is not None:
                headers = self._headers_of(read)
                return await self._httpx.send(read.endpoint.method, target, headers, read.body, made)
            assert self._http1 is not None
            request = self._http1.request(read.endpoint.method, target, self._prepared_for(read), read.body)
            reply: UpstreamResponse[T] = await self._http1.asked(
                request, read.caller.principal, made, checked=read.shows_itself
            )
        except BROKEN as broken:
            raise meaning_of(broken) from broken
        return reply

    def begin(self, read: UpstreamRequest[Any], call: Call) -> None:
        """Makes a call without waiting: it is told what comes of it; raises one of BROKEN, or UpstreamRejected."""
        assert self._http1 is not None
        target, scope = _target_of(read), read.scope
        scope.stats.upstream_calls += 1
        is_plain = scope.traceparent is None and read.known is None
        prepared = scope.caller.head(self._rendered) if is_plain else self._prepared_for(read)
        call.head = self._http1.request(read.endpoint.method, target, prepared, read.body)
        call.line = scope.caller.principal
        if read.shows_itself:
            call.at_once = call.line
        self._http1.begin(call)

    def reply_to(self, read: UpstreamRequest[T], parts: Parts) -> UpstreamResponse[T]:
        """What an answer says, given as it came; raises our errors."""
        status, fields, body = parts
        names = _telling(tuple(fields))
        if b"content-encoding" in names:
            try:
                fields, body = inflated(fields, body, self._bytes_max)
            except BROKEN as garbled:
                raise meaning_of(garbled) from garbled
        if len(body) > self._bytes_max:
            raise UpstreamInvalidResponse(_problem_of(status, httpx.Headers(fields), b""))
        if status != 200 and status not in read.endpoint.success:
            return self._unusual(read, status, fields, body)
        read.stats.accepted = True
        value = self._decoded(read, body)
        endpoint = read.endpoint
        if read.item_id is not None and endpoint.id_of is not None and endpoint.id_of(value) != read.item_id:
            raise UpstreamInvalidResponse(Problem(status))
        reply = UpstreamResponse(value, len(body), body=body if endpoint.stays_encoded else None)
        if names:
            etag, flow_id = names.get(b"etag"), names.get(FLOW_ID_BYTES)
            # One that is not plain text could not be sent back.
            reply.etag = fields[etag].decode("ascii") if etag is not None and fields[etag].isascii() else None
            reply.flow_id = None if flow_id is None else sound_flow_id(fields[flow_id].decode("latin-1"))
            reply.rate = rate_of(httpx.Headers(fields)) if b"x-rate-limit-limit" in names else None
        return reply

    def _unusual(self, read: UpstreamRequest[T], status: int, fields: Fields, body: bytes) -> UpstreamResponse[T]:
        headers = httpx.Headers(fields)
        if status == 304 and read.known is not None:
            read.stats.accepted = True
            return msgspec.structs.replace(read.known, rate=rate_of(headers))
        if status == 404 and read.endpoint.missing is not None:
            return UpstreamResponse(None, len(body), flow_id=sound_flow_id(headers.get(FLOW_ID)), rate=rate_of(headers))
        raise failure_of(status, headers, body)

    async def close(self) -> None:
        """Closes the pool."""
        for transport in (self._http1, self._httpx):
            if transport is not None:
                await transport.aclose()

    def _headers_of(self, read: UpstreamRequest[Any]) -> dict[str, str]:
        headers = {**self._headers, "Authorization": read.caller.authorization()}
        if read.scope.traceparent is not None:
            headers["traceparent"] = read.scope.traceparent
        if read.known is not None and read.known.etag is not None:
            headers["If-None-Match"] = read.known.etag
        return headers

    def _prepared_for(self, read: UpstreamRequest[Any]) -> bytes:
        """The headers of a read; what all reads of a request have in common is made once."""
        scope = read.scope
        if scope.traceparent is None and read.known is None:
            return scope.caller.head(self._rendered)
        assert self._http1 is not None
        return self._http1.prepared(self._headers_of(read))

    def _rendered(self, bearer: str) -> bytes:
        assert self._http1 is not None
        return self._http1.prepared({**self._headers, "Authorization": bearer})

    def _decoded(self, read: UpstreamRequest[T], body: bytes) -> T:
        try:
            return read.endpoint.decode(body, read.key, read.mask)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as unreadable:
            raise UpstreamInvalidResponse(Problem(200)) from unreadable


def meaning_of(broken: Exception) -> UpstreamError:
    """Which of our errors it is that there is no answer, or none that can be read."""
    if isinstance(broken, (httpx.TimeoutException, TimeoutError)):
        return UpstreamTimeout()
    if isinstance(broken, (httpx.DecodingError, UnicodeDecodeError)):
        return UpstreamInvalidResponse()
    return UpstreamUnavailable()


def _target_of(read: UpstreamRequest[Any]) -> str:
    if not read.parameters:
        if len(read.path) > TARGET_MAX:
            raise UpstreamRejected(TOO_LONG)
        return read.path
    return (_known_target if len(read.parameters[-1][1]) <= SHORT else _target)(read.path, read.parameters)


def _target(path: str, parameters: Parameters) -> str:
    target = f"{path}?{urlencode(parameters)}"
    if len(target) > TARGET_MAX:
        raise UpstreamRejected(TOO_LONG)
    return target


_known_target = lru_cache(1024)(_target)


@lru_cache(64)
def _telling(names: tuple[bytes, ...]) -> Mapping[bytes, bytes]:
    """The names that tell something, as they came; what a server names in its answers seldom differs."""
    return {name.lower(): name for name in names if name.lower() in TELLING}


def _httpx_transport(settings: UpstreamSettings, network: Network | None) -> HttpxTransport:
    from gateway.upstream.http.httpx_transport import HttpxTransport  # noqa: PLC0415 - httpcore, which `builtin` never needs

    return HttpxTransport(settings, network)


def failure_of(status: int, headers: Mapping[str, str], body: bytes, now: float | None = None) -> UpstreamError:
    """The error for an answer that is neither 200 nor 404; `now` is the epoch time that waits are counted from."""
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
    """Seconds to wait, at most WAIT_MAX: of `Retry-After` (seconds or HTTP date), else `X-Rate-Limit-Reset` (epoch)."""
    wait = _wait_told(headers, now)
    return None if wait is None else min(wait, WAIT_MAX)


def _wait_told(headers: Mapping[str, str], now: float) -> float | None:
    after = headers.get("Retry-After")
    if after is not None:
        if after.strip().isdecimal() and len(after) <= DIGITS_MAX:
            return float(after)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - now)
        except (ValueError, OverflowError):
            pass
    reset = headers.get("X-Rate-Limit-Reset", "").strip()
    if reset.isdecimal() and len(reset) <= DIGITS_MAX and headers.get("X-Rate-Limit-Remaining", "0").strip() == "0":
        return max(0.0, float(reset) - now)
    return None


def rate_of(headers: Mapping[str, str]) -> Rate | None:
    """The client's rate limit, where an answer tells all three of its numbers."""
    told = [headers.get(f"X-Rate-Limit-{name}", "").strip() for name in ("Limit", "Remaining", "Reset")]
    if not all(number.isdecimal() and len(number) <= DIGITS_MAX for number in told):
        return None
    limit, remaining, reset = map(int, told)
    return Rate(limit, remaining, min(float(reset), time.time() + WAIT_MAX))


def _problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    try:
        said = msgspec.json.decode(body, type=ProblemBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = ProblemBody()
    # Only what looks like a problem type is passed on: whatever else stands there is not ours to show.
    known = said.type if said.type and PROBLEM_TYPE.fullmatch(said.type) else None
    return Problem(status, known, sound_flow_id(headers.get(FLOW_ID) or said.flow_id))


def sound_flow_id(given: str | None) -> str | None:
    """What the fleet API calls a request, if it looks like such an id."""
    return given if given is not None and FLOW_ID_FORM.fullmatch(given) else None
