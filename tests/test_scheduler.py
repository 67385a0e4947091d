"""The rules of the scheduler, one by one: events in, actions out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fanout import scheduler as scheduler_module
from fanout.errors import BackendError, ChunkError, TaskTimeoutError, WorkerCrashedError
from fanout.events import (
    AttemptAnswered,
    AttemptStarted,
    Cancelled,
    Consumed,
    Deliver,
    Event,
    Finish,
    Ignore,
    InputEnded,
    Launch,
    Offered,
    Retry,
    Ticked,
    WakeAt,
)
from fanout.retry import Failure, FailureKind, RetryPolicy
from fanout.tasks import Outcome
from tests.scheduler_checks import Bench, delivered, launched, report_of

CRASH = Failure(kind=FailureKind.CRASHED, detail="was killed by SIGSEGV")
NO_RUN = Failure(kind=FailureKind.DID_NOT_RUN, detail="no worker came up")


# ---- the plain course ----


def test_a_run_launches_delivers_and_finishes() -> None:
    bench = Bench(limit=2)
    assert bench.offer(3) == [Launch(0, [0]), Launch(1, [1])]
    assert bench.answer(0) == [Deliver([Outcome(0, 0)]), Launch(2, [2])]
    assert bench.answer(2) == [Deliver([Outcome(2, 20)])]
    assert bench.answer(1) == [Deliver([Outcome(1, 10)]), Finish(None)]


def test_an_empty_input_finishes_at_once() -> None:
    assert Bench().feed(InputEnded()) == [Finish(None)]


def test_nothing_follows_the_finish() -> None:
    bench = Bench()
    bench.feed(InputEnded())
    late: list[Event] = [Ticked(), Offered(0, 1), Cancelled(), Consumed(1), AttemptStarted(0)]
    for event in late:
        assert bench.feed(event) == []
    assert bench.scheduler.wanted == 0


def test_no_more_than_limit_attempts_are_in_flight() -> None:
    bench = Bench(limit=3)
    bench.offer(10)
    assert bench.scheduler.in_flight == 3


def test_a_late_answer_and_a_second_answer_count_for_nothing() -> None:
    bench = Bench(limit=1)
    bench.offer(2)
    bench.answer(0)
    assert bench.answer(0, Outcome(0, "again"), Outcome(1, "foreign")) == []
    assert bench.fail(0, CRASH) == []
    assert bench.answer(99, Outcome(1, "of no attempt")) == []


def test_a_foreign_or_duplicate_outcome_is_dropped() -> None:
    bench = Bench(limit=2)
    bench.offer(2)
    bench.answer(0, Outcome(1, "foreign"), Outcome(0, "first"), Outcome(0, "second"))
    bench.answer(1, Outcome(1, "its own"))
    assert [o.value for o in bench.outcomes] == ["first", "its own"]


def test_tasks_missing_from_an_answer_are_tried_again_and_end_as_a_crash() -> None:
    bench = Bench(limit=1, group=2, retry=RetryPolicy(max_attempts=2, base_s=0.0))
    bench.offer(2)
    bench.answer(0, Outcome(1, "here"))
    assert bench.groups == [[0, 1], [0]]
    bench.answer(1, Outcome(99, "not it"))
    (outcome,) = [o for o in bench.outcomes if o.index == 0]
    assert isinstance(outcome.error, WorkerCrashedError)
    assert "answered without this task" in str(outcome.error)
    assert outcome.attempts == 2


def test_offers_out_of_order_are_refused() -> None:
    bench = Bench()
    with pytest.raises(AssertionError, match="in order"):
        bench.scheduler.handle(Offered(5, 1), 0.0)


def test_its_repr_shows_where_the_tasks_are() -> None:
    bench = Bench(limit=1)
    bench.offer(3)
    assert repr(bench.scheduler) == (
        "<Scheduler: 3 offered, 3 unsettled, 1 attempts in flight, 0 backing off, 0 to deliver>"
    )
    bench.feed(Cancelled())
    assert repr(bench.scheduler).endswith(", finished>")


# ---- groups and blame ----


def test_a_crash_of_a_group_blames_none_and_sends_each_alone() -> None:
    bench = Bench(limit=4, group=3)
    bench.offer(3)
    assert bench.fail(0, CRASH) == [
        Retry([0, 1, 2], CRASH, 0.0),
        Launch(1, [0]),
        Launch(2, [1]),
        Launch(3, [2]),
    ]
    assert [bench.scheduler.attempts_of(task) for task in range(3)] == [1, 1, 1]


def test_the_guilty_task_convicts_itself_and_its_neighbours_go_free() -> None:
    bench = Bench(limit=3, group=3, retry=RetryPolicy(max_attempts=2, base_s=0.0))
    bench.offer(3)
    bench.fail(0, CRASH)
    bench.answer(1)
    bench.fail(2, CRASH)  # task 1, alone
    bench.answer(3)
    bench.fail(4, CRASH)  # task 1, alone again
    error = {o.index: o.error for o in bench.outcomes}
    assert error.pop(1) is not None
    assert error == {0: None, 2: None}


def test_the_error_of_a_crash_says_how_and_how_often() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(max_attempts=2, base_s=0.0))
    bench.offer(1)
    bench.fail(0, CRASH)
    bench.fail(1, CRASH)
    (outcome,) = bench.outcomes
    assert isinstance(outcome.error, WorkerCrashedError)
    assert "was killed by SIGSEGV (attempt 2)" in str(outcome.error)
    assert outcome.attempts == 2


def test_tasks_that_are_alone_go_before_the_queue() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(4)
    bench.fail(0, CRASH)
    bench.answer(1)
    bench.answer(2)
    assert bench.groups == [[0, 1], [0], [1], [2, 3]]


def test_a_refused_group_is_sent_one_by_one() -> None:
    """Together too large for the backend; each by itself may pass."""
    bench = Bench(limit=2, group=2)
    bench.offer(2)
    bench.fail(0, Failure(kind=FailureKind.REFUSED, detail="9 MiB encoded"))
    assert bench.groups == [[0, 1], [0], [1]]
    bench.fail(1, Failure(kind=FailureKind.REFUSED, detail="8 MiB encoded"))
    bench.answer(2)
    assert [type(o.error) for o in bench.outcomes] == [ChunkError, type(None)]
    assert "8 MiB encoded" in str(bench.outcomes[0].error)


def test_what_a_kernel_raises_is_its_own_tasks_affair() -> None:
    bench = Bench(limit=1, group=3)
    bench.offer(3)
    error = ValueError("chunk 1 is odd")
    actions = bench.answer(0, Outcome(0, "a"), Outcome(1, error=error), Outcome(2, "c"))
    outcomes = delivered(actions)
    assert [o.value for o in outcomes] == ["a", None, "c"]
    assert outcomes[1].error is error
    assert actions[-1] == Finish(None)


# ---- retries ----


def test_a_kernels_exception_is_retried_if_the_policy_names_it() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    for attempt in range(2):
        bench.answer(attempt, Outcome(0, error=ConnectionError("refused")))
    last: Outcome[Any] = Outcome(0, error=ConnectionError("the last"), attempts=3)
    assert bench.answer(2, last) == [Deliver([last]), Finish(None)]


def test_a_kernels_exception_is_not_retried_otherwise() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    bench.answer(0, Outcome(0, error=ValueError("odd")))
    assert bench.groups == [[0]]


def test_a_refused_task_is_not_retried() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    error = ConnectionError("as named in the policy, but refused")
    failure = Failure(kind=FailureKind.REFUSED, error=error)
    bench.answer(0, Outcome(0, error=error, failure=failure))
    assert bench.groups == [[0]]


def test_the_number_of_a_tasks_attempt_counts_only_what_was_its_fault() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(2)
    bench.fail(0, NO_RUN)
    bench.fail(1, CRASH)
    assert bench.scheduler.attempts_of(0) == 1
    bench.fail(2, CRASH)
    assert bench.scheduler.attempts_of(0) == 2


def test_back_off_waits_within_full_jitter() -> None:
    """Before retry n: uniform in [0, min(cap_s, base_s * 2**n)]."""
    delays: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for seed in range(300):
        policy = RetryPolicy(max_attempts=4, base_s=1.0, cap_s=5.0)
        bench = Bench(limit=1, retry=policy)
        bench.scheduler._rng = random.Random(seed)
        bench.offer(1)
        now_s = 0.0
        for attempt in range(3):
            actions = bench.fail(attempt, CRASH, now_s)
            (retry,) = [action for action in actions if isinstance(action, Retry)]
            assert actions == [retry, WakeAt(now_s + retry.delay_s)]
            delays[attempt + 1].append(retry.delay_s)
            now_s += retry.delay_s
            assert bench.feed(Ticked(), now_s) == [Launch(attempt + 1, [0])]
    for n, ceiling_s in {1: 2.0, 2: 4.0, 3: 5.0}.items():
        assert min(delays[n]) < 0.05 * ceiling_s
        assert 0.95 * ceiling_s < max(delays[n]) <= ceiling_s


def test_the_same_seed_gives_the_same_back_off() -> None:
    delays = []
    for _ in range(2):
        bench = Bench(limit=1, retry=RetryPolicy(base_s=1.0))
        bench.offer(1)
        delays += [a.delay_s for a in bench.fail(0, CRASH) if isinstance(a, Retry)]
    assert delays[0] == delays[1] > 0.0


def test_a_retried_task_travels_alone() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(4)
    bench.answer(0, Outcome(0, error=ConnectionError()), Outcome(1, error=ConnectionError()))
    bench.answer(1)
    bench.answer(2)
    assert bench.groups == [[0, 1], [0], [1], [2, 3]]


def test_others_go_on_while_a_task_backs_off() -> None:
    bench = Bench(limit=1, retry=RetryPolicy(base_s=10.0))
    bench.offer(2)
    actions = bench.fail(0, CRASH)
    assert launched(actions) == [[1]]
    bench.answer(1, now_s=1e-6)
    assert bench.groups == [[0], [1]]


# ---- attempts that did not run ----


def test_an_attempt_that_did_not_run_is_sent_again_uncharged_and_first() -> None:
    bench = Bench(limit=1, group=2)
    bench.offer(4)
    assert bench.fail(0, NO_RUN) == [Retry([0, 1], NO_RUN, 0.0), Launch(1, [0, 1])]
    assert bench.scheduler.attempts_of(0) == 1


def test_a_suspect_stays_alone_when_its_attempt_did_not_run() -> None:
    """Otherwise it would take the next group down with it, and again, for ever."""
    bench = Bench(limit=1, group=2)
    bench.offer(3)
    bench.fail(0, CRASH)
    bench.fail(1, NO_RUN)
    bench.answer(2)
    bench.answer(3)
    assert bench.groups == [[0, 1], [0], [0], [1], [2]]


def test_a_run_is_given_up_when_attempt_after_attempt_did_not_run() -> None:
    bench = Bench(limit=2)
    bench.offer(2)
    most = scheduler_module._MOST_BARREN_ATTEMPTS + 2
    for attempt in range(most):
        assert not bench.scheduler.is_finished
        bench.fail(attempt, NO_RUN)
    actions = bench.fail(most, NO_RUN)
    assert isinstance(actions[-1], Finish)
    failure = actions[-1].failure
    assert failure is not None
    assert isinstance(failure.error, BackendError)
    assert f"{most + 1} attempts in a row never reached a worker" in str(failure.error)
    assert "no worker came up" in str(failure.error)
    assert actions[:-1] == [Ignore(most + 1)], "the other attempt is called off"


@pytest.mark.parametrize("sign_of_life", ["answer", "crash", "timeout"])
def test_a_worker_that_was_reached_makes_up_for_all_that_were_not(sign_of_life: str) -> None:
    bench = Bench(limit=1, timeout_s=1.0, retry=RetryPolicy(max_attempts=50, base_s=0.0))
    bench.offer(3)
    most = scheduler_module._MOST_BARREN_ATTEMPTS + 1
    for attempt in range(most):
        bench.fail(attempt, NO_RUN)
    now_s = 0.0
    match sign_of_life:
        case "answer":
            bench.answer(most)
        case "crash":
            bench.fail(most, CRASH)
        case _:
            now_s = 5.0
            bench.feed(AttemptStarted(most))
            bench.feed(Ticked(), now_s)
    for attempt in range(most + 1, 2 * most + 1):
        bench.fail(attempt, NO_RUN, now_s)
    assert not bench.scheduler.is_finished


# ---- timeouts ----


def test_time_runs_from_the_start_not_from_the_launch() -> None:
    bench = Bench(limit=1, timeout_s=10.0)
    assert not [a for a in bench.offer(1) if isinstance(a, WakeAt)]
    assert bench.feed(Ticked(), 1000.0) == []
    assert bench.feed(AttemptStarted(0), 1000.0) == [WakeAt(1010.0)]
    assert bench.feed(Ticked(), 1010.0)[0] == Ignore(0)


def test_a_task_that_times_out_ends_with_its_timeout() -> None:
    bench = Bench(limit=1, timeout_s=10.0)
    bench.offer(1)
    bench.feed(AttemptStarted(0))
    actions = bench.feed(Ticked(), 10.0)
    (outcome,) = delivered(actions)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert outcome.error.timeout_s == 10.0
    assert actions == [Ignore(0), Deliver([outcome]), Finish(None)]


def test_a_timeout_is_retried_if_the_policy_says_so() -> None:
    bench = Bench(
        limit=1, timeout_s=1.0, retry=RetryPolicy(max_attempts=2, retry_timeouts=True, base_s=0.0)
    )
    bench.offer(1)
    bench.feed(AttemptStarted(0))
    bench.feed(Ticked(), 1.0)
    bench.feed(AttemptStarted(1), 1.0)
    bench.feed(Ticked(), 2.0)
    (outcome,) = bench.outcomes
    assert bench.groups == [[0], [0]]
    assert outcome.attempts == 2


def test_a_timeout_of_a_group_blames_none() -> None:
    bench = Bench(limit=2, group=2, timeout_s=1.0)
    bench.offer(2)
    bench.feed(AttemptStarted(0))
    actions = bench.feed(Ticked(), 1.0)
    assert actions[0] == Ignore(0)
    assert launched(actions) == [[0], [1]]
    assert bench.outcomes == []


def test_an_answer_at_the_last_moment_is_taken() -> None:
    bench = Bench(limit=1, timeout_s=1.0)
    bench.offer(1)
    bench.feed(AttemptStarted(0))
    assert delivered(bench.answer(0, now_s=1.0)) == [Outcome(0, 0)]


def test_an_answer_after_the_timeout_is_not() -> None:
    bench = Bench(limit=1, timeout_s=1.0)
    bench.offer(2)
    bench.feed(AttemptStarted(0))
    bench.feed(Ticked(), 1.0)
    assert bench.answer(0, Outcome(0, "late"), now_s=1.5) == []


def test_an_attempt_that_starts_twice_has_its_time_from_the_first_start() -> None:
    bench = Bench(limit=1, timeout_s=10.0)
    bench.offer(1)
    bench.feed(AttemptStarted(0), 0.0)
    assert bench.feed(AttemptStarted(0), 5.0) == []
    assert bench.feed(Ticked(), 10.0)[0] == Ignore(0)


def test_without_a_timeout_a_start_changes_nothing() -> None:
    bench = Bench(limit=1)
    bench.offer(1)
    assert bench.feed(AttemptStarted(0)) == []
    assert bench.feed(Ticked(), 1e9) == []


# ---- wake-ups ----


def test_a_wake_up_is_asked_for_once_and_again_only_when_something_is_due_before() -> None:
    bench = Bench(limit=2, timeout_s=10.0, retry=RetryPolicy(base_s=1.0))
    bench.offer(2)
    assert bench.feed(AttemptStarted(0), 0.0) == [WakeAt(10.0)]
    assert bench.feed(AttemptStarted(1), 1.0) == [], "10 is before 11"
    retry, wake = bench.fail(1, CRASH, 2.0)
    assert isinstance(retry, Retry)
    assert wake == WakeAt(2.0 + retry.delay_s)


def test_after_a_wake_up_the_next_one_is_asked_for() -> None:
    bench = Bench(limit=2, timeout_s=10.0)
    bench.offer(2)
    bench.feed(AttemptStarted(0), 0.0)
    bench.feed(AttemptStarted(1), 1.0)
    assert bench.feed(Ticked(), 10.0)[-1] == WakeAt(11.0)


def test_a_tick_that_comes_early_is_asked_for_again() -> None:
    """asyncio runs a timer up to its clock's resolution early: 15 ms on Windows."""
    bench = Bench(limit=1, timeout_s=10.0)
    bench.offer(1)
    bench.feed(AttemptStarted(0), 0.0)
    assert bench.feed(Ticked(), 9.999999) == [WakeAt(10.0)]


