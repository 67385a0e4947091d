"""Attempts in flight, whose tasks may be in several of them."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from fanout.attempts import Attempts


def test_an_attempt_owes_what_it_was_sent_with() -> None:
    attempts = Attempts({1, 2})
    attempts.add(0, [1, 2], 0.0)
    assert attempts.end(0) == ([1, 2], [1, 2])
    assert 0 not in attempts


def test_while_two_have_a_task_none_of_them_owes_it_alone() -> None:
    attempts = Attempts({1, 2})
    attempts.add(0, [1, 2], 0.0)
    attempts.add(1, [2], 0.0, covers=0)
    assert attempts.end(0) == ([1, 2], [1])
    assert attempts.end(1) == ([2], [2])


def test_an_attempt_all_of_whose_tasks_are_settled_is_for_nothing() -> None:
    unsettled = {1, 2}
    attempts = Attempts(unsettled)
    attempts.add(0, [1, 2], 0.0)
    attempts.add(1, [1], 0.0, covers=0)
    attempts.add(2, [2], 0.0, covers=0)
    attempts.end(1)
    unsettled.discard(1)
    assert attempts.settled(1) == []
    attempts.end(2)
    unsettled.discard(2)
    assert attempts.settled(2) == [0]
    assert attempts.idle == 1
    assert attempts.end(0) == ([], [])
    assert attempts.idle == 0


@given(st.data())
def test_every_unsettled_task_is_owed_alone_by_the_last_that_has_it(data: st.DataObject) -> None:
    unsettled = set(range(12))
    attempts = Attempts(unsettled)
    holds: dict[int, set[int]] = {}
    for number, start in enumerate(range(0, 12, 4)):
        attempts.add(number, list(range(start, start + 4)), 0.0)
        holds[number] = set(range(start, start + 4))
    following = 3
    for _ in range(data.draw(st.integers(0, 25))):
        if not holds:
            break
        number = data.draw(st.sampled_from(sorted(holds)))
        act = data.draw(st.sampled_from(["cover", "settle", "end"]))
        wanted = sorted(holds[number] & unsettled)
        if act == "cover" and wanted:
            tasks = data.draw(st.lists(st.sampled_from(wanted), min_size=1, unique=True))
            attempts.add(following, tasks, 0.0, covers=number)
            holds[following] = set(tasks)
            following += 1
        elif act == "settle" and wanted:
            unsettled.discard(wanted[0])
            idle = attempts.settled(wanted[0])
            assert all(not holds[one] & unsettled for one in idle)
        elif act == "end":
            mine = holds.pop(number)
            elsewhere = set().union(*holds.values())
            owed, own = attempts.end(number)
            # One that never shared a task is settled as a whole when it ends.
            assert set(owed) >= mine & unsettled
            assert set(own) & unsettled == (mine & unsettled) - elsewhere
