"""Pages of a list and their cursors, as the pure function `page_of(keys, request, behaviours)`.

`keys` are ascending integers, one for each item. A keyset cursor contains a key, an offset cursor an index.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.simulator.behaviours import Behaviours

MEMBERS = ("self", "first", "prev", "next", "last")


class CursorRejected(Exception):
    """A cursor is malformed, foreign or expired."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The content of a cursor: direction, boundary, limit, number of items (for `s`), search, fleet and issue time."""

    direction: str = "f"
    boundary: int = 0
    limit: int = 100
    count: int = 0
    search: str = ""
    fleet: str = ""
    issued_at: float = 0.0


@dataclass(frozen=True, slots=True)
class PageSpan:
    """A page: the indexes of its items, from `start` up to `end`, and its cursors, which are None at the ends."""

    start: int
    end: int
    cursors: dict[str, PageRequest | None]


def page_of(keys: Sequence[int], request: PageRequest, behaviours: Behaviours) -> PageSpan:
    """The page of a request."""
    keyset = behaviours.cursor_style == "keyset"

    def index_of(boundary: int) -> int:
        return bisect_right(keys, boundary) if keyset else max(0, min(boundary, len(keys)))

    def boundary_at(index: int) -> int:
        if not keyset:
            return index
        if index < len(keys):
            return keys[index] - 1
        return keys[-1] if keys else 0

    def cursor(direction: str, boundary: int = 0, count: int = 0) -> PageRequest:
        return replace(request, direction=direction, boundary=boundary, count=count)

    def across(index: int, direction: str) -> PageRequest:
        """The cursor across the boundary at an index, to its empty page if it has one."""
        # The item before a boundary identifies it, so that both directions agree.
        boundary = (keys[index - 1] if keyset else index) if index else boundary_at(0)
        every = behaviours.empty_page_every
        has_empty = every and 0 < index < len(keys) and _chance(boundary, every) and request.direction != "e"
        return cursor("e" if has_empty else direction, boundary)

    start, end = _span(len(keys), request, behaviours, index_of)
    more = end < len(keys) or (behaviours.trailing_empty_page and end > start)
    following = across(end, "n") if more else None
    if behaviours.endless_empty_pages:
        following = cursor("x", request.boundary + 1)
    elif behaviours.cursor_loop and end > start:
        following = cursor("n", boundary_at(start))
    return PageSpan(
        start,
        end,
        {
            "self": cursor("s", boundary_at(start), end - start),
            "first": cursor("f"),
            "prev": across(start, "p") if start > 0 and behaviours.prev_cursor else None,
            "next": following,
            "last": cursor("l") if behaviours.last_cursor else None,
        },
    )


def _span(total: int, request: PageRequest, behaviours: Behaviours, index_of: Any) -> tuple[int, int]:
    limit = request.limit
    if (
        behaviours.short_pages
        and limit > 1
        and _chance(request.boundary * 31 + ord(request.direction[0]), behaviours.short_pages)
    ):
        limit = max(1, limit * 2 // 3)
    if request.direction == "x":
        return total, total
    if request.direction == "f":
        return 0, min(limit, total)
    if request.direction == "l":
        tail = max(0, total - request.limit)
        head = max(0, total - 1) // request.limit * request.limit
        return (tail if behaviours.last_page == "tail" else head), total
    at: int = index_of(request.boundary)
    if request.direction == "n":
        return at, min(at + limit, total)
    if request.direction == "p":
        return max(0, at - limit), at
    return at, min(at + request.count, total)


def encode_cursor(request: PageRequest, behaviours: Behaviours, now: float) -> str:
    """The text of a cursor."""
    content: dict[str, Any] = {"d": request.direction, "k": request.boundary}
    content |= {"m": request.count} if request.direction == "s" else {}
    content |= {"q": request.search} if request.search else {}
    content |= {"t": now} if behaviours.cursor_ttl else {}
    content |= {"n": random.getrandbits(48)} if behaviours.cursor_tokens == "fresh" else {}
    text = json.dumps({"v": 1, "c": {"f": request.fleet, **content, "l": request.limit}}, separators=(",", ":"))
    return base64.b64encode(text.encode()).decode()


def decode_cursor(text: str, fleet: str, behaviours: Behaviours, now: float) -> PageRequest:
    """The content of a cursor. Raises CursorRejected if it is malformed, of another fleet or expired."""
    try:
        content = json.loads(base64.b64decode(text, validate=True))["c"]
        request = PageRequest(
            content["d"],
            int(content["k"]),
            int(content["l"]),
            int(content.get("m", 0)),
            content.get("q", ""),
            content["f"],
            content.get("t", 0.0),
        )
    except (binascii.Error, ValueError, KeyError, TypeError) as malformed:
        raise CursorRejected("malformed") from malformed
    if request.direction not in tuple("flnpsex") or not 1 <= request.limit <= behaviours.maximum_limit:
        raise CursorRejected("malformed")
    if request.fleet != fleet:
        raise CursorRejected("foreign")
    if behaviours.cursor_ttl and now - request.issued_at > behaviours.cursor_ttl:
        raise CursorRejected("expired")
    return request


def _chance(value: int, one_in: int) -> bool:
    return zlib.crc32(str(value).encode()) % one_in == 0
