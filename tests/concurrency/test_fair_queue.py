"""The fair queue: tenants are served round-robin, and no item is lost or served twice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.concurrency.fair_queue import FairQueue


@dataclass(eq=False)
class Item:
    """Something that waits until a time, unless it is done before."""

    tenant: str
    late_at: float = 0.0
    is_done: bool = False


def queue_of(*items: Item) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue(lambda item: item.is_done)
    for item in items:
        queue.push(item.tenant, item)
    return queue


def drained(queue: FairQueue[Item]) -> list[Item]:
    items = []
    while (popped := queue.pop()) is not None:
        assert popped[0] == popped[1].tenant
        items.append(popped[1])
    return items


def test_tenants_are_served_round_robin():
    """One item of each, then the next of each, until only the longest queue is left."""
    queue = queue_of(*map(Item, "aaaabbc"))
    assert (len(queue), queue.waiting("a"), queue.waiting("x")) == (7, 4, 0)
    assert queue
    assert "c" in queue
    assert "".join(item.tenant for item in drained(queue)) == "abcabaa"
    assert not queue
    assert queue.pop() is None
    assert queue.peek() is None


def test_done_items_are_skipped():
    """They are neither peeked at nor popped, at any position."""
    items = [Item("a", is_done=done) for done in (True, False, True, False)]
    queue = queue_of(Item("b", is_done=True), *items)
    assert queue.peek() is items[1]
    assert drained(queue) == [items[1], items[3]]


def test_an_item_that_is_put_back_is_the_next():
    """Its tenant keeps its turn."""
    queue = queue_of(*map(Item, "abc"))
    _, item = queue.pop()
    queue.push(item.tenant, item, first=True)
    assert queue.peek() is item
    assert [item.tenant for item in drained(queue)] == ["a", "b", "c"]


def test_only_allowed_tenants_are_popped():
    """The others keep their items and their order."""
    queue = queue_of(*map(Item, "aabb"))
    assert queue.pop(lambda tenant: tenant == "b")[0] == "b"
    assert queue.pop(lambda tenant: tenant == "x") is None
    assert [item.tenant for item in drained(queue)] == ["a", "b", "a"]


def test_an_item_can_be_removed():
    """Once; the rest of its queue stays."""
    first, second = Item("a"), Item("a")
    queue = queue_of(first, second)
    assert queue.remove("a", first)
    assert not queue.remove("a", first)
    assert not queue.remove("b", second)
    assert queue.remove("a", second)
    assert not queue


def test_late_items_are_removed_from_each_queue():
    """The oldest of each tenant expire first; the heads show when the next ones do."""
    queue = queue_of(Item("a", 1.0), Item("b", 2.0), Item("a", 3.0, is_done=True), Item("a", 3.0), Item("b", 4.0))
    assert [item.late_at for item in queue.heads()] == [1.0, 2.0]
    assert [item.late_at for item in queue.expire(lambda item: item.late_at <= 2.5)] == [1.0, 2.0]
    assert [item.late_at for item in queue] == [3.0, 4.0]
    assert len(queue.expire(lambda item: item.late_at <= 5)) == 2
    assert not queue


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_every_item_is_served_once_in_the_order_of_its_tenant(names):
    """And no tenant is served twice in a row while another waits."""
    waiting = [Item(name, late_at=float(at)) for at, name in enumerate(names)]
    served = drained(queue_of(*waiting))
    assert sorted(item.late_at for item in served) == [item.late_at for item in waiting]
    for name in set(names):
        own = [item.late_at for item in served if item.tenant == name]
        assert own == sorted(own)
    for at, (item, following) in enumerate(pairwise(served)):
        assert item.tenant != following.tenant or {rest.tenant for rest in served[at:]} == {item.tenant}