def test_the_deadline_of_an_attempt_that_answered_wakes_nobody() -> None:
    bench = Bench(limit=1, timeout_s=10.0)
    bench.offer(2)
    bench.feed(AttemptStarted(0), 0.0)
    bench.answer(0)
    assert bench.feed(Ticked(), 10.0) == []


# ---- fatal failures, failing fast, cancelling ----


def test_a_fatal_failure_ends_the_run_and_calls_off_the_others() -> None:
    bench = Bench(limit=3)
    bench.offer(5)
    fatal = Failure(kind=FailureKind.REFUSED, error=BackendError("no such kernel"), is_fatal=True)
    assert bench.fail(1, fatal) == [Ignore(0), Ignore(2), Finish(fatal)]


def test_a_fatal_failure_of_an_ignored_attempt_comes_too_late() -> None:
    bench = Bench(limit=1, timeout_s=1.0)
    bench.offer(2)
    bench.feed(AttemptStarted(0))
    bench.feed(Ticked(), 1.0)
    assert bench.fail(0, Failure(kind=FailureKind.CRASHED, is_fatal=True), 1.5) == []


def test_failing_fast_delivers_what_is_there_and_ignores_the_others() -> None:
    bench = Bench(limit=2, group=2, stops_on_failure=True)
    bench.offer(5)
    error = ValueError("odd")
    actions = bench.answer(0, Outcome(0, "a"), Outcome(1, error=error))
    assert actions == [
        Deliver([Outcome(0, "a"), Outcome(1, error=error)]),
        Ignore(1),
        Finish(None),
    ]


