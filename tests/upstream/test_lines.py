"""Whose turn it is to have a connection."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.lines import Lines


@dataclass(eq=False)
class One:
    line: str
    gives_up: float = 0.0
    left: bool = False

    def done(self) -> bool:
        return self.left


def all_of(lines):
    return list(iter(lines.take, None))


def test_lines_are_served_in_turn():
    """One of each line, then the next of each, until only the longest is left."""
    lines = Lines()
    waiting = [One(line) for line in "aaaabbc"]
    for one in waiting:
        lines.put(one)
    assert "".join(one.line for one in all_of(lines)) == "abcabaa"
    assert not lines.lines


def test_who_has_left_is_passed_over():
    """Those whom nobody waits for are not served, and count for nothing."""
    lines = Lines()
    for left in (False, True, True, False):
        lines.put(One("a", left=left))
    assert lines.waiting() == 2
    assert len(all_of(lines)) == 2


def test_those_who_waited_in_vain_leave_each_line():
    """The oldest of each line go when their time is over; the next tells when to look again."""
    lines = Lines()
    for line, gives_up in (("a", 1.0), ("b", 2.0), ("a", 3.0), ("b", 4.0)):
        lines.put(One(line, gives_up))
    assert lines.next_gives_up() == 1.0
    assert [one.gives_up for one in lines.take_late(2.5)] == [1.0, 2.0]
    assert lines.next_gives_up() == 3.0
    assert len(lines.take_late(5.0)) == 2
    assert lines.next_gives_up() is None
    assert not lines.lines


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_nobody_is_lost_and_nobody_overtakes_in_a_line(names):
    """However many wait, each is served once, in the order of its line, and no line twice while another waits."""
    lines, waiting = Lines(), [One(name, gives_up=float(at)) for at, name in enumerate(names)]
    for one in waiting:
        lines.put(one)
    assert len(lines) == len(names)
    served = all_of(lines)
    assert sorted(one.gives_up for one in served) == [one.gives_up for one in waiting]
    for name in set(names):
        own = [one.gives_up for one in served if one.line == name]
        assert own == sorted(own)
    for at, (one, following) in enumerate(pairwise(served)):
        assert one.line != following.line or {rest.line for rest in served[at:]} == {one.line}
