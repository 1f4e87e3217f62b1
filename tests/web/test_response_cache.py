"""The response cache: which responses it returns, their freshness, and their invalidation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.identity import Caller
from gateway.upstream.cache import Freshness
from gateway.upstream.requests import RequestStats
from gateway.web.response_cache import (
    DEPENDENCY_BYTES,
    RESPONSE_BYTES,
    ResponseCache,
    WholeResponses,
    around,
)

FRESH = Freshness(100.0, 160.0)
KEY = ("alice", b"request")
BODY = b"x" * 1000


def responses(bytes_max: int = 10**6) -> WholeResponses:
    return WholeResponses(bytes_max)


def get(cache: WholeResponses, key=KEY, freshness=FRESH):
    return cache.get(key, lambda dependencies: freshness)


def test_a_body_is_returned_while_it_is_valid():
    """For its principal and request; an invalid one is dropped."""
    cache, seen = responses(), []
    cache.put(KEY, BODY, ["dependency"])
    whole = cache.get(KEY, lambda dependencies: (seen.append(dependencies), FRESH)[1])
    assert whole == (BODY, FRESH)
    assert seen == [["dependency"]]
    assert get(cache, ("bob", b"request")) is get(cache, ("alice", b"other")) is None
    assert get(cache, freshness=None) is None
    assert get(cache) is None
    assert (len(cache), cache.bytes_used) == (0, 0)


def test_the_least_recently_used_bodies_are_dropped():
    """Each counts with its key, its body and its dependencies; one that is too large is not cached."""
    one = RESPONSE_BYTES + DEPENDENCY_BYTES + len(KEY[1]) + len(BODY)
    cache = responses(2 * one)
    keys = [(name, KEY[1]) for name in "abc"]
    for key in keys[:2]:
        cache.put(key, BODY, ["dependency"])
    assert cache.bytes_used == 2 * one
    assert get(cache, keys[0])
    cache.put(keys[2], BODY, ["dependency"])
    assert [get(cache, key) is not None for key in keys] == [True, False, True]
    cache.put(keys[0], BODY * 5, [])
    assert [get(cache, key) is not None for key in keys] == [False, False, True]


def cache_at(now: float, responses=None) -> ResponseCache:
    return ResponseCache(None, None, lambda: now, responses)


def fields_of(fields) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields}


@pytest.mark.parametrize(
    ("now", "expires_at", "expected"),
    [
        (100.0, None, ("0", "private, max-age=60")),
        (110.9, None, ("10", "private, max-age=59")),
        (160.0, None, ("60", "private, max-age=0")),
        (99.0, None, ("0", "private, max-age=61")),
        (110.0, 120.0, ("10", "private, max-age=20")),
        (110.0, 170.0, ("10", "private, max-age=60")),
    ],
)
def test_freshness_ends_with_the_content_or_the_token(now, expires_at, expected):
    """`max-age` counts from when the oldest part was new, and no response is fresh for longer than its token is valid."""
    fields = fields_of(cache_at(now).freshness(100.0, 160.0, Caller("alice", expires_at=expires_at)))
    assert (fields["age"], fields["cache-control"]) == expected


def test_a_new_response_is_as_fresh_as_its_oldest_part():
    """Without a caller, without upstream data, or with stale data it is not fresh."""
    cache, alice, stats = cache_at(110.0), Caller("alice"), RequestStats()
    assert cache.age(stats) == 0.0
    assert fields_of(cache.headers_for(stats, alice))["cache-control"] == "private, max-age=0"
    stats.used(100.0, 160.0, stale=False)
    assert cache.age(stats) == 10.0
    assert cache_at(90.0).age(stats) == 0.0
    assert fields_of(cache.headers_for(stats, alice)) == {"age": "10", "cache-control": "private, max-age=60"}
    assert fields_of(cache.headers_for(stats, None)) == {"age": "10", "cache-control": "private, max-age=0"}
    stats.used(105.0, 170.0, stale=True)
    assert fields_of(cache.headers_for(stats, alice)) == {"age": "10", "cache-control": "private, max-age=0"}


@pytest.mark.parametrize(
    ("key", "stale", "dependencies", "is_kept"),
    [(b"k", False, ["d"], True), (b"", False, ["d"], False), (b"k", True, ["d"], False), (b"k", False, None, False)],
)
def test_a_whole_response_is_cached_while_its_entries_are(key, stale, dependencies, is_kept):
    """Only for a cached request, and only if no dependency is stale or has left the cache."""
    cache = cache_at(110.0, responses())
    client = SimpleNamespace(dependencies_of=lambda reads: dependencies, freshness_of=lambda known: FRESH)
    request, alice = SimpleNamespace(key=key, fragment_key=lambda *_: None), Caller("alice")
    cache.put(request, alice, RequestStats(stale=stale), (b"ab", memoryview(b"c")), client)
    assert len(cache.responses) == is_kept
    if is_kept:
        found = cache.find(request, alice, client)
        assert b"".join(found.parts) == b"abc"
        assert fields_of(found.fields) == {"age": "10", "cache-control": "private, max-age=60"}


def test_a_fragment_is_the_data_of_one_field():
    """The text around it is JSON."""
    assert b"".join(around("v", b'{"a":1}')) == b'{"data":{"v":{"a":1}}}'


def page(key: str, fragment) -> SimpleNamespace:
    return SimpleNamespace(fragment=lambda wanted: fragment if wanted == key else None)


def found_with(pages: dict, others=(), token=None) -> object:
    """The result for a fragment on a token's page that depends on other pages."""
    fragment = SimpleNamespace(rendered=b"{}", others=others)
    first = page("key", fragment)
    hits = {token: (first, 100.0, 160.0), **pages}
    lookups = []

    def cached_page(caller, token, search):
        lookups.append((token, search))
        hit = hits.get(token)
        return None if hit is None else SimpleNamespace(value=hit[0], stored_at=hit[1], fresh_until=hit[2])

    request = SimpleNamespace(
        key=b"k", plan=SimpleNamespace(plan=SimpleNamespace(keys=["v"])),
        fragment_key=lambda fleet, execution, limits: SimpleNamespace(token=token, search="words", key="key"),
    )  # fmt: skip
    client = SimpleNamespace(cached_page=cached_page)
    return cache_at(110.0).find(request, Caller("alice"), client), lookups