def test_failing_fast_waits_for_retries() -> None:
    bench = Bench(limit=1, stops_on_failure=True)
    bench.offer(1)
    bench.answer(0, Outcome(0, error=ConnectionError()))
    bench.answer(1)
    assert [o.error for o in bench.outcomes] == [None]


def test_cancelling_calls_off_every_attempt() -> None:
    bench = Bench(limit=2)
    bench.offer(5)
    assert bench.feed(Cancelled()) == [Ignore(0), Ignore(1), Finish(None)]
    assert bench.scheduler.in_flight == 0
    assert bench.answer(0, Outcome(0, "late")) == []


# ---- order ----


def test_an_ordered_run_holds_back_what_has_a_predecessor() -> None:
    bench = Bench(limit=3, is_ordered=True)
    bench.offer(3)
    assert delivered(bench.answer(2)) == []
    assert delivered(bench.answer(0)) == [Outcome(0, 0)]
    assert delivered(bench.answer(1)) == [Outcome(1, 10), Outcome(2, 20)]
    assert bench.scheduler.is_finished


def test_an_ordered_run_does_not_finish_while_an_outcome_is_held() -> None:
    bench = Bench(limit=2, is_ordered=True, retry=RetryPolicy(base_s=100.0))
    bench.offer(2)
    bench.fail(0, CRASH)
    bench.answer(1, now_s=1e-9)
    assert not bench.scheduler.is_finished
    assert bench.outcomes == []


