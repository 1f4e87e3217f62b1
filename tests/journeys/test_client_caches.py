"""The merge rules of the three large clients' caches, replayed over real pages.

Relay appends or prepends by comparing cursors and drops pages that do not fit; Apollo Client's relayStylePagination
looks its cursor up among its edges and writes pageInfo's cursors onto them; urql's relayPagination links pages by their
cursors and skips empty ones. Each has to end with the whole list.
"""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator import Behaviours

PAGE = """query($first: Int, $after: String, $last: Int, $before: String) {
  vehicles(first: $first, after: $after, last: $last, before: $before) {
    edges { cursor node { id vehicleId } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""


class Relay:
    """ConnectionHandler: a page is merged only where its argument equals the stored end; nodes are identified by id."""

    def __init__(self) -> None:
        self.edges: list[Any] = []
        self.start: str | None = None
        self.end: str | None = None

    def merge(self, arguments: dict[str, Any], page: dict[str, Any]) -> None:
        info = page["pageInfo"]
        known = {edge["node"]["id"] for edge in self.edges}
        new = [edge for edge in page["edges"] if edge["node"]["id"] not in known]
        if not self.edges:
            self.edges, self.start, self.end = new, info["startCursor"], info["endCursor"]
        elif arguments.get("after") is not None:
            assert arguments["after"] == self.end, "Relay would throw this page away"
            self.edges, self.end = self.edges + new, info["endCursor"] or self.end
        else:
            assert arguments["before"] == self.start, "Relay would throw this page away"
            self.edges, self.start = new + self.edges, info["startCursor"] or self.start


class Apollo:
    """relayStylePagination: edges are cut at the cursor and joined; an unknown cursor replaces everything."""

    def __init__(self) -> None:
        self.edges: list[Any] = []
        self.start: str | None = None
        self.end: str | None = None

    def merge(self, arguments: dict[str, Any], page: dict[str, Any]) -> None:
        incoming, info = [dict(edge) for edge in page["edges"]], page["pageInfo"]
        if incoming:
            incoming[0]["cursor"], incoming[-1]["cursor"] = info["startCursor"], info["endCursor"]
        cursors = [edge["cursor"] for edge in self.edges]
        prefix, suffix = self.edges, []
        if arguments.get("after"):
            assert arguments["after"] in cursors, "Apollo would replace everything"
            prefix = self.edges[: cursors.index(arguments["after"]) + 1]
        elif arguments.get("before"):
            assert arguments["before"] in cursors, "Apollo would replace everything"
            prefix, suffix = [], self.edges[cursors.index(arguments["before"]) :]
        self.edges = prefix + incoming + suffix
        self.start, self.end = self.edges[0]["cursor"], self.edges[-1]["cursor"]


class Urql:
    """relayPagination: pages are stored, and linked by cursors when read; empty ones are skipped."""

    def __init__(self) -> None:
        self.pages: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def merge(self, arguments: dict[str, Any], page: dict[str, Any]) -> None:
        assert page["edges"], "urql would skip this page and go on asking"
        self.pages.append((arguments, page))

    @property
    def edges(self) -> list[Any]:
        edges, ends = list(self.pages[0][1]["edges"]), dict(self.pages[0][1]["pageInfo"])
        for arguments, page in self.pages[1:]:
            if arguments.get("after") is not None:
                assert arguments["after"] == ends["endCursor"]
                edges, ends["endCursor"] = edges + page["edges"], page["pageInfo"]["endCursor"]
            else:
                assert arguments["before"] == ends["startCursor"]
                edges, ends["startCursor"] = page["edges"] + edges, page["pageInfo"]["startCursor"]
        return edges

    @property
    def start(self) -> str:
        return next(p["pageInfo"]["startCursor"] for a, p in reversed(self.pages) if not a.get("after"))

    @property
    def end(self) -> str:
        return next(p["pageInfo"]["endCursor"] for a, p in reversed(self.pages) if not a.get("before"))


@pytest.mark.parametrize("client", [Relay, Apollo, Urql])
@pytest.mark.parametrize("way", ["forward", "backward", "both"])
@pytest.mark.parametrize(
    "behaviours", [{}, {"trailing_empty_page": True}, {"empty_page_every": 2, "short_pages": 2}], ids=str
)
async def test_every_client_ends_with_the_whole_list(start, client, way, behaviours):
    """Forward, backward, and forward then backward from the middle: no page is dropped, repeated or empty."""
    gateway = await start(behaviours=Behaviours(rate_limit_requests=0, **behaviours))
    ids = gateway.simulator.fleets["T7K2M"].ids
    store = client()

    async def ask(**arguments: Any) -> dict[str, Any]:
        page = (await gateway.data(PAGE, **arguments))["vehicles"]
        store.merge(arguments, page)
        return page["pageInfo"]

    if way == "backward":
        info = await ask(last=60, before=None)
    elif way == "forward":
        info = await ask(first=60, after=None)
    else:
        middle = (await gateway.data(PAGE, first=110))["vehicles"]["pageInfo"]["endCursor"]
        page = (await gateway.data(PAGE, first=30, after=middle))["vehicles"]
        store.merge({}, page)
        info = page["pageInfo"]
    while way != "backward" and info["hasNextPage"]:
        info = await ask(first=60, after=store.end)
    has_previous = way != "forward"
    while has_previous:
        has_previous = (await ask(last=60, before=store.start))["hasPreviousPage"]
    assert [edge["node"]["vehicleId"] for edge in store.edges] == ids
