"""The innermost fetcher: one HTTP call over httpx, every failure turned into one of ours.

The only file that names httpx. A call must not be cancelled, because httpcore loses pool slots to cancelled calls (its
issue 1093): what stands above gives each one a task of its own, and nothing here cancels it either.
"""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
import msgspec

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
from gateway.upstream.fetching import Read, Reply
from gateway.upstream.models import ProblemBody, tolerant

T = TypeVar("T")
Wire = httpx.AsyncBaseTransport
FLOW_ID = "X-INVERS-Flow-ID"
# The vendor's examples send a content type on every request and its documents ask for it.
EVERY_REQUEST = {"Accept": "application/json", "Content-Type": "application/json"}


class HttpTransport:
    """Calls the fleet API; `wire` replaces the network in tests."""

    def __init__(self, settings: UpstreamSettings, wire: Wire | None = None) -> None:
        self._settings = settings
        headers = EVERY_REQUEST | ({"X-INVERS-Fleet-Id": settings.fleet_id} if settings.fleet_id else {})
        self._client = httpx.AsyncClient(
            transport=wire,
            headers=headers,
            http2=settings.http2,
            verify=ssl.create_default_context() if settings.url.startswith("https") else True,
            trust_env=False,
            timeout=httpx.Timeout(
                connect=settings.connect_timeout,
                read=settings.read_timeout,
                write=settings.write_timeout,
                pool=settings.pool_timeout,
            ),
            limits=httpx.Limits(
                max_connections=settings.connections_max,
                max_keepalive_connections=settings.connections_max,
                keepalive_expiry=settings.keepalive_expiry,
            ),
        )
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

    async def fetch(self, read: Read[T]) -> Reply[T]:
        read.tally.upstream_calls += 1
        headers = {"Authorization": read.caller.authorization()}
        if read.errand.traceparent is not None:
            headers["traceparent"] = read.errand.traceparent
        if read.known is not None and read.known.etag is not None:
            headers["If-None-Match"] = read.known.etag
        request = self._client.build_request(
            "GET",
            self._settings.url + read.path,
            params=dict(read.parameters) or None,
            headers=headers,
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = await self._body(response)
            finally:
                await response.aclose()
        except httpx.TimeoutException as late:
            raise UpstreamTimeout from late
        except (httpx.TransportError, httpx.StreamError) as broken:
            raise UpstreamUnavailable from broken
        except httpx.DecodingError as garbled:
            raise UpstreamInvalidResponse from garbled
        if response.status_code == 200:
            return Reply(
                self._decoded(read, body), len(body), response.headers.get("ETag"), response.headers.get(FLOW_ID)
            )
        if response.status_code == 304 and read.known is not None:
            return read.known
        if response.status_code == 404:
            return Reply(None, len(body), flow_id=response.headers.get(FLOW_ID))
        raise failure_of(response.status_code, response.headers, body)

    async def close(self) -> None:
        """Closes the pool."""
        await self._client.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        # Each wait is bounded by the read time-out; the sum is checked between chunks, so nothing is cancelled.
        deadline = time.monotonic() + self._settings.total_timeout
        chunks, size = [], 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > self._settings.response_bytes_max:
                raise UpstreamInvalidResponse(_problem_of(response.status_code, response.headers, b""))
            if time.monotonic() > deadline:
                raise UpstreamTimeout
            chunks.append(chunk)
        return b"".join(chunks)

    def _decoded(self, read: Read[T], body: bytes) -> T:
        decoder = self._decoders.get(read.model)
        if decoder is None:
            decoder = self._decoders[read.model] = msgspec.json.Decoder(read.model)
        try:
            return decoder.decode(body)  # type: ignore[no-any-return]
        except msgspec.ValidationError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as garbled:
            raise UpstreamInvalidResponse(Problem(200)) from garbled
        try:
            return tolerant(msgspec.json.decode(body), read.model)  # type: ignore[no-any-return]
        except msgspec.ValidationError as odd:
            raise UpstreamInvalidResponse(Problem(200)) from odd


def failure_of(status: int, headers: Mapping[str, str], body: bytes, now: float | None = None) -> UpstreamError:
    """The error for an answer that is neither 200 nor 404; `now` is the epoch time that waits are counted from."""
    problem = _problem_of(status, headers, body)
    if status == 401:
        return UpstreamUnauthenticated(problem)
    if status == 403:
        return UpstreamForbidden(problem)
    if status == 429:
        return RateLimited(problem, retry_after=wait_of(headers, time.time() if now is None else now))
    if 400 <= status < 500:
        return UpstreamRejected(problem)
    if status >= 500:
        return UpstreamUnavailable(problem, retry_after=wait_of(headers, time.time() if now is None else now))
    return UpstreamInvalidResponse(problem)


def wait_of(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: `Retry-After` (seconds or HTTP date) first, then `X-Rate-Limit-Reset` (epoch seconds)."""
    after = headers.get("Retry-After")
    if after is not None:
        if after.strip().isdecimal():
            return float(after)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - now)
        except (ValueError, OverflowError):
            pass
    reset = headers.get("X-Rate-Limit-Reset", "").strip()
    if reset.isdecimal() and headers.get("X-Rate-Limit-Remaining", "0").strip() == "0":
        return max(0.0, float(reset) - now)
    return None


def _problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    try:
        said = msgspec.json.decode(body, type=ProblemBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = ProblemBody()
    # Only what looks like a problem type is passed on: whatever else stands there is not ours to show.
    known = said.type if said.type and said.type.startswith("/problems/") and len(said.type) < 100 else None
    flow_id = headers.get(FLOW_ID) or said.flow_id
    return Problem(status, known, flow_id if flow_id and len(flow_id) <= 64 and flow_id.isascii() else None)