def test_an_ordered_run_fails_fast_only_in_its_turn() -> None:
    bench = Bench(limit=2, is_ordered=True, stops_on_failure=True)
    bench.offer(2)
    bench.answer(1, Outcome(1, error=ValueError("second")))
    assert not bench.scheduler.is_finished
    bench.answer(0)
    assert bench.scheduler.is_finished
    assert [o.index for o in bench.outcomes] == [0, 1]


# ---- the window ----


def test_the_window_keeps_every_worker_busy_and_a_group_ready() -> None:
    bench = Bench(limit=3, group=4)
    assert bench.scheduler.wanted == bench.scheduler.window == 3 * (2 * 4 + 1)


def test_unsettled_tasks_take_up_the_window_until_they_are_delivered() -> None:
    bench = Bench(limit=1)
    window = bench.scheduler.window
    bench.offer(window, ends=False)
    assert bench.scheduler.wanted == 0
    bench.answer(0)
    assert bench.scheduler.wanted == 1


def test_outcomes_take_up_the_window_until_they_are_consumed() -> None:
    bench = Bench(limit=1, is_consumed=True)
    window = bench.scheduler.window
    bench.offer(window, ends=False)
    for attempt in range(window):
        bench.answer(attempt)
    assert bench.scheduler.wanted == 0, "all is done, and nothing was taken"
    bench.feed(Consumed(2))
    assert bench.scheduler.wanted == 2