def test_a_fragment_is_found_while_all_its_pages_are_cached():
    """Its freshness is that of the oldest, and ends with the first; the search goes with a first page alone."""
    second = object()
    found, lookups = found_with({"t": (second, 90.0, 150.0)}, [("t", lambda: second)])
    assert b"".join(found.parts) == b'{"data":{"v":{}}}'
    assert fields_of(found.fields) == {"age": "20", "cache-control": "private, max-age=60"}
    assert lookups == [(None, "words"), ("t", None)]
    found, lookups = found_with({}, token="t0")
    assert found is not None
    assert lookups == [("t0", None)]


@pytest.mark.parametrize("pages", [{}, {"t": (object(), 90.0, 150.0)}], ids=["gone", "another"])
def test_a_fragment_is_invalid_without_any_of_its_pages(pages):
    """A page that is no longer cached, or was replaced, invalidates it."""
    found, _ = found_with(pages, [("t", lambda: None)])
    assert found is None


def test_a_page_without_the_fragment_is_no_response():
    """As one that was rendered for another selection, or whose fragments were dropped."""
    request = SimpleNamespace(
        key=b"", plan=SimpleNamespace(plan=SimpleNamespace(keys=["v"])),
        fragment_key=lambda fleet, execution, limits: SimpleNamespace(token=None, search=None, key="key"),
    )  # fmt: skip

    def found(key: str, cache: ResponseCache):
        hit = SimpleNamespace(
            value=page(key, SimpleNamespace(rendered=b"{}", others=())), stored_at=100.0, fresh_until=160.0
        )
        return cache.find(request, Caller("alice"), SimpleNamespace(cached_page=lambda *_: hit))

    assert found("another", cache_at(110.0)) is None
    assert found("key", cache_at(110.0)) is not None
    assert found("key", cache_at(110.0, responses())) is not None  # a request without a key has no whole response
    without = SimpleNamespace(key=b"", fragment_key=lambda *_: None)
    assert cache_at(110.0).find(without, Caller("alice"), None) is None


def test_whole_responses_are_found_only_if_they_were_cached():
    """With the dependencies that were recorded; without such a cache nothing is stored."""
    request, alice, seen = SimpleNamespace(key=b"k", fragment_key=lambda *_: None), Caller("alice"), []
    client = SimpleNamespace(
        dependencies_of=lambda reads: [seen.append(reads), "d"][1:], freshness_of=lambda known: FRESH
    )
    cache = cache_at(110.0, responses())
    assert cache.find(request, alice, client) is None
    cache_at(110.0).put(request, alice, RequestStats(), (b"a",), client)
    assert seen == []
    for reads in (None, ["use"]):
        cache.put(request, alice, RequestStats(reads=reads), (b"a",), client)
    assert seen == [(), ["use"]]
    assert cache.find(request, alice, client) is not None
    assert cache.find(request, Caller("bob"), client) is None
    connection = SimpleNamespace(key=b"c", fragment_key=lambda *_: "cached with its first page")
    cache.put(connection, alice, RequestStats(reads=["use"]), (b"a",), client)
    assert len(cache.responses) == 1
