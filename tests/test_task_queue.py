"""Tasks that wait."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from fanout.task_queue import TaskQueue


def queue(count: int, weights: list[float] | None = None) -> TaskQueue:
    made = TaskQueue()
    made.add(range(count), weights)
    return made


def test_tasks_go_in_the_order_of_the_input() -> None:
    waiting = queue(5)
    assert waiting.take(2, 10) == [0, 1]
    assert waiting.take(2.9, 10) == [2, 3]
    assert (len(waiting), waiting.amount) == (1, 1.0)


def test_one_goes_however_little_is_asked_for() -> None:
    assert queue(3).take(0.1, 10) == [0]
    assert queue(3, [5.0, 7.0, 1.0]).take(0.1, 10) == [1]


def test_no_more_go_than_are_allowed() -> None:
    assert queue(5).take(float("inf"), 3) == [0, 1, 2]
    assert queue(4, [1.0, 1.0, 1.0, 1.0]).take(float("inf"), 3) == [0, 1, 2]


def test_the_heaviest_go_first_and_fill_a_group_by_their_weight() -> None:
    waiting = queue(5, [1.0, 8.0, 3.0, 2.0, 2.0])
    assert waiting.amount == 16.0
    assert waiting.take(10.0, 9) == [1]  # the next one is too heavy for the rest of the group
    assert waiting.take(5.0, 9) == [2, 3]
    assert waiting.amount == 3.0


def test_what_comes_back_goes_next() -> None:
    waiting = queue(6)
    first, second = waiting.take(2, 9), waiting.take(2, 9)
    waiting.put_back(second)
    waiting.put_back(first)
    assert waiting.take(9, 9) == [0, 1, 2, 3, 4, 5]


def test_what_comes_back_late_goes_before_what_never_went() -> None:
    waiting = queue(4)
    one, two = waiting.take(1, 1), waiting.take(1, 1)
    waiting.put_back(two)
    waiting.put_back(one, first=False)
    assert waiting.take(9, 9) == [1, 0, 2, 3]


def test_probes_come_from_all_over_the_queue() -> None:
    waiting = queue(100)
    assert waiting.take_strided(4) == [0, 25, 50, 75]
    assert waiting.take(3, 9) == [1, 2, 3]
    assert len(waiting) == 93


def test_the_heaviest_are_probes_too() -> None:
    assert queue(4, [1.0, 4.0, 2.0, 3.0]).take_strided(2) == [1, 3]


def test_fewer_tasks_than_probes_are_all_taken() -> None:
    waiting = queue(3)
    assert waiting.take_strided(16) == [0, 1, 2]
    assert not waiting


@given(
    st.one_of(st.none(), st.lists(st.floats(1e-3, 1e3), min_size=30, max_size=30)),
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 9), st.booleans(), st.booleans())),
)
def test_no_task_is_lost_or_doubled(
    weights: list[float] | None, turns: list[tuple[float, int, bool, bool]]
) -> None:
    waiting = queue(30, weights)
    gone: list[int] = []
    for amount, most, comes_back, first in turns:
        if not waiting:
            break
        taken = waiting.take(amount, most)
        assert 1 <= len(taken) <= most
        if comes_back:
            waiting.put_back(taken, first=first)
        else:
            gone += taken
            for task in taken:
                waiting.forget(task)
        assert sorted([*waiting, *gone]) == list(range(30))
        expected = sum(weights[task] if weights else 1.0 for task in waiting)
        assert abs(waiting.amount - expected) < 1e-6 * (1 + expected)