def test_held_outcomes_take_up_the_window() -> None:
    bench = Bench(limit=2, is_ordered=True)
    bench.offer(bench.scheduler.window, ends=False)
    bench.answer(1)
    assert bench.scheduler.wanted == 0


def test_a_run_finishes_although_its_last_outcomes_are_not_consumed() -> None:
    bench = Bench(limit=1, is_consumed=True)
    bench.offer(1)
    assert bench.answer(0)[-1] == Finish(None)


def test_the_window_grows_with_the_groups() -> None:
    bench = Bench(limit=1, group=None)
    small = bench.scheduler.window
    bench.offer(3, ends=False)
    bench.feed(AttemptAnswered(0, [Outcome(0)], report_of(0, total_s=1e-6)))
    assert bench.scheduler.window > small


def next_group(bench: Bench, attempt: int, *, compile_s: float, environment: str = "e") -> int:
    """Answer an attempt that took half a second for each task; how many go into the next one."""
    tasks = [*bench.scheduler._flight.tasks_of(attempt)]
    report = report_of(
        attempt, total_s=0.5 * len(tasks), compile_s=compile_s, environment=environment
    )
    bench.feed(AttemptAnswered(attempt, [Outcome(task) for task in tasks], report))
    return len(bench.groups[-1])


def test_what_compiles_once_in_an_environment_does_not_make_groups_small() -> None:
    bench = Bench(limit=1, group=None)
    bench.offer(100, ends=False)
    assert next_group(bench, 0, compile_s=0.499) == 4
    assert next_group(bench, 1, compile_s=1.999, environment="f") == 16


def test_what_compiles_in_each_task_does() -> None:
    bench = Bench(limit=1, group=None)
    bench.offer(100, ends=False)
    assert next_group(bench, 0, compile_s=0.499) == 4
    assert next_group(bench, 1, compile_s=1.999) == 1


def test_a_compilation_can_take_no_longer_than_its_attempt() -> None:
    bench = Bench(limit=1, group=None)
    bench.offer(100, ends=False)
    assert next_group(bench, 0, compile_s=0.6) == 4


def test_groups_shrink_towards_a_known_end() -> None:
    bench = Bench(limit=1, group=None, total=10)
    bench.offer(3, ends=False)
    bench.feed(AttemptAnswered(0, [Outcome(0)], report_of(0, total_s=1e-6)))
    bench.offer(7)
    # 9 tasks are left: two that were queued, then seven. Half of what is left goes at a time.
    while bench.scheduler.in_flight:
        bench.answer(bench.scheduler._next_attempt - 1)
    assert bench.groups == [[0], [1, 2], [3, 4, 5, 6], [7, 8], [9]]
