"""The bounded map: least recently used entries are dropped first, and no more than needed."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.lru import LRU

KEYS = st.sampled_from("abcdef")


def sized(entries_max: int | None = None, bytes_max: int | None = None) -> LRU[str, int]:
    """Values that are their own size."""
    return LRU(entries_max, bytes_max, size_of=lambda _, value: value)


def test_the_least_recently_used_entry_is_dropped():
    """Getting, touching and putting count as use; testing for a key does not."""
    lru = LRU(3)
    for key in "abc":
        lru.put(key, key.upper())
    assert lru.get("a") == "A"
    assert lru.touch("b")
    assert "c" in lru
    assert lru.put("d", "D") == [("c", "C")]
    assert list(lru) == ["a", "b", "d"]
    assert lru.get_many(["x", "a"]) == [None, "A"]
    assert lru.put("e", "E") == [("b", "B")]
    assert not lru.touch("b")


def test_a_value_larger_than_the_bound_is_not_put():
    """No other entry is dropped for it, but an earlier entry with its key is."""
    lru = sized(bytes_max=10)
    assert lru.put("a", 4) == []
    assert lru.put("b", 6) == []
    assert lru.put("b", 11) == []
    assert (list(lru), lru.bytes) == (["a"], 4)
    assert lru.put("c", 10) == [("a", 4)]
    assert lru.drop("c") == 10
    assert lru.drop("c") is None
    assert (len(lru), lru.bytes) == (0, 0)


def test_growth_drops_entries():
    """Growth counts, and the oldest entries are dropped for it."""
    values = {"a": 4, "b": 4}
    lru: LRU[str, str] = LRU(bytes_max=10, size_of=lambda key, _: values[key])
    lru.put("a", "A")
    lru.put("b", "B")
    values["b"] += 3
    assert lru.grow(3) == [("a", "A")]
    assert lru.bytes == 7
    lru.clear()
    assert (len(lru), lru.bytes) == (0, 0)


def test_growth_of_what_was_dropped_drops_nothing():
    """Up to the bound entries stay; above it an empty map stays empty."""
    lru = sized(bytes_max=10)
    lru.put("a", 4)
    assert lru.grow(6) == []
    lru.drop("a")
    assert lru.grow(11) == []
    assert lru.bytes == 17


def test_the_newest_values_come_last_used_first():
    """As many as are asked for, or as there are."""
    lru: LRU[str, str] = LRU()
    for key in "abc":
        lru.put(key, key.upper())
    lru.get("a")
    assert lru.newest(2) == ["A", "C"]
    assert lru.newest(9) == ["A", "C", "B"]


def test_removed_values_are_reported_with_their_sizes():
    """Dropped, replaced or evicted ones, but not those that are cleared."""
    removed: list[tuple[int, int]] = []
    lru: LRU[str, int] = LRU(2, size_of=lambda _, value: value, on_removed=lambda *each: removed.append(each))
    for key, size in (("a", 1), ("a", 2), ("b", 3), ("c", 4)):
        lru.put(key, size)
    lru.drop("b")
    lru.drop("x")
    assert removed == [(1, 1), (2, 2), (3, 3)]
    lru.clear()
    assert len(removed) == 3


@given(
    st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), KEYS, st.integers(1, 8)), max_size=60),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 16),
)
def test_it_is_an_ordered_dict_within_bounds(steps, entries_max, bytes_max):
    """After any history it equals an ordered dict that is truncated at the front."""
    lru, model = sized(entries_max, bytes_max), OrderedDict()
    for step, key, size in steps:
        if step == "put":
            dropped = lru.put(key, size)
            model.pop(key, None)
            if bytes_max is None or size <= bytes_max:
                model[key] = size
            cut = []
            while (entries_max is not None and len(model) > entries_max) or (
                bytes_max is not None and sum(model.values()) > bytes_max
            ):
                cut.append(model.popitem(last=False))
            assert dropped == cut
        elif step == "get":
            assert lru.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        else:
            assert lru.drop(key) == model.pop(key, None)
        assert list(lru) == list(model)
        assert lru.bytes == sum(model.values())
        assert len(lru) == len(model)
