"""When an attempt is ended: rules, and what the scheduler makes of a task that was."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fanout.budget import Billed, Budget
from fanout.errors import BudgetExceededError
from fanout.events import (
    AttemptAnswered,
    AttemptFailed,
    Finish,
    InputEnded,
    Launch,
    Offered,
    Ticked,
)
from fanout.hard_stops import GRACE_S, HardStops
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.tasks import Outcome
from tests.scheduler_checks import Bench, delivered, launched, report_of

GROUP = [1, 2, 3]


def test_a_group_gets_four_times_as_long_as_until_it_begins_no_further_task() -> None:
    stops = HardStops().of(GROUP, expected_s=16.0, soft_s=20.0)
    assert stops == (80.0, 80.0 + GRACE_S + 20.0)


def test_a_short_group_gets_ten_seconds_more() -> None:
    assert HardStops().of(GROUP, expected_s=0.1, soft_s=0.3).hard_s == pytest.approx(10.3)


def test_a_single_task_may_take_its_time_and_so_may_what_is_not_known() -> None:
    assert HardStops().of([1], expected_s=1.0, soft_s=None) == (None, None)
    assert HardStops().of(GROUP, expected_s=None, soft_s=None) == (None, None)


def test_with_a_budget_everything_has_an_end_and_a_near_one() -> None:
    stops = HardStops(is_bounded=True)
    assert stops.of(GROUP, expected_s=16.0, soft_s=20.0).hard_s == 25.0
    assert stops.of(GROUP, expected_s=None, soft_s=None).hard_s == 30.0
    assert stops.of([1], expected_s=None, soft_s=None) == (30.0, 30.0 + GRACE_S + 20.0)
    assert stops.of([1], expected_s=10.0, soft_s=None).hard_s == 80.0
    assert stops.of([1], expected_s=0.1, soft_s=None).hard_s == 10.0


def test_a_task_that_was_stopped_alone_gets_four_times_as_long_each_time() -> None:
    stops = HardStops(is_bounded=True)
    for factor in (1, 4, 16):
        hard_s, ends_s = stops.of([7], expected_s=None, soft_s=None)
        assert (hard_s, ends_s) == (30.0 * factor, 50.0 * factor + GRACE_S)
        stops.stopped(7)
    assert stops.of([8], expected_s=None, soft_s=None).hard_s == 30.0
    stops.forget(7)
    assert len(stops) == 0
    assert stops.of([7], expected_s=None, soft_s=None).hard_s == 30.0


def test_what_the_caller_allows_a_task_counts_if_it_is_less() -> None:
    stops = HardStops(is_bounded=True, timeout_s=5.0)
    assert stops.of([1], expected_s=None, soft_s=None) == (None, 5.0 + GRACE_S + 20.0)
    patient = HardStops(is_bounded=True, timeout_s=50.0)
    assert patient.of([1], expected_s=None, soft_s=None).hard_s == 30.0


def test_to_load_a_kernel_it_gets_what_that_took_four_times_over() -> None:
    stops = HardStops(is_bounded=True)
    for number in range(20):
        assert stops.of([1], expected_s=0.0, soft_s=None).ends_s == 10.0 + GRACE_S + 20.0
        stops.observe(report_of(number, total_s=1.0, setup_s=0.5 if number else 0.7))
    assert stops.of([1], expected_s=0.0, soft_s=None).ends_s == pytest.approx(10.0 + GRACE_S + 2.8)


def test_numba_may_compile_in_each_new_environment() -> None:
    stops = HardStops()
    stops.observe(report_of(0, total_s=8.0, compile_s=6.0))
    assert stops.of(GROUP, expected_s=16.0, soft_s=20.0).hard_s == 92.0


@given(
    count=st.integers(1, 5),
    expected_s=st.none() | st.floats(0.0, 1e4),
    is_bounded=st.booleans(),
    timeout_s=st.none() | st.floats(0.01, 1e4),
    stopped=st.integers(0, 5),
)
def test_no_attempt_is_ended_before_it_should_be_over(
    count: int, expected_s: float | None, is_bounded: bool, timeout_s: float | None, stopped: int
) -> None:
    stops = HardStops(is_bounded=is_bounded, timeout_s=timeout_s)
    for _ in range(stopped):
        stops.stopped(0)
    soft_s = None if expected_s is None or count == 1 else 1.25 * expected_s + 0.2
    hard_s, ends_s = stops.of(range(count), expected_s=expected_s, soft_s=soft_s)
    assert (ends_s is not None) or not is_bounded, "a budget needs a worst case"
    assert math.inf if hard_s is None else hard_s > (soft_s or expected_s or 0.0)
    assert ends_s is None or ends_s >= (hard_s or timeout_s or 0.0) + GRACE_S


# ---- in a run ----


class BudgetBench(Bench):
    """A run with a budget, on a function of 1 GB that ends what takes 900 s."""

    def __init__(self, max_gb_s: float, **options: Any) -> None:
        options.setdefault("can_stop", False)
        super().__init__(
            stops=HardStops(is_bounded=True),
            budget=Budget(max_gb_s, 1.0),
            billed=Billed(gb=1.0, timeout_s=900.0, init_s=8.0),
            **options,
        )

    def stop(self, attempt: int, now_s: float) -> list[list[int]]:
        """The worker ended the single task of an attempt, as it was told."""
        (task,) = self.scheduler._flight.tasks_of(attempt)
        failure = Failure(kind=FailureKind.TIMED_OUT, error=TimeoutError(), hard_s=30.0)
        outcome: Outcome[None] = Outcome(task, error=failure.error, failure=failure)
        report = report_of(attempt, total_s=30.0)
        return launched(self.feed(AttemptAnswered(attempt, [outcome], report), now_s))


def launches_of(bench: Bench) -> list[Launch]:
    return [action for action in bench.story if isinstance(action, Launch)]


def test_a_budget_far_below_what_the_function_may_take_gets_a_run_going() -> None:
    """Each may take 900 s, were it not told to end after 52, and 8 more for its start."""
    bench = BudgetBench(130.0, limit=10)
    bench.offer(10)
    assert len(bench.groups) == 2
    assert [(launch.hard_s, launch.ends_s) for launch in launches_of(bench)] == [(30.0, 52.0)] * 2
    for attempt in range(10):
        bench.answer(attempt, now_s=1.0 + attempt)
    assert [outcome.value for outcome in bench.outcomes] == [*range(0, 100, 10)]


def test_a_task_that_was_ended_is_sent_again_at_no_charge_and_has_more_time() -> None:
    bench = BudgetBench(1000.0, limit=1)
    bench.offer(1)
    assert bench.stop(0, 30.0) == [[0]]
    assert bench.scheduler.attempts_of(0) == 1
    assert launches_of(bench)[1].hard_s == 120.0
    bench.answer(1, now_s=100.0)
    assert [outcome.value for outcome in bench.outcomes] == [0]
    assert len(bench.scheduler._stops or ()) == 0


def test_so_is_one_whose_process_had_to_be_ended() -> None:
    bench = BudgetBench(1000.0, limit=1)
    bench.offer(1)
    failure = Failure(kind=FailureKind.TIMED_OUT, hard_s=52.0)
    assert launched(bench.feed(AttemptFailed(0, failure), 52.0)) == [[0]]
    assert bench.scheduler.attempts_of(0) == 1
    assert launches_of(bench)[1].hard_s == 120.0


def test_a_task_that_hangs_costs_no_more_than_the_budget() -> None:
    bench = BudgetBench(300.0, limit=1)
    bench.offer(2)
    assert bench.stop(0, 38.0) == [[0]]  # 38 spent: 30 and its start
    assert bench.stop(1, 200.0) == [[1]], "the third time it might take more than is left"
    bench.answer(2, now_s=201.0)
    (finish,) = [action for action in bench.story if isinstance(action, Finish)]
    assert finish.failure is not None
    error = finish.failure.error
    assert isinstance(error, BudgetExceededError)
    assert error.spent_gb_s == pytest.approx(200.0)
    assert [outcome.index for outcome in delivered(bench.story)] == [1]


def test_without_a_budget_groups_only_are_ended() -> None:
    bench = Bench(limit=1, group=2, stops=HardStops(), can_stop=False)
    bench.offer(4)
    bench.feed(AttemptAnswered(0, [Outcome(0), Outcome(1)], report_of(0, total_s=8.0, setup_s=1.0)))
    first, second = launches_of(bench)
    assert (first.hard_s, first.ends_s) == (None, None)
    assert second.soft_s == 10.0
    assert second.hard_s == 40.0


def test_a_dear_task_waits_for_cheaper_ones_that_back_off_or_are_to_come() -> None:
    bench = BudgetBench(300.0, limit=1, retry=RetryPolicy(base_s=10.0))
    bench.offer(2, ends=False)
    assert bench.stop(0, 38.0) == [[0]]
    assert bench.stop(1, 200.0) == [[1]]
    crashed = Failure(kind=FailureKind.CRASHED)
    bench.fail(2, crashed, 201.0)
    assert not bench.scheduler.is_finished, "task 1 backs off"
    bench.feed(Ticked(), 230.0)
    bench.answer(3, now_s=231.0)
    assert not bench.scheduler.is_finished, "the input may have more"
    assert launched(bench.feed(Offered(2, 1), 232.0)) == [[2]]
    bench.answer(4, now_s=233.0)
    bench.feed(InputEnded(), 234.0)
    assert bench.scheduler.is_finished
    assert sorted(outcome.index for outcome in bench.outcomes) == [1, 2]
