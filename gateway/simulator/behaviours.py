"""How the simulated API behaves where the vendor's documents are silent; all can be changed while it runs."""

from __future__ import annotations

from typing import Literal

import msgspec


class Behaviours(msgspec.Struct, forbid_unknown_fields=True):
    """The open questions, each with the answer that is assumed unless a test asks for another."""

    # Paging: what a page's cursors look like.
    cursor_parameter: str = "cursor"
    default_limit: int = 100
    maximum_limit: int = 1000
    ends: Literal["null", "absent"] = "null"
    trailing_empty_page: bool = False
    empty_page_every: int = 0  # of all page boundaries, one in so many has an empty page on it; 0: none
    short_pages: int = 0  # of all pages, one in so many holds fewer items than it could; 0: none
    last_page: Literal["head", "tail"] = "head"  # which end the last page's grid is anchored at
    cursor_style: Literal["keyset", "offset"] = "keyset"
    cursor_tokens: Literal["stable", "fresh"] = "stable"
    cursor_ttl: float = 0  # seconds until a cursor is refused; 0: never
    limit_with_cursor: Literal["refused", "ignored"] = "refused"
    last_cursor: bool = True
    prev_cursor: bool = True
    next_page_token: bool = False  # lists answer next_page_token in place of cursors
    endless_empty_pages: bool = False  # a trap: behind the first page there are empty pages for ever
    cursor_loop: bool = False  # a trap: a page's next cursor leads to the page itself
    # Content.
    latest_state_in_list: Literal["full", "empty", "missing"] = "full"
    extended_state: bool = False  # state properties that are known by their names only
    early_names: bool = False  # gear_box and fuel_level_in_percent for every vehicle
    q_searches_units: bool = False
    stamp_callers: bool = False  # every vehicle's vehicle_model_id names the client that asked
    etags: bool = True
    not_modified: bool = True  # whether If-None-Match is honoured
    # Rate limit, for each client.
    rate_limit_requests: int = 600  # in a window; 0: no limit
    rate_limit_seconds: float = 60
    rate_limit_form: Literal["reset", "retry_after"] = "reset"
    token_seconds: float = 900
